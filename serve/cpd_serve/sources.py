"""Endless video: cameras, network streams, or a file played as one, frame by frame as the model sees them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

from cpd.clip import ClipSpec
from cpd.container import TIMEOUT_S, open_file, open_live, reason, time_s
from cpd.errors import CpdError, VideoError
from cpd.video import fit

WAITING_FRAMES = 8
"""Frames that wait for the model. More would only be older when their turn comes."""


class TimedFrame(NamedTuple):
    """A frame as the model sees it."""

    time_s: float
    """Presentation time in the stream's own clock."""
    pixels: NDArray[np.uint8]
    """(height, width, 3) RGB."""


class Source:
    """Frames of a stream, decoded and fitted ahead of the model by a thread of its own."""

    def __init__(self, container: InputContainer, stream: VideoStream, name: str, spec: ClipSpec, live: bool) -> None:
        self.name = name
        self.live = live
        """Whether frames come at their own pace, so that the oldest are dropped when the model cannot keep up."""
        self.frames = 0
        """Decoded so far."""
        self.dropped = 0
        """Decoded, and never seen by the model."""
        self._container, self._stream, self._spec = container, stream, spec
        self._waiting: deque[TimedFrame] = deque()
        self._changed = threading.Condition()
        self._ended = False
        self._error: CpdError | None = None
        self._thread = threading.Thread(target=self._decode, name="decoder", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[TimedFrame]:
        """Frames in order, until the stream ends.

        Raises:
            VideoError: the stream broke off.
        """
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._ended)
                if not self._waiting:
                    break
                frame = self._waiting.popleft()
                self._changed.notify_all()
            yield frame
        if self._error:
            raise self._error

    def stop(self) -> None:
        """Ends the decoder's thread; frames not yet taken are lost."""
        with self._changed:
            self._ended = True
            self._waiting.clear()
            self._changed.notify_all()
        self._thread.join(TIMEOUT_S + 1)

    def _decode(self) -> None:
        try:
            for index, frame in enumerate(self._container.decode(self._stream)):
                self._put(TimedFrame(time_s(frame, index, self._stream), np.ascontiguousarray(fit(frame, self._spec))))
                if self._ended:
                    return
        except (av.FFmpegError, MemoryError) as error:
            self._error = VideoError(f"{self.name}: the stream broke off: {reason(error)}")
        except VideoError as error:
            self._error = VideoError(f"{self.name}: {error}")
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _put(self, frame: TimedFrame) -> None:
        with self._changed:
            self.frames += 1
            if self.live and len(self._waiting) == WAITING_FRAMES:
                self._waiting.popleft()
                self.dropped += 1
            self._changed.wait_for(lambda: len(self._waiting) < WAITING_FRAMES or self._ended)
            self._waiting.append(frame)
            self._changed.notify_all()


@contextmanager
def open_source(name: str, spec: ClipSpec) -> Iterator[Source]:
    """A file, a camera (``0`` or ``/dev/video0``) or the URL of a stream.

    Raises:
        VideoError: it cannot be opened, or has no video.
    """
    live = "://" in name or name.isdecimal() or name.startswith("/dev/")
    with open_live(name) if live else open_file(Path(name)) as (container, stream):
        source = Source(container, stream, name, spec, live)
        try:
            yield source
        finally:
            source.stop()
