"""Recorded runs and the commits between which latency changed."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from cpd.errors import CpdError
from cpd_serve.bench.history import Run, append, as_text, change_points, read, series


def test_steps_are_found_where_they_are() -> None:
    random = np.random.default_rng(0)
    levels = np.repeat([0.0, 0.08, 0.03], [20, 15, 25])
    assert change_points(levels + random.normal(0, 0.005, 60)) == [20, 35]


def test_noise_alone_is_rarely_a_step() -> None:
    random = np.random.default_rng(1)
    found = sum(bool(change_points(random.normal(0, 0.01, 60))) for _ in range(200))
    assert found <= 20


def test_one_odd_run_is_no_step() -> None:
    values = np.random.default_rng(2).normal(0, 0.005, 30)
    values[14] = 0.03
    assert change_points(values) == []


def test_too_few_runs_have_no_steps() -> None:
    assert change_points([0.0, 5.0, 5.0]) == []


def run(index: int, log_ratio: float, against: str = "a" * 64, measured: str = "p50 of frames") -> Run:
    day = f"2026-01-{index + 1:02}T00:00:00Z"
    return Run(day, f"{index:040x}", "student.onnx", against, measured, log_ratio, 1.0, "pass")


def test_the_table_names_the_commits_to_bisect(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    for index, level in enumerate([0.0, 0.001, -0.001, 0.0, 0.095, 0.096, 0.094, 0.095]):
        append(path, run(index, level))
    lines = as_text(read(path)).splitlines()
    (step,) = [line for line in lines if "git bisect start" in line]
    assert lines.index(step) == 5  # after the header and the four fast runs
    assert "+10.0%" in step
    assert step.endswith(f"git bisect start {4:040x}"[: len("git bisect start ") + 10] + f" {3:040x}"[:11])


def test_a_step_is_from_the_level_before_it_to_the_one_after(tmp_path: Path) -> None:
    levels = np.repeat([0.0, math.log(1.1), math.log(1.65), math.log(1.32)], 5) + np.tile([0, 1e-5, 0, -1e-5, 0], 4)
    steps = [line for line in as_text([run(*one) for one in enumerate(levels)]).splitlines() if "bisect" in line]
    assert [line.split()[1] for line in steps] == ["+10.0%", "+50.0%", "-20.0%"]


def test_runs_against_different_baselines_or_measured_differently_are_not_mixed(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    for index in range(6):
        append(path, run(index, 0.0, "a" * 64))
        append(path, run(index, math.log(2), "b" * 64))
        append(path, run(index, math.log(3), "b" * 64, "p99 of frames"))
    assert [len(members) for members in series(read(path)).values()] == [6, 6, 6]
    assert "bisect" not in as_text(read(path))


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        '{"time": "x"}',
        "5",
        json.dumps(asdict(run(1, 0.0)) | {"schema": 2}),
        json.dumps(asdict(run(1, math.nan))),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "runs.jsonl"
    append(path, run(0, 0.0))
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(CpdError, match=r"runs\.jsonl:2"):
        read(path)


@pytest.mark.parametrize(
    ("changed", "why"),
    [({"schema": 2}, "schema 2, this version reads 1"), ({"log_ratio": math.nan}, "log_ratio is nan")],
)
def test_what_is_wrong_with_a_line_is_named(tmp_path: Path, changed: dict[str, object], why: str) -> None:
    path = tmp_path / "runs.jsonl"
    append(path, run(0, 0.0))
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    with pytest.raises(CpdError, match=f"not a recorded run: {why}"):
        read(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CpdError, match="no such file"):
        read(tmp_path / "absent.jsonl")
