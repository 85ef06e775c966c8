"""One decoded frame as people and models see it: mirrored, turned, resized and cropped."""

from __future__ import annotations

import numpy as np
from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from cpd.clip import ClipSpec
from cpd.errors import VideoError
from cpd.scaler import Scaler

MAX_RESIZED_PIXELS = 1 << 26
"""A frame so elongated that resizing it makes more pixels than this is refused: it would take hundreds of MB."""

Pixels = NDArray[np.uint8]
"""(height, width, 3) RGB."""


def fit(frame: VideoFrame, spec: ClipSpec, scaler: Scaler, seen: tuple[int, int] | None = None) -> Pixels:
    """(*spec.crop, 3) uint8 RGB of one decoded frame: rotated, resized and cropped by ``spec``.

    Args:
        frame: as the decoder gives it.
        spec: the model's input contract.
        scaler: kept from frame to frame of one video.
        seen: (height, width) of a larger part to give, with the crop in its middle.

    Raises:
        VideoError: the frame is too elongated to be resized to the model's short side.
    """
    height, width = spec.resized_size(*shown_size(frame))
    if height * width > MAX_RESIZED_PIXELS:
        raise VideoError(f"a frame of {frame.width}x{frame.height} pixels is too elongated for this model")
    seen = seen or spec.crop
    top, left = np.subtract(spec.crop_corner(height, width), spec.crop_corner(*seen))
    return upright(frame, scaler, height, width)[top : top + seen[0], left : left + seen[1]]


def upright(frame: VideoFrame, scaler: Scaler, height: int, width: int) -> Pixels:
    """(height, width, 3) uint8 RGB of one decoded frame, mirrored and rotated for display."""
    pixels = scaler.rgb(frame, *((height, width) if _is_sideways(frame) else (width, height)))
    return np.rot90(np.flipud(pixels) if is_mirrored(frame) else pixels, rotation_of(frame) // 90)


def shown_size(frame: VideoFrame) -> tuple[int, int]:
    """(height, width) as displayed."""
    return (frame.width, frame.height) if _is_sideways(frame) else (frame.height, frame.width)


def rotation_of(frame: VideoFrame) -> int:
    """Counter-clockwise degrees to turn a frame for display; angles that are no quarter turn are taken as none."""
    return frame.rotation % 360 if frame.rotation % 90 == 0 else 0


def is_mirrored(frame: VideoFrame) -> bool:
    """Whether a frame's display matrix, of which the rotation is where it takes the x axis, also mirrors the y axis."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False
    values = np.frombuffer(matrix, np.int32, 5)  # type: ignore[call-overload]  # PyAV does not say that it is a buffer
    a, b, _, c, d = values.tolist()
    return bool(a * d - b * c < 0)


def _is_sideways(frame: VideoFrame) -> bool:
    return rotation_of(frame) in (90, 270)


def _unknown(kind: type[Type], value: int) -> Type:
    """A kind of side data that is new to PyAV, as the EXIF of a photo is: it would list none of a frame's."""
    member = object.__new__(kind)
    member._name_ = f"UNKNOWN_{value}"
    member._value_ = value  # type: ignore[assignment]
    return member


Type._missing_ = classmethod(_unknown)  # type: ignore[assignment]
