"""The processes that `cpd-bench` times engines in. Each holds both engines and times them in turns when told to.

Measured on a small student: two sessions of the same file in one process differ by 0.5 to 1 % for as long as they
live, since their memory lies differently. So both engines are opened anew in every round, in random order, at places
in memory that random allocations shift. Both lie in one process because handing turns from process to process means
waiting for a core each time, which on a busy machine takes longer than the calls.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cpd.errors import CpdError, EngineError
from cpd.manifest import Manifest
from cpd_serve.bench.counters import energy_j, thread_waiting
from cpd_serve.latency import BLOCK_RUNS, WARM_UP_WINDOW_RUNS, Samples, no_garbage_collection, time_and_waiting, warm_up

if TYPE_CHECKING:
    from cpd_serve.runner import Runner

PROBE_STEPS = 4000
"""Fixed work of about 0.1 ms between turns: it tells whether the core itself runs as fast as before."""
SHIFTS, SHIFT_BYTES = 16, 1 << 16
ROUND_RUNS, ROUND_S = 64, 0.5
"""A round has this many calls of each engine, or as many as fit into this time where they are slow …"""
MAX_OPENED_RUNS = 512
"""… but lasts as long as opening the engines did, up to this many calls of each."""


@dataclass(frozen=True, slots=True)
class Engine:
    """What to time, and how it is called."""

    path: Path
    provider: str | None = None
    threads: int | None = 1
    batch: int = 1
    """Clips in a call."""
    video: Path | None = None
    """Read, decode and label this clip in every call, instead of predicting frames that lie ready."""


@dataclass(frozen=True, slots=True)
class Opened:
    """What opening an engine for the first time in a process tells."""

    manifest: Manifest
    runtime: str
    provider: str
    cold_start_s: float
    """From asking for the process until the engine is open: interpreter, libraries and model."""
    first_inference_s: float
    peak_memory_bytes: int
    """Largest resident memory of the process after warming up; 0 where the system does not tell."""


@dataclass(frozen=True, slots=True)
class Timed:
    """A round: both engines opened anew, and timed in turns."""

    new_s: NDArray[np.float64]
    """(turns, runs) seconds, without waiting for a core where ``works_alone`` says so; each row was taken next to the
    same row of the baseline."""
    baseline_s: NDArray[np.float64]
    probes_s: Samples
    """(turns,) what the fixed work before each pair of turns took."""
    wall_s: float
    waiting_s: float
    """How long the threads of the process were ready to run and had no core; 0 where the system does not tell."""
    energy_j: tuple[float, float] | None
    """What the processor or the GPU used for a call of each, neighbours included; None where it does not tell."""
    waited_s: NDArray[np.float64] | None = None
    """(2, turns, runs) seconds for which the calls of new and baseline waited, which were left out of their times."""


class Worker:
    """A process that opens and times engines; it starts with the first command."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._connection, self._theirs = self._context.Pipe()
        self._process: SpawnProcess | None = None

    def call(self, what: str, *arguments: Any) -> Any:
        """What a command of ``_serve`` gives.

        Raises:
            CpdError: what the command raised, or the process died.
        """
        if self._process is None:
            process = self._context.Process(target=_serve, args=(self._theirs, time.monotonic()), daemon=True)
            with _interrupts_ignored():
                process.start()
            self._process = process
            self._theirs.close()
        try:
            self._connection.send((what, *arguments))
            result = self._connection.recv()
        except (EOFError, OSError):
            self._process.join(timeout=5)
            raise EngineError(f"the process that ran the engine ended with code {self._process.exitcode}") from None
        if isinstance(result, BaseException):
            raise result
        return result

    def close(self) -> None:
        """Ends the process, which has a second to end by itself."""
        self._connection.close()
        if self._process is not None:
            self._process.join(timeout=1)
            if self._process.is_alive():
                self._process.kill()
                self._process.join()


@contextmanager
def worker_pair() -> Iterator[tuple[Worker, Worker]]:
    """Two processes that end with the block."""
    made = (Worker(), Worker())
    try:
        yield made
    finally:
        for worker in made:
            worker.close()


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Processes started meanwhile leave Ctrl-C to this one, which ends them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _serve(connection: Connection[Any, Any], asked_s: float) -> None:
    """The body of a process: answers commands until the other end is closed."""
    commands: dict[str, Callable[..., Any]] = {"start": partial(start, asked_s), "round": time_round}
    with no_garbage_collection():
        while True:
            try:
                what, *arguments = connection.recv()
                try:
                    result = commands[what](*arguments)
                except CpdError as error:
                    result = error
                connection.send(result)
            except (EOFError, OSError):  # nobody waits for the answer any more
                return


def start(asked_s: float, engine: Engine) -> Opened:
    """Opens an engine in a process that has done nothing yet, and tells what that took."""
    from cpd_serve.runner import open_runner

    with open_runner(engine.path, engine.provider, engine.threads) as runner:
        cold_start_s = time.monotonic() - asked_s
        calls_s = warm_up(_call_of(runner, engine))
        return Opened(
            runner.manifest, runner.runtime, runner.provider, cold_start_s, float(calls_s[0]), peak_memory_bytes()
        )


def time_round(new: Engine, baseline: Engine, least_runs: int, turn_s: float, seed: int) -> Timed:
    """Opens both engines and times them in turns; all order is drawn from ``seed``.

    Args:
        least_runs: calls of each engine that the percentile needs.
        turn_s: how long a turn lasts at least; ``BLOCK_RUNS`` calls where 0.
    """
    from cpd_serve.runner import open_runner

    coin = np.random.default_rng(seed)
    shifts = [bytearray(coin.integers(1, SHIFT_BYTES)) for _ in range(SHIFTS)]
    start_s, waiting_before_s = time.perf_counter(), waiting_s()
    with ExitStack() as stack:
        calls: dict[int, Callable[[], object]] = {}
        runners: dict[int, Runner] = {}
        for side in coin.permutation(2).tolist():
            engine = (new, baseline)[side]
            runners[side] = stack.enter_context(open_runner(engine.path, engine.provider, engine.threads))
            calls[side] = _call_of(runners[side], engine)
        open_s = time.perf_counter() - start_s
        # the fastest of the last, as others may have interrupted some
        call_s = max(float(np.min(warm_up(call)[-WARM_UP_WINDOW_RUNS:])) for call in calls.values())
        waited_ns = stack.enter_context(thread_waiting())
        if not all(works_alone(engine, runners[side]) for side, engine in enumerate((new, baseline))):
            waited_ns = None
        turn_runs = max(BLOCK_RUNS, math.ceil(turn_s / call_s))
        runs = max(least_runs, min(ROUND_RUNS, ROUND_S / (2 * call_s)), min(MAX_OPENED_RUNS, open_s / call_s))
        turns = max(2, math.ceil(runs / turn_runs))  # the halves of a round are compared
        took_s, waited_s, probes_s = np.empty((2, turns, turn_runs)), np.empty((2, turns, turn_runs)), np.empty(turns)
        energies: list[list[float]] = [[], []]
        for turn in range(turns):
            probes_s[turn] = _probe()
            for side in coin.permutation(2).tolist():
                before_j = energy_j(runners[side].provider)
                took_s[side, turn], waited_s[side, turn] = time_and_waiting(calls[side], turn_runs, waited_ns)
                after_j = energy_j(runners[side].provider)
                if before_j is not None and after_j is not None:
                    energies[side].append((after_j - before_j) / (turn_runs + 1))
        wall_s, waiting_round_s = time.perf_counter() - start_s, waiting_s() - waiting_before_s
    del shifts
    told = bool(energies[0] and energies[1])
    return Timed(
        new_s=took_s[0] - waited_s[0],
        baseline_s=took_s[1] - waited_s[1],
        probes_s=probes_s,
        wall_s=wall_s,
        waiting_s=max(waiting_round_s, 0.0),
        energy_j=(float(np.mean(energies[0])), float(np.mean(energies[1]))) if told else None,
        waited_s=waited_s,
    )


def works_alone(engine: Engine, runner: Runner) -> bool:
    """Whether the thread that calls does all the work, so that it is late by exactly what it waited for a core."""
    return engine.threads == 1 and engine.video is None and runner.provider == "CPUExecutionProvider"


def _call_of(runner: Runner, engine: Engine) -> Callable[[], object]:
    """One call of an engine, on the same input in every process."""
    if engine.video is not None:
        from cpd_serve.labelling import label_video

        video = engine.video
        return lambda: label_video(runner, video)
    shape = (engine.batch, *runner.manifest.clip.shape)
    frames = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return lambda: runner.predict(frames)


def _probe() -> float:
    """Seconds that a fixed amount of arithmetic takes: the fastest of four, as others may have interrupted some."""
    times_s = []
    for _ in range(4):
        start_s = time.perf_counter()
        total = 0
        for step in range(PROBE_STEPS):
            total += step * step
        times_s.append(time.perf_counter() - start_s)
    return min(times_s)


def waiting_s() -> float:
    """Seconds for which the living threads of this process were ready and had no core, so far."""
    total_ns = 0
    try:
        for thread in os.scandir("/proc/self/task"):
            total_ns += int(Path(thread.path, "schedstat").read_bytes().split()[1])
    except (OSError, IndexError):
        return 0.0
    return total_ns / 1e9


def peak_memory_bytes() -> int:
    """Largest resident memory of this process so far.

    Read from the memory map, since the ``ru_maxrss`` of a new process starts at its parent's.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)
