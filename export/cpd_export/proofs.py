"""What is proven of an exported file, each as a number beside its limit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cpd.clip import ClipSpec
from cpd.dataset import Clip
from cpd.progress import track
from cpd.video import read_clip

BATCH = 16
Frames = NDArray[np.uint8]
Logits = NDArray[np.float32]
Predict = Callable[[Frames], Logits]


@dataclass(frozen=True, slots=True)
class Proof:
    """One statement about a file, measured."""

    name: str
    value: float
    limit: float
    status: Literal["pass", "fail"]

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "value": self.value, "limit": self.limit, "status": self.status}


def at_most(name: str, value: float, limit: float) -> Proof:
    """Passes up to the limit; a value that is no number fails."""
    return Proof(name, float(value), limit, "pass" if value <= limit else "fail")


def at_least(name: str, value: float, limit: float) -> Proof:
    """Passes from the limit on; a value that is no number fails."""
    return Proof(name, float(value), limit, "pass" if value >= limit else "fail")


@dataclass(frozen=True, slots=True)
class Outputs:
    """What one model answered to the test clips."""

    logits: Logits
    """(clips, classes), computed in batches."""
    single: Logits
    """(up to BATCH, classes): the first clips again, each alone."""
    reversed: Logits
    """(up to BATCH, classes): the first clips with their frames in reverse order."""


def predict_all(models: Mapping[str, Predict], clips: Sequence[Clip], spec: ClipSpec) -> dict[str, Outputs]:
    """Shows every model the same clips, decoded once as the server decodes them.

    Raises:
        VideoError: a clip cannot be read.
    """
    answers: dict[str, list[Logits]] = {name: [] for name in models}
    first = read_batch([clip.path for clip in clips[:BATCH]], spec)
    starts = range(0, len(clips), BATCH)
    for start in track(starts, "comparing on test clips", unit="batch"):
        frames = first if start == 0 else read_batch([clip.path for clip in clips[start : start + BATCH]], spec)
        for name, predict in models.items():
            answers[name].append(predict(frames))
    backwards = np.ascontiguousarray(first[:, ::-1])
    return {
        name: Outputs(
            logits=np.concatenate(answers[name]),
            single=np.concatenate([predict(first[index : index + 1]) for index in range(len(first))]),
            reversed=predict(backwards),
        )
        for name, predict in models.items()
    }


def read_batch(paths: Sequence[Path], spec: ClipSpec) -> Frames:
    """(len(paths), *spec.shape) uint8 of these videos, as the server reads them."""
    return np.stack([read_clip(path, spec) for path in paths])


def parity(source: Outputs, exported: Outputs, limit: float) -> list[Proof]:
    """That an exported graph computes what its source does, whatever the batch and the order of the frames."""
    count = len(exported.single)
    return [
        at_most("torch = onnxruntime", largest(source.logits, exported.logits), limit),
        at_most("torch = onnxruntime, clips one by one", largest(source.logits[:count], exported.single), limit),
        at_most("torch = onnxruntime, frames in reverse", largest(source.reversed, exported.reversed), limit),
        at_least("same top-1 as torch", agreement(source.logits, exported.logits), 1.0),
    ]


def largest(a: Logits, b: Logits) -> float:
    """Largest absolute difference; NaN where either has one."""
    return float(np.abs(a - b).max())


def agreement(a: Logits, b: Logits) -> float:
    """Fraction of clips for which both name the same class."""
    return float((a.argmax(1) == b.argmax(1)).mean())


def top_k(logits: Logits, labels: NDArray[np.int64], k: int) -> float:
    """Fraction of clips whose label is among the k highest logits."""
    order = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    return float((order == labels[:, None]).any(1).mean())
