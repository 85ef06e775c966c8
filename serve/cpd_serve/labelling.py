"""From a video to labels: decode, sample, run, softmax."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpd.container import Decoder
from cpd.errors import CpdError, EngineError
from cpd.stopwatch import Stopwatch
from cpd.video import read_parts, read_windows
from cpd_serve.runner import Logits, Runner

DECODE_PARTS = ("open", "decode", "resize")
"""What a latency calls decode, in one number: everything that turns a file into frames."""
PARTS = (*DECODE_PARTS, "infer", "post")


MAX_PARTS = 300
"""A timeline has at most so many parts; those of a longer video are longer."""
BATCH_CLIPS = 8
"""Clips shown to the model at once; more take more memory and are hardly faster."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of a video."""

    top_k: int = 5
    """How many labels to give, at most."""
    views: int = 1
    """How many equal parts of the video to look at; their probabilities are averaged."""
    part_s: float | None = None
    """Seconds of video for each part of a timeline, in place of ``views``; None for no timeline."""
    decoder: Decoder = "cpu"


DEFAULT_QUESTION = Question()


@dataclass(frozen=True, slots=True)
class Part:
    """The label of a part of a video."""

    start_s: float
    end_s: float
    label: str
    probability: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model says about one video."""

    video: str
    predictions: list[tuple[str, float]]
    """Label and probability, most probable first; empty where ``error`` says why there are none."""
    spent_ms: dict[str, float]
    """Milliseconds of each of ``PARTS``."""
    timeline: list[Part] = field(default_factory=list)
    """Labels over time, where they were asked for."""
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
        if self.timeline:
            values["timeline"] = [asdict(part) for part in self.timeline]
        if explain:
            values["explain_ms"] = self.spent_ms
        if self.error:
            values["error"] = self.error
        return values


def label_video(runner: Runner, video: Path, question: Question = DEFAULT_QUESTION) -> Answer:
    """Labels a video.

    Raises:
        VideoError: the video cannot be read.
        EngineError: the model failed, or gave numbers that are none.
    """
    watch = Stopwatch()
    spec, length_s = runner.manifest.clip, 0.0
    if question.part_s is None:
        clips = read_windows(video, spec, question.views, watch, question.decoder)
    else:
        clips, length_s = read_parts(video, spec, question.part_s, MAX_PARTS, watch, question.decoder)
    parts = len(clips)
    watch.switch("infer")
    batches = [runner.predict(clips[start : start + BATCH_CLIPS]) for start in range(0, parts, BATCH_CLIPS)]
    watch.switch("post")
    shares = probabilities(np.concatenate(batches))
    labels = runner.manifest.labels
    predictions = top_labels(shares.mean(axis=0), labels, question.top_k)
    timeline = []
    if question.part_s is not None:
        best = [top_labels(part, labels, 1)[0] for part in shares]
        timeline = [Part(n * length_s / parts, (n + 1) * length_s / parts, *found) for n, found in enumerate(best)]
    watch.switch("")
    return Answer(str(video), predictions, {part: watch.spent_ms(part) for part in PARTS}, timeline)


def try_label_video(runner: Runner, video: Path, question: Question = DEFAULT_QUESTION) -> Answer:
    """The same, with the error in the answer instead of raised, so that one bad video does not stop the others."""
    try:
        return label_video(runner, video, question)
    except CpdError as error:
        return Answer(str(video), [], dict.fromkeys(PARTS, 0.0), error=str(error))


def probabilities(logits: Logits) -> NDArray[np.float64]:
    """(batch, classes) softmax of (batch, classes) logits.

    Raises:
        EngineError: a logit is not a finite number.
    """
    if not math.isfinite(logits.sum(dtype=np.float64)):
        raise EngineError(
            "the model gives values that are not numbers for this clip", "serve a file of higher precision"
        )
    shares = logits.astype(np.float64)
    shares -= shares.max(axis=1, keepdims=True)
    np.exp(shares, out=shares)
    shares /= shares.sum(axis=1, keepdims=True)
    return shares


def top_labels(shares: NDArray[np.float64], labels: tuple[str, ...], top_k: int) -> list[tuple[str, float]]:
    """The ``top_k`` most probable labels of (classes,) probabilities; equal ones in the order of the labels."""
    order = np.argsort(-shares, kind="stable")[:top_k]
    return [(labels[index], float(shares[index])) for index in order]
