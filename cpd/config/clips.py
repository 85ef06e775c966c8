"""Sections of a pipeline.yaml that say which clips there are, and what a model sees of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from cpd.clip import IMAGENET_MEAN, IMAGENET_STD, ClipSpec, crop_fits
from cpd.config.section import MOST, Fraction, Mistake, NonNegative, Section

Side = Annotated[int, Field(ge=1, le=4096)]
"""Of a frame, in pixels."""
Clips = Annotated[int, Field(ge=1, le=100_000)]


class Rendered(Section):
    """Clips the project renders itself: eight classes that differ by motion alone."""

    train: Clips = Field(96, description="Training clips per class.")
    validation: Clips = Field(16, description="Validation clips per class.")
    test: Clips = Field(40, description="Test clips per class.")
    size: Annotated[int, Field(ge=32, le=1024, multiple_of=2)] = Field(64, description="Height and width in pixels.")


class Data(Section):
    """Where the clips come from: exactly one of rendered, folder or list."""

    rendered: Rendered | None = Field(None, description="Render the clips; needs nothing from outside.")
    folder: Path | None = Field(
        None,
        description="A folder of class folders, or of train/validation/test folders of class folders. "
        "Relative paths start at pipeline.yaml's folder if they exist there, otherwise at the current one.",
    )
    list: Path | None = Field(
        None,
        description="A list file, or a folder of list files where the format has several. Relative as folder is.",
    )
    format: Literal["csv", "kinetics", "something-something", "jester"] = Field(
        "csv", description="Format of the list: csv has the columns path, label, split (and, if any, group)."
    )
    root: Path | None = Field(
        None, description="Folder that paths in the list start from; default: the list's own. Relative as folder is."
    )
    validation_fraction: Fraction = Field(
        0.15,
        description="Taken from training, by group where the list has groups, if there is no validation split.",
    )
    train_on_validation: bool = Field(
        False,
        description="Once the settings are chosen: train on the validation clips too, and keep the last epoch, since "
        "no clips are left to choose it by.",
    )
    test_fraction: Fraction = Field(0.2, description="Taken likewise if there is no test split.")
    max_broken_fraction: Fraction = Field(0.05, description="More unreadable clips than this fail the run.")
    cache_gb: NonNegative = Field(2.0, description="Memory for decoded, resized clips; 0 decodes anew every epoch.")

    def mistakes(self) -> Iterator[Mistake]:
        places = ("rendered", "folder", "list")
        sources = [name for name in places if getattr(self, name) is not None]
        if len(sources) != 1:
            hint = "; rendered: {} has its defaults" if "rendered" in self.model_fields_set and not sources else ""
            yield places, f"name exactly one of rendered, folder or list, got {' and '.join(sources) or 'none'}{hint}"
        unused = [key for key, default in (("format", "csv"), ("root", None)) if getattr(self, key) != default]
        if unused and self.list is None and sources:
            yield (*unused, "list"), f"{' and '.join(unused)} belong to a list, not to {sources[0]}"
        if self.validation_fraction + self.test_fraction >= 1:
            yield (
                ("validation_fraction", "test_fraction"),
                "validation_fraction and test_fraction leave nothing to train on",
            )


Deviation = Annotated[float, Field(ge=1e-3, le=MOST)]
"""Of colours in 0..1; what is divided by a far smaller one overflows half precision."""


class ClipSection(Section):
    """What both models see of a video; it travels inside every exported model."""

    frames: Annotated[int, Field(ge=1, le=1024)] = Field(
        8, description="Frames in a clip, one from each of as many equal segments of the video."
    )
    resize: Side | tuple[Side, Side] = Field(128, description="Short side, or exact [height, width].")
    crop: tuple[Side, Side] = Field((112, 112), description="[height, width] the model sees.")
    mean: tuple[NonNegative, NonNegative, NonNegative] = Field(
        IMAGENET_MEAN, description="Mean of R, G, B in 0..1; default ImageNet's."
    )
    std: tuple[Deviation, Deviation, Deviation] = Field(
        IMAGENET_STD, description="Standard deviation of R, G, B in 0..1; default ImageNet's."
    )
    normalise: Literal["dataset", "clip"] = Field(
        "dataset",
        description="By mean and std above, or each clip by its own mean and standard deviation, so that light, "
        "exposure and skin tell nothing.",
    )
    colour: Literal["rgb", "grey", "motion"] = Field(
        "rgb",
        description="grey hides colours from the model; motion shows it brightness, its difference from the clip's "
        "mean at each pixel, and its change until the next frame.",
    )

    def mistakes(self) -> Iterator[Mistake]:
        if not crop_fits(self.crop, self.resize):
            yield ("crop", "resize"), f"crop {list(self.crop)} is larger than the resized frame ({self.resize})"
        if max(*self.mean, *self.std) > 1:
            yield ("mean", "std"), "mean and std are of colours from 0 to 1: divide those of 0 to 255 by 255"
        unused = [key for key in ("mean", "std") if key in self.model_fields_set]
        if self.normalise == "clip" and unused:
            yield (*unused, "normalise"), "mean and std are not used where normalise is clip"
        if self.colour == "motion" and self.normalise != "clip":
            yield (
                ("colour", "normalise"),
                "colour: motion needs normalise: clip, as no mean and std of colours fits changes",
            )

    def spec(self) -> ClipSpec:
        """The same as training, export and serving share it."""
        return ClipSpec(
            frames=self.frames,
            resize=self.resize,
            crop=self.crop,
            mean=self.mean,
            std=self.std,
            normalise=self.normalise,
            colour=self.colour,
        )


class Augment(Section):
    """How training clips are varied; evaluation never is."""

    flip: bool = Field(False, description="Mirror half of the clips.")
    flip_labels: dict[str, str] = Field(
        {}, description="Label of a mirrored clip where it changes, such as left: right."
    )
    crop_scale: tuple[Fraction, Fraction] = Field(
        (1.0, 1.0),
        description="Smallest and largest side of the random crop, as a fraction of the largest that fits.",
    )
    brightness: Fraction = Field(0.0, description="Largest relative change of brightness.")
    contrast: Fraction = Field(0.0, description="Largest relative change of contrast.")
    freeze: Annotated[int, Field(ge=0, le=int(MOST))] = Field(
        0, description="Longest run of frames that stand still, at a random place of the clip (time masking)."
    )
    erase: Fraction = Field(
        0.0, description="Share of clips in which a rectangle of a fifth to half of each side is grey (random erasing)."
    )

    def mistakes(self) -> Iterator[Mistake]:
        smallest, largest = self.crop_scale
        if not 0 < smallest <= largest:
            yield ("crop_scale",), f"crop_scale must be [smallest, largest], above 0, got [{smallest:g}, {largest:g}]"
        for label, mirrored in self.flip_labels.items():
            back = self.flip_labels.get(mirrored)
            if back != label:
                yield (
                    (("flip_labels", label), ("flip_labels", mirrored)),
                    f"flip_labels: a mirrored {label} is {mirrored}, so a mirrored {mirrored} must be {label}, "
                    f"got {back or 'nothing'}",
                )
        if self.flip_labels and not self.flip:
            yield ("flip_labels", "flip"), "flip_labels needs flip: true, since no clip is mirrored without it"
