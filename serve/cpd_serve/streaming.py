"""Labels of an endless video, frame by frame or by a sliding window: smoothed, with events when the label changes."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from cpd.clip import ClipSpec, segment_indices
from cpd_serve.labelling import probabilities, top_labels
from cpd_serve.runner import Frames, Logits, Runner
from cpd_serve.sources import TimedFrame

if TYPE_CHECKING:
    from cpd_serve.onnx_runner import OnnxStreamRunner

MAX_FRAMES_A_SEGMENT = 8
"""A window keeps at most this many frames for each one the model looks at, so its memory has a bound."""

DUE_TOLERANCE = 0.1
"""A frame that comes this part of an interval early is taken for the one that is due: clocks of streams are rounded."""


@dataclass(frozen=True, slots=True)
class Change:
    """The label is another from here on."""

    time_s: float
    """In the stream's own clock."""
    label: str
    probability: float
    """Smoothed."""


@dataclass(slots=True)
class Progress:
    """How a stream goes; updated while it runs."""

    frames: int = 0
    """Frames the model's window has taken in."""
    answers: int = 0
    busy_s: float = 0.0
    """Time spent on frames, not waiting for them."""

    @property
    def sustainable_fps(self) -> float:
        """The frame rate that this machine keeps up with."""
        return self.frames / self.busy_s if self.busy_s else 0.0


class SlidingWindow:
    """The last seconds of a stream, cut to a clip whenever an answer is due."""

    def __init__(self, spec: ClipSpec, window_s: float, stride_s: float) -> None:
        """
        Args:
            spec: the model's input.
            window_s: seconds of video that one answer looks at.
            stride_s: seconds from one answer to the next.
        """
        self._spec, self._window_s, self._stride_s = spec, window_s, stride_s
        self._frames: deque[TimedFrame] = deque()
        self._spacing_s = window_s / (MAX_FRAMES_A_SEGMENT * spec.frames)
        self._due_s = math.inf

    def push(self, frame: TimedFrame) -> Frames | None:
        """Takes the next frame.

        Returns:
            (1, *spec.shape) uint8 where an answer is due: when the window is full, and every stride after.
        """
        kept = self._frames
        if kept and not 0 <= frame.time_s - kept[-1].time_s <= self._window_s:
            kept.clear()  # the stream began anew, or a gap is longer than the window
        if not kept:
            self._due_s = frame.time_s + self._window_s
        if not kept or frame.time_s - kept[-1].time_s >= self._spacing_s:
            kept.append(frame)
        while frame.time_s - kept[0].time_s > self._window_s:
            kept.popleft()
        if frame.time_s < self._due_s - self._spacing_s / 2:
            return None
        self._due_s = max(self._due_s + self._stride_s, frame.time_s)
        return self.clip()

    def clip(self) -> Frames:
        """(1, *spec.shape) uint8 of the frames held now; there must be one."""
        kept = self._frames
        times_s = np.asarray([one.time_s for one in kept])
        return np.stack([kept[index].pixels for index in segment_indices(times_s, self._spec.frames)])[None]


class Smoother:
    """An exponential average over time, so that one odd window does not change the label."""

    def __init__(self, time_constant_s: float) -> None:
        """
        Args:
            time_constant_s: after so long, an answer counts for 1/e of what it did; 0 for no smoothing.
        """
        self._time_constant_s = time_constant_s
        self._value: NDArray[np.float64] | None = None
        self._time_s = -math.inf

    def update(self, time_s: float, value: NDArray[np.float64]) -> NDArray[np.float64]:
        """Takes the next value and gives the average; a clock that runs backwards starts anew."""
        elapsed_s = time_s - self._time_s
        if self._value is None or elapsed_s < 0 or self._time_constant_s == 0:
            self._value = value
        else:
            old = math.exp(-elapsed_s / self._time_constant_s)
            self._value = old * self._value + (1 - old) * value
        self._time_s = time_s
        return self._value


class Answerer(Protocol):
    """Turns the frames of a stream into logits."""

    def push(self, frame: TimedFrame) -> Logits | None:
        """Takes the next frame; (1, classes) where there is an answer now."""

    def last(self) -> Logits | None:
        """An answer from the frames there were, for a stream that ended before its first."""


class ByWindow:
    """Shows a model of whole clips the last seconds, again and again."""

    def __init__(self, runner: Runner, window_s: float, stride_s: float) -> None:
        self._runner, self._window = runner, SlidingWindow(runner.manifest.clip, window_s, stride_s)

    def push(self, frame: TimedFrame) -> Logits | None:
        clip = self._window.push(frame)
        return None if clip is None else self._runner.predict(clip)

    def last(self) -> Logits | None:
        return self._runner.predict(self._window.clip())


class ByFrame:
    """Shows a streaming model one frame at a time: each costs the same, and none is shown twice.

    The frames are as far apart as those of a window would be, since that is what the model has learned to see.
    """

    def __init__(self, runner: OnnxStreamRunner, window_s: float) -> None:
        self._runner, self._window_s = runner, window_s
        self._interval_s = window_s / runner.manifest.clip.frames
        self._before_s = self._due_s = -math.inf

    def push(self, frame: TimedFrame) -> Logits | None:
        if not 0 <= frame.time_s - self._before_s <= self._window_s:
            self._runner.reset()  # the stream began anew, or a gap is longer than the window
            self._due_s = frame.time_s
        self._before_s = frame.time_s
        if frame.time_s < self._due_s - DUE_TOLERANCE * self._interval_s:
            return None
        self._due_s = max(self._due_s + self._interval_s, frame.time_s)
        return self._runner.push(frame.pixels)

    def last(self) -> Logits | None:
        return None  # the first frame has an answer already


def label_changes(
    answerer: Answerer, labels: tuple[str, ...], frames: Iterable[TimedFrame], smoother: Smoother, progress: Progress
) -> Iterator[Change]:
    """Labels a stream and yields the first label and every change of it.

    Raises:
        VideoError: the stream broke off.
        EngineError: the model failed.
    """
    label = ""

    def changed(time_s: float, logits: Logits) -> Change | None:
        nonlocal label
        progress.answers += 1
        shares = smoother.update(time_s, probabilities(logits)[0])
        ((best, probability),) = top_labels(shares, labels, 1)
        if best == label:
            return None
        label = best
        return Change(time_s, best, probability)

    for frame in frames:
        start_s = perf_counter()
        progress.frames += 1
        logits = answerer.push(frame)
        change = changed(frame.time_s, logits) if logits is not None else None
        progress.busy_s += perf_counter() - start_s
        if change:
            yield change
    if progress.frames and not progress.answers:
        logits = answerer.last()
        change = changed(frame.time_s, logits) if logits is not None else None
        if change:
            yield change
