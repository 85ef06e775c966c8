"""What is proven of an exported file, each as a number beside its limit."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpd.clip import ClipSpec
from cpd.dataset import Clip, evenly
from cpd.metrics import Z_95, Interval, Logits, PerClip, agreement, top_k_correct, wilson_interval
from cpd.progress import track
from cpd.verdict import Status
from cpd.video import read_clip

BATCH = 16
LOGIT_LIMIT = 1e-4
ROUNDING = 8 * float(np.finfo(np.float32).eps)
"""Of a logit, relative: what two orders of the same float32 sums may differ by."""
AGREEMENT_MIN = {"fp16": 0.995}
"""Fraction of test clips on which a reduced precision must name fp32's class; int8 is held to its accuracy instead."""
TOP1_LOST_MAX = 0.01
SIGNIFICANCE = 0.025
"""Of the one-sided test that fails a share, which is the side of a 95 % interval."""

Frames = NDArray[np.uint8]
Predict = Callable[[Frames], Logits]


@dataclass(frozen=True, slots=True)
class Proof:
    """One statement about a file, measured."""

    name: str
    value: float
    limit: float | None
    """None for what is measured without a limit of its own."""
    status: Status
    interval: Interval | None = None
    """95 %, where the value is a share of test clips."""
    detail: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As export.json holds it, in which a value that is no number is null."""
        optional = {key: value for key in ("interval", "detail") if (value := getattr(self, key))}
        value = self.value if math.isfinite(self.value) else None
        return {"name": self.name, "value": value, "limit": self.limit, "status": self.status, **optional}


def at_most(name: str, value: float, limit: float, detail: str = "") -> Proof:
    """Passes up to the limit; a value that is no number fails."""
    return Proof(name, float(value), limit, "pass" if value <= limit else "fail", detail=detail)


def at_least(name: str, value: float, limit: float) -> Proof:
    """Passes from the limit on; a value that is no number fails."""
    return Proof(name, float(value), limit, "pass" if value >= limit else "fail")


def measured(name: str, value: float, interval: Interval | None = None) -> Proof:
    """Has no limit; only a value that is no number fails."""
    if math.isfinite(value):
        return Proof(name, float(value), None, "pass", interval)
    return Proof(name, float(value), None, "fail", interval, "not a finite number")


def failures(proofs: Sequence[Proof]) -> str:
    """What failed and by how much, in one line; empty if nothing did."""
    return "; ".join(
        f"{proof.name}: {proof.detail or f'{proof.value:.3g}, limit {proof.limit:.3g}'}"
        for proof in proofs
        if proof.status == "fail"
    )


def share_at_least(name: str, holds: PerClip, limit: float) -> Proof:
    """A share of test clips below its limit fails only where chance does not explain it; else nothing is decided."""
    value = float(holds.mean())
    likely = misses_by_chance(len(holds), int((~holds).sum()), 1 - limit) >= SIGNIFICANCE
    status: Status = "pass" if value >= limit else "inconclusive" if likely else "fail"
    return Proof(name, value, limit, status, wilson_interval(holds))


def misses_by_chance(clips: int, misses: int, rate: float) -> float:
    """Probability of so many misses or more if each clip misses at this rate (the binomial tail, exactly)."""
    term, below = (1 - rate) ** clips, 0.0
    for count in range(misses):
        below += term
        term *= (clips - count) / (count + 1) * rate / (1 - rate)
    return 1 - below


@dataclass(frozen=True, slots=True)
class Outputs:
    """What one model answered to the test clips."""

    logits: Logits
    """(clips, classes), computed in batches."""
    single: Logits
    """(up to BATCH, classes): the clips that ``evenly`` takes again, each alone."""
    reversed: Logits
    """(up to BATCH, classes): the same clips with their frames in reverse order."""


def predict_all(models: Mapping[str, Predict], clips: Sequence[Clip], spec: ClipSpec) -> dict[str, Outputs]:
    """Shows every model the same clips, decoded once as the server decodes them.

    Raises:
        VideoError: a clip cannot be read.
    """
    answers: dict[str, list[Logits]] = {name: [] for name in models}
    for start in track(range(0, len(clips), BATCH), "comparing on test clips", unit="batch"):
        frames = read_batch(clips[start : start + BATCH], spec)
        for name, predict in models.items():
            answers[name].append(predict(frames))
    chosen = read_batch(evenly(clips, BATCH), spec)
    backwards = chosen[:, ::-1].copy()  # contiguous even for a clip of one frame, where numpy keeps the step of -1
    return {
        name: Outputs(
            logits=np.concatenate(answers[name]),
            single=np.concatenate([predict(chosen[index : index + 1]) for index in range(len(chosen))]),
            reversed=predict(backwards),
        )
        for name, predict in models.items()
    }


def without(clips: Sequence[Clip], others: Sequence[Clip]) -> list[Clip]:
    """The clips that are not among the others."""
    paths = {clip.path for clip in others}
    return [clip for clip in clips if clip.path not in paths]


def read_batch(clips: Sequence[Clip], spec: ClipSpec) -> Frames:
    """(len(clips), *spec.shape) uint8 of these clips, as the server reads them."""
    return np.stack([read_clip(clip.path, spec) for clip in clips])


def parity(source: Outputs, exported: Outputs) -> list[Proof]:
    """That an exported graph computes what its source does, whatever the batch and the order of the frames."""
    again = source.logits[evenly(range(len(source.logits)), BATCH)]
    same = float(agreement(source.logits, exported.logits).mean())
    return [
        at_most("torch = onnxruntime", largest(source.logits, exported.logits), LOGIT_LIMIT),
        at_most("torch = onnxruntime, clips one by one", largest(again, exported.single), LOGIT_LIMIT),
        at_most("torch = onnxruntime, frames in reverse", largest(source.reversed, exported.reversed), LOGIT_LIMIT),
        at_least("same top-1 as torch", same, 1.0),
    ]


def advice(logits: Logits, role: str) -> str:
    """What to do where logits are so large that float32 cannot hold them to the limit of parity; else empty."""
    reach = float(np.abs(logits).max())
    if reach * ROUNDING <= LOGIT_LIMIT:
        return ""
    return (
        f"its logits reach {reach:.2g}, which float32 does not hold to {LOGIT_LIMIT:.0e}: training went astray; "
        f"lower {role}.learning_rate"
    )


def faithfulness(fp32: Outputs, reduced: Outputs, labels: NDArray[np.int64], precision: str) -> list[Proof]:
    """What a reduced precision changes against fp32 on the same clips."""
    right, reference = top_k_correct(reduced.logits, labels), top_k_correct(fp32.logits, labels)
    same = agreement(fp32.logits, reduced.logits)
    lost, interval = paired_difference(reference, right)
    settled: Status = "pass" if lost <= TOP1_LOST_MAX else "inconclusive" if interval[0] <= TOP1_LOST_MAX else "fail"
    limit = AGREEMENT_MIN.get(precision)
    return [
        measured("largest logit difference to fp32", largest(fp32.logits, reduced.logits)),
        measured("same top-1 as fp32", float(same.mean()), wilson_interval(same))
        if limit is None
        else share_at_least("same top-1 as fp32", same, limit),
        Proof("top-1 lost against fp32", lost, TOP1_LOST_MAX, settled, interval),
    ]


def paired_difference(one: PerClip, other: PerClip) -> tuple[float, Interval]:
    """How much larger the share of ``one`` is than that of ``other`` on the same clips, with its 95 % interval.

    The adjusted Wald interval of Bonett and Price (2012): only clips on which the two differ count, one is added to
    each of the two ways to differ, and so even no difference at all leaves an honest width.
    """
    count = len(one)
    gained, lost = int((one & ~other).sum()), int((other & ~one).sum())
    p_gained, p_lost = (gained + 1) / (count + 2), (lost + 1) / (count + 2)
    centre = p_gained - p_lost
    half = Z_95 * math.sqrt((p_gained + p_lost - centre**2) / (count + 2))
    return (gained - lost) / count, (max(-1.0, centre - half), min(1.0, centre + half))


def accuracy(logits: Logits, labels: NDArray[np.int64]) -> dict[str, float]:
    """top1 and top5 as fractions, as the manifest holds them."""
    return {f"top{k}": round(float(top_k_correct(logits, labels, k).mean()), 6) for k in (1, 5)}


def largest(a: Logits, b: Logits) -> float:
    """Largest absolute difference; NaN where either has one."""
    return float(np.abs(a - b).max())
