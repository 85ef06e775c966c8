"""Whole checks of processes whose answers are written down: which way a ratio points, what counts, and when it ends."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cpd.errors import CpdError
from cpd_serve.bench import baseline as baseline_module
from cpd_serve.bench import check as check_module
from cpd_serve.bench import rounds as rounds_module
from cpd_serve.bench.baseline import Baseline, check_recorded, record
from cpd_serve.bench.check import Gate, Plan, check, facts
from cpd_serve.bench.counters import Counters
from cpd_serve.bench.decision import decide, rounds_needed
from cpd_serve.bench.machine import machine
from cpd_serve.bench.rounds import ENERGY_TURN_S, Rounds, log_ratio, run_rounds
from cpd_serve.bench.worker import Engine, Opened, Timed
from cpd_serve.runner import open_runner

NEEDED = rounds_needed(0.01)


class Processes:
    """What ``worker_pair`` gives, twice a process that says what is written here of each engine."""

    def __init__(self, opened: Opened) -> None:
        self.opened = opened
        self.much: dict[str, float] = {}
        """How much of everything an engine takes, by the name of its file."""
        self.calls: list[tuple[int, str, tuple[Any, ...]]] = []
        self.probes: Callable[[int], tuple[float, float]] = lambda _: (1e-4, 1e-4)

    @contextmanager
    def pair(self) -> Iterator[tuple[Process, Process]]:
        yield Process(self, 0), Process(self, 1)

    def start(self, engine: Engine) -> Opened:
        assert self.made("start") < 100, "it does not end"
        much, seen = self.much.get(engine.path.name, 1.0), self.opened
        return replace(
            seen,
            cold_start_s=seen.cold_start_s * much,
            first_inference_s=seen.first_inference_s * much,
            peak_memory_bytes=int(seen.peak_memory_bytes * much),
        )

    def round(self, new: Engine, baseline: Engine, least_runs: int, turn_s: float, seed: int) -> Timed:
        one, other = (self.much.get(engine.path.name, 1.0) for engine in (new, baseline))
        ours_s, theirs_s = np.random.default_rng(seed).uniform(0.999e-3, 1.001e-3, (2, 16, 4))
        probes_s = np.repeat(self.probes(self.made("round")), 8)
        return Timed(one * ours_s, other * theirs_s, probes_s, 1.0, 0.0, (one, other))

    def made(self, what: str) -> int:
        return sum(call == what for _, call, _ in self.calls)


class Process:
    def __init__(self, processes: Processes, side: int) -> None:
        self._processes, self._side = processes, side

    def call(self, what: str, *arguments: Any) -> Any:
        self._processes.calls.append((self._side, what, arguments))
        return getattr(self._processes, what)(*arguments)


@pytest.fixture
def processes(colour_model: Path, monkeypatch: pytest.MonkeyPatch) -> Processes:
    with open_runner(colour_model) as runner:
        made = Processes(Opened(runner.manifest, runner.runtime, runner.provider, 0.2, 0.001, 80_000_000))
    for module in (rounds_module, check_module, baseline_module):
        monkeypatch.setattr(module, "worker_pair", made.pair)
    monkeypatch.setattr(rounds_module.Counters, "now", lambda: Counters(0, 0, 0))
    return made


@pytest.fixture
def engines(tmp_path: Path, processes: Processes) -> Callable[[float], tuple[Engine, Engine]]:
    """Two engines, the first of which takes so many times as much of everything."""

    def make(much: float) -> tuple[Engine, Engine]:
        processes.much["new.onnx"] = much
        for name, size in (("new.onnx", 1000 * much), ("old.onnx", 1000)):
            (tmp_path / name).write_bytes(bytes(int(size)))
        return Engine(tmp_path / "new.onnx"), Engine(tmp_path / "old.onnx")

    return make


ALL = ("latency", "throughput", "energy", "size", "memory", "cold-start", "first-inference")


@pytest.mark.parametrize(("much", "verdict"), [(1.2, "fail"), (0.8, "pass"), (1.0, "pass")])
def test_every_gate_fails_for_what_takes_more_and_passes_for_what_takes_less(
    engines: Callable[[float], tuple[Engine, Engine]], much: float, verdict: str
) -> None:
    found = check(*engines(much), Plan(tuple(Gate(metric, 0.05) for metric in ALL)))
    assert [judged.decision.status for judged in found.judged] == [verdict] * len(ALL)
    for judged in found.judged:
        assert judged.decision.change_fraction == pytest.approx(much - 1, abs=2e-3)
    assert found.verdict == verdict
    assert found.new.latency is not None
    assert found.baseline.latency is not None
    assert (found.new.latency.p50_ms, found.baseline.latency.p50_ms) == pytest.approx((much, 1.0), rel=1e-3)
    assert (found.new.energy_mj, found.baseline.energy_mj) == pytest.approx((1e3 * much, 1e3))


def test_a_verdict_is_as_sure_as_was_asked_for(engines: Callable[[float], tuple[Engine, Engine]]) -> None:
    found = check(*engines(1.2), Plan((Gate("latency", 0.05),), error_rate=1e-4))
    ratios = found.measured.log_ratios(lambda timed: log_ratio(timed, 50))
    assert len(ratios) >= rounds_needed(1e-4)
    assert found.judged[0].decision == decide(ratios, 0.05, 1e-4)


def test_starts_that_decide_nothing_end_with_the_time_there_is_and_there_is_one_of_each(
    engines: Callable[[float], tuple[Engine, Engine]], processes: Processes
) -> None:
    found = check(*engines(1.05), Plan((Gate("cold-start", 0.05),), max_s=0.0))
    assert processes.made("start") == 2 + 2
    assert found.judged[0].reason == f"only 1 round in 0 s, a verdict needs at least {NEEDED}"


def test_a_check_of_a_size_alone_has_rounds_to_show_all_the_same(
    engines: Callable[[float], tuple[Engine, Engine]], processes: Processes
) -> None:
    found = check(*engines(1.0), Plan((Gate("size", 0.0),)))
    assert len(found.measured.rounds) == NEEDED
    assert processes.made("start") == 2, "no gate asked for further processes"


@pytest.mark.parametrize(("metric", "turn_s"), [("energy", ENERGY_TURN_S), ("latency", 0.0)])
def test_turns_are_long_where_energy_is_judged(
    engines: Callable[[float], tuple[Engine, Engine]], processes: Processes, metric: Any, turn_s: float
) -> None:
    check(*engines(1.0), Plan((Gate(metric, 0.5),)))
    assert {arguments[3] for _, what, arguments in processes.calls if what == "round"} == {turn_s}


def test_a_gate_on_what_the_machine_does_not_tell_is_an_error(
    engines: Callable[[float], tuple[Engine, Engine]], processes: Processes
) -> None:
    processes.opened = replace(processes.opened, peak_memory_bytes=0)
    with pytest.raises(CpdError, match="this machine does not tell memory"):
        check(*engines(1.0), Plan((Gate("memory", 0.05),)))


def test_a_batch_counts_its_clips_and_energy_that_is_not_told_of_each_round_is_none(processes: Processes) -> None:
    calls_s = np.full((16, 4), 2e-3)
    round_ = Timed(calls_s, calls_s, np.empty(0), 1.0, 0.0, (0.03, 0.02))
    engine = Engine(baseline_module.REFERENCE, batch=8)
    seen = facts(engine, processes.opened, [round_, round_], 1)
    assert (seen.throughput_per_s, seen.energy_mj) == pytest.approx((4000.0, 20.0))
    assert facts(engine, processes.opened, [round_, replace(round_, energy_j=None)], 1).energy_mj is None


def test_the_coin_decides_which_process_measures_and_which_engine_is_opened_first(
    engines: Callable[[float], tuple[Engine, Engine]], processes: Processes
) -> None:
    new, old = engines(1.0)
    first = set()
    for seed in range(8):
        start = len(processes.calls)
        run_rounds(new, old, percentile=50, max_s=60, seed=seed, enough=lambda done: len(done.rounds) >= 4)
        first.add(processes.calls[start][2][0].path.name)
    assert first == {"new.onnx", "old.onnx"}
    rounds = [(side, arguments[4]) for side, what, arguments in processes.calls if what == "round"]
    assert {side for side, _ in rounds} == {0, 1}
    assert len({seed for _, seed in rounds}) == len(rounds) == 32


def test_rounds_that_were_disturbed_are_repeated_and_do_not_count(
    engines: Callable[[float], tuple[Engine, Engine]], processes: Processes
) -> None:
    processes.probes = lambda number: (1e-4, 1.2e-4 if number % 3 == 0 else 1e-4)
    looked: list[int] = []

    def enough(done: Rounds) -> bool:
        looked.append(len(done.rounds))
        return looked[-1] == 10

    done = run_rounds(*engines(1.0), percentile=50, max_s=60, seed=0, enough=enough)
    assert looked == list(range(1, 11)), "only after rounds that count"
    assert done.repeated.total() == 4
    assert all(np.ptp(each.probes_s) == 0 for each in done.rounds)


def test_rounds_end_with_the_time_there_is(engines: Callable[[float], tuple[Engine, Engine]]) -> None:
    done = run_rounds(*engines(1.0), percentile=50, max_s=0.0, seed=0, enough=lambda done: len(done.rounds) == 9)
    assert len(done.rounds) == 1


@pytest.fixture
def recorded(processes: Processes, engines: Callable[[float], tuple[Engine, Engine]]) -> Baseline:
    """Of an engine that takes half as long again as the reference workload."""
    _, old = engines(1.0)
    processes.much["old.onnx"] = 1.5
    opened = processes.start(old)
    rounds = [processes.round(old, Engine(baseline_module.REFERENCE), 8, 0.0, seed) for seed in range(20)]
    return Baseline(
        engine=facts(old, opened, rounds, 0),
        engine_sha256="0" * 64,
        labels=opened.manifest.labels,
        clip=opened.manifest.clip.to_dict(),
        machine=machine(old, opened),
        percentile=50.0,
        rounds=rounds,
        starts=[baseline_module.start_values(opened)] * 12,
        time="2026-01-01T00:00:00Z",
        commit="abc",
    )


@pytest.mark.parametrize(
    ("much", "verdict", "rounds"), [(1.8, "fail", 9), (1.2, "pass", 9), (1.5 * 1.06, "inconclusive", 20)]
)
def test_an_engine_is_compared_through_the_reference_with_a_margin(
    recorded: Baseline, engines: Callable[[float], tuple[Engine, Engine]], much: float, verdict: str, rounds: int
) -> None:
    new, _ = engines(much)
    metrics = ("latency", "throughput", "memory", "cold-start", "first-inference")
    found = check_recorded(new, recorded, Plan(tuple(Gate(metric, 0.05) for metric in metrics)), normalise=False)
    assert [judged.decision.status for judged in found.judged] == [verdict] * len(metrics)
    for judged in found.judged:
        assert judged.decision.change_fraction == pytest.approx(much / 1.5 - 1, abs=2e-3)
        low, high = judged.decision.interval
        assert low is not None
        assert high is not None
        assert math.log1p(high) - math.log1p(low) > 2 * baseline_module.SAME_MACHINE_MARGIN
    assert NEEDED <= len(found.measured.rounds) <= rounds


def test_a_size_is_compared_with_the_recorded_one(
    recorded: Baseline, engines: Callable[[float], tuple[Engine, Engine]]
) -> None:
    found = check_recorded(engines(1.2)[0], recorded, Plan((Gate("size", 0.1),)), normalise=False)
    assert (found.verdict, found.judged[0].decision.change_fraction) == ("fail", pytest.approx(0.2))
    assert len(found.measured.rounds) == NEEDED


def test_too_few_rounds_make_no_baseline(engines: Callable[[float], tuple[Engine, Engine]]) -> None:
    new, _ = engines(1.0)
    made = record(new, percentile=50, rounds=12, max_s=60, seed=0, commit="abc")
    assert (len(made.rounds), len(made.starts)) == (12, baseline_module.RECORD_STARTS)
    with pytest.raises(CpdError, match="only 1 undisturbed rounds in 0 s, too few for a baseline"):
        record(new, percentile=50, rounds=12, max_s=0, seed=0, commit="abc")


@pytest.mark.parametrize(
    ("plan", "normalise", "message"),
    [
        (Plan((Gate("latency", 0.05),), percentile=99), False, "long enough for percentile 50, not 99"),
        (Plan((Gate("latency", 0.05),), percentile=10), False, "long enough for percentile 50, not 10"),
        (Plan((Gate("energy", 0.05),)), False, "energy cannot be compared with a recorded baseline"),
        (Plan((Gate("memory", 0.05),)), True, "memory and starts cannot be compared between machines"),
    ],
)
def test_what_a_recorded_baseline_cannot_tell_is_refused(
    recorded: Baseline, engines: Callable[[float], tuple[Engine, Engine]], plan: Plan, normalise: bool, message: str
) -> None:
    with pytest.raises(CpdError, match=message):
        check_recorded(engines(1.0)[0], recorded, plan, normalise)
