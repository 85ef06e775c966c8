"""The PyAV adapter: what is in a video file, and the frames of it that a clip needs.

Training's audit, the server and validation read videos through it, so they agree on which frames a video has:
those the decoder gives before the first damage, in the order they are shown.

What becomes of one frame is in ``cpd.frame``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from cpd.clip import ClipSpec, shown_s, window_indices
from cpd.container import Clock, Decoder, frames_of, open_file, packets_of, reason, undecoded
from cpd.errors import VideoError
from cpd.frame import fit, is_mirrored, rotation_of, shown_size, upright
from cpd.packets import STEP_BACK_S, PacketIndex, decode_at
from cpd.scaler import Scaler
from cpd.stopwatch import Stopwatch

Frames = NDArray[np.uint8]
Choose = Callable[[NDArray[np.float64]], NDArray[np.int64]]
"""Indices of the wanted frames, of the times of all frames."""


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
    mirrored: bool
    """Whether the decoded frame is turned over before it is turned, as front cameras store theirs."""
    plain: bool
    """Whether all frames are as large as the first, turned as it is, and as many as the header tells, which is what
    DALI believes; a call's recording changes its size with the connection."""


def probe(path: Path, decoder: Decoder = "cpu") -> VideoInfo:
    """Decodes a whole video and reports what is in it.

    Raises:
        VideoError: not a single frame can be decoded.
    """
    times: list[float] = []
    damage, first, looks = "", None, set()
    with open_file(path, decoder) as (container, stream):
        clock = Clock(stream)
        try:
            for frame in frames_of(container, stream):
                first = first or frame
                looks.add((frame.height, frame.width, rotation_of(frame), is_mirrored(frame)))
                times.append(clock.time_s(frame))
        except (av.FFmpegError, MemoryError) as error:
            damage = reason(error)
        if first is None:
            raise undecoded(str(path), decoder, damage)
        height, width = shown_size(first)
        depth = max(component.bits for component in first.format.components)
        codec = stream.codec_context.name
        plain = len(looks) == 1 and stream.frames in (0, len(times))
    return VideoInfo(
        codec, height, width, rotation_of(first), depth, _ascending(times), damage, is_mirrored(first), plain
    )


def read_frames(path: Path, indices: NDArray[np.int64]) -> Frames:
    """The frames at these indices, in presentation order, at the video's own size.

    Returns:
        (len(indices), height, width, 3) uint8 RGB, rotated for display.

    Raises:
        VideoError: the video has no frame at one of the indices.
    """
    scaler = Scaler()
    return _frames_at(path, indices, lambda frame: upright(frame, scaler, *shown_size(frame)), Stopwatch())


def read_middles(path: Path, indices: NDArray[np.int64], spec: ClipSpec) -> Frames:
    """The same of a video that is not plain: each frame resized by ``spec``, and the middle that all then have.

    Returns:
        (len(indices), *spec.middle, 3) uint8 RGB, whose crop in the middle is that of ``read_clip``.

    Raises:
        VideoError: the video has no frame at one of the indices.
    """
    scaler = Scaler()
    return _frames_at(path, indices, lambda frame: fit(frame, spec, scaler, spec.middle), Stopwatch())


def read_clip(path: Path, spec: ClipSpec, watch: Stopwatch | None = None) -> Frames:
    """One clip of a video, as the model expects it: decoded, sampled, resized and cropped by ``spec``.

    Args:
        path: a video file.
        spec: the model's input contract.
        watch: told what the time went to: open, decode and resize.

    Returns:
        (spec.frames, *spec.crop, 3) uint8 RGB.

    Raises:
        VideoError: the video cannot be read.
    """
    clip: Frames = read_windows(path, spec, 1, watch)[0]
    return clip


def read_windows(
    path: Path, spec: ClipSpec, windows: int, watch: Stopwatch | None = None, decoder: Decoder = "cpu"
) -> Frames:
    """One clip of each of ``windows`` equal parts of a video; see ``read_clip``.

    The frame times come from the packets, without decoding, and only what lies between a sampled frame and the
    keyframe before it is decoded. Where the decoder then yields other frames than the packets promised (hidden or
    damaged frames), the video is decoded whole to find its true times.

    Returns:
        (windows, spec.frames, *spec.crop, 3) uint8 RGB.

    Raises:
        VideoError: the video cannot be read.
    """
    frames = _chosen_frames(path, spec, lambda times_s: window_indices(times_s, spec.frames, windows), watch, decoder)
    clips: Frames = frames.reshape(windows, *spec.shape)
    return clips


def read_parts(
    path: Path, spec: ClipSpec, part_s: float, most: int, watch: Stopwatch | None = None, decoder: Decoder = "cpu"
) -> tuple[Frames, float]:
    """One clip of each equal part of a video, of about ``part_s`` seconds but no more than ``most``.

    Returns:
        (parts, spec.frames, *spec.crop, 3) uint8 RGB as of ``read_windows``, and for how many seconds they are shown:
        those of the frames there are, since headers also count sound that is longer, or what was cut off.

    Raises:
        VideoError: the video cannot be read.
    """
    length_s = 0.0

    def choose(times_s: NDArray[np.float64]) -> NDArray[np.int64]:
        nonlocal length_s
        length_s = shown_s(times_s)
        return window_indices(times_s, spec.frames, min(most, max(1, round(length_s / part_s))))

    frames = _chosen_frames(path, spec, choose, watch, decoder)
    return frames.reshape(-1, *spec.shape), length_s


def _chosen_frames(path: Path, spec: ClipSpec, choose: Choose, watch: Stopwatch | None, decoder: Decoder) -> Frames:
    """(n, *spec.crop, 3) frames; see ``read_windows``."""
    watch = watch or Stopwatch()
    watch.switch("open")
    scaler = Scaler()

    def convert(frame: VideoFrame) -> Frames:
        watch.switch("resize")
        pixels = fit(frame, spec, scaler)
        watch.switch("decode")
        return pixels

    frames = _frames_of_packets(path, choose, convert, watch, decoder)
    if frames is None:
        watch.switch("decode")
        frames = _frames_at(path, choose(probe(path, decoder).times_s), convert, watch, decoder)
    watch.switch("")
    return frames


def duration_s(path: Path) -> float:
    """How long a video is shown: by its packets where they tell, else by its frames. Its header may tell anything.

    Raises:
        VideoError: the video cannot be read.
    """
    with open_file(path) as (container, stream):
        try:
            index = PacketIndex.of(container, stream)
        except (av.FFmpegError, MemoryError):
            index = None
    return shown_s(probe(path).times_s if index is None else index.times_s)


def _frames_of_packets(
    path: Path, choose: Choose, convert: Callable[[VideoFrame], Frames], watch: Stopwatch, decoder: Decoder
) -> Frames | None:
    """(n, ...) converted frames; None where the packets do not tell, or decoding proves them wrong."""
    with open_file(path, decoder) as (container, stream):
        try:
            index = PacketIndex.of(container, stream)
            if index is None:
                return None
            watch.switch("decode")
            indices = choose(index.times_s)
            if index.packets is not None:
                return decode_at(stream, index, index.packets, indices, convert)
            with open_file(path, decoder) as (again, same_stream):
                return decode_at(same_stream, index, packets_of(again, same_stream), indices, convert)
        except (av.FFmpegError, MemoryError):
            return None
        except VideoError as error:
            raise VideoError(f"{path}: {error}") from error


def _frames_at(
    path: Path, indices: NDArray[np.int64], convert: Callable[[VideoFrame], Frames], watch: Stopwatch,
    decoder: Decoder = "cpu",
) -> Frames:  # fmt: skip
    """(len(indices), ...) converted frames, found by counting decoded frames from the start."""
    wanted = set(indices.tolist())
    found: dict[int, Frames] = {}
    with open_file(path, decoder) as (container, stream):
        watch.switch("decode")
        try:
            for index, frame in enumerate(frames_of(container, stream)):
                if index in wanted:
                    found[index] = convert(frame)
                    if len(found) == len(wanted):
                        break
        except (av.FFmpegError, MemoryError) as error:
            raise VideoError(f"{path}: cannot be decoded: {reason(error)}") from error
        except VideoError as error:
            raise VideoError(f"{path}: {error}") from error
    missing = sorted(wanted - set(found))
    if missing:
        raise VideoError(f"{path}: frame {missing[0]} cannot be decoded")
    return np.stack([found[index] for index in indices.tolist()])


def _ascending(times: list[float]) -> NDArray[np.float64]:
    """Times that never step back: where the clock began anew, as in recordings put together, it goes on.

    Times that FFmpeg guesses, as of B-frames in AVI, step back too: they are the right ones in another order.
    """
    times_s = np.asarray(times)
    steps_s = np.diff(times_s)
    for last in np.flatnonzero(steps_s < -STEP_BACK_S):
        times_s[last + 1 :] += np.median(steps_s) - steps_s[last]
    return np.sort(times_s)
