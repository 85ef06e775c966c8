"""cpd-pipeline as a user meets it: real processes, their output and their exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from cpd.cli import STAGE, Commands, main
from cpd.errors import ConfigError, DataError
from cpd.lock import hold
from cpd.stages import STAGES
from cpd.verdict import EXIT_CODES
from cpd_serve.cuda_driver import driver_present

MINIMAL = "name: demo\ndata: {rendered: {}}\nteacher: {}\nstudent: {}\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with a pipeline.yaml."""
    monkeypatch.chdir(tmp_path)
    Path("pipeline.yaml").write_text(MINIMAL)
    return tmp_path


def cpd_pipeline(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).with_name("cpd-pipeline"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_stage_that_the_run_stops_before_cannot_be_forced(folder):
    result = CliRunner().invoke(
        main, ["run", "pipeline.yaml", "--until", "data", "--force", "data", "--force", "export"]
    )
    assert result.exit_code == 2
    assert "--force export would do nothing with --until data, an earlier stage" in result.stderr


def test_an_empty_name_of_a_model_repository_is_not_the_current_folder(folder):
    result = CliRunner().invoke(main, ["export", "pipeline.yaml", "--triton", ""])
    assert (result.exit_code, "--triton is empty" in result.stderr) == (2, True)


def test_help_imports_nothing_heavy():
    code = (
        "import sys, cpd.cli\n"
        "try: cpd.cli.main(['--help'])\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'pydantic', 'numpy', 'av', 'yaml', 'jinja2', 'nvidia', 'onnx', 'onnxruntime'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "data -> teacher -> distill -> export -> validate -> report" in done.stdout


@pytest.mark.parametrize("command", ["run", "validate", "status", "report", "schema"])
def test_every_command_has_help(command):
    result = CliRunner().invoke(main, [command, "--help"])
    assert result.exit_code == 0
    assert command in result.output


def test_the_version_is_told():
    assert cpd_pipeline("--version").stdout.startswith("cpd-pipeline, version ")


@pytest.mark.parametrize(
    "arguments",
    [["run"], ["run", "pipeline.yaml", "--until", "teach"], ["run", "pipeline.yaml", "--device", "tpu"], ["make"],
     ["run", "pipeline.yaml", "--sett", "a=1"]],
)  # fmt: skip
def test_wrong_usage_is_2(folder, arguments):
    assert CliRunner().invoke(main, arguments).exit_code == 2


@pytest.mark.parametrize("command", ["run", "validate", "status"])
def test_a_configuration_with_mistakes_is_2_and_tells_them_all(folder, command):
    Path("pipeline.yaml").write_text(MINIMAL + "sed: 1\nclip: {frames: 0}\ndevice: tpu\n")
    done = cpd_pipeline(command, "pipeline.yaml", "--set", "teacher.batch_size=0")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "error: pipeline.yaml:5: sed is not a key here, did you mean seed?",
        "error: pipeline.yaml:6: clip.frames must be at least 1, got 0",
        'error: pipeline.yaml:7: device must be auto, cpu or cuda, got "tpu"',
        "error: --set teacher.batch_size=0: teacher.batch_size must be at least 1, got 0",
    ]


def test_a_missing_configuration_is_2(folder):
    done = cpd_pipeline("run", "none.yaml")
    assert (done.returncode, done.stderr) == (2, "error: none.yaml: no such file\n")


def test_a_run_folder_in_use_is_1_and_names_its_holder(folder):
    with hold(folder / "out"):
        done = cpd_pipeline("run", "pipeline.yaml", "--output", "out")
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: out is in use by process {os.getpid()} on ")
    assert len(done.stderr.splitlines()) == 1


def test_a_run_folder_that_is_a_file_is_1(folder):
    done = cpd_pipeline("run", "pipeline.yaml", "--output", "pipeline.yaml")
    assert done.returncode == 1
    assert done.stderr == (
        "error: the run folder pipeline.yaml cannot be used: file exists (choose another folder with --output)\n"
    )


def test_status_before_the_first_run(folder):
    done = cpd_pipeline("status", "pipeline.yaml")
    assert done.returncode == 0
    assert done.stdout.split() == [word for stage in STAGES for word in (stage.name, "missing")]
    assert not (folder / "runs").exists()


def test_validate_says_what_would_be_used(folder):
    done = cpd_pipeline("validate", "pipeline.yaml")
    assert (done.returncode, done.stderr) == (0, "")
    assert "train      96 clips a class, to be rendered" in done.stdout
    assert done.stdout.endswith("pipeline.yaml can be run\n")


def test_a_checkpoint_that_is_not_there_is_found_before_training(folder):
    done = cpd_pipeline("validate", "pipeline.yaml", "--set", "teacher.checkpoint=none.pth")
    assert done.returncode == 1
    assert done.stderr == f"error: teacher.checkpoint: there is no file {folder}/none.pth\n"


def test_schema_is_json_that_names_the_sections(folder):
    document = json.loads(cpd_pipeline("schema").stdout)
    assert {"name", "data", "teacher", "student", "distill", "export", "validate"} <= set(document["properties"])


def test_report_without_a_run_is_1(folder):
    done = cpd_pipeline("report", "runs/demo")
    assert done.returncode == 1
    assert done.stderr == "error: runs/demo/report.json: no such file (cpd-pipeline run writes it at its end)\n"


def test_stages_and_verdicts_are_those_of_the_contract():
    assert list(STAGE.choices) == ["data", "teacher", "distill", "export", "validate", "report"]
    assert EXIT_CODES == {"pass": 0, "fail": 3, "inconclusive": 4}


def invoke_failing(error: BaseException):
    """A command of our kind that raises."""

    @click.group(cls=Commands)
    def commands() -> None: ...

    @commands.command()
    def fail() -> None:
        raise error

    return CliRunner().invoke(commands, ["fail"])


def test_a_foreseen_error_is_its_line_and_its_code():
    result = invoke_failing(DataError("no clips", "name a folder"))
    assert (result.exit_code, result.stderr) == (1, "error: no clips (name a folder)\n")
    result = invoke_failing(ConfigError(["a: wrong", "b: wrong too"]))
    assert (result.exit_code, result.stderr) == (2, "error: a: wrong\nerror: b: wrong too\n")


def test_a_missing_package_is_told_with_the_remedy():
    result = invoke_failing(ModuleNotFoundError("No module named 'torch.nn'", name="torch.nn"))
    assert result.exit_code == 1
    checkout = Path(__file__).parents[2]
    assert result.stderr == f"error: torch is not installed (pip install '{checkout}[cpu]', or cuda for a GPU)\n"


def test_a_gpu_that_is_not_there_is_said_even_where_nothing_has_to_run(folder):
    if driver_present():
        pytest.skip("there is an NVIDIA driver here")
    done = cpd_pipeline("run", "pipeline.yaml", "--device", "cuda", "--until", "data")
    assert done.returncode == 1
    assert done.stderr == "error: device cuda is asked for, and this machine has no NVIDIA driver (use --device cpu)\n"


def test_a_disk_that_cannot_be_used_is_one_line(folder):
    Path("loop").symlink_to("loop")
    done = cpd_pipeline("status", "pipeline.yaml", "--output", "loop")
    assert done.returncode == 1
    assert done.stderr == "error: loop/pipeline.lock: too many levels of symbolic links\n"


def test_a_file_that_may_not_be_read_is_named():
    result = invoke_failing(PermissionError(13, "Permission denied", "/data/list.csv"))
    assert (result.exit_code, result.stderr) == (1, "error: /data/list.csv: permission denied\n")


def test_a_bug_keeps_its_traceback():
    assert isinstance(invoke_failing(ZeroDivisionError()).exception, ZeroDivisionError)
    own = ModuleNotFoundError("No module named 'cpd_train.gone'", name="cpd_train.gone")
    assert invoke_failing(own).exception is own


def test_ctrl_c_is_130_and_says_that_the_next_run_continues(folder):
    code = (
        "import click, sys, time\n"
        "from cpd.cli import Commands\n"
        "@click.group(cls=Commands)\n"
        "def main(): ...\n"
        "@main.command()\n"
        "def wait():\n"
        "    print('waiting', flush=True)\n"
        "    time.sleep(30)\n"
        "main()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, "wait"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGINT)
        assert process.stderr.read().strip() == "interrupted: the next run continues where this one stopped"
    assert process.returncode == 130


@pytest.mark.parametrize("then", ["pass", "raise CpdError('a module is half there')"])
@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_an_interruption_that_a_library_swallows_ends_the_run_all_the_same(number, then):
    code = (
        "import click, signal\n"
        "from cpd.cli import Commands\n"
        "from cpd.errors import CpdError\n"
        "from cpd.progress import track\n"
        "@click.group(cls=Commands)\n"
        "def main(): ...\n"
        "@main.command()\n"
        "def work():\n"
        "    for item in track([1, 2], 'work'):\n"
        "        print(item, flush=True)\n"
        f"        try: signal.raise_signal(signal.{number})\n"
        f"        except KeyboardInterrupt: {then}\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code, "work"], capture_output=True, text=True, check=False)
    told = "interrupted: the next run continues where this one stopped"
    assert (done.returncode, done.stdout, done.stderr.strip()) == (130, "1\n", told)
