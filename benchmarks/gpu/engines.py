"""Latency, throughput and parity of one model in every runtime and precision, one after the other.

Each is loaded and timed in a process of its own that has the machine to itself: TensorRT chooses its kernels by timing
them, which others would disturb, and a small GPU does not hold all of them. One that crashes, or takes longer than
``ENGINE_S``, loses its own row. A call is timed from uint8 frames in host memory to float32 logits in host memory: it
waits for the device, and counts both transfers.
"""

from __future__ import annotations

import multiprocessing
import time
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np
import runtimes
from rows import BATCHES, Rows, Setup, Values, significant

ENGINE_S = 60.0
"""For one runtime and precision: to build, load and time it."""
LEAST_S = 5.0
"""None is begun with less."""
WARM_S, TIMING_S = 0.5, 4.0
"""A GPU that was idle needs a while to reach its clock; and slow engines get fewer rounds, at least one."""
ROUNDS, CALLS = 25, 4
"""Batch sizes take turns, in random order."""
PARITY = {"fp32": 0.01, "fp16": 0.1}
"""Largest logit difference to torch's fp32 on the CPU, as a fraction of the logits' spread. fp32 leaves room for TF32,
which torch and onnxruntime use in convolutions on a GPU; int8 has no limit: random weights are its worst case."""


def names(_setup: Setup) -> list[str]:
    return [f"{runtime} {precision}" for runtime in runtimes.RUNTIMES for precision in runtimes.PRECISIONS]


def run(role: str, setup: Setup, rows: Rows) -> None:
    deadline_s = time.monotonic() + setup.seconds
    exported = (setup.folder / f"{role}.int8.onnx").is_file()
    for runtime in runtimes.RUNTIMES:
        for precision in runtimes.PRECISIONS:
            name, left_s = f"{runtime} {precision}", deadline_s - time.monotonic()
            obstacle = runtimes.obstacle(runtime, precision, setup.device)
            if obstacle or not exported:
                rows.miss(name, obstacle or f"the {role} was not exported")
            elif left_s < LEAST_S:
                rows.miss(name, "no time was left to measure it")
            else:
                rows.measure(name, partial(measure, runtime, precision, role, setup, min(ENGINE_S, left_s)))


def measure(runtime: str, precision: str, role: str, setup: Setup, limit_s: float) -> Values:
    """Loads one engine and times it, in a process that is ended within ``limit_s``.

    Raises:
        RuntimeError: why there is nothing to report.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(
        target=runtimes.serve, args=(theirs, runtime, precision, role, setup.folder, setup.device), daemon=True
    )
    process.start()
    theirs.close()
    try:
        engine = Engine(process, ours, limit_s)
        logits = engine.answer()
        if not np.isfinite(logits).all():
            raise RuntimeError("gives logits that are not finite numbers")
        samples_s = timed(engine, setup.quick)
    finally:
        process.kill()
        process.join()
    return values_of(precision, logits, np.load(setup.folder / f"{role}.npy"), samples_s)


class Engine:
    """``runtimes.serve`` in its process, and until when it may answer."""

    def __init__(self, process: BaseProcess, pipe: Connection, limit_s: float) -> None:
        self._process, self._pipe, self._limit_s = process, pipe, limit_s
        self._deadline_s = time.monotonic() + limit_s

    def ask(self, batch: int) -> list[float]:
        """Seconds of each of ``CALLS`` calls."""
        self._pipe.send((batch, CALLS))
        seconds: list[float] = self.answer()
        return seconds

    def answer(self) -> Any:
        """What it says next.

        Raises:
            RuntimeError: why it says nothing.
        """
        try:
            if not self._pipe.poll(max(0.0, self._deadline_s - time.monotonic())):
                raise RuntimeError(f"no answer within {self._limit_s:.0f} s")
            kind, answer = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join(5)
            raise RuntimeError(f"its process ended with status {self._process.exitcode}") from None
        if kind == "failed":
            raise RuntimeError(answer)
        return answer


def timed(engine: Engine, quick: bool) -> dict[int, list[float]]:
    """Seconds of single calls, by batch size."""
    began_s, order = time.monotonic(), np.random.default_rng(0)
    while not quick and time.monotonic() < began_s + WARM_S:
        engine.ask(min(BATCHES))
    samples_s: dict[int, list[float]] = {batch: [] for batch in BATCHES}
    for number in range(3 if quick else ROUNDS):
        if number and time.monotonic() > began_s + TIMING_S:
            break
        for batch in order.permutation(BATCHES).tolist():
            samples_s[batch] += engine.ask(batch)
    return samples_s


def values_of(precision: str, logits: Any, reference: Any, samples_s: dict[int, list[float]]) -> Values:
    values: dict[str, float | str] = {}
    for batch, seconds in samples_s.items():
        p50_s, p90_s = np.percentile(seconds, (50, 90))
        values[f"batch {batch} p50 ms"] = significant(1e3 * float(p50_s))
        values[f"batch {batch} p90 ms"] = significant(1e3 * float(p90_s))
        values[f"batch {batch} clips/s"] = significant(batch / float(p50_s))
    difference = float(np.abs(logits - reference).max() / reference.std())
    values["difference to torch, of the spread"] = significant(difference)
    values["same top-1 as torch"] = significant(float((logits.argmax(1) == reference.argmax(1)).mean()))
    if precision in PARITY:
        values["parity"] = "pass" if difference <= PARITY[precision] else "fail"
    return values
