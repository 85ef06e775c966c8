"""Where clips come from: a folder of classes, a list file, or the published lists of three data sets.

Every function returns ``Found`` clips without opening a video; ``cpd_train.prepare`` opens each of them.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import json
import os
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from cpd.config import Data, Pipeline
from cpd.dataset import SPLITS, Split, natural_key
from cpd.errors import DataError
from cpd.folders import VIDEO_SUFFIXES, videos_below
from cpd_train.motion import MIRRORED

UNPRINTABLE = re.compile("[\\0-\\x1f\\x7f-\\x9f\\u2028\\u2029\\ud800-\\udfff]")
"""What no label holds: it breaks a line, moves a terminal's cursor or cannot be encoded."""
FORMAT = "check data.format"
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


def from_list(path: Path, form: str, root: Path | None) -> list[Found]:
    """Reads a list file, or a folder of them, in one of the formats of ``LISTS``; paths start from ``root``.

    Raises:
        DataError: missing, or not in that format.
    """
    if not path.exists():
        raise DataError(f"{path}: no such list", "mend data.list")
    if form == "csv" and path.is_dir():
        raise DataError(f"{path}: is a folder, not a CSV file", "name the file, or use data.folder")
    try:
        return LISTS[form](path, root or (path if path.is_dir() else path.parent))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read: {error}", "save it as UTF-8 text") from error
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:  # of JSON, too
        raise DataError(f"{path}: is not a {form} list: {error!r}", FORMAT) from error


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


def from_csv(path: Path, root: Path) -> list[Found]:
    """Reads a CSV with the columns path and label, and if any split and group."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, skipinitialspace=True)
        reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
        missing = {"path", "label"} - set(reader.fieldnames)
        if missing:
            remedy = f"the first line names the columns; or {FORMAT}"
            raise DataError(f"{path}: no column {' or '.join(sorted(missing))}", remedy)
        twice = [name for name in ("path", "label", "split", "group") if reader.fieldnames.count(name) > 1]
        if twice:
            raise DataError(f"{path}: two columns are called {twice[0]}", "keep one of them")
        found: list[Found] = []
        splits: dict[str, Split | None] = {}
        for row in reader:
            where, label = f"{path}:{reader.line_num}", (row["label"] or "").strip()
            if not row["path"] or not label:
                raise DataError(f"{where}: a clip needs a path and a label")
            if any(row.get(None) or ()):  # what DictReader has no column for; commas at the end are no harm
                raise DataError(f"{where}: has more values than there are columns", "put what has commas in quotes")
            group = (row.get("group") or "").strip()
            clip = Found(_folded(root / row["path"]), label, _split(row.get("split"), where), group or row["path"])
            other = splits.setdefault(clip.group, clip.split)
            if group and other != clip.split:
                raise DataError(f"{where}: group {clip.group} is in {clip.split} here and in {other} before")
            found.append(clip)
    return found


def _folded(path: Path) -> Path:
    """Without ``..``, so that a clip has one name; but where that follows a link, which leads elsewhere."""
    plain = Path(os.path.normpath(path))
    same = ".." in path.parts and os.path.realpath(plain.parent) == os.path.realpath(path.parent)
    return plain if same else path


def from_kinetics(path: Path, root: Path) -> list[Found]:
    """Reads Kinetics' CSVs (label, youtube_id, time_start, time_end, split); a file or a folder of them.

    Videos are looked for anywhere under ``root`` as ``<youtube_id>_<start>_<end>.*`` or ``<youtube_id>.*``.
    """
    videos = _Videos(root)
    found = []
    for file_path in sorted(path.glob("*.csv")) if path.is_dir() else [path]:
        with file_path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if not {"label", "youtube_id", "time_start", "time_end"} <= set(reader.fieldnames or ()):
                columns = "label, youtube_id, time_start, time_end, split"
                raise DataError(f"{file_path}: not a Kinetics list ({columns})", FORMAT)
            for row in reader:
                identity = row["youtube_id"]
                stem = f"{identity}_{int(float(row['time_start'])):06d}_{int(float(row['time_end'])):06d}"
                video = videos.get(stem) or videos.get(identity) or root / f"{stem}.mp4"
                split = _split(row.get("split") or file_path.stem, f"{file_path}:{reader.line_num}")
                found.append(Found(video, row["label"].strip(), split, identity))
    return found


def from_something_something(path: Path, root: Path) -> list[Found]:
    """Reads Something-Something V2's ``*train.json`` and ``*validation.json``; videos are ``<id>.webm`` under root."""
    videos = _Videos(root)
    found = []
    for file_path in _pieces(path, "json"):
        for entry in json.loads(file_path.read_text(encoding="utf-8-sig")):
            label = entry["template"].replace("[", "").replace("]", "")
            video = videos.get(str(entry["id"])) or root / f"{entry['id']}.webm"
            found.append(Found(video, label, SPLIT_NAMES[_split_word(file_path)], str(entry["id"])))
    return found


def from_jester(path: Path, root: Path) -> list[Found]:
    """Reads Jester's ``*train.csv`` and ``*validation.csv`` (``id;label``).

    Clips are the published folders ``<id>/00001.jpg …`` under root, or videos ``<id>.*`` made of them.
    """
    videos = _Videos(root)
    found = []
    for file_path in _pieces(path, "csv"):
        for number, line in enumerate(file_path.read_text(encoding="utf-8-sig").splitlines(), 1):
            identity, separator, label = line.partition(";")
            if not separator or not label:
                raise DataError(f"{file_path}:{number}: not a line of Jester (id;label)", FORMAT)
            video = videos.get(identity) or root / identity
            found.append(Found(video, label.strip(), SPLIT_NAMES[_split_word(file_path)], identity))
    return found


LISTS: dict[str, Callable[[Path, Path], list[Found]]] = {
    "csv": from_csv,
    "kinetics": from_kinetics,
    "something-something": from_something_something,
    "jester": from_jester,
}


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


def _split(name: str | None, where: str) -> Split | None:
    if not name:
        return None
    split = SPLIT_NAMES.get(name.strip().lower())
    if split is None:
        raise DataError(f"{where}: unknown split {name!r}", "use train, validation or test")
    return split


def _split_word(path: Path) -> str:
    """train, validation … out of a name such as jester-v1-train.csv."""
    return path.stem.lower().replace("_", "-").rsplit("-", 1)[-1]


def _pieces(path: Path, suffix: str) -> list[Path]:
    """The list files of a folder whose names end in a split; label and test lists without labels are left aside."""
    files = sorted(path.glob(f"*.{suffix}")) if path.is_dir() else [path]
    pieces = [file for file in files if SPLIT_NAMES.get(_split_word(file)) in ("train", "validation")]
    if not pieces:
        raise DataError(f"{path}: no file named …train.{suffix} or …validation.{suffix}", FORMAT)
    return pieces


class _Videos:
    """The videos anywhere under a folder, by their name without its suffix."""

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise DataError(f"{root}: no such folder", "mend data.root")
        self._paths: dict[str, list[Path]] = defaultdict(list)
        for path in sorted(videos_below(root)):
            self._paths[path.stem].append(path)

    def get(self, stem: str) -> Path | None:
        """The one of this name, if there is one.

        Raises:
            DataError: there are several.
        """
        paths = self._paths.get(stem, [])
        if len(paths) > 1:
            raise DataError(f"two videos are called {stem}: {paths[0]} and {paths[1]}", "remove one of them")
        return paths[0] if paths else None


def _subfolders(folder: Path) -> list[Path]:
    return sorted((path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")), key=str)
