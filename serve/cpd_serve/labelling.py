"""From a video to labels: decode, sample, run, softmax."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpd.errors import CpdError, EngineError
from cpd.stopwatch import Stopwatch
from cpd.video import read_windows
from cpd_serve.runner import Logits, Runner

DECODE_PARTS = ("open", "decode", "resize")
"""What a latency calls decode, in one number: everything that turns a file into frames."""
PARTS = (*DECODE_PARTS, "infer", "post")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model says about one video."""

    video: str
    predictions: list[tuple[str, float]]
    """Label and probability, most probable first; empty where ``error`` says why there are none."""
    spent_ms: dict[str, float]
    """Milliseconds of each of ``PARTS``."""
    error: str = ""

    @property
    def decode_ms(self) -> float:
        return sum(self.spent_ms[part] for part in DECODE_PARTS)

    @property
    def total_ms(self) -> float:
        return sum(self.spent_ms.values())

    def to_dict(self, runner: Runner, explain: bool = False) -> dict[str, Any]:
        """As ``cpd-serve --json`` prints it."""
        values: dict[str, Any] = {
            "video": self.video,
            "engine": str(runner.path),
            "runtime": runner.runtime,
            "provider": runner.provider,
            "predictions": [{"label": label, "probability": probability} for label, probability in self.predictions],
            "latency_ms": {"decode": self.decode_ms, "infer": self.spent_ms["infer"], "total": self.total_ms},
        }
        if explain:
            values["explain_ms"] = self.spent_ms
        if self.error:
            values["error"] = self.error
        return values


def label_video(runner: Runner, video: Path, top_k: int = 5, views: int = 1) -> Answer:
    """Labels a video.

    Args:
        runner: the model.
        video: the file.
        top_k: how many labels to give, at most.
        views: how many equal parts of the video to look at; their probabilities are averaged.

    Raises:
        VideoError: the video cannot be read.
        EngineError: the model failed, or gave numbers that are none.
    """
    watch = Stopwatch()
    clips = read_windows(video, runner.manifest.clip, views, watch)
    watch.switch("infer")
    logits = runner.predict(clips)
    watch.switch("post")
    predictions = top_labels(probabilities(logits).mean(axis=0), runner.manifest.labels, top_k)
    watch.switch("")
    return Answer(str(video), predictions, {part: watch.spent_ms(part) for part in PARTS})


def try_label_video(runner: Runner, video: Path, top_k: int = 5, views: int = 1) -> Answer:
    """The same, with the error in the answer instead of raised, so that one bad video does not stop the others."""
    try:
        return label_video(runner, video, top_k, views)
    except CpdError as error:
        return Answer(str(video), [], dict.fromkeys(PARTS, 0.0), str(error))


def probabilities(logits: Logits) -> NDArray[np.float64]:
    """(batch, classes) softmax of (batch, classes) logits.

    Raises:
        EngineError: a logit is not a finite number.
    """
    if not np.isfinite(logits).all():
        raise EngineError(
            "the model gives values that are not numbers for this clip", "serve a file of higher precision"
        )
    exponentials = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))


def top_labels(shares: NDArray[np.float64], labels: tuple[str, ...], top_k: int) -> list[tuple[str, float]]:
    """The ``top_k`` most probable labels of (classes,) probabilities; equal ones in the order of the labels."""
    order = np.argsort(-shares, kind="stable")[:top_k]
    return [(labels[index], float(shares[index])) for index in order]
