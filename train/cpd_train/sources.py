"""Where clips come from: a folder of classes, or a list.

Every function returns ``Found`` clips without opening a video; ``cpd_train.prepare`` opens each of them.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable
from pathlib import Path

from cpd.config import Data, Pipeline
from cpd.dataset import Split, natural_key
from cpd.errors import DataError
from cpd.folders import VIDEO_SUFFIXES, videos_below
from cpd_train.lists import from_list
from cpd_train.motion import MIRRORED
from cpd_train.splits import SPLIT_NAMES, Found, assign_splits, check_classes, needed_splits

UNPRINTABLE = re.compile("[\\0-\\x1f\\x7f-\\x9f\\u2028\\u2029\\ud800-\\udfff]")
"""What no label holds: it breaks a line, moves a terminal's cursor or cannot be encoded."""


def find_clips(data: Data) -> list[Found]:
    """Every clip the ``data`` section names, each with a split.

    Raises:
        DataError: the source is missing, is in another format, or has fewer than two classes or an empty one.
    """
    if data.folder is not None:
        found = from_folder(data.folder)
    elif data.list is not None:
        found = from_list(data.list, data.format, data.root)
    else:
        raise DataError("rendered clips have no source to look for")
    found = assign_splits(distinct(found), data.validation_fraction, data.test_fraction)
    check_classes(found, needed_splits(data))
    return sorted(found, key=lambda clip: (natural_key(str(clip.path)), str(clip.path)))


def distinct(found: Iterable[Found]) -> list[Found]:
    """The clips, each once however often it is listed.

    Raises:
        DataError: a clip is of two splits or two classes, or its name cannot be written down.
    """
    known: dict[Path, Found] = {}
    for clip in found:
        try:
            str(clip.path).encode()
        except UnicodeEncodeError as error:
            raise DataError(f"{ascii(str(clip.path))[1:-1]}: its name is not UTF-8", "rename it") from error
        if UNPRINTABLE.search(clip.label):
            raise DataError(f"{clip.label!a}: is no name of a class that can be printed in one line", "rename it")
        other = known.setdefault(clip.path, clip)
        if other.label != clip.label:
            raise DataError(f"{clip.path}: is of two classes, {other.label} and {clip.label}", "mend data.list")
        if other.split != clip.split:
            raise DataError(f"{clip.path}: is of two splits, {other.split} and {clip.split}", "mend data.list")
    return list(known.values())


def from_folder(folder: Path) -> list[Found]:
    """Reads ``folder/<class>/*`` or ``folder/<split>/<class>/*``."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder", "mend data.folder")
    subfolders = _subfolders(folder)
    splits = [sub for sub in subfolders if sub.name.lower() in SPLIT_NAMES]
    if not subfolders or (splits == subfolders and not any(map(_subfolders, splits))):
        where = ", ".join(sub.name for sub in splits)
        raise DataError(
            f"{folder}: holds no class folders{f' in {where}' if where else ''}",
            "put the clips of each class into a folder of its name",
        )
    other = next((sub for sub in subfolders if sub not in splits), None)
    if other is not None and any(_subfolders(sub) for sub in splits):
        raise DataError(f"{other}: stands beside {splits[0].name}, and is no split", "move it elsewhere")
    if other is None:
        classes: list[tuple[Split | None, Path]] = [
            (SPLIT_NAMES[sub.name.lower()], label) for sub in subfolders for label in _subfolders(sub)
        ]
    else:
        classes = [(None, label) for label in subfolders]
    found = []
    for split, label in classes:
        videos = sorted(videos_below(label))
        if not videos:
            remedy = (
                "name folders of images in a list: data.list"
                if _subfolders(label)
                else f"remove it or add clips to it: {', '.join(sorted(VIDEO_SUFFIXES))}"
            )
            raise DataError(f"{label}: class {label.name} has no video", remedy)
        found += [Found(path, label.name, split, path.relative_to(folder).as_posix()) for path in videos]
    return found


def _subfolders(folder: Path) -> list[Path]:
    return sorted((path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")), key=str)


def check_flip_labels(config: Pipeline, labels: Collection[str]) -> None:
    """Checks that ``augment.flip_labels`` names classes of the data, and those of rendered clips as they are.

    Raises:
        DataError: it names others.
    """
    mapped = config.augment.flip_labels
    unknown = sorted({*mapped, *mapped.values()} - set(labels))
    if unknown:
        close = [name for label in unknown for name in difflib.get_close_matches(label, labels, 1)]
        known = f"it has {', '.join(sorted(labels)[:8])}{' …' if len(labels) > 8 else ''}"
        raise DataError(
            f"augment.flip_labels names {', '.join(map(repr, unknown))}, which the data has no class of",
            f"did you mean {', '.join(dict.fromkeys(close))}?" if close else known,
        )
    changed = {label: mirrored for label, mirrored in mapped.items() if label != mirrored}
    if config.data.rendered is not None and config.augment.flip and changed != MIRRORED:
        pairs = ", ".join(f"{label}: {mirrored}" for label, mirrored in MIRRORED.items())
        raise DataError(
            "augment.flip mirrors rendered clips that drift or turn, and augment.flip_labels does not say so",
            f"leave flip out, or set flip_labels: {{{pairs}}}",
        )
