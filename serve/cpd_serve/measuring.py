"""Every exported file on every test clip, and against the others in turns."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cpd.clip import ClipSpec
from cpd.dataset import Clip
from cpd.errors import EngineError
from cpd.metrics import Interval, Logits, bootstrap_interval
from cpd.progress import track
from cpd.threads import usable_cpus
from cpd.video import read_clip
from cpd_serve.latency import BLOCK_RUNS, Samples, measure
from cpd_serve.runner import Frames, Runner, open_runner

BATCH_CLIPS = 8
Status = Literal["validated", "built, not run", "failed"]


@dataclass(slots=True)
class Engine:
    """One exported file, and what is found out about it."""

    file: dict[str, Any]
    """Its entry in export.json."""
    runner: Runner | None = None
    """None where it cannot be run here."""
    status: Status = "failed"
    reason: str = ""
    logits: Logits | None = None
    """(clips, classes) on the test split; None unless it answered every clip."""
    samples_s: Samples | None = None
    """(runs,) seconds of single clips; None unless validated."""

    @property
    def kind(self) -> tuple[str, str, str]:
        """Role, runtime and precision."""
        return self.file["role"], self.file["runtime"], self.file["precision"]


def open_engine(file: dict[str, Any], run_dir: Path, labels: tuple[str, ...], device: str, stack: ExitStack) -> Engine:
    """Loads an exported file until the stack is closed; where that cannot be, the engine says why.

    Args:
        file: its row of export.json.
        run_dir: of the run that made it.
        labels: of the run.
        device: auto, cpu or cuda; what an ONNX file is run on. An engine always runs on a GPU.
        stack: closes it.

    Raises:
        EngineError: it was made for other labels, or is of another role or precision than export.json says.
    """
    engine = Engine(file)
    if file["status"] != "built":
        engine.reason = f"export: {file['reason'] or file['status']}"
        return engine
    try:
        provider = None if device == "auto" or file["runtime"] != "onnxruntime" else device
        engine.runner = stack.enter_context(open_runner(run_dir / file["path"], provider))
    except EngineError as error:
        # An engine made for another machine is no failure; an ONNX file runs everywhere.
        engine.status = "failed" if file["runtime"] == "onnxruntime" else "built, not run"
        engine.reason = str(error)
        return engine
    manifest = engine.runner.manifest
    if (manifest.role, manifest.precision) != (file["role"], file["precision"]):
        raise EngineError(
            f"{file['path']}: is the {manifest.role} in {manifest.precision}, and export.json says the {file['role']} "
            f"in {file['precision']}",
            "run the export stage again",
        )
    if manifest.labels != labels:
        raise EngineError(f"{file['path']}: was made for other labels than this run's", "run the export stage again")
    return engine


def run_on_clips(engines: list[Engine], clips: list[Clip]) -> None:
    """Gives every loaded engine its logits; one that fails on a clip, or gives values that are none, says so."""
    answers: list[list[Logits]] = [[] for _ in engines]
    specs = {engine.runner.manifest.clip for engine in engines if engine.runner}
    for frames in decoded_batches(clips, specs):
        for engine, logits in zip(engines, answers, strict=True):
            if engine.runner is None or engine.reason:
                continue
            try:
                logits.append(engine.runner.predict(frames[engine.runner.manifest.clip]))
            except EngineError as error:
                engine.reason = str(error)
            else:
                if not np.isfinite(logits[-1]).all():
                    engine.reason = "gives logits that are not finite numbers"
    for engine, logits in zip(engines, answers, strict=True):
        if engine.runner and not engine.reason:
            engine.logits, engine.status = np.concatenate(logits), "validated"


def decoded_batches(clips: list[Clip], specs: set[ClipSpec]) -> Iterator[dict[ClipSpec, Frames]]:
    """Decodes every clip once for each specification, a batch at a time, on all CPUs."""
    with ThreadPoolExecutor(usable_cpus()) as pool:
        for start in track(range(0, len(clips), BATCH_CLIPS), "validating engines", unit="batch"):
            paths = [clip.path for clip in clips[start : start + BATCH_CLIPS]]
            yield {
                spec: np.stack(list(pool.map(lambda path, spec=spec: read_clip(path, spec), paths))) for spec in specs
            }


def time_in_turns(engines: list[Engine], clip: Clip, runs: int, seed: int) -> None:
    """Times every validated engine on one real clip, in turns."""
    timed = {str(number): engine for number, engine in enumerate(engines) if engine.status == "validated"}
    calls = {}
    for name, engine in timed.items():
        assert engine.runner is not None
        frames = read_clip(clip.path, engine.runner.manifest.clip)[None]
        calls[name] = lambda runner=engine.runner, frames=frames: runner.predict(frames)
    if calls:
        for name, samples_s in measure(calls, runs=runs, seed=seed).items():
            timed[name].samples_s = samples_s


def percentile_interval_ms(samples_s: Samples, percentile: float) -> Interval:
    """95 % interval of a percentile of latency, in milliseconds; whole rounds are drawn, as neighbours are alike."""
    rounds = in_rounds(samples_s)
    return bootstrap_interval(lambda drawn: float(np.percentile(rounds[drawn], percentile)) * 1e3, len(rounds))


def speedup(slow_s: Samples, fast_s: Samples) -> tuple[float, Interval]:
    """Ratio of the median latencies with its 95 % interval; rounds are drawn in pairs, as both shared them."""
    slow, fast = in_rounds(slow_s), in_rounds(fast_s)
    interval = bootstrap_interval(lambda drawn: float(np.median(slow[drawn]) / np.median(fast[drawn])), len(slow))
    return float(np.median(slow_s) / np.median(fast_s)), interval


def in_rounds(samples_s: Samples) -> Samples:
    """(rounds, BLOCK_RUNS) of (runs,) samples; the rest of an unfinished round is left out."""
    block = min(BLOCK_RUNS, len(samples_s))
    return samples_s[: len(samples_s) // block * block].reshape(-1, block)
