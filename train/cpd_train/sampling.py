"""What each clip of an epoch looks like: its frames, crop, mirror and light, drawn in one place from one seed.

All randomness of loading is here, as plain numbers: the DALI graph only carries it out. An epoch is therefore the same
on every machine, with any number of threads, and a past one can be replayed.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cpd.clip import ClipSpec, segment_indices
from cpd.config import Augment
from cpd.dataset import Clip

CANDIDATES = 5
"""Random frames of a segment are drawn from this many evenly spaced places, so that a cache can hold them all."""


@dataclass(frozen=True, slots=True)
class View:
    """One clip of one epoch."""

    row: int
    """Position of the clip in its table."""
    number: int
    """Which of the clip's random views this is; views of one row and number are the same."""
    label: int
    """Class index, after mirroring."""
    indices: NDArray[np.int64]
    """(frames,) frame numbers in the video."""
    size: tuple[int, int]
    """(height, width) of the resized frame."""
    box: tuple[float, float, float, float]
    """(top, left, bottom, right) of the crop in the resized frame, in pixels."""
    mirror: bool = False
    brightness: float = 1.0
    """Factor; 1 changes nothing."""
    contrast: float = 1.0
    """Factor; 1 changes nothing."""
    hole: tuple[int, int, int, int] = (0, 0, 0, 0)
    """(top, left, height, width) of what is erased from every frame the model sees, in its pixels."""
    share: float = 1.0
    """How much of the clip is seen; the rest is the clip before it in the batch (mixup)."""

    @property
    def picture(self) -> Hashable:
        """Equal for views whose frames are, before they are blended."""
        look = (self.size, self.box, self.mirror, self.brightness, self.contrast, self.hole)
        return (self.row, self.indices.tobytes(), *look)


def evaluation_views(clips: Sequence[Clip], labels: Sequence[str], spec: ClipSpec) -> list[View]:
    """The fixed view of every clip: middle frames, central crop."""
    return [_plain(row, clip, labels.index(clip.label), spec) for row, clip in enumerate(clips)]


def training_views(
    clips: Sequence[Clip],
    labels: Sequence[str],
    spec: ClipSpec,
    augment: Augment,
    seed: int,
    epoch: int,
    repeat: int = 0,
    mixup: float = 0.0,
) -> list[View]:
    """One random view of every clip, in random order.

    Args:
        clips: the training clips.
        labels: class names; position is the class index.
        spec: the input contract.
        augment: which variations, and how large.
        seed: of the run.
        epoch: from 0; decides the order, and the views with it.
        repeat: views of a clip are met again after this many epochs; 0 draws anew every epoch.
        mixup: clips are blended in pairs by shares drawn from Beta(mixup, mixup) (arXiv 1710.09412); 0 leaves them
            alone. The order is then met again with the views, so that each meets the same partner.
    """
    number = epoch % repeat if repeat else epoch
    order = np.random.default_rng([seed, number if mixup else epoch]).permutation(len(clips))
    index_of = {label: index for index, label in enumerate(labels)}
    views = []
    for row in order.tolist():
        clip, rng = clips[row], np.random.default_rng([seed, number, row])
        mirror = augment.flip and bool(rng.random() < 0.5)
        label = augment.flip_labels.get(clip.label, clip.label) if mirror else clip.label
        position = (rng.integers(CANDIDATES, size=spec.frames) + 0.5) / CANDIDATES
        size = resized_size(clip, spec)
        views.append(
            View(
                row=row,
                number=number,
                label=index_of[label],
                size=size,
                box=_random_box(size, spec, augment, rng),
                mirror=mirror,
                brightness=1 + augment.brightness * rng.uniform(-1, 1),
                contrast=1 + augment.contrast * rng.uniform(-1, 1),
                share=rng.beta(mixup, mixup) if mixup else 1.0,
                indices=_frozen(segment_indices(clip.times_s, spec.frames, position), augment.freeze, rng),
                hole=_random_hole(spec, augment, rng),
            )
        )
    return views


def resized_size(clip: Clip, spec: ClipSpec) -> tuple[int, int]:
    """(height, width) of a clip's frames after resizing, or of what all of them have where they may differ in size."""
    return spec.resized_size(clip.height, clip.width) if clip.plain else spec.middle


def candidate_indices(clip: Clip, spec: ClipSpec) -> NDArray[np.int64]:
    """Every frame of a clip that some view can ask for, ascending and distinct; the evaluation frames among them."""
    places = [segment_indices(clip.times_s, spec.frames, (k + 0.5) / CANDIDATES) for k in range(CANDIDATES)]
    return np.unique(np.concatenate(places))


def whole(view: View, clip: Clip, spec: ClipSpec) -> View:
    """All that the views of a clip are made of, one of which is given: each frame they can ask for, resized, whole."""
    return View(view.row, view.number, view.label, candidate_indices(clip, spec), view.size, box=(0, 0, *view.size))


def batches(views: list[View], batch_size: int, drop_last: bool) -> Iterator[list[View]]:
    """Consecutive groups of views; the last one may be smaller, or left out."""
    for start in range(0, len(views), batch_size):
        batch = views[start : start + batch_size]
        if len(batch) == batch_size or not drop_last:
            yield batch


def _plain(row: int, clip: Clip, label: int, spec: ClipSpec) -> View:
    size = resized_size(clip, spec)
    top, left = spec.crop_corner(*size)
    return View(
        row=row,
        number=0,
        label=label,
        indices=segment_indices(clip.times_s, spec.frames),
        size=size,
        box=(top, left, top + spec.crop[0], left + spec.crop[1]),
    )


def _frozen(indices: NDArray[np.int64], longest: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """A clip in which a run of frames is replaced by the one before it, or by the one after where there is none.

    Time masking of lip reading (arXiv 2209.01383), with a frame in place of the clip's mean: what a camera that
    stalls shows. The run has 0 to ``longest`` frames, each length and place as likely, and leaves one frame at least.
    """
    if longest == 0:
        return indices
    length = int(rng.integers(min(longest, len(indices) - 1) + 1))
    start = int(rng.integers(len(indices) - length + 1))
    frozen = indices.copy()
    frozen[start : start + length] = indices[start - 1 if start else length]
    return frozen


def _random_hole(spec: ClipSpec, augment: Augment, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Random erasing (arXiv 1708.04896): one rectangle for all frames, each side a fifth to half of the frame's."""
    if augment.erase == 0 or rng.random() >= augment.erase:
        return (0, 0, 0, 0)
    height, width = (max(1, int(side * rng.uniform(0.2, 0.5))) for side in spec.crop)
    return (
        int(rng.integers(spec.crop[0] - height + 1)),
        int(rng.integers(spec.crop[1] - width + 1)),
        height,
        width,
    )


def _random_box(
    size: tuple[int, int], spec: ClipSpec, augment: Augment, rng: np.random.Generator
) -> tuple[float, float, float, float]:
    """A crop of the model's shape, at a random whole-pixel place, of a random share of the size it is resized to."""
    scale = rng.uniform(*augment.crop_scale)
    height, width = max(1, round(spec.crop[0] * scale)), max(1, round(spec.crop[1] * scale))
    top = int(rng.integers(size[0] - height + 1))
    left = int(rng.integers(size[1] - width + 1))
    return (top, left, top + height, left + width)
