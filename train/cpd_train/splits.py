"""Clips that are named, and which split each is in."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from cpd.config import Data
from cpd.dataset import SPLITS, Split, natural_key
from cpd.errors import DataError

SPLIT_NAMES: dict[str, Split] = {
    "train": "train", "training": "train",
    "val": "validation", "valid": "validation", "validate": "validation", "validation": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Found:
    """A clip that is named, not yet opened."""

    path: Path
    label: str
    split: Split | None
    """None where the source does not say; see ``assign_splits``."""
    group: str
    """Clips of one group (a person, a recording) never cross splits; its own path where the source names none."""


def assign_splits(found: Iterable[Found], validation_fraction: float, test_fraction: float) -> list[Found]:
    """Fills in the splits a source leaves out, by whole groups, the same way on every machine.

    Without a test split, ``test_fraction`` of what is there becomes one; without a validation split,
    ``validation_fraction`` of training does. What is of one class, a clip or a whole group, is taken class by class.
    """
    clips = [clip if clip.split else replace(clip, split="train") for clip in found]
    shares: tuple[tuple[Split, float], ...] = (("test", test_fraction), ("validation", validation_fraction))
    for split, fraction in shares:
        if any(clip.split == split for clip in clips):
            continue
        training = [clip for clip in clips if clip.split == "train"]
        moved = _share_of_groups(training, fraction)
        clips = [
            replace(clip, split=split) if clip.split == "train" and clip.group in moved else clip for clip in clips
        ]
    return clips


def needed_splits(data: Data) -> tuple[Split, ...]:
    """The splits that must have clips."""
    return tuple(split for split in SPLITS if split != "validation" or not data.train_on_validation)


def check_classes(found: Iterable[Found], splits: tuple[Split, ...] = SPLITS) -> None:
    """Refuses what cannot be trained on: one class alone, a class without training clips, or an empty split."""
    splits_of: dict[str, set[str]] = defaultdict(set)
    groups = set()
    for clip in found:
        splits_of[clip.label].add(clip.split or "train")
        groups.add(clip.group)
    if len(splits_of) < 2:
        only = next(iter(splits_of), None)
        raise DataError(
            f"there is only one class ({only})" if only else "there is no clip", "name at least two classes"
        )
    for split in splits:
        empty = sorted((label for label, splits in splits_of.items() if split not in splits), key=natural_key)
        if empty and split == "train":
            raise DataError(f"class {empty[0]} has no training clip ({len(empty)} such classes)", "mend the splits")
        if len(empty) == len(splits_of) and len(groups) == 1:
            raise DataError(f"there is no {split} clip: all are of one group, {groups.pop()}", "name more groups")
        if len(empty) == len(splits_of):
            remedy = f"name a {split} split, or give each class more clips and data.{split}_fraction a value above 0"
            raise DataError(f"there is no {split} clip", remedy)


def _share_of_groups(clips: list[Found], fraction: float) -> set[str]:
    """Groups that hold about ``fraction`` of the clips, at least one group: of each class where all of a group is."""
    members: dict[str, list[Found]] = defaultdict(list)
    for clip in clips:
        members[clip.group].append(clip)
    strata: dict[str, list[str]] = defaultdict(list)
    for group in sorted(members, key=lambda group: hashlib.sha256(group.encode()).digest()):
        labels = {clip.label for clip in members[group]}
        strata[labels.pop() if len(labels) == 1 else ""].append(group)
    sizes = {group: len(inside) for group, inside in members.items()}
    return {
        group
        for groups in strata.values()
        if fraction > 0 and len(groups) > 1
        for group in _about(fraction, {group: sizes[group] for group in groups})
    }


def _about(fraction: float, sizes: dict[str, int]) -> set[str]:
    """Groups whose clips are about a share of all: those that fit in their order, and the one that comes nearest."""
    total = sum(sizes.values())
    chosen, room = set[str](), min(round(fraction * total), total - 1)
    for group, size in sizes.items():
        if size <= room:
            chosen.add(group)
            room -= size
    rest = {group: size for group, size in sizes.items() if group not in chosen}
    nearest = min(rest, key=rest.__getitem__)
    if not chosen or (len(rest) > 1 and rest[nearest] <= 2 * room):
        chosen.add(nearest)
    return chosen
