"""The audited clip table, ``data/clips.csv``: every usable clip of a run, with what decoding it showed."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from cpd.errors import DataError

T = TypeVar("T")
Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
COLUMNS = (
    "path",
    "label",
    "split",
    "codec",
    "height",
    "width",
    "rotation",
    "bit_depth",
    "frames",
    "times_ms",
    "sha256",
    "mirrored",
    "plain",
)
LONGEST_FIELD = 1 << 30
"""Characters. The csv module stops at 131,072 by itself: the times of eight minutes of variable rate."""


@dataclass(frozen=True, slots=True)
class Clip:
    """One usable video of the data set."""

    path: Path
    label: str
    split: Split
    codec: str
    height: int
    """Pixels, as displayed."""
    width: int
    rotation: int
    bit_depth: int
    times_s: NDArray[np.float64]
    """(frames,) presentation times in seconds; where the rate is constant, as ``read_clips`` gives them, the frames'
    numbers, since only their even distance matters."""
    sha256: str = ""
    """Of the file, or of a folder of images, in hex; empty where a clip was made up without one."""
    mirrored: bool = False
    """See ``cpd.video.VideoInfo``."""
    plain: bool = True
    """Likewise."""


def natural_key(text: str) -> tuple[tuple[int, int | str], ...]:
    """Sorts names as people do: 2 before 10."""
    return tuple((0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"([0-9]+)", text))


def sorted_labels(labels: Iterable[str]) -> tuple[str, ...]:
    """The distinct labels in natural order; a label's position is its class index."""
    return tuple(sorted(set(labels), key=lambda label: (natural_key(label), label)))


def write_clips(path: Path, clips: Iterable[Clip], variable_rate: Iterable[bool]) -> None:
    """Writes the table, ``data/clips.csv`` of a run folder, in which clips inside the run are named from there.

    Times are kept only for clips of variable rate; the others are told by their count.
    """
    run_dir = path.parent.parent
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for clip, variable in zip(clips, variable_rate, strict=True):
            times_ms = " ".join(f"{time * 1e3:.3f}" for time in clip.times_s) if variable else ""
            writer.writerow([
                name_in(run_dir, clip.path), clip.label, clip.split, clip.codec, clip.height, clip.width, clip.rotation,
                clip.bit_depth, len(clip.times_s), times_ms, clip.sha256, int(clip.mirrored),
                int(clip.plain),
            ])  # fmt: skip


def read_clips(path: Path, split: Split | None = None) -> list[Clip]:
    """The clips of one split, or of all.

    Raises:
        DataError: the table is missing or not one of ours.
    """
    if not path.exists():
        raise DataError(f"{path}: no clip table", "run the data stage first")
    csv.field_size_limit(LONGEST_FIELD)
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        # older tables lack the last, or call it one_size
        if tuple(reader.fieldnames or ())[: len(COLUMNS) - 1] != COLUMNS[:-1]:
            raise DataError(f"{path}: not a clip table", "run the data stage again")
        rows = [row for row in reader if split is None or row["split"] == split]
    return [
        Clip(
            path=path_in(path.parent.parent, row["path"]),
            label=row["label"],
            split=row["split"],  # type: ignore[arg-type]  # written by write_clips
            codec=row["codec"],
            height=int(row["height"]),
            width=int(row["width"]),
            rotation=int(row["rotation"]),
            bit_depth=int(row["bit_depth"]),
            times_s=np.array(row["times_ms"].split(), dtype=np.float64) / 1e3
            if row["times_ms"]
            else np.arange(int(row["frames"]), dtype=np.float64),
            sha256=row["sha256"],
            mirrored=row["mirrored"] == "1",
            plain=row.get("plain", row.get("one_size")) != "0",
        )
        for row in rows
    ]


def evenly(items: Sequence[T], most: int) -> list[T]:
    """Up to ``most`` of them, spread over all: tables are sorted, and the first of one are of one class."""
    places = np.linspace(0, len(items) - 1, min(len(items), most)).round().astype(int)
    return [items[place] for place in places.tolist()]


def name_in(run_dir: Path, clip: Path) -> str:
    """How a run names a clip: from its own folder if it lies there, so that the folder may move."""
    clip, home = clip.absolute(), run_dir.absolute()
    return str(clip.relative_to(home) if clip.is_relative_to(home) else clip)


def path_in(run_dir: Path, name: str) -> Path:
    """The inverse of ``name_in``, where the run folder is now."""
    return (run_dir / name).absolute()
