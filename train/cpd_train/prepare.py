"""The data stage: find or render the clips, open every one, and write down what is usable."""

from __future__ import annotations

import json
import shutil
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from cpd.clip import is_variable_rate
from cpd.config import Data, Pipeline, Rendered
from cpd.dataset import SPLITS, Clip, sorted_labels, write_clips
from cpd.errors import DataError, VideoError
from cpd.lock import OTHER_FOLDER, Lock, content_sha256
from cpd.progress import track
from cpd.video import probe
from cpd_train.motion import MOTIONS, render_clip, write_video
from cpd_train.sources import find_clips
from cpd_train.splits import Found, check_classes, needed_splits

PROBE_THREADS = 4
MARK = ".rendered"
"""In a folder of clips that a run has made, and may make anew."""


def run(config: Pipeline, run_dir: Path) -> str:
    """Writes ``data/clips.csv`` and ``data/data.json``; returns a one-line summary.

    Raises:
        DataError: the source cannot be used, or more of it is broken than ``data.max_broken_fraction``.
    """
    folder = run_dir / "data"
    folder.mkdir(parents=True, exist_ok=True)
    found = render(config.data.rendered, folder, config.seed) if config.data.rendered else find_clips(config.data)
    if config.data.train_on_validation:
        found = [replace(clip, split="train") if clip.split == "validation" else clip for clip in found]
    clips, broken = audit(found)
    if not clips:
        raise DataError(f"none of {len(found)} clips can be used: {broken[0]['path']}: {broken[0]['reason']}")
    _check_broken(config.data, len(found), broken)
    usable = [Found(clip.path, clip.label, clip.split, str(clip.path)) for clip in clips]
    check_classes(usable, needed_splits(config.data))

    table = folder / "clips.csv"
    write_clips(table, clips, [is_variable_rate(clip.times_s) for clip in clips])
    labels = sorted_labels(clip.label for clip in clips)
    splits = {split: sum(clip.split == split for clip in clips) for split in SPLITS}
    twice = in_two_places(clips)
    summary = {
        "labels": labels,
        "splits": splits,
        "codecs": dict(Counter(clip.codec for clip in clips).most_common()),
        "variable_rate": sum(is_variable_rate(clip.times_s) for clip in clips),
        "broken": broken,
        "in_two_places": twice,
        "sha256": content_sha256(table),
    }
    (folder / "data.json").write_text(json.dumps(summary, indent=2))
    counts = ", ".join(f"{count} {split} ({count / len(clips):.0%})" for split, count in splits.items())
    told = f"{len(labels)} classes, {counts} clips"
    if broken:
        told += f", {len(broken)} broken left out"
    if twice:
        first, second, *_ = twice[0]
        told += f"; the same video in two splits or classes: {first} and {second}"
        told += f", and {len(twice) - 1} more" if len(twice) > 1 else ""
    return told


def render(rendered: Rendered, folder: Path, seed: int) -> list[Found]:
    """Renders and encodes the default data set under ``folder/clips/<split>/<label>/``; every clip has its own seed.

    Raises:
        DataError: there are clips already, and no run has made them.
    """
    clips = folder / "clips"
    clips.mkdir(exist_ok=True)
    if any(clips.iterdir()) and not ((clips / MARK).exists() or _is_known(clips, folder.parent)):
        raise DataError(f"{clips} is there already, and no run has rendered it", OTHER_FOLDER)
    (clips / MARK).touch()
    for split in SPLITS:
        shutil.rmtree(clips / split, ignore_errors=True)  # an earlier run may have rendered more
    jobs = [(split, label, index) for split in SPLITS for label in MOTIONS for index in range(getattr(rendered, split))]
    found = []
    for number, (split, label, index) in enumerate(track(jobs, "render")):
        path = clips / split / label / f"{index:04d}.avi"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, render_clip(label, rendered.size, np.random.default_rng([seed, number])))
        found.append(Found(path, label, split, str(path)))
    return found


def _is_known(clips: Path, run_dir: Path) -> bool:
    """Whether the run folder's lock says that a run has made the clips."""
    entry = Lock(run_dir).entries.get("data")
    return entry is not None and str(clips.relative_to(run_dir)) in entry.outputs


def audit(found: list[Found]) -> tuple[list[Clip], list[dict[str, str]]]:
    """Decodes every clip once.

    Returns:
        The clips whose every frame decodes, and for each other one its path and the reason.
    """
    clips: list[Clip] = []
    broken: list[dict[str, str]] = []
    with ThreadPoolExecutor(PROBE_THREADS) as pool:
        for clip in track(pool.map(_open, found), "check", total=len(found)):
            if isinstance(clip, Clip):
                clips.append(clip)
            else:
                broken.append(clip)
    return clips, broken


def in_two_places(clips: list[Clip]) -> list[list[str]]:
    """The paths of each video that is, byte for byte, in several splits or classes: the student is tested on what it
    was trained on, or told two things of one video."""
    places: dict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        places[clip.sha256].append(clip)
    return [
        [str(clip.path) for clip in same]
        for same in places.values()
        if len({(clip.split, clip.label) for clip in same}) > 1
    ]


def _open(found: Found) -> Clip | dict[str, str]:
    path = str(found.path)
    try:
        info = probe(found.path)
    except VideoError as error:
        return {"path": path, "reason": str(error).removeprefix(f"{path}: ")}
    if info.damage:
        return {"path": path, "reason": f"damaged after {len(info.times_s)} frames: {info.damage}"}
    return Clip(
        path=found.path.absolute(),
        label=found.label,
        split=found.split or "train",
        codec=info.codec,
        height=info.height,
        width=info.width,
        rotation=info.rotation,
        bit_depth=info.bit_depth,
        times_s=info.times_s,
        sha256=content_sha256(found.path),
        mirrored=info.mirrored,
        plain=info.plain,
    )


def _check_broken(data: Data, total: int, broken: list[dict[str, str]]) -> None:
    if len(broken) > data.max_broken_fraction * total:
        first = "; ".join(f"{clip['path']}: {clip['reason']}" for clip in broken[:3])
        raise DataError(
            f"{len(broken)} of {total} clips cannot be used, more than data.max_broken_fraction "
            f"({data.max_broken_fraction:g}) allows: {first}{'; …' if len(broken) > 3 else ''}",
            "mend or remove them, or raise the limit",
        )
