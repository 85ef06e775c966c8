"""The README and the guide do not lie: their commands run, their settings are accepted, their links lead somewhere.

A fenced ``sh`` block is run line by line in a folder that holds what the README's reader would have. A fenced ``yaml``
block that begins with ``# name.yaml`` is that file; any other is a part of a pipeline.yaml. What takes minutes is not
run but read: the target is in the Makefile, the options and the configuration are those that the command would take.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import yaml

from cpd.cli import run as run_command
from cpd.config import Data, Pipeline, Rendered
from cpd.config.section import Section
from cpd.config_file import load_config

ROOT = Path(__file__).parents[2]
PAGES = {path.name: path.read_text() for path in (ROOT / "README.md", ROOT / "docs/guide.md")}
MINIMAL = {"name": "demo", "data": "{rendered: {}}", "teacher": "{}", "student": "{}"}
"""What a part of a pipeline.yaml needs besides, to be a whole one."""
SHORT = {"check": ["--max-time", "10"], "record": ["--rounds", "10", "--max-time", "30"]}
"""What keeps a measurement short here; without time a check may stay undecided."""
TOO_BUSY = "undisturbed rounds"
"""In the error of a recording that found no quiet moment: the command works, the machine does not rest."""


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGES[page], flags=re.MULTILINE | re.DOTALL)


def commands(page: str) -> list[str]:
    lines = "\n".join(blocks(page, "sh")).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


def settings(page: str) -> list[str]:
    return blocks(page, "yaml")


COMMANDS = [(page, command) for page in PAGES for command in commands(page)]


@pytest.fixture
def workspace(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    colour_model: Path,
    write_model: Callable[..., Path],
    write_video: Callable[..., Path],
) -> Path:
    """What a reader has in the current folder: the repository's files, clips of two classes, and a finished run."""
    monkeypatch.chdir(tmp_path)
    for name in ("pipeline.yaml", "Makefile", "Dockerfile"):
        shutil.copy(ROOT / name, name)
    shutil.copytree(ROOT / "pipelines", "pipelines")
    for page in PAGES:
        for text in settings(page):
            if named := re.match(r"# (\S+\.yaml)\n", text):
                Path(named[1]).write_text(text)
    clip = write_video(np.full((10, 32, 48, 3), (240, 0, 0), np.uint8), "libx264", "clip.mp4")
    rows = ["path,label,group"]
    for label in ("wave_left", "wave_right"):
        (tmp_path / "clips" / label).mkdir(parents=True)
        for index in range(8):
            name = f"clips/{label}/{index:04d}.mp4"
            shutil.copy(clip, name)
            rows.append(f"{name},{label},person {index}")
    Path("clips.csv").write_text("\n".join(rows) + "\n")
    Path("runs/motion/export").mkdir(parents=True)
    shutil.copy(colour_model, "runs/motion/export/student.onnx")
    write_model(tmp_path / "old.onnx")
    write_model(tmp_path / "new.onnx")
    write_model(tmp_path / "student.onnx")
    return tmp_path


def run(words: list[str]) -> subprocess.CompletedProcess[str]:
    """Runs an installed command of this project; of a redirection, stdout is what counts."""
    if ">" in words:
        words = words[: words.index(">")]
    program = Path(sys.executable).with_name(words[0])
    return subprocess.run([program, *words[1:]], capture_output=True, text=True, timeout=300, check=False)


def make(words: list[str]) -> None:
    """A make command names targets of the Makefile and variables that it has."""
    named = re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    variables = re.findall(r"^(\w+) \?=", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    for word in words:
        name, is_variable, _ = word.partition("=")
        assert name in (variables if is_variable else named), word
    for config in re.findall(r"cpd-pipeline run (\S+)", (ROOT / "Makefile").read_text()):
        load_config(ROOT / config)


def docker(words: list[str]) -> None:
    """A docker command names a target of the Dockerfile."""
    assert words[0] == "build"
    assert words[words.index("--target") + 1] in re.findall(r" AS (\S+)$", Path("Dockerfile").read_text(), re.MULTILINE)


def pipeline_run(words: list[str]) -> None:
    """cpd-pipeline run takes these options, and the configuration with these settings."""
    options = run_command.make_context("run", words).params
    load_config(options["config"], options["overrides"])


def test_the_readme_begins_with_the_two_commands() -> None:
    assert commands("README.md")[:2] == ["make run", "make test"]


@pytest.mark.alone
@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=[f"{page}: {command}" for page, command in COMMANDS])
def test_a_command_works(page: str, command: str, workspace: Path) -> None:
    words = shlex.split(command)
    while re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    if words[0] == "make":
        make(words[1:])
    elif words[0] == "docker":
        docker(words[1:])
    elif words[:2] == ["cpd-pipeline", "run"]:
        pipeline_run(words[2:])
    else:
        assert words[0] in ("cpd-pipeline", "cpd-serve", "cpd-bench"), f"nothing here knows how to try {command}"
        if "baseline.json" in words and words[1] == "check":
            recorded = run(
                ["cpd-bench", "record", "--engine", "old.onnx", "--output", "baseline.json", *SHORT["record"]]
            )
            if TOO_BUSY in recorded.stderr:
                pytest.skip(f"no baseline can be recorded here now: {recorded.stderr.strip()}")
        done = run([*words, *(SHORT.get(words[1], []) if words[0] == "cpd-bench" else [])])
        undecided = words[:2] == ["cpd-bench", "check"] and done.returncode == 4
        busy = words[:2] == ["cpd-bench", "record"] and TOO_BUSY in done.stderr
        assert done.returncode == 0 or undecided or busy, done.stdout + done.stderr


@pytest.mark.parametrize("text", [text for page in PAGES for text in settings(page)])
def test_settings_are_accepted(text: str, tmp_path: Path) -> None:
    others = (
        {} if text.startswith("# ") else {key: MINIMAL[key] for key in MINIMAL.keys() - yaml.safe_load(text).keys()}
    )
    path = tmp_path / "pipeline.yaml"
    path.write_text(text + "".join(f"{key}: {value}\n" for key, value in others.items()))
    load_config(path)


def test_the_guide_names_every_key_and_these_defaults(tmp_path: Path) -> None:
    shown: dict[str, object] = {}
    for text in settings("guide.md"):
        for section, value in yaml.safe_load(text).items():
            before = shown.get(section)
            shown[section] = {**before, **value} if isinstance(before, dict) and isinstance(value, dict) else value
    path = tmp_path / "pipeline.yaml"
    named = {key: shown[key] for key in ("clip", "distill", "export")}
    path.write_text(yaml.safe_dump({**named, "name": "demo", "data": {"rendered": {}}, "teacher": {}, "student": {}}))
    config, default = load_config(path), Pipeline(name="demo", data=Data(rendered=Rendered()), teacher={}, student={})
    assert (config.clip, config.distill, config.export) == (default.clip, default.distill, default.export)
    data = {key: value for key, value in shown["data"].items() if key.endswith(("fraction", "gb", "validation"))}
    assert data == {key: getattr(default.data, key) for key in data}
    assert shown["data"]["rendered"] == Rendered().model_dump()
    guide = PAGES["guide.md"]
    unnamed = [key for section in sections(Pipeline) for key in section if not re.search(rf"\b{key}\b", guide)]
    assert not unnamed


def sections(section: type[Section]) -> Iterator[list[str]]:
    """The keys of a section of pipeline.yaml, and of those in it."""
    yield [field.alias or name for name, field in section.model_fields.items()]
    for field in section.model_fields.values():
        for inner in (field.annotation, *get_args(field.annotation)):
            if isinstance(inner, type) and issubclass(inner, Section):
                yield from sections(inner)


@pytest.mark.parametrize("path", sorted((ROOT / "pipelines").glob("*.yaml")), ids=lambda path: path.name)
def test_a_worked_example_is_accepted(path: Path) -> None:
    assert load_config(path).name == path.stem


@pytest.mark.parametrize(
    "path",
    [path for folder in (".", "docs", "docs/adr") for path in sorted((ROOT / folder).glob("*.md"))],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_links_lead_somewhere(path: Path) -> None:
    targets = [link.partition("#") for link in re.findall(r"\]\(([^)\s]+)", path.read_text()) if "://" not in link]
    absent = [target for target, _, _ in targets if not (path.parent / target).exists()]
    assert not absent
    places = [(path.parent / target if target else path, anchor) for target, _, anchor in targets if anchor]
    absent = [f"{page.name}#{anchor}" for page, anchor in places if anchor not in anchors(page)]
    assert not absent


def anchors(page: Path) -> set[str]:
    """What GitHub makes of a page's headings: lower case, without punctuation, and a hyphen for each space."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_images_install_as_ci_does() -> None:
    """Every install target that the Dockerfile calls is one that CI calls too, by itself or through another."""
    called = set(re.findall(r"make (install\S*)", (ROOT / "Dockerfile").read_text()))
    assert called == {"install-train", "install-serve"}
    dry = {
        target: subprocess.run(
            ["make", "--dry-run", "--always-make", target], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        for target in ("install-train", "check")
    }
    # not simply the last line: make says more when it was itself called by make
    installs = [line for line in dry["install-train"].splitlines() if "pip install" in line]
    assert installs
    assert installs[-1] in dry["check"]
    ci = (ROOT / ".ci/run").read_text()
    assert "make check" in ci
    assert "make install-serve" in ci


def test_hooks_check_what_make_check_does() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    entries = " ".join(hook["entry"] for hook in hooks)
    target = re.search(r"^check:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert target is not None
    for tool in re.findall(r"\$\(BIN\)/(ruff \w+|mypy|lint-imports)", target[1]):
        assert f".venv/bin/{tool}" in entries
