"""The mechanism that runs stages, with small stages that read and write files."""

from __future__ import annotations

import re
import resource
from pathlib import Path

import pytest

from cpd.config import Pipeline
from cpd.errors import BusyError, CpdError, DataError
from cpd.lock import LOCK_FILE, hold
from cpd.pipeline import Stage, run_stages, status_of


def make_config(tmp_path: Path, seed: int = 0, name: str = "demo") -> Pipeline:
    values = {"name": name, "seed": seed, "data": {"rendered": {}}, "teacher": {}, "student": {}}
    return Pipeline.model_validate({**values, "output": tmp_path / "run"})


def untimed(line: str) -> str:
    return re.sub(r"\(\d+\.\d s\)$", "(time)", line)


class Kitchen:
    """Three stages: ``data`` writes the seed, ``teacher`` copies what data wrote, ``report`` the name and the copy."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.stages = (
            Stage("data", self.data, ("seed",), inputs=lambda *_: [], outputs=lambda *_: ["data/a.txt"]),
            Stage("teacher", self.teacher, ("teacher",), inputs=lambda *_: ["data/a.txt"],
                  outputs=lambda *_: ["teacher/b.txt"], packages=("pydantic",)),
            Stage("report", self.report, ("name",), inputs=lambda *_: ["teacher/b.txt"],
                  outputs=lambda *_: ["c.txt"]),
        )  # fmt: skip

    def data(self, config: Pipeline, run_dir: Path) -> str:
        self.ran.append("data")
        (run_dir / "data").mkdir(exist_ok=True)
        (run_dir / "data/a.txt").write_text(str(config.seed // 10))
        return f"seed {config.seed}"

    def teacher(self, config: Pipeline, run_dir: Path) -> str:
        self.ran.append("teacher")
        (run_dir / "teacher").mkdir(exist_ok=True)
        (run_dir / "teacher/b.txt").write_text((run_dir / "data/a.txt").read_text())
        return "taught"

    def report(self, config: Pipeline, run_dir: Path) -> str:
        self.ran.append("report")
        (run_dir / "c.txt").write_text(config.name + (run_dir / "teacher/b.txt").read_text())
        return "reported"

    def run(self, config: Pipeline, **options) -> list[str]:
        """Names of the stages that ran."""
        self.ran.clear()
        run_stages(self.stages, config, **options)
        return list(self.ran)


@pytest.fixture
def kitchen():
    return Kitchen()


def test_a_second_run_skips_every_stage_and_says_why(kitchen, tmp_path, capsys):
    assert kitchen.run(make_config(tmp_path)) == ["data", "teacher", "report"]
    first = capsys.readouterr()
    assert [untimed(line) for line in first.out.splitlines()] == [
        "data      done     seed 0 (time)",
        "teacher   done     taught (time)",
        "report    done     reported (time)",
    ]
    assert first.err.splitlines()[0] == "data      running  not run yet"
    assert kitchen.run(make_config(tmp_path)) == []
    second = capsys.readouterr()
    assert [line[:18] for line in second.out.splitlines()] == [
        "data      skipped ", "teacher   skipped ", "report    skipped ",
    ]  # fmt: skip
    assert "still good: settings, inputs and versions are those of 20" in second.out
    assert second.err == ""


def test_a_changed_setting_reruns_what_depends_on_it(kitchen, tmp_path, capsys):
    kitchen.run(make_config(tmp_path))
    assert kitchen.run(make_config(tmp_path, name="other")) == ["report"]
    assert "report    running  name was demo, is other" in capsys.readouterr().err
    assert kitchen.run(make_config(tmp_path, name="other", seed=30)) == ["data", "teacher", "report"]


def test_a_stage_whose_inputs_came_out_the_same_is_not_rerun(kitchen, tmp_path):
    kitchen.run(make_config(tmp_path))
    assert kitchen.run(make_config(tmp_path, seed=3)) == ["data"], "the seed changed, what data wrote did not"
    assert kitchen.run(make_config(tmp_path, seed=3), force=["teacher"]) == ["teacher"]


def test_a_lost_output_is_made_again(kitchen, tmp_path, capsys):
    config = make_config(tmp_path)
    kitchen.run(config)
    (config.run_dir / "teacher/b.txt").unlink()
    assert kitchen.run(config) == ["teacher"]
    assert "teacher/b.txt is missing" in capsys.readouterr().err


def test_until_stops_after_a_stage(kitchen, tmp_path):
    assert kitchen.run(make_config(tmp_path), until="teacher") == ["data", "teacher"]
    assert kitchen.run(make_config(tmp_path)) == ["report"]


def test_a_failed_stage_keeps_what_was_finished(kitchen, tmp_path):
    config = make_config(tmp_path)
    kitchen.run(config)

    def fail(config: Pipeline, run_dir: Path) -> str:
        raise DataError("no clips")

    good, kitchen.stages = kitchen.stages, (kitchen.stages[0], Stage("teacher", fail, ("seed",), *(lambda *_: [],) * 2))
    with pytest.raises(DataError):
        kitchen.run(make_config(tmp_path, seed=40))
    kitchen.stages = good
    assert kitchen.run(make_config(tmp_path, seed=40)) == ["teacher", "report"], "data had finished"


def test_an_attempt_stopped_before_it_wrote_leaves_the_earlier_result_good(kitchen, tmp_path):
    config = make_config(tmp_path)
    kitchen.run(config)
    good = kitchen.stages

    def interrupted(config: Pipeline, run_dir: Path) -> str:
        raise KeyboardInterrupt

    kitchen.stages = (Stage("data", interrupted, ("seed",), good[0].inputs, good[0].outputs), *good[1:])
    with pytest.raises(KeyboardInterrupt):
        kitchen.run(make_config(tmp_path, seed=50))
    kitchen.stages = good
    assert kitchen.run(config) == []


def test_half_written_outputs_never_count(kitchen, tmp_path):
    config = make_config(tmp_path)
    kitchen.run(config)
    good = kitchen.stages

    def half(config: Pipeline, run_dir: Path) -> str:
        (run_dir / "data/a.txt").write_text("hal")
        raise KeyboardInterrupt

    kitchen.stages = (Stage("data", half, ("seed",), good[0].inputs, good[0].outputs), *good[1:])
    with pytest.raises(KeyboardInterrupt):
        kitchen.run(config, force=["data"])
    kitchen.stages = good
    assert kitchen.run(config) == ["data"], "data made again as it was, so what follows still holds"


@pytest.mark.parametrize("own_error", [False, True], ids=["OSError", "an error of a library's own"])
def test_a_full_disk_is_one_line(tmp_path, own_error):
    def fill(config: Pipeline, run_dir: Path) -> str:
        try:
            Path("/dev/full").write_text("x" * 10)
        except OSError as error:
            if own_error:
                raise RuntimeError(f"I/O error: {error.strerror} (os error 28)") from None
            raise
        return ""

    stage = Stage("data", fill, (), inputs=lambda *_: [], outputs=lambda *_: [])
    with pytest.raises(CpdError, match="is full") as caught:
        run_stages([stage], make_config(tmp_path))
    assert caught.value.exit_code == 1
    assert "free some space" in caught.value.remedy
    assert not (tmp_path / "run" / LOCK_FILE).exists()


def test_a_file_larger_than_the_system_allows_is_one_line(tmp_path):
    def write(config: Pipeline, run_dir: Path) -> str:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
        try:
            (run_dir / "a").write_bytes(bytes(1000))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        return ""

    stage = Stage("data", write, (), inputs=lambda *_: [], outputs=lambda *_: [])
    with pytest.raises(CpdError, match=r"a file of .*run would be larger than .*ulimit -f"):
        run_stages([stage], make_config(tmp_path))


def test_a_bug_keeps_its_traceback(tmp_path):
    def broken(config: Pipeline, run_dir: Path) -> str:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_stages([Stage("data", broken, (), lambda *_: [], lambda *_: [])], make_config(tmp_path))


def test_a_folder_in_use_is_left_alone(kitchen, tmp_path):
    config = make_config(tmp_path)
    with hold(config.run_dir), pytest.raises(BusyError):
        kitchen.run(config)
    assert kitchen.ran == []


def test_a_broken_lock_is_a_warned_miss(kitchen, tmp_path, capsys):
    config = make_config(tmp_path)
    kitchen.run(config)
    (config.run_dir / LOCK_FILE).write_text("{")
    assert [status.state for status in status_of(kitchen.stages, config)] == ["missing"] * 3
    assert "every stage runs again" in capsys.readouterr().err
    assert kitchen.run(config) == ["data", "teacher", "report"]
    assert "warning: " in capsys.readouterr().err


def test_sources_count_by_size_and_time(kitchen, tmp_path, capsys):
    clip = tmp_path / "clip.avi"
    clip.write_bytes(b"1")
    data = kitchen.stages[0]
    kitchen.stages = (Stage("data", data.run, ("seed",), data.inputs, data.outputs, sources=lambda _: [clip]),)
    config = make_config(tmp_path)
    assert kitchen.run(config) == ["data"]
    assert kitchen.run(config) == []
    clip.write_bytes(b"12")
    assert kitchen.run(config) == ["data"]
    assert "the source clips changed since" in capsys.readouterr().err


def test_status_tells_done_stale_and_missing_and_changes_nothing(kitchen, tmp_path):
    config = make_config(tmp_path)
    assert [status.state for status in status_of(kitchen.stages, config)] == ["missing"] * 3
    assert not config.run_dir.exists()
    kitchen.run(config, until="teacher")
    found = status_of(kitchen.stages, config)
    assert [(status.name, status.state, untimed(status.detail)) for status in found] == [
        ("data", "done", "seed 0 (time)"),
        ("teacher", "done", "taught (time)"),
        ("report", "missing", ""),
    ]
    kitchen.run(config)
    found = status_of(kitchen.stages, make_config(tmp_path, seed=1))
    assert [(status.state, status.detail) for status in found] == [
        ("stale", "seed was 0, is 1"),
        ("stale", "data/a.txt is about to be made again"),
        ("stale", "teacher/b.txt is about to be made again"),
    ]
