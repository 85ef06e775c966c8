"""The wheel, with nothing but the ``serve`` extra: what a device gets."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
WriteVideo = Callable[..., Path]

BARE = """
import json, sys
from importlib import metadata
from importlib.abc import MetaPathFinder

target, repository, allowed, arguments = json.loads(sys.argv[1])
owners = metadata.packages_distributions()

class OnlyServe(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        owned_by = set(map(str.lower, owners.get(name.partition(".")[0], [])))
        if owned_by and not owned_by & set(allowed):
            raise ModuleNotFoundError(f"{name} is not in the serve extra", name=name)

# The editable install of the repository gives way to the wheel.
sys.path[:] = [target, *(entry for entry in sys.path if entry and not entry.startswith(repository + "/serve"))]
sys.path[:] = [entry for entry in sys.path if entry not in (repository, repository + "/train", repository + "/export")]
sys.meta_path.insert(0, OnlyServe())
import cpd, cpd_serve
assert cpd.__file__.startswith(target) and cpd_serve.__file__.startswith(target), (cpd.__file__, cpd_serve.__file__)
sys.argv = ["cpd-serve", *arguments]
if arguments:
    from cpd_serve.cli import main
    main()
import torch
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel of this checkout unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(folder),
        str(ROOT),
    ]
    subprocess.run(build, check=True, capture_output=True, text=True)
    (wheel,) = folder.glob("cpd-*.whl")
    unpack = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        str(folder / "site"),
        str(wheel),
    ]
    subprocess.run(unpack, check=True, capture_output=True, text=True)
    return folder / "site"


def serve_extra() -> list[str]:
    """Distributions that installing the ``serve`` extra brings, in lower case."""
    found: set[str] = set()
    waiting = [("cpd", "serve")]
    while waiting:
        name, extra = waiting.pop()
        if name in found:
            continue
        found.add(name)
        for text in metadata.requires(name) or []:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                waiting.append((requirement.name.lower(), ""))
    return sorted(found)


def run_bare(installed: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    setting = json.dumps([str(installed), str(ROOT), serve_extra(), [*map(str, arguments)]])
    return subprocess.run([sys.executable, "-c", BARE, setting], capture_output=True, text=True, timeout=60, cwd="/")


@pytest.mark.slow
def test_the_serve_extra_is_light() -> None:
    heavy = {"torch", "onnx", "pydantic", "pyyaml", "tqdm", "safetensors", "nvidia-dali-cuda130", "tensorrt_rtx_cu13"}
    extra = serve_extra()
    assert {"av", "click", "numpy", "onnxruntime"} <= set(extra)
    assert not heavy & set(extra)


@pytest.mark.slow
def test_the_test_itself_forbids_torch(installed: Path) -> None:
    result = run_bare(installed)
    assert "torch is not in the serve extra" in result.stderr


@pytest.mark.slow
def test_a_clip_is_labelled_with_the_serve_extra_alone(
    installed: Path, colour_model: Path, write_video: WriteVideo
) -> None:
    video = write_video(np.full((10, 32, 48, 3), (0, 0, 240), np.uint8), "libx264")
    result = run_bare(installed, "--engine", colour_model, "--video", video, "--json", "--explain", "--views", 2)
    assert result.stderr == ""
    assert json.loads(result.stdout)["predictions"][0]["label"] == "blue"


@pytest.mark.slow
def test_without_a_checkout_an_extra_is_installed_from_the_wheel(installed: Path) -> None:
    result = run_bare(installed, "http", "--engine", "x.onnx")
    assert result.returncode == 1
    assert result.stderr == (
        "error: uvicorn is not installed (pip install '.[http]' in a checkout of cpd, or its wheel: "
        "pip install 'FILE.whl[http]')\n"
    )


@pytest.mark.slow
def test_an_engine_without_a_gpu_is_refused_in_one_line(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "student.trt").write_bytes(b"engine")
    result = run_bare(installed, "--engine", tmp_path / "student.trt", "--video", "clip.mp4")
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "its manifest student.trt.json is not beside it" in result.stderr
