"""Latency, throughput and parity of one model in every runtime and precision, in turns.

Each runtime loads the model in a process of its own, so that one that crashes loses its own row; all take turns, in
random order. A call is timed from uint8 frames in host memory to float32 logits in host memory: it waits for the
device, and counts both transfers.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np
import runtimes
from rows import BATCHES, Rows, Setup, Values, significant

ROUNDS, CALLS = 25, 4
TIMING_S = 25.0
"""Of the part's time, kept for timing; what has not loaded by then is not run."""
PARITY = {"fp32": 0.01, "fp16": 0.1}
"""Largest logit difference to torch's fp32 on the CPU, as a fraction of the logits' spread. fp32 leaves room for TF32,
which torch and onnxruntime use in convolutions on a GPU; int8 has no limit: random weights are its worst case."""


@dataclass(slots=True)
class Worker:
    """A runtime in its process."""

    name: str
    precision: str
    process: BaseProcess
    pipe: Connection
    logits: Any = None
    """(clips, classes) it answered; None until it is ready."""
    failed: str = ""
    samples_s: dict[int, list[float]] = field(default_factory=dict)
    """Seconds of single calls, by batch size."""

    def ask(self, question: object, seconds: float) -> Any:
        """Its answer; None where it fails, which ``failed`` then tells."""
        try:
            if question is not None:
                self.pipe.send(question)
            if not self.pipe.poll(max(0.0, seconds)):
                self.failed = f"no answer within {seconds:.0f} s"
                self.process.kill()
                return None
            kind, answer = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join(5)
            self.failed = f"its process ended with status {self.process.exitcode}"
            return None
        if kind == "failed":
            self.failed = str(answer)
            return None
        return answer


def names(_setup: Setup) -> list[str]:
    return [f"{runtime} {precision}" for runtime in runtimes.RUNTIMES for precision in runtimes.PRECISIONS]


def run(role: str, setup: Setup, rows: Rows) -> None:
    deadline = time.monotonic() + setup.seconds
    if not (setup.folder / f"{role}.int8.onnx").is_file():
        for name in names(setup):
            rows.miss(name, f"the {role} was not exported")
        return
    context = multiprocessing.get_context("spawn")
    workers = []
    for runtime in runtimes.RUNTIMES:
        for precision in runtimes.PRECISIONS:
            obstacle = runtimes.obstacle(runtime, precision, setup.device)
            if obstacle:
                rows.miss(f"{runtime} {precision}", obstacle)
                continue
            ours, theirs = context.Pipe()
            process = context.Process(
                target=runtimes.serve,
                args=(theirs, runtime, precision, role, setup.folder, setup.device),
                daemon=True,
            )
            process.start()
            theirs.close()
            workers.append(Worker(f"{runtime} {precision}", precision, process, ours))
    for worker in workers:
        worker.logits = worker.ask(None, deadline - time.monotonic() - TIMING_S)
    usable = [worker for worker in workers if not worker.failed]
    time_in_turns(usable, 3 if setup.quick else ROUNDS, deadline - 3)
    reference = np.load(setup.folder / f"{role}.npy")
    for worker in workers:
        if not worker.failed and len(worker.samples_s) < len(BATCHES):
            worker.failed = "no time was left to measure it"
        elif not worker.failed and not np.isfinite(worker.logits).all():
            worker.failed = "gives logits that are not finite numbers"
        if worker.failed:
            rows.miss(worker.name, worker.failed)
        else:
            rows.put(worker.name, values_of(worker, reference))
        worker.process.kill()


def time_in_turns(workers: Iterable[Worker], rounds: int, deadline: float) -> None:
    """Times every worker at every batch size in each round, until the time is up."""
    order = np.random.default_rng(0)
    turns = [(worker, batch) for worker in workers for batch in BATCHES]
    for _ in range(rounds):
        if time.monotonic() > deadline:
            return
        for index in order.permutation(len(turns)):
            worker, batch = turns[index]
            if not worker.failed:
                samples_s = worker.ask((batch, CALLS), max(5.0, deadline - time.monotonic()))
                worker.samples_s.setdefault(batch, []).extend(samples_s or [])


def values_of(worker: Worker, reference: Any) -> Values:
    values: dict[str, float | str] = {}
    for batch in BATCHES:
        p50_s, p90_s = np.percentile(worker.samples_s[batch], (50, 90))
        values[f"batch {batch} p50 ms"] = significant(1e3 * float(p50_s))
        values[f"batch {batch} p90 ms"] = significant(1e3 * float(p90_s))
        values[f"batch {batch} clips/s"] = significant(batch / float(p50_s))
    difference = float(np.abs(worker.logits - reference).max() / reference.std())
    values["difference to torch, of the spread"] = significant(difference)
    values["same top-1 as torch"] = significant(float((worker.logits.argmax(1) == reference.argmax(1)).mean()))
    if worker.precision in PARITY:
        values["parity"] = "pass" if difference <= PARITY[worker.precision] else "fail"
    return values
