"""From a video to labels: decode, sample, run, softmax."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpd.clip import ClipSpec
from cpd.container import Decoder
from cpd.errors import CpdError, EngineError
from cpd.stopwatch import Stopwatch
from cpd.video import read_parts, read_windows
from cpd_serve.runner import Frames, Logits, Runner

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
        """Of ``DECODE_PARTS``: from a file to frames."""
        return sum(self.spent_ms[part] for part in DECODE_PARTS)

    @property
    def total_ms(self) -> float:
        """Of all ``PARTS``."""
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


@dataclass(frozen=True, slots=True)
class Seen:
    """A video, decoded: what the model is shown of it."""

    video: Path
    clips: Frames
    """One clip for each view, or part of a timeline."""
    length_s: float
    """Of the video; 0 where no timeline was asked for."""
    watch: Stopwatch


def look_at(video: Path, spec: ClipSpec, question: Question = DEFAULT_QUESTION) -> Seen:
    """Decodes what the model is to be shown of a video.

    Raises:
        VideoError: the video cannot be read.
    """
    watch, length_s = Stopwatch(), 0.0
    if question.part_s is None:
        clips = read_windows(video, spec, question.views, watch, question.decoder)
    else:
        clips, length_s = read_parts(video, spec, question.part_s, MAX_PARTS, watch, question.decoder)
    watch.switch("")
    return Seen(video, clips, length_s, watch)


def try_look_at(video: Path, spec: ClipSpec, question: Question) -> Seen | Answer:
    """The same, or an answer with the error."""
    try:
        return look_at(video, spec, question)
    except CpdError as error:
        return failed(video, error)


def label_video(runner: Runner, video: Path, question: Question = DEFAULT_QUESTION) -> Answer:
    """Labels a video.

    Raises:
        VideoError: the video cannot be read.
        EngineError: the model failed, or gave numbers that are none.
    """
    seen = look_at(video, runner.manifest.clip, question)
    return _answer(runner, seen, *_predict(runner, seen.clips), question)


def try_label_video(runner: Runner, video: Path, question: Question = DEFAULT_QUESTION) -> Answer:
    """The same, with the error in the answer instead of raised, so that one bad video does not stop the others."""
    try:
        return label_video(runner, video, question)
    except CpdError as error:
        return failed(video, error)


def label_together(runner: Runner, videos: Sequence[Seen], question: Question) -> Iterator[Answer]:
    """Labels videos whose clips are shown to the model together; each takes its share of that time.

    An error is in the answer, and the numbers of one video that are none spoil no other's.
    """
    try:
        logits, infer_ms = _predict(runner, np.concatenate([seen.clips for seen in videos]))
    except CpdError as error:
        yield from (failed(seen.video, error) for seen in videos)
        return
    last = 0
    for seen in videos:
        first, last = last, last + len(seen.clips)
        try:
            yield _answer(runner, seen, logits[first:last], infer_ms * len(seen.clips) / len(logits), question)
        except CpdError as error:
            yield failed(seen.video, error)


def failed(video: Path, error: CpdError | str) -> Answer:
    """An answer that says why there is none."""
    return Answer(str(video), [], dict.fromkeys(PARTS, 0.0), error=str(error))


def _predict(runner: Runner, clips: Frames) -> tuple[Logits, float]:
    """The logits of clips, so many at a time, and the milliseconds they took."""
    watch = Stopwatch()
    watch.switch("infer")
    batches = [runner.predict(clips[start : start + BATCH_CLIPS]) for start in range(0, len(clips), BATCH_CLIPS)]
    watch.switch("")
    return np.concatenate(batches), watch.spent_ms("infer")


def _answer(runner: Runner, seen: Seen, logits: Logits, infer_ms: float, question: Question) -> Answer:
    labels, parts = runner.manifest.labels, len(seen.clips)
    seen.watch.switch("post")
    shares = probabilities(logits)
    predictions = top_labels(shares.mean(axis=0), labels, question.top_k)
    timeline = []
    if question.part_s is not None:
        best = [top_labels(part, labels, 1)[0] for part in shares]
        timeline = [
            Part(n * seen.length_s / parts, (n + 1) * seen.length_s / parts, *found) for n, found in enumerate(best)
        ]
    seen.watch.switch("")
    spent_ms = {part: seen.watch.spent_ms(part) for part in PARTS} | {"infer": infer_ms}
    return Answer(str(seen.video), predictions, spent_ms, timeline)


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
