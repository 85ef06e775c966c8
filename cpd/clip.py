"""The one input contract: how a video of any length becomes the clip a model sees.

Written once, read by training, export and serving, and carried inside every exported model. Only decode, frame
choice, resize and crop happen outside the model; cast, scale, normalise and permute are part of its graph.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
VARIABLE_RATE_TOLERANCE = 0.5
"""A video whose frame intervals all stay within this fraction of their median is read by index, else by time."""


@dataclass(frozen=True, slots=True)
class ClipSpec:
    """What a model expects of a clip. All sizes are in pixels, all pairs are (height, width)."""

    frames: int = 8
    """Frames in a clip, one from each of as many equal segments of the video (TSN, arXiv 1608.00859)."""
    resize: int | tuple[int, int] = 128
    """Short side after resizing, keeping the aspect ratio; or the exact (height, width)."""
    crop: tuple[int, int] = (112, 112)
    """(height, width) cut from the middle of the resized frame; what the model sees."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Mean of each of R, G, B in 0..1, subtracted inside the model."""
    std: tuple[float, float, float] = IMAGENET_STD
    """Standard deviation of each of R, G, B in 0..1, divided by inside the model."""
    normalise: Literal["dataset", "clip"] = "dataset"
    """By ``mean`` and ``std``, or each clip by its own, over all pixels and colours; those two are then unused."""
    colour: Literal["rgb", "grey", "motion"] = "rgb"
    """What the model sees of it, made inside the model: grey is BT.601's luma in all three channels; motion is luma,
    its difference from the clip's mean at each pixel, and its change until the next frame, each by its own mean and
    std."""
    sampling: Literal["segments"] = "segments"
    """Which frames: the middle of each segment (a random one of it while training)."""
    layout: Literal["NFHWC"] = "NFHWC"
    """Order of the model's input: uint8 (batch, frames, height, width, RGB)."""

    def __post_init__(self) -> None:
        sides = (self.resize,) if isinstance(self.resize, int) else tuple(self.resize)
        if not all(type(count) is int for count in (self.frames, *sides, *self.crop)):
            raise ValueError(f"frames, resize and crop must be whole, got {self.frames}, {self.resize} and {self.crop}")
        if self.frames < 1:
            raise ValueError(f"frames must be at least 1, got {self.frames}")
        if len(sides) not in (1, 2) or min(sides) < 1:
            raise ValueError(f"resize must be a short side or (height, width), at least 1, got {self.resize}")
        if len(self.crop) != 2 or min(self.crop) < 1:
            raise ValueError(f"crop must be (height, width), each at least 1, got {self.crop}")
        if not crop_fits(self.crop, self.resize):
            raise ValueError(f"crop {self.crop} is larger than the resized frame ({self.resize})")
        if self.normalise not in ("dataset", "clip"):
            raise ValueError(f"normalise must be dataset or clip, got {self.normalise!r}")
        if self.colour not in ("rgb", "grey", "motion"):
            raise ValueError(f"colour must be rgb, grey or motion, got {self.colour!r}")
        if self.colour == "motion" and self.normalise != "clip":
            raise ValueError("colour: motion needs normalise: clip, as no mean and std of colours fits changes")
        if (self.sampling, self.layout) != ("segments", "NFHWC"):
            raise ValueError(f"sampling {self.sampling!r} in layout {self.layout!r} is not known here")
        if not np.isfinite((*self.mean, *self.std)).all():
            raise ValueError(f"mean and std must be numbers, got {self.mean} and {self.std}")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(f"mean and std need three values, std above 0, got {self.mean} and {self.std}")

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(frames, height, width, 3) of one clip."""
        return (self.frames, *self.crop, 3)

    @property
    def middle(self) -> tuple[int, int]:
        """(height, width) of what every resized frame has around its middle, whatever its shape."""
        return (self.resize, self.resize) if isinstance(self.resize, int) else self.resize

    def resized_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) after resizing a frame of this size."""
        if not isinstance(self.resize, int):
            return self.resize
        short = min(height, width)
        return round(height * self.resize / short), round(width * self.resize / short)

    def crop_corner(self, height: int, width: int) -> tuple[int, int]:
        """(top, left) of the central crop in a resized frame of this size."""
        return (height - self.crop[0]) // 2, (width - self.crop[1]) // 2

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ClipSpec:
        """The inverse of ``to_dict``, also after a trip through JSON.

        Raises:
            ValueError: a key is unknown or a value is out of range.
        """
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise ValueError(f"unknown keys in a clip specification: {', '.join(unknown)}")
        typed: Any = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
        return cls(**typed)


def crop_fits(crop: tuple[int, int], resize: int | tuple[int, int]) -> bool:
    """Whether a crop of (height, width) lies inside every frame after ``resize``, as ``ClipSpec`` has it."""
    height, width = (resize, resize) if isinstance(resize, int) else resize
    return crop[0] <= height and crop[1] <= width


def segment_indices(
    times_s: NDArray[np.float64], frames: int, position: NDArray[np.float64] | float = 0.5
) -> NDArray[np.int64]:
    """Frame indices of a clip: one from each of ``frames`` equal segments of the video.

    A video of constant rate is cut by frame count, which is exact; one of variable rate by time, so that a second of
    the clip is a second of the world. Videos shorter than ``frames`` repeat frames.

    Args:
        times_s: (n,) presentation time of each frame in seconds, ascending.
        frames: how many frames the clip has.
        position: where in its segment each frame lies, 0 (start) up to, not including, 1 (end); one for all or
            (frames,). 0.5 is the evaluation rule, uniform random numbers are the training rule.

    Returns:
        (frames,) int64, ascending, each in 0..n-1.
    """
    count = len(times_s)
    if count == 0:
        raise ValueError("a video without frames has no segments")
    fractions = (np.arange(frames) + position) / frames
    if not is_variable_rate(times_s):
        return np.minimum(np.floor(fractions * count).astype(np.int64), count - 1)
    end_s = times_s[-1] + _median(np.diff(times_s))
    targets_s = times_s[0] + fractions * (end_s - times_s[0])
    shown: NDArray[np.int64] = np.searchsorted(times_s, targets_s, side="right") - 1
    return shown


def window_indices(times_s: NDArray[np.float64], frames: int, windows: int) -> NDArray[np.int64]:
    """Frame indices of one clip from each of ``windows`` equal parts of the video, part after part.

    The parts are cut as segments are: by frame count, or by time where the rate varies. A video of fewer frames than
    windows repeats frames.

    Args:
        times_s: (n,) presentation time of each frame in seconds, ascending.
        frames: how many frames each clip has.
        windows: how many parts.

    Returns:
        (windows * frames,) int64, each in 0..n-1.
    """
    if windows == 1:
        return segment_indices(times_s, frames)
    starts = segment_indices(times_s, windows, position=0.0)
    stops = np.maximum(np.append(starts[1:], len(times_s)), starts + 1)
    return np.concatenate([
        start + segment_indices(times_s[start:stop], frames) for start, stop in zip(starts, stops, strict=True)
    ])  # fmt: skip


def shown_s(times_s: NDArray[np.float64]) -> float:
    """How long a video of these frame times is shown, its last frame as long as most; 0 for one frame alone."""
    return float(times_s[-1] - times_s[0]) + _median(np.diff(times_s)) if len(times_s) > 1 else 0.0


def is_variable_rate(times_s: NDArray[np.float64]) -> bool:
    """Whether some frame interval differs from the median by more than ``VARIABLE_RATE_TOLERANCE`` of it."""
    if len(times_s) < 3:
        return False
    intervals = np.diff(times_s)
    median = _median(intervals)
    return bool(np.abs(intervals - median).max() > VARIABLE_RATE_TOLERANCE * median)


def _median(values: NDArray[np.float64]) -> float:
    """Of (n,) values; numpy's own loads masked arrays first, a tenth of the time of a whole first answer."""
    ordered, middle = np.sort(values), len(values) // 2
    return float(ordered[middle] if len(values) % 2 else ordered[middle - 1 : middle + 1].mean())
