"""Opening video through PyAV: files, and the streams of cameras and networks."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import av
from av.codec.hwaccel import HWAccel
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from cpd.cuda_context import enter_primary_context
from cpd.errors import VideoError
from cpd.folders import videos_below

FRAME_THREADS_FROM_PIXELS = 640 * 360
"""Below this size, starting decoder threads costs more than it saves."""
TIMEOUT_S = 10.0
"""A network stream that gives nothing for so long has ended."""
CAMERA_FORMAT = "v4l2"
IMAGE_RATE = "12"
"""Frames a second of a folder of images, which stores none; Jester's were taken at this rate."""
METADATA_ERRORS = "replace"
"""Titles in another encoding than UTF-8, as old cameras and programs write them, are no reason to refuse a video."""
PLAYLISTS = frozenset({"hls", "concat", "dash", "sdp", "imf", "vobsub"})
"""Formats that name other files to play."""
TEXTS = frozenset({"adf", "bin", "cdg", "idf", "tty", "xbin"})
"""Formats whose letters FFmpeg draws. It takes any file for one whose name ends so, as ``notes.txt`` does."""
MAX_PIXELS = 1 << 26
"""Of a frame as it is decoded: larger ones would take hundreds of MB each."""

Decoder = Literal["cpu", "nvdec"]
"""What decodes: FFmpeg on the CPU, or through FFmpeg an NVIDIA GPU. The frames of both come to the host's memory."""
NVDEC_LIBRARY = "libnvcuvid.so.1"
"""The part of NVIDIA's driver that a container has only with NVIDIA_DRIVER_CAPABILITIES=compute,utility,video."""


@contextmanager
def open_file(path: Path, decoder: Decoder = "cpu") -> Iterator[tuple[InputContainer, VideoStream]]:
    """A file, or a folder of numbered JPEG images, and its first video stream.

    A file must hold its video itself: one that names others, as a playlist does, could make a server read what it was
    not shown.

    Raises:
        VideoError: missing, unreadable, not a video, or encoded in a way that the decoder does not know.
    """
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        raise VideoError(f"{path}: " + ("no such file" if missing else reason(error))) from error
    if stat.S_ISDIR(status.st_mode):
        name, form, options = _images_of(path)
    elif not stat.S_ISREG(status.st_mode):
        raise VideoError(f"{path}: is not a regular file")
    elif status.st_size == 0:
        raise VideoError(f"{path}: is empty")
    else:
        # A format is refused before its header is read, and so before a playlist has opened anything.
        options = {"protocol_whitelist": "file", "format_whitelist": _formats(), "pattern_type": "none"}
        name, form = f"file:{path}", None
    failure = f"{path}: cannot be opened as a video"
    with _opened(name, failure, decoder, format=form, container_options=options) as container:
        yield container, first_video_stream(container, str(path), decoder)


@lru_cache(maxsize=1)
def _formats() -> str:
    return ",".join(sorted(av.formats_available - PLAYLISTS - TEXTS))


@contextmanager
def open_live(name: str, decoder: Decoder = "cpu") -> Iterator[tuple[InputContainer, VideoStream]]:
    """A camera (``0`` or ``/dev/video0``) or the URL of a stream, and its first video stream.

    Raises:
        VideoError: it cannot be opened or has no video.
    """
    device = f"/dev/video{name}" if name.isdecimal() else name
    settings: dict[str, Any] = {"format": CAMERA_FORMAT}
    if "://" in device:
        # Over UDP, RTSP loses packets and so frames; TCP delivers them all or ends.
        options = {"rtsp_transport": "tcp"} if device.startswith("rtsp") else {}
        settings = {"timeout": TIMEOUT_S, "container_options": options}
    with _opened(device, f"{name}: cannot be opened as a stream", decoder, **settings) as container:
        yield container, first_video_stream(container, name, decoder)


def first_video_stream(container: InputContainer, name: str, decoder: Decoder = "cpu") -> VideoStream:
    """The first stream of moving pictures; cover pictures are passed over.

    Raises:
        VideoError: there is none, nothing here decodes it, the GPU does not though it was asked to, or it is too large.
    """
    streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not streams:
        raise VideoError(f"{name}: has no video stream")
    stream = streams[0]
    if stream.codec_context is None:
        raise VideoError(f"{name}: no decoder for its video stream")
    if decoder == "nvdec" and not stream.codec_context.is_hwaccel:
        raise VideoError(f"{name}: NVDEC does not read {stream.codec_context.name}", "use --decoder cpu")
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > MAX_PIXELS:
        raise VideoError(f"{name}: frames of {width}x{height} pixels are too large to be decoded here")
    # With NVDEC each thread of FFmpeg's would take a surface of the GPU's, of which there are 32 in all.
    threaded = decoder == "cpu" and width * height >= FRAME_THREADS_FROM_PIXELS
    stream.thread_type = "AUTO" if threaded else "NONE"
    return stream


def _opened(name: str, failure: str, decoder: Decoder, **settings: Any) -> InputContainer:
    hardware = None
    try:
        if decoder == "nvdec":
            failure = f"{failure} with NVDEC"
            enter_primary_context()
            hardware = HWAccel("cuda", allow_software_fallback=False, options={"current_ctx": "1"})
        container: InputContainer = av.open(name, metadata_errors=METADATA_ERRORS, hwaccel=hardware, **settings)
    except av.ArgumentError as error:  # FFmpeg's answer to a format that is not on its list
        unread = "it is damaged, or of a format that is not read here, as playlists and texts are"
        raise VideoError(f"{failure}: {unread}") from error
    except (av.FFmpegError, OSError, ValueError) as error:
        raise VideoError(f"{failure}: {reason(error)}") from error
    except RuntimeError as error:  # PyAV's, of a file without a stream that the hardware reads
        raise VideoError(f"{failure}: it reads none of its streams", "use --decoder cpu") from error
    return container


def _images_of(folder: Path) -> tuple[str, str, dict[str, str]]:
    """Name, format and options under which FFmpeg reads the images of a folder one after the other."""
    try:
        names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise VideoError(f"{folder}: {reason(error)}") from error
    numbered = [match for name in names if (match := re.fullmatch(r"(.*?)(\d+)(\.jpe?g)", name, re.IGNORECASE))]
    if not numbered:
        what = "of videos, not a video" if any(videos_below(folder)) else "without videos or numbered .jpg images"
        raise VideoError(f"{folder}: is a folder {what}")
    first = min(numbered, key=lambda match: int(match[2]))
    other = min((match[0] for match in numbered if (match[1], match[3]) != (first[1], first[3])), default="")
    if other:  # optical flow beside the frames, or a cover picture
        raise VideoError(f"{folder}: holds more than one series of images, {first[0]} … and {other} …")
    numbers = {int(match[2]) for match in numbered}
    gap = next((number for number in range(int(first[2]), max(numbers)) if number not in numbers), None)
    if gap is not None:  # FFmpeg would end there, and say nothing
        raise VideoError(f"{folder}: has no image {first[1]}{gap:0{len(first[2])}d}{first[3]}, but later ones")
    odd = next((match[0] for match in numbered if not (folder / match[0]).is_file()), None)
    if odd is not None:  # FFmpeg would wait at a pipe for ever
        raise VideoError(f"{folder}: {odd} is not a regular file")
    stem = f"{folder}/{first[1]}".replace("%", "%%")
    return f"{stem}%0{len(first[2])}d{first[3]}", "image2", {"start_number": first[2], "framerate": IMAGE_RATE}


def packets_of(container: InputContainer, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
    """A stream's packets in decoding order; an empty one is the last.

    After it PyAV fails where other streams appeared while it read, as the sound of the next programme on television.
    """
    with suppress(IndexError):
        yield from container.demux(stream)


def frames_of(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    """A stream's frames in the order they are shown."""
    for packet in packets_of(container, stream):
        yield from packet.decode()


class Clock:
    """Tells the presentation times of a stream's frames, which are asked for in the order they are shown."""

    def __init__(self, stream: VideoStream) -> None:
        self._stream, self._next_s = stream, 0.0

    def time_s(self, frame: VideoFrame) -> float:
        """A frame's own time; where the stream stores none, a nominal interval after the frame before."""
        stream, at_s = self._stream, self._next_s
        if frame.pts is not None and stream.time_base is not None:
            at_s = float(frame.pts * stream.time_base)
        self._next_s = at_s + 1 / float(stream.average_rate or 25)
        return at_s


def undecoded(name: str, decoder: Decoder, why: str, remedy: str = "") -> VideoError:
    """For a video without a single decoded frame: FFmpeg does not say where a GPU lacks its profile or its size."""
    told = f": {why}" if why else ""
    if decoder == "nvdec":
        return VideoError(f"{name}: NVDEC decodes no frame of it{told}", remedy or "use --decoder cpu, which may")
    return VideoError(f"{name}: no frame can be decoded{told}", remedy)


def reason(error: BaseException) -> str:
    """FFmpeg's words for an error, without the path and the number around them."""
    if isinstance(error, av.ExitError):  # what PyAV has FFmpeg do when the time is up
        return f"nothing came for {TIMEOUT_S:g} s"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
