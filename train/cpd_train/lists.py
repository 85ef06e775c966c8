"""Lists of clips: a CSV of one's own, and those that Kinetics, Something-Something V2 and Jester are published with."""

from __future__ import annotations

import csv
import json
import os
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from cpd.dataset import Split
from cpd.errors import DataError
from cpd.folders import videos_below
from cpd_train.splits import SPLIT_NAMES, Found

FORMAT = "check data.format"


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
        found = LISTS[form](path, root or (path if path.is_dir() else path.parent))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read: {error}", "save it as UTF-8 text") from error
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:  # of JSON, too
        raise DataError(f"{path}: is not a {form} list: {error!r}", FORMAT) from error
    for clip in found:
        if not clip.label:
            raise DataError(f"{path}: {clip.path.name} has no label", FORMAT)
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
            label = entry["template"].replace("[", "").replace("]", "").strip()
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
