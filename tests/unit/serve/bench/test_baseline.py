"""Baseline files: kept whole, tied to their machine, refused where they do not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cpd.errors import CpdError, EngineMismatchError
from cpd_serve.bench.baseline import (
    OTHER_MACHINE_MARGIN,
    REFERENCE,
    SAME_MACHINE_MARGIN,
    Baseline,
    in_100ns,
    margin_between,
    read_baseline,
    reference_for,
    write_baseline,
)
from cpd_serve.bench.check import Facts
from cpd_serve.bench.machine import machine
from cpd_serve.bench.worker import Engine, Opened, Timed
from cpd_serve.latency import LatencySummary
from cpd_serve.runner import open_runner

ROUND = {"engine_100ns": [[1]], "reference_100ns": [[1]], "waited_100ns": None}


@pytest.fixture
def engine(colour_model: Path) -> Engine:
    return Engine(colour_model)


@pytest.fixture
def opened(engine: Engine) -> Opened:
    with open_runner(engine.path) as runner:
        return Opened(runner.manifest, runner.runtime, runner.provider, 0.2, 0.001, 80_000_000)


@pytest.fixture
def baseline(engine: Engine, opened: Opened) -> Baseline:
    calls_s = np.round(np.random.default_rng(0).uniform(1e-3, 2e-3, (16, 4)), 7)
    return Baseline(
        engine=Facts(
            "old.onnx", "onnxruntime", opened.provider, 900, LatencySummary(1, 1, 1, 64), 900.0, 200, 1, 9, None
        ),
        engine_sha256="0" * 64,
        labels=opened.manifest.labels,
        clip=opened.manifest.clip.to_dict(),
        machine=machine(engine, opened),
        percentile=50.0,
        rounds=[Timed(calls_s * 1.5, calls_s, np.empty(0), 0.0, 0.0, None, np.stack([calls_s, 0 * calls_s]))] * 3,
        starts=[{"cold_start_s": 0.2, "first_inference_s": 0.001, "peak_memory_bytes": 80_000_000}],
        time="2026-01-01T00:00:00Z",
        commit="abc",
    )  # fmt: skip


def test_a_baseline_comes_back_as_it_was_written(tmp_path: Path, baseline: Baseline) -> None:
    write_baseline(tmp_path / "baseline.json", baseline)
    again = read_baseline(tmp_path / "baseline.json")
    assert again.engine == baseline.engine
    assert again.machine == baseline.machine
    np.testing.assert_allclose(again.rounds[2].new_s, baseline.rounds[2].new_s, atol=1e-7)
    np.testing.assert_allclose(again.rounds[2].waited_s, baseline.rounds[2].waited_s, atol=1e-7)


def test_tenths_of_a_microsecond_are_kept_and_shorter_waiting_is_not_taken_for_none() -> None:
    assert in_100ns(np.arange(20_000) / 1e7) == list(range(20_000))
    assert in_100ns(np.array([[0.0, 1e-9]])) == [[0, 1]]


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: json.dumps({**json.loads(text), "schema": 1}),
        lambda text: json.dumps({**json.loads(text), "kind": "something else"}),
        lambda text: json.dumps({**json.loads(text), "rounds": []}),
        lambda text: json.dumps({**json.loads(text), "rounds": [{**ROUND, "reference_100ns": [[1, 2]]}]}),
        lambda text: json.dumps({**json.loads(text), "rounds": [{**ROUND, "waited_100ns": [[[0]]]}]}),
        lambda text: json.dumps(
            {**json.loads(text), "rounds": [{**ROUND, "engine_100ns": [1], "reference_100ns": [1]}]}
        ),
        lambda text: json.dumps({**json.loads(text), "surprise": 1}),
        lambda text: "[]",
        lambda text: "{}",
    ],
)
def test_a_file_that_is_not_a_baseline_is_refused(
    tmp_path: Path, baseline: Baseline, damage: Callable[[str], str]
) -> None:
    path = tmp_path / "baseline.json"
    write_baseline(path, baseline)
    path.write_text(damage(path.read_text()))
    with pytest.raises(CpdError, match="not a baseline"):
        read_baseline(path)


def test_the_same_machine_is_recognised(tmp_path: Path, engine: Engine, opened: Opened, baseline: Baseline) -> None:
    write_baseline(tmp_path / "baseline.json", baseline)
    again = read_baseline(tmp_path / "baseline.json")
    assert margin_between(engine, opened, again, normalise=False) == SAME_MACHINE_MARGIN


@pytest.mark.parametrize(
    ("recorded", "said"),
    [
        ({"cpu": "Cortex-A76"}, "cpu Cortex-A76, here "),
        ({"tensorrt": "9.9"}, "tensorrt 9.9, here "),
        ({"numpy": None}, "numpy None, here "),
    ],
)
def test_another_machine_is_refused_unless_normalised(
    engine: Engine, opened: Opened, baseline: Baseline, recorded: dict[str, str | None], said: str
) -> None:
    known = {key: value for key, value in {**baseline.machine, **recorded}.items() if value is not None}
    elsewhere = replace(baseline, machine=known)
    with pytest.raises(EngineMismatchError, match=said):
        margin_between(engine, opened, elsewhere, normalise=False)
    assert margin_between(engine, opened, elsewhere, normalise=True) == OTHER_MACHINE_MARGIN


@pytest.mark.parametrize("normalise", [False, True])
def test_another_task_or_way_of_measuring_is_always_refused(
    engine: Engine, opened: Opened, baseline: Baseline, normalise: bool
) -> None:
    for what, other in (
        ("labels", replace(baseline, labels=("cat", "dog"))),
        ("inputs", replace(baseline, clip={**baseline.clip, "frames": 99})),
        ("threads", replace(baseline, machine={**baseline.machine, "threads": 2})),
        ("batch", replace(baseline, machine={**baseline.machine, "batch": 8})),
    ):
        with pytest.raises(EngineMismatchError, match=what):
            margin_between(engine, opened, other, normalise)


def test_the_reference_workload_can_be_run_and_runs_where_the_engine_does() -> None:
    with open_runner(REFERENCE, threads=1) as runner:
        assert runner.predict(np.zeros((1, *runner.manifest.clip.shape), np.uint8)).shape[0] == 1
    assert reference_for(Engine(Path("student.onnx"), "cpu", threads=2, batch=8)) == Engine(REFERENCE, "cpu", 2)
    assert reference_for(Engine(Path("student.onnx"), video=Path("clip.avi"))) == Engine(REFERENCE)
    assert reference_for(Engine(Path("student.trt"))).provider == "cuda"
