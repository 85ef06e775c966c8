"""Labels of an endless video, frame by frame or by a sliding window: smoothed, with events when the label changes."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from cpd.clip import ClipSpec, segment_indices
from cpd_serve.labelling import probabilities
from cpd_serve.runner import Frames, Logits, Runner
from cpd_serve.sources import TimedFrame

if TYPE_CHECKING:
    from cpd_serve.runtimes.onnx_stream import OnnxStreamRunner, StreamMemory

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

    def push(self, frame: TimedFrame) -> bool:
        """Takes the next frame; an answer is due when the window is full, and every stride after."""
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
            return False
        self._due_s = max(self._due_s + self._stride_s, frame.time_s)
        return True

    def has_more(self) -> bool:
        return bool(self._frames)

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


class View(Protocol):
    """What a model is to see of one stream."""

    def push(self, frame: TimedFrame) -> bool:
        """Takes the next frame; whether an answer is due."""

    def has_more(self) -> bool:
        """Whether a stream that ended before its first answer can have one from the frames there were."""


V = TypeVar("V", bound=View)


class Answerer(Protocol[V]):
    """Turns what is to be seen of some streams into logits, in one batch."""

    def view(self) -> V:
        """For one more stream."""

    def answer(self, views: Sequence[V]) -> Logits:
        """(views, classes)."""


class ByWindow:
    """Shows a model of whole clips the last seconds, again and again."""

    def __init__(self, runner: Runner, window_s: float, stride_s: float) -> None:
        self._runner, self._window_s, self._stride_s = runner, window_s, stride_s

    def view(self) -> SlidingWindow:
        return SlidingWindow(self._runner.manifest.clip, self._window_s, self._stride_s)

    def answer(self, views: Sequence[SlidingWindow]) -> Logits:
        return self._runner.predict(np.concatenate([view.clip() for view in views]))


class FrameView:
    """The frame of a stream that is due, and what the model keeps of those before."""

    def __init__(self, memory: StreamMemory, window_s: float, interval_s: float) -> None:
        self.memory, self._window_s, self._interval_s = memory, window_s, interval_s
        self.pixels: NDArray[np.uint8] = np.empty(0, np.uint8)
        self._before_s = self._due_s = -math.inf

    def push(self, frame: TimedFrame) -> bool:
        if not 0 <= frame.time_s - self._before_s <= self._window_s:
            self.memory.clear()  # the stream began anew, or a gap is longer than the window
            self._due_s = frame.time_s
        self._before_s = frame.time_s
        if frame.time_s < self._due_s - DUE_TOLERANCE * self._interval_s:
            return False
        self._due_s = max(self._due_s + self._interval_s, frame.time_s)
        self.pixels = frame.pixels
        return True

    def has_more(self) -> bool:
        return False  # the first frame has an answer already


class ByFrame:
    """Shows a streaming model one frame at a time: each costs the same, and none is shown twice.

    The frames are as far apart as those of a window would be, since that is what the model has learned to see.
    """

    def __init__(self, runner: OnnxStreamRunner, window_s: float) -> None:
        self._runner, self._window_s = runner, window_s

    def view(self) -> FrameView:
        return FrameView(self._runner.memory(), self._window_s, self._window_s / self._runner.manifest.clip.frames)

    def answer(self, views: Sequence[FrameView]) -> Logits:
        return self._runner.push([view.memory for view in views], [view.pixels for view in views])


@dataclass(slots=True, eq=False)
class Labelled(Generic[V]):
    """One stream and what is known of it."""

    view: V
    smoother: Smoother
    label: str = ""
    frames: int = 0
    """Frames the model's window has taken in."""
    answers: int = 0


class Labeller(Generic[V]):
    """Labels any number of streams with one model."""

    def __init__(self, answerer: Answerer[V], labels: tuple[str, ...], smoothing_s: float) -> None:
        """
        Args:
            answerer: the model, and how it looks at a stream.
            labels: of the model.
            smoothing_s: see ``Smoother``.
        """
        self._answerer, self._labels, self._smoothing_s = answerer, labels, smoothing_s
        self.busy_s = 0.0
        """Time spent on frames of all streams, not waiting for them nor decoding them, which other threads do."""

    def add(self) -> Labelled[V]:
        """One more stream."""
        return Labelled(self._answerer.view(), Smoother(self._smoothing_s))

    def push(self, frames: Sequence[tuple[Labelled[V], TimedFrame]]) -> list[tuple[Labelled[V], Change]]:
        """Takes the next frame of each of some streams and gives the changes of their labels.

        Raises:
            EngineError: the model failed.
        """
        start_s = perf_counter()
        due = []
        for stream, frame in frames:
            stream.frames += 1
            if stream.view.push(frame):
                due.append((stream, frame.time_s))
        changes = self._answer(due)
        self.busy_s += perf_counter() - start_s
        return changes

    def finish(self, stream: Labelled[V], time_s: float) -> Change | None:
        """The answer to a stream that ended before its first, from the frames there were."""
        if stream.answers or not stream.view.has_more():
            return None
        start_s = perf_counter()
        ((_, change),) = self._answer([(stream, time_s)])
        self.busy_s += perf_counter() - start_s
        return change

    def _answer(self, due: Sequence[tuple[Labelled[V], float]]) -> list[tuple[Labelled[V], Change]]:
        if not due:
            return []
        shares = probabilities(self._answerer.answer([stream.view for stream, _ in due]))
        changes = []
        for (stream, time_s), share in zip(due, shares, strict=True):
            stream.answers += 1
            smoothed = stream.smoother.update(time_s, share)
            best = int(smoothed.argmax())
            if self._labels[best] != stream.label:
                stream.label = self._labels[best]
                changes.append((stream, Change(time_s, stream.label, float(smoothed[best]))))
        return changes
