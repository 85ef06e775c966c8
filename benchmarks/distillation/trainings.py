"""The trainings that a comparison needs: made where they are missing, recorded, and never mixed with others."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
from methods import FORMS, METHODS
from results import Result, append, best_weight, packed, read, table

from cpd.config import Distill, Pipeline
from cpd.config_file import load_config
from cpd.errors import BusyError, CpdError, DataError, TrainingError
from cpd.stages import run_pipeline
from cpd_train.sources import find_clips
from cpd_train.splits import Found

HERE = Path(__file__).parent
ALL = METHODS | FORMS
SEARCH_SEED = 100
"""First of the seeds of trials, which the table's seeds have nothing in common with."""
BUSY_S = 5.0
"""Between looks whether another process is done with a run folder."""

OF_METHODS = set(METHODS["ce"].section(0)) | Distill().weights.keys()
"""Keys of ``distill:`` that a method decides, or that one may."""


class Runs:
    """The trainings of one pipeline, done and to be done."""

    seeds = range(5)
    """Of the table."""

    def __init__(self, pipeline: Path, overrides: tuple[str, ...], size: int = 0, of_teacher: str = "teacher") -> None:
        self.of_teacher = of_teacher
        self.config = load_config(pipeline, overrides)
        self.path = recorded(self.config.name)
        self.made = made_by()
        self.settings = settings_of(self.config)
        self.clips = [] if self.config.data.rendered else find_clips(self.config.data)
        self.digest = digest_of([[clip.path.name, clip.label, clip.split] for clip in self.clips])
        self.digest += f"/{size}" if size else ""
        for one in read(self.path):
            self.check(one)
        self.memory: tuple[int, Any] = (-1, None)
        self.brought: set[Path] = set()

    def check(self, one: Result) -> None:
        """Refuses to add to results of other settings, clips or folds."""
        other = ""
        if one.settings not in ("", self.settings):
            other = "settings"
        elif one.clips and one.clips.split("/")[0] != self.digest.split("/")[0]:
            other = "clips"
        elif one.clips and one.clips != self.digest and one.kind in ("final", "teacher", self.of_teacher):
            other = "folds"
        if other:
            raise CpdError(f"{self.path}: holds results of other {other}", "give these a name too: --set name=...")

    def weight(self, method: str, searched: str | None) -> float:
        """The weight of a method that was best on validation clips, by what is recorded under the name ``searched``.

        Without such a name it is by this pipeline's own trials, which are made if need be.
        """
        method = ALL[method].weight_of or method
        if len(ALL[method].weights) == 1:
            return ALL[method].weights[0]
        path = recorded(searched or self.config.name)
        found = best_weight(read(path), method)
        if found is None and searched is None:
            self.search(method, SEARCH_SEED)
            found = best_weight(read(path), method)
        if found is None:
            raise CpdError(f"{path}: has no trials of {method}", f'search first, or with folds: --method "{method}"')
        if (
            "/" in self.digest
            and self.of_teacher == "teacher"
            and any((one.kind, one.method) == ("fold", method) for one in read(path))
        ):
            click.echo(f"{method}: its weight was chosen on people whom some of these folds test", err=True)
        return found

    def search(self, method: str, seed: int) -> None:
        """Trains a student with every weight of a method."""
        if self.of(seed).data.train_on_validation:
            raise CpdError(
                f"{self.config.name}: has no validation clips to choose the weight of {method} by",
                "choose it elsewhere: --searched NAME",
            )
        for weight in ALL[method].weights:
            self.bring("search", method, weight, seed)

    def bring(self, kind: str, method: str, weight: float, seed: int) -> None:
        """Trains a student, unless that is done."""
        done = {(one.kind, one.method, one.weight, one.seed) for one in read(self.path)}
        if (kind, method, weight, seed) in done:
            return
        self.bring_teacher(seed)
        from cpd_train import distill
        from cpd_train.answers import Memory

        config, run_dir = self.of(seed), self.place(kind, method, weight, seed)
        section = config.distill.model_dump() | ALL[method].section(weight)
        config = config.model_copy(update={"seed": seed, "distill": Distill.model_validate(section)})
        if self.memory[0] != seed:
            self.memory = seed, Memory(int(config.distill.cache_gb * 1e9))
        began = time.perf_counter()
        try:
            distill.run(config, run_dir, self.memory[1])
        except TrainingError as error:
            if kind != "search":
                raise
            click.echo(f"search {method} {weight:g} seed {seed}: {error}", err=True)
            diverged = Result(kind, method, weight, seed, [0.0], "", 0, [], 0.0, self.made, self.settings, self.digest)
            append(self.path, diverged)
            return
        rows = [json.loads(line) for line in (run_dir / "student/metrics.jsonl").read_text().splitlines()]
        untested = {"test_right": "", "test_clips": 0}
        result = Result(
            kind, method, weight, seed,
            validation=curve(rows),
            learned_weights=[row["learned_weights"] for row in rows if "learned_weights" in row],
            seconds=round(time.perf_counter() - began, 1),
            made=self.made,
            settings=self.settings,
            clips=self.digest,
            **(untested if kind == "search" else tested(run_dir / "student/test_logits.npz")),
        )  # fmt: skip
        append(self.path, result)
        told = [f"validation {result.validation_score:.1%}"] if result.validation else []
        told += [f"test {result.right.mean():.1%}"] if kind != "search" else []
        click.echo(f"{kind} {method} {weight:g} seed {seed}: {', '.join(told)} ({result.seconds:.0f} s)")

    def table(self, results: list[Result]) -> str:
        """Of these results; with whole groups drawn too, where the list says who each test clip is of."""
        seeds = {one.seed for one in results if one.kind == "final"}
        return table(results, list(ALL), {seed: self.test_groups(seed) for seed in seeds})

    def test_groups(self, seed: int) -> list[str]:
        """Who each test clip of a seed is of, where the list says so."""
        data = self.of(seed).data
        found = [] if data.rendered else find_clips(data)
        groups = [clip.group for clip in found if clip.split == "test"]
        return groups if len(set(groups)) < len(groups) else []

    def of(self, seed: int) -> Pipeline:  # noqa: ARG002  # one for all seeds, but where a fold has its own
        """The pipeline whose data and teacher a seed uses."""
        return self.config

    def bring_teacher(self, seed: int) -> None:
        """Brings the teacher of a seed up to date, and records what it reaches."""
        config = self.of(seed)
        if config.run_dir in self.brought:
            return
        while True:
            try:
                run_pipeline(config, until="teacher")
                break
            except BusyError as error:
                click.echo(f"waiting: {error}", err=True)
                time.sleep(BUSY_S)
        self.brought.add(config.run_dir)
        if any((one.kind, one.seed) == (self.of_teacher, config.seed) for one in read(self.path)):
            return
        folder = config.run_dir / "teacher"
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        result = Result(
            self.of_teacher, "", 0, config.seed,
            validation=curve(rows),
            learned_weights=[],
            seconds=round(sum(row["seconds"] for row in rows), 1),
            made=self.made,
            settings=self.settings,
            clips=self.digest,
            **tested(folder / "test_logits.npz"),
        )  # fmt: skip
        append(self.path, result)

    def place(self, kind: str, method: str, weight: float, seed: int) -> Path:
        """The run folder of a student, with the data and the teacher of the pipeline."""
        home = self.of(seed).run_dir
        run_dir = home / "distillation" / f"{kind}-{re.sub('[^a-z]+', '-', method)}-{weight:g}-{seed}"
        run_dir.mkdir(parents=True, exist_ok=True)
        for name in ("data", "teacher"):
            if not (run_dir / name).exists():
                (run_dir / name).symlink_to((home / name).absolute())
        return run_dir


class LeaveOut(Runs):
    """A run, with a teacher of its own, for every few groups of a list: their clips are the test, all others train.

    Seeds beyond the number of such folds count through them again.

    Args:
        size: groups left out at a time: neighbours in the alphabet, as the F and M of women and men are, in two folds.
        seen: which clips of the list there are at all.
    """

    def __init__(
        self,
        pipeline: Path,
        overrides: tuple[str, ...],
        size: int,
        of_teacher: str = "teacher",
        seen: Callable[[Found], bool] = lambda _: True,
    ) -> None:
        super().__init__(pipeline, overrides, size, of_teacher)
        self.clips = [clip for clip in self.clips if seen(clip)]
        groups = sorted({clip.group for clip in self.clips})
        count = math.ceil(len(groups) / size)
        if len(groups) == len(self.clips):
            raise DataError(f"{pipeline}: names no groups to leave out", "give data.list a column group")
        if count < 2:
            raise DataError(f"{pipeline}: has {len(groups)} groups, and {size} left out leave none", "leave out fewer")
        self.folds = [groups[start::count] for start in range(count)]
        self.seeds = range(len(self.folds))

    def of(self, seed: int) -> Pipeline:
        fold = seed % len(self.folds)
        out = self.folds[fold]
        run_dir = self.config.run_dir / re.sub(r"\W+", "-", "-".join(map(str, (fold, *out))))[:100]
        path = run_dir.with_name(f"{run_dir.name}.csv")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "label", "group", "split"])
            for clip in self.clips:
                split = "test" if clip.group in out else "train"
                writer.writerow([clip.path.absolute(), clip.label, clip.group, split])
        chosen = {"list": path, "folder": None, "format": "csv", "root": None, "train_on_validation": True}
        data = self.config.data.model_copy(update=chosen)
        return self.config.model_copy(update={"seed": fold, "data": data, "output": run_dir})


def runs_of(pipeline: Path, overrides: tuple[str, ...], leave_out: int | None) -> Runs:
    """The trainings of a pipeline, or those of its folds."""
    return LeaveOut(pipeline, overrides, leave_out) if leave_out else Runs(pipeline, overrides)


def recorded(name: str) -> Path:
    """The results of a pipeline."""
    return HERE / "results" / f"{name}.jsonl"


def curve(rows: list[dict[str, Any]]) -> list[float]:
    """Validation top-1 (fraction) after each epoch; empty where those clips are trained on."""
    return [row["validation_top1"] for row in rows if "validation_top1" in row]


def tested(logits: Path) -> dict[str, Any]:
    """What a test_logits.npz says for a ``Result``."""
    with np.load(logits) as kept:
        right = kept["logits"].argmax(1) == kept["labels"]
    return {"test_right": packed(right), "test_clips": len(right)}


def settings_of(config: Pipeline) -> str:
    """Digest of what a training depends on besides its method and seed."""
    parts = config.model_dump(mode="json", include={"clip", "augment", "teacher", "student", "distill", "data"})
    parts["distill"] = {key: value for key, value in parts["distill"].items() if key not in OF_METHODS}
    parts["data"] = {key: value for key, value in parts["data"].items() if key not in ("list", "folder", "root")}
    for section in ("data", "distill"):
        del parts[section]["cache_gb"]
    return digest_of(parts)


def digest_of(parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def made_by() -> dict[str, str]:
    """Commit, date and machine; results recorded meanwhile do not make a tree another one."""
    import torch

    from cpd_serve.environment import cpu_name

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", *arguments], cwd=HERE, capture_output=True, text=True, check=False)

    commit = git("describe", "--always").stdout.strip() or "unknown"
    if git("diff", "--quiet", "HEAD", "--", ":/", ":(exclude)results").returncode:
        commit += "-dirty"
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else cpu_name()
    return {"commit": commit, "date": time.strftime("%Y-%m-%d"), "machine": device}
