"""What disturbs a round is seen, and only that."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from cpd.errors import CpdError
from cpd_serve.bench import guards, worker
from cpd_serve.bench.counters import Counters, energy_j, thread_waiting
from cpd_serve.bench.guards import ClockCheck, disturbance
from cpd_serve.bench.worker import MAX_OPENED_RUNS, Engine, Timed, time_round, works_alone
from cpd_serve.latency import BLOCK_RUNS
from cpd_serve.runner import Runner, open_runner


def timed(
    new_ms: float = 1.0, slow_calls: int = 0, probes: tuple[float, float] = (1e-4, 1e-4), waiting_s: float = 0.0
) -> Timed:
    """A round of 64 calls of each engine; the first ``slow_calls`` of the new one were cut in two."""
    new_s = np.full((16, 4), new_ms / 1e3)
    new_s.ravel()[:slow_calls] *= 4
    return Timed(new_s, np.full((16, 4), 1e-3), np.repeat(probes, 8), 0.2, waiting_s, None)


def turned(round_: Timed) -> Timed:
    """The same with new and baseline exchanged."""
    return replace(round_, new_s=round_.baseline_s, baseline_s=round_.new_s)


CALM = Counters(cpu_ticks=1000, steal_ticks=10, throttled=0)


def test_a_calm_round_counts_however_slow_an_engine_is() -> None:
    after = Counters(cpu_ticks=1040, steal_ticks=13, throttled=0)
    assert disturbance(CALM, after, timed()) == ""
    assert disturbance(CALM, after, timed(new_ms=50)) == ""
    assert disturbance(CALM, after, timed(waiting_s=0.1)) == "", "it waited, and no call took longer for it"


@pytest.mark.parametrize(
    ("after", "round_", "word"),
    [
        (Counters(1040, 15, 0), timed(), "steal time"),
        (Counters(1040, 10, 1), timed(), "throttling"),
        (Counters(1040, 10, 0), timed(probes=(1e-4, 1.2e-4)), "clock change"),
        (Counters(1040, 10, 0), timed(slow_calls=30, waiting_s=0.1), "busy neighbour"),
        (Counters(1040, 10, 0), turned(timed(slow_calls=30, waiting_s=0.1)), "busy neighbour"),
    ],
)
def test_each_disturbance_is_named(after: Counters, round_: Timed, word: str) -> None:
    assert word in disturbance(CALM, after, round_)


def test_uneven_calls_on_an_idle_machine_are_the_engine_s_own() -> None:
    assert disturbance(CALM, Counters(1040, 10, 0), timed(slow_calls=30, waiting_s=0.0)) == ""


def test_counters_are_read_from_the_system(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/stat").write_text("cpu  10 0 20 300 4 0 1 7 5 5\ncpu0 1 1 1 1 1 1 1 1 1 1\n")
    for core in (0, 1):
        folder = tmp_path / f"sys/devices/system/cpu/cpu{core}/thermal_throttle"
        folder.mkdir(parents=True)
        (folder / "core_throttle_count").write_text("2\n")
    assert Counters.now(tmp_path) == Counters(cpu_ticks=342, steal_ticks=7, throttled=4)
    assert Counters.now(tmp_path / "elsewhere") == Counters(0, 0, 0)


def test_energy_is_the_sum_of_the_packages_or_unknown(tmp_path: Path) -> None:
    assert energy_j("CPUExecutionProvider", tmp_path) is None
    for name, microjoules in (("intel-rapl:0", 1_500_000), ("intel-rapl:1", 500_000), ("intel-rapl:0:0", 9_000_000)):
        folder = tmp_path / "sys/class/powercap" / name
        folder.mkdir(parents=True)
        (folder / "energy_uj").write_text(f"{microjoules}\n")
    assert energy_j("CPUExecutionProvider", tmp_path) == pytest.approx(2.0)
    (tmp_path / "sys/class/powercap/intel-rapl:1/energy_uj").unlink()
    assert energy_j("CPUExecutionProvider", tmp_path) is None, "the sum of some is not that of all"


@pytest.mark.skipif(not Path("/proc/thread-self/schedstat").exists(), reason="the kernel does not count waiting")
def test_a_thread_without_a_core_is_seen_to_wait() -> None:
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])  # on the same core
    try:
        with thread_waiting() as waited_ns:
            assert waited_ns is not None
            before_ns, deadline_s = waited_ns(), time.monotonic() + 60
            while waited_ns() - before_ns < 1_000_000:
                assert time.monotonic() < deadline_s
    finally:
        other.kill()
        other.wait()
        os.sched_setaffinity(0, cores)


def test_only_a_single_thread_on_the_cpu_is_late_by_what_it_waited(colour_model: Path) -> None:
    engine = Engine(colour_model, "cpu")
    with open_runner(engine.path, "cpu", 1) as runner:
        assert works_alone(engine, runner)
        assert not works_alone(replace(engine, threads=2), runner)
        assert not works_alone(replace(engine, video=Path("clip.avi")), runner)
        runner.provider = "CUDAExecutionProvider"
        assert not works_alone(engine, runner)


def test_a_round_has_two_halves_to_compare_however_long_its_turns(colour_model: Path) -> None:
    engine = Engine(colour_model, "cpu")
    timed = time_round(engine, engine, 8, turn_s=0.05, seed=0)
    assert len(timed.probes_s) >= 2
    assert timed.new_s.shape[1] > BLOCK_RUNS


def test_a_round_has_as_many_calls_as_its_percentile_needs(colour_model: Path) -> None:
    engine = Engine(colour_model, "cpu")
    needed = MAX_OPENED_RUNS + 100
    assert time_round(engine, engine, needed, turn_s=0.0, seed=0).new_s.size >= needed


def test_a_round_draws_who_is_first_and_counts_what_each_call_used(
    colour_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new, baseline = Engine(colour_model, "cpu"), Engine(colour_model, "cpu", batch=2)
    calls: list[int] = []
    monkeypatch.setattr(worker, "_call_of", lambda _, engine: lambda: calls.append(engine.batch))
    monkeypatch.setattr(worker, "energy_j", lambda _: float(sum(calls)))
    monkeypatch.setattr(worker, "warm_up", lambda _: np.array([1e-2]))

    def timed(run: Callable[[], object], runs: int, _: object) -> tuple[np.ndarray, np.ndarray]:
        for _ in range(runs + 1):
            run()
        return np.full(runs, 3e-3), np.full(runs, 1e-3)

    monkeypatch.setattr(worker, "time_and_waiting", timed)
    round_ = time_round(new, baseline, 64, turn_s=0.0, seed=0)
    assert round_.energy_j == (1.0, 2.0), "one joule for each clip"
    assert (round_.new_s == 2e-3).all(), "waiting is left out"
    firsts = calls[:: 2 * (BLOCK_RUNS + 1)]
    assert set(firsts) == {1, 2}


def test_each_engine_is_asked_for_the_energy_of_where_it_runs(
    colour_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an ONNX file on the CPU and a TensorRT engine are, where onnxruntime knows no GPU."""
    counted_j = {"CPUExecutionProvider": 0.0, "a GPU": 0.0}

    def opened(path: Path, provider: str, threads: int) -> Runner:
        runner = open_runner(path, "cpu", threads)
        runner.provider = provider
        return runner

    def energy_j(provider: str) -> float:
        counted_j[provider] += 10.0 if provider == "a GPU" else 1.0
        return counted_j[provider]

    monkeypatch.setattr("cpd_serve.runner.open_runner", opened)
    monkeypatch.setattr("cpd_serve.bench.worker.energy_j", energy_j)
    new, baseline = (Engine(colour_model, provider) for provider in counted_j)
    for seed in range(4):
        told_j = time_round(new, baseline, 8, turn_s=0.0, seed=seed).energy_j
        assert told_j is not None
        assert told_j[1] / told_j[0] == pytest.approx(10)


def test_a_clock_that_drifts_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ClockCheck()
    time.sleep(0.01)
    clock.verify()
    raw_s = guards._raw_s()
    monkeypatch.setattr(guards, "_raw_s", lambda: raw_s + 3.0)
    with pytest.raises(CpdError, match="not stable"):
        clock.verify()


def test_losing_the_core_between_two_readings_is_no_drift(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ClockCheck()
    raw_s, readings = guards._raw_s, iter(range(100))

    def interrupted_s() -> float:
        if next(readings) % 2 == 0:
            time.sleep(0.02)
        return raw_s()

    monkeypatch.setattr(guards, "_raw_s", interrupted_s)
    clock.verify()


@pytest.mark.parametrize(
    "clock",
    [
        time.get_clock_info("time"),  # the wall clock, which is set by hand and by NTP
        SimpleNamespace(implementation="ticks", adjustable=False, monotonic=True, resolution=1 / 64),
    ],
)
def test_a_clock_that_can_jump_or_is_coarse_is_refused(clock: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "get_clock_info", lambda _: clock)
    with pytest.raises(CpdError, match="can jump or is too coarse"):
        ClockCheck()
