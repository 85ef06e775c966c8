"""Endless video: cameras, network streams, or files played as one, frame by frame as the model sees them."""

from __future__ import annotations

import math
import os
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from time import monotonic
from typing import NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from cpd.clip import ClipSpec
from cpd.container import PLAYLISTS, Clock, Decoder, open_file, open_live, packets_of, reason, undecoded
from cpd.errors import VideoError
from cpd.frame import fit
from cpd.packets import STEP_BACK_S
from cpd.scaler import Scaler
from cpd.stopwatch import Stopwatch

WAITING_FRAMES = 8
"""Frames of a stream that wait for the model. More would only be older when their turn comes."""
RETRY_S = (1.0, 30.0)
"""Seconds before a lost stream is opened again: at first, and at most; they double from one to the other."""
STOP_S = 1.0
"""How long an ending waits for all its decoders. One that waits for a silent network is left to the process's end."""
INDEX_LAST = (
    "an mp4 needs its index at its start, as ffmpeg -movflags faststart writes it, or a server that knows Range"
)
"""For a recording that cannot be read from its beginning on."""
SIZE_TELLS_NOTHING = PLAYLISTS | {"mpjpeg"}
"""Formats that name other files, and a camera's pictures one after the other, of which some announce a size."""
LAST_S = 1.0
"""How far before the end of a recording its last frame may be: its length also counts that frame, and sound."""
LOCAL = "file://"


class TimedFrame(NamedTuple):
    """A frame as the model sees it."""

    time_s: float
    """Presentation time in the stream's own clock."""
    pixels: NDArray[np.uint8]
    """(height, width, 3) RGB."""


class Lost(NamedTuple):
    """A network stream broke off; it is being opened again."""

    reason: str


class Back(NamedTuple):
    """A lost stream gives frames again."""

    lost_s: float


class Ended(NamedTuple):
    """Nothing more comes."""

    reason: str
    """Empty where the stream came to its end."""


Item = TimedFrame | Lost | Back | Ended


class Source:
    """A stream, decoded and fitted ahead of the model by a thread of its own."""

    def __init__(
        self, name: str, spec: ClipSpec, changed: threading.Condition, live: bool, patience_s: float,
        decoder: Decoder = "cpu",
    ) -> None:  # fmt: skip
        """
        Args:
            name: a file, a camera (``0`` or ``/dev/video0``) or the URL of a stream.
            spec: the model's input.
            changed: notified whenever there is something to take; shared by streams that are waited for together.
            live: whether frames come at their own pace, so that the oldest are dropped when the model cannot keep up;
                a recording on the network waits for the model, as a file does.
            patience_s: how long a network stream that broke off may stay away.
        """
        self.name, self.live = name, live
        self.frames = 0
        """Decoded so far."""
        self.dropped = 0
        """Decoded, and never seen by the model."""
        self.reconnects = 0
        self.waiting: deque[Item] = deque()
        """What came, in order; guarded by ``changed``. ``Ended`` comes last."""
        self._spec, self._changed, self._patience_s, self._decoder = spec, changed, patience_s, decoder
        self._stopped, self._watch = False, Stopwatch()
        self._lost_since_s: float | None = None
        self._thread = threading.Thread(target=self._run, name=f"decoder of {name}", daemon=True)
        self._thread.start()

    @property
    def busy_s(self) -> float:
        """What its thread has spent on frames, not waiting for the model, nor for who sends them."""
        spent_s = self._watch.spent_s
        return spent_s.get("decode", 0.0) + (0.0 if is_live(self.name) else spent_s.get("read", 0.0))

    def stop(self) -> None:
        """Tells the decoder to end; frames not yet taken are lost."""
        with self._changed:
            self._stopped = True
            self.waiting.clear()
            self._changed.notify_all()

    def join(self, timeout_s: float) -> None:
        """Waits for a stopped decoder, up to so many seconds."""
        self._thread.join(timeout_s)

    def _run(self) -> None:
        ended = Ended(f"{self.name}: its decoder failed")  # a bug: its traceback is printed, and nobody waits
        try:
            ended = Ended(self._play())
        except VideoError as error:
            ended = Ended(str(error))
        finally:
            with self._changed:
                self.waiting.append(ended)
                self._changed.notify_all()

    def _play(self) -> str:
        """Decodes until the end, opening a stream that broke off again and again.

        Returns:
            Why it ended; empty for the end of the video.

        Raises:
            VideoError: it cannot be opened, or what broke off is not to be opened again.
        """
        endless = False
        wait_s = RETRY_S[0]
        while True:
            before = self.frames
            try:
                with _open(self.name, self._decoder) as (container, stream):
                    if _is_remote(self.name):
                        self.live = endless = endless or not _has_end(container)
                    self._decode(container, stream)
                why = f"{self.name}: the stream broke off"
            except VideoError as error:
                if not endless or self.frames == 0:
                    raise
                why = str(error)
            if self._stopped or not endless:
                return ""
            if self.frames > before:
                wait_s, self._lost_since_s = RETRY_S[0], monotonic()
                self._put(Lost(why))
            assert self._lost_since_s is not None
            left_s = self._patience_s - (monotonic() - self._lost_since_s)
            if left_s <= 0:
                return f"{why}, and did not come back within {self._patience_s:g} s"
            with self._changed:
                self._changed.wait_for(lambda: self._stopped, min(wait_s, left_s))
            wait_s = min(2 * wait_s, RETRY_S[1])

    def _decode(self, container: InputContainer, stream: VideoStream) -> None:
        scaler, clock, before_s, why = Scaler(), Clock(stream), -math.inf, ""
        try:
            for frame in _frames(container, stream, self._watch):
                if self._lost_since_s is not None:
                    self.reconnects += 1
                    self._put(Back(monotonic() - self._lost_since_s))
                    self._lost_since_s = None
                pixels = np.ascontiguousarray(fit(frame, self._spec, scaler))
                at_s = clock.time_s(frame)
                before_s = before_s if 0 < before_s - at_s <= STEP_BACK_S else at_s
                self._watch.switch("")
                self._put(TimedFrame(before_s, pixels))
                if self._stopped:
                    return
                self._watch.switch("decode")
        except (av.FFmpegError, MemoryError) as error:
            why = reason(error)
            if self.frames and before_s < _end_s(container):
                raise VideoError(f"{self.name}: the stream broke off: {why}") from error
        except VideoError as error:
            raise VideoError(f"{self.name}: {error}") from error
        finally:
            self._watch.switch("")
        if self.frames == 0:
            remedy = INDEX_LAST if _is_remote(self.name) and "mp4" in container.format.name else ""
            raise undecoded(self.name, self._decoder, why, remedy)

    def _put(self, item: Item) -> None:
        with self._changed:
            if isinstance(item, TimedFrame):
                self.frames += 1
                if self.live and len(self.waiting) >= WAITING_FRAMES:
                    self._drop_oldest()
                self._changed.wait_for(lambda: len(self.waiting) < WAITING_FRAMES or self.live or self._stopped)
            self.waiting.append(item)
            self._changed.notify_all()

    def _drop_oldest(self) -> None:
        for index, item in enumerate(self.waiting):
            if isinstance(item, TimedFrame):
                del self.waiting[index]
                self.dropped += 1
                return


class Sources:
    """Streams that are waited for together."""

    def __init__(self, names: Sequence[str], spec: ClipSpec, patience_s: float, decoder: Decoder = "cpu") -> None:
        self._changed = threading.Condition()
        self.all = [Source(name, spec, self._changed, is_live(name), patience_s, decoder) for name in names]

    def rounds(self) -> Iterator[list[tuple[Source, Item]]]:
        """The next item of every stream that has one, as soon as one has, until all have ended."""
        playing = self.all
        while playing:
            with self._changed:
                self._changed.wait_for(lambda playing=playing: any(source.waiting for source in playing))  # type: ignore[misc]
                taken = [(source, source.waiting.popleft()) for source in playing if source.waiting]
                self._changed.notify_all()
            yield taken
            ended = {source for source, item in taken if isinstance(item, Ended)}
            playing = [source for source in playing if source not in ended]


@contextmanager
def open_sources(
    names: Sequence[str], spec: ClipSpec, patience_s: float = 0.0, decoder: Decoder = "cpu"
) -> Iterator[Sources]:
    """Starts to decode streams; one that cannot be opened gives ``Ended`` and nothing else."""
    sources = Sources(names, spec, patience_s, decoder)
    try:
        yield sources
    finally:
        for source in sources.all:
            source.stop()
        until_s = monotonic() + STOP_S
        for source in sources.all:
            source.join(max(0.0, until_s - monotonic()))


def is_live(name: str) -> bool:
    """Whether frames come at their own pace: from a camera or the network."""
    return _is_remote(name) or name.startswith("/dev/video") or (name.isdecimal() and not os.path.exists(name))  # noqa: PTH110


def _is_remote(name: str) -> bool:
    return "://" in name and not name.startswith(LOCAL)


def _has_end(container: InputContainer) -> bool:
    """Whether this is a recording, which ends and is not begun anew: one has a length in time or in bytes."""
    return container.duration is not None or (container.size > 0 and container.format.name not in SIZE_TELLS_NOTHING)


def _end_s(container: InputContainer) -> float:
    """From when on a recording was shown whole though its connection broke off: where the server names no size, its end
    is that it hangs up, which FFmpeg takes for an error. Never for others."""
    if container.size >= 0 or container.duration is None:
        return math.inf
    return ((container.start_time or 0) + container.duration) / av.time_base - LAST_S


def _frames(container: InputContainer, stream: VideoStream, watch: Stopwatch) -> Iterator[VideoFrame]:
    """All frames, and where the connection breaks off those too that the decoder still holds."""
    packets = packets_of(container, stream)
    watch.switch("read")
    try:
        while (packet := next(packets, None)) is not None:
            watch.switch("decode")
            yield from packet.decode()
            watch.switch("read")
    except OSError:
        yield from stream.decode(None)
        raise


def _open(name: str, decoder: Decoder) -> AbstractContextManager[tuple[InputContainer, VideoStream]]:
    return open_live(name, decoder) if is_live(name) else open_file(Path(name.removeprefix(LOCAL)), decoder)
