"""The PyAV adapter: frame times, frames, and nothing else. Training's audit and the server read videos through it.

FFmpeg's bilinear scaler, when it shrinks, widens its triangle as DALI's antialiased linear filter does; the two differ
by less than 0.1 grey levels on average, so the server scales straight from the decoder's YUV frames.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from cpd.clip import ClipSpec, segment_indices
from cpd.errors import VideoError

FRAME_THREADS_FROM_PIXELS = 640 * 360
"""Below this size, starting decoder threads costs more than it saves."""

Frames = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What decoding a whole video tells about it."""

    codec: str
    """FFmpeg's codec name, such as h264 or vp9."""
    height: int
    """Pixels, after rotation, as displayed."""
    width: int
    rotation: int
    """Counter-clockwise degrees the decoded frame is turned for display: 0, 90, 180 or 270."""
    bit_depth: int
    """Bits per component of the stream."""
    times_s: NDArray[np.float64]
    """(frames,) presentation time of each decodable frame, ascending."""
    damage: str
    """Empty, or what the decoder complained about after the last good frame."""


def probe(path: Path) -> VideoInfo:
    """Decodes a whole video and reports what is in it.

    Raises:
        VideoError: not a single frame can be decoded.
    """
    times: list[float] = []
    damage, first = "", None
    with _open(path) as (container, stream):
        try:
            for frame in container.decode(stream):
                first = first or frame
                times.append(_time_s(frame, len(times), stream))
        except (av.FFmpegError, MemoryError) as error:
            damage = _reason(error)
        if first is None:
            raise VideoError(f"{path}: no frame can be decoded" + (f": {damage}" if damage else ""))
        rotation = _rotation(first)
        height, width = (first.width, first.height) if rotation in (90, 270) else (first.height, first.width)
        depth = max(component.bits for component in first.format.components)
        codec = stream.codec_context.name
    return VideoInfo(codec, height, width, rotation, depth, np.maximum.accumulate(times), damage)


def read_frames(path: Path, indices: NDArray[np.int64]) -> Frames:
    """The frames at these indices, in presentation order, at the video's own size.

    Returns:
        (len(indices), height, width, 3) uint8 RGB, rotated for display.

    Raises:
        VideoError: the video has no frame at one of the indices.
    """
    wanted = set(indices.tolist())
    found: dict[int, Frames] = {}
    with _open(path) as (container, stream), _decoding(path):
        for index, frame in enumerate(container.decode(stream)):
            if index in wanted:
                found[index] = _rgb(frame)
                if len(found) == len(wanted):
                    break
    missing = sorted(wanted - set(found))
    if missing:
        raise VideoError(f"{path}: frame {missing[0]} cannot be decoded")
    return np.stack([found[index] for index in indices.tolist()])


def read_clip(path: Path, spec: ClipSpec) -> Frames:
    """One clip of a video, as the model expects it: decoded, sampled, resized and cropped by ``spec``.

    The frame times come from the packets, without decoding; where the decoder then yields other frames than the
    packets promised (hidden or damaged frames), the video is decoded whole to find its true times.

    Returns:
        (spec.frames, *spec.crop, 3) uint8 RGB.

    Raises:
        VideoError: the video cannot be read.
    """
    times_s = _packet_times(path)
    clip = _sample(path, spec, times_s, verify=True) if len(times_s) else None
    if clip is None:
        clip = _sample(path, spec, probe(path).times_s, verify=False)
    if clip is None:
        raise VideoError(f"{path}: cannot be decoded twice in the same way")
    return clip


def fit(frame: VideoFrame, spec: ClipSpec) -> Frames:
    """(*spec.crop, 3) uint8 RGB of one decoded frame: rotated, resized and cropped by ``spec``."""
    sideways = _rotation(frame) in (90, 270)
    height, width = spec.resized_size(*((frame.width, frame.height) if sideways else (frame.height, frame.width)))
    size = {"width": height, "height": width} if sideways else {"width": width, "height": height}
    top, left = spec.crop_corner(height, width)
    upright = _rgb(frame, **size)
    return upright[top : top + spec.crop[0], left : left + spec.crop[1]]


def _sample(path: Path, spec: ClipSpec, times_s: NDArray[np.float64], verify: bool) -> Frames | None:
    """The clip of a video whose frames are shown at ``times_s``; None where decoding proves them wrong."""
    indices = segment_indices(times_s, spec.frames).tolist()
    found: dict[int, Frames] = {}
    with _open(path) as (container, stream):
        try:
            for index, frame in enumerate(container.decode(stream)):
                if verify and abs(_time_s(frame, index, stream) - times_s[index]) > 1e-6:
                    return None
                if index in indices:
                    found[index] = fit(frame, spec)
                if index == indices[-1]:
                    return np.stack([found[index] for index in indices])
        except (av.FFmpegError, MemoryError):
            return None
    return None


def _packet_times(path: Path) -> NDArray[np.float64]:
    """(packets,) sorted presentation times in seconds, without decoding; empty where packets do not tell."""
    with _open(path) as (container, stream):
        try:
            packets = [packet for packet in container.demux(stream) if packet.size and not packet.is_discard]
        except av.FFmpegError:
            return np.empty(0)
        if stream.time_base is None or any(packet.pts is None for packet in packets):
            return np.empty(0)
        return np.sort(
            np.asarray([float(packet.pts * stream.time_base) for packet in packets if packet.pts is not None])
        )


def _rgb(frame: VideoFrame, **size: int) -> Frames:
    """uint8 RGB of a frame, rotated for display. One scaler thread: more cost time on small frames."""
    pixels = frame.reformat(format="rgb24", interpolation="BILINEAR", threads=1, **size).to_ndarray()
    return np.rot90(pixels, _rotation(frame) // 90)


def _rotation(frame: VideoFrame) -> int:
    """Counter-clockwise degrees to turn a frame for display; angles that are no quarter turn are taken as none."""
    return frame.rotation % 360 if frame.rotation % 90 == 0 else 0


def _time_s(frame: VideoFrame, index: int, stream: VideoStream) -> float:
    """A frame's presentation time; by the nominal rate where the file stores none."""
    if frame.pts is not None and stream.time_base is not None:
        return float(frame.pts * stream.time_base)
    return index / float(stream.average_rate or 25)


@contextmanager
def _open(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """A container and its first video stream.

    Raises:
        VideoError: missing, unreadable, not a video, or encoded in a way no decoder here knows.
    """
    if not path.exists():
        raise VideoError(f"{path}: no such file")
    if path.is_dir():
        raise VideoError(f"{path}: is a folder, not a video")
    if path.stat().st_size == 0:
        raise VideoError(f"{path}: is empty")
    try:
        container = av.open(str(path))
    except (av.FFmpegError, OSError, ValueError) as error:
        raise VideoError(f"{path}: cannot be opened as a video: {_reason(error)}") from error
    with container:
        if not container.streams.video:
            raise VideoError(f"{path}: has no video stream")
        stream = container.streams.video[0]
        if stream.codec_context is None:
            raise VideoError(f"{path}: no decoder for its video stream")
        large = stream.codec_context.width * stream.codec_context.height >= FRAME_THREADS_FROM_PIXELS
        stream.thread_type = "AUTO" if large else "NONE"
        yield container, stream


@contextmanager
def _decoding(path: Path) -> Iterator[None]:
    try:
        yield
    except (av.FFmpegError, MemoryError) as error:
        raise VideoError(f"{path}: cannot be decoded: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
