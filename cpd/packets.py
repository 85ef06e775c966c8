"""Which frames a video has, from its packets alone, and decoding no more of them than wanted.

Demuxing costs a small part of decoding. It tells every frame's time and which packets are keyframes, so that a long
video is decoded only from the keyframe before each wanted frame on, and a video of keyframes alone (MJPEG) only at the
wanted frames. Everything decoded is checked against the packets' promise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import TypeVar

import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from cpd.container import packets_of

HELD_BYTES = 32 << 20
"""Packets of a video up to this size are kept while its clip is chosen; larger ones are read from the file twice."""
STEP_BACK_S = 1.0
"""A video whose clock steps back by more began anew. By less, its times are guesses: AVI stores none for B-frames."""

Pixels = TypeVar("Pixels", bound=NDArray[np.uint8])


@dataclass(frozen=True, slots=True)
class PacketIndex:
    """What demuxing tells about a video stream."""

    pts: NDArray[np.int64]
    """(packets,) presentation time of each packet that holds a frame, in decoding order, in the stream's time base."""
    keyframe: NDArray[np.bool_]
    """(packets,) whether decoding can start there."""
    shown_pts: NDArray[np.int64]
    """(frames,) presentation times of the frames that are shown, ascending."""
    times_s: NDArray[np.float64]
    """(frames,) the same in seconds."""
    packets: list[Packet[VideoStream]] | None
    """The packets themselves, in decoding order; None where they would take more than ``HELD_BYTES``."""

    @classmethod
    def of(cls, container: InputContainer, stream: VideoStream) -> PacketIndex | None:
        """Reads a container to its end; None where its packets do not tell the times of the frames."""
        pts: list[int] = []
        keyframe: list[bool] = []
        shown: list[int] = []
        held: list[Packet[VideoStream]] | None = []
        held_bytes = 0
        for packet in frame_packets(packets_of(container, stream)):
            if packet.pts is None:
                return None
            pts.append(packet.pts)
            keyframe.append(packet.is_keyframe)
            if not packet.is_discard:
                shown.append(packet.pts)
            if held is not None:
                held_bytes += packet.size
                held.append(packet)
                if held_bytes > HELD_BYTES:
                    held = None
        if not shown or stream.time_base is None:
            return None
        if not keyframe[0] or pts[0] > min(pts):  # a recording that begins between keyframes: some cannot be decoded
            return None
        time_base_s, shown_pts = float(stream.time_base), np.sort(np.asarray(shown))
        if (np.diff(pts) * time_base_s < -STEP_BACK_S).any():
            return None
        return cls(np.asarray(pts), np.asarray(keyframe), shown_pts, shown_pts * time_base_s, held)

    def start_of(self, pts: int) -> int:
        """Position of the packet to start decoding at for the frame shown at ``pts``.

        It is a keyframe both decoded and shown no later: frames decoded after a keyframe but shown before it may
        refer to what lies before.
        """
        position = int(np.flatnonzero(self.pts == pts)[-1])
        starts = np.flatnonzero(self.keyframe[: position + 1] & (self.pts[: position + 1] <= pts))
        return int(starts[-1]) if len(starts) else 0


def frame_packets(packets: Iterable[Packet[VideoStream]]) -> Iterator[Packet[VideoStream]]:
    """Without the empty packets that end a stream."""
    return (packet for packet in packets if packet.size)


def decode_at(
    stream: VideoStream,
    index: PacketIndex,
    packets: Iterable[Packet[VideoStream]],
    indices: NDArray[np.int64],
    convert: Callable[[VideoFrame], Pixels],
) -> NDArray[np.uint8] | None:
    """The converted frames at these indices in order of presentation.

    Args:
        stream: the stream, nothing of it decoded yet.
        index: what demuxing told about it.
        packets: the stream's packets in decoding order, empty ones allowed.
        indices: (n,) positions in ``index.shown_pts``.
        convert: makes an array of a frame.

    Returns:
        (n, ...) uint8, or None where the decoder yields other frames than the index promises.

    Raises:
        av.FFmpegError: the decoder refuses a packet.
    """
    wanted = set(indices.tolist())
    goals: dict[int, int] = {}  # position of the packet a section starts at -> the last frame wanted of that section
    for number in sorted(wanted):
        goals[index.start_of(int(index.shown_pts[number]))] = number

    decoder = stream.codec_context
    found: dict[int, Pixels] = {}
    goal, expected = -1, 0
    start_pts: int | None = None  # of the packet that decoding jumped to
    for position, packet in enumerate(chain(frame_packets(packets), (None,))):  # None: the decoder gives what it holds
        if position in goals:
            if expected > goal and position > 0:
                decoder.flush_buffers()
                start_pts = int(index.pts[position])
                expected = int(np.searchsorted(index.shown_pts, start_pts))
            goal = max(goal, goals[position])
        if expected > goal:
            continue
        for frame in decoder.decode(packet):
            if frame.pts is None:
                return None
            if start_pts is not None and frame.pts < index.shown_pts[expected]:
                continue  # shown before the keyframe this section starts at
            if frame.pts != index.shown_pts[expected] or (start_pts is not None and frame.is_corrupt):
                return None
            if frame.pts == start_pts and not frame.key_frame:
                return None  # its packet was marked as one all the same: of H.263 in AVI, all are
            if expected in wanted:
                found[expected] = convert(frame)
            expected += 1
            if expected > goal:
                break
        if len(found) == len(wanted):
            return np.stack([found[number] for number in indices.tolist()])
    return None
