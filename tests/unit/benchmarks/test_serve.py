"""benchmarks/serve: what cannot be measured is said in one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cpd.clip import ClipSpec
from cpd_train.models import ModelSpec, build_model, write_checkpoint

FOLDER = Path(__file__).parents[3] / "benchmarks/serve"


def outcome(script: str, *arguments: object) -> tuple[int, str]:
    command = [sys.executable, str(FOLDER / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    return done.returncode, done.stderr


@pytest.mark.parametrize("script", ["first_answer.py", "http_load.py", "stream_cost.py", "throughput.py"])
def test_a_folder_that_is_no_run_is_one_line(tmp_path: Path, script: str) -> None:
    code, told = outcome(script, tmp_path)
    assert (code, told.count("\n")) == (1, 1), told
    assert told.startswith(f"error: {tmp_path}/")


def test_a_pattern_that_matches_nothing_is_one_line(tmp_path: Path, colour_model: Path) -> None:
    for name in ("export", "student"):
        (tmp_path / name).mkdir()
    colour_model.rename(tmp_path / "export/student.onnx")
    labels = ("red", "green", "blue")
    model = build_model(ModelSpec("tsm-tiny", width=4, blocks=1), len(labels), ClipSpec())
    write_checkpoint(tmp_path / "student/student.safetensors", model, "student", labels, "", epoch=1, top1=None)
    code, told = outcome("throughput.py", tmp_path, "--videos", "none/*.mp4")
    assert (code, told) == (1, "error: none/*.mp4: no such file\n")
