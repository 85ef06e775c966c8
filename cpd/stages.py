"""The stages from video to verdict: which room does each, and what its result depends on.

The rooms are imported only when their stage runs, so looking at a finished run costs no framework.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cpd.errors import CpdError, DataError
from cpd.pipeline import Stage, Status, run_stages, status_of
from cpd.verdict import EXIT_CODES

if TYPE_CHECKING:
    from cpd.config import Data, Model, Pipeline
    from cpd_train.splits import Found

SHOWN_CLASSES = 20
LIST_SUFFIXES = (".csv", ".json", ".txt")
LOADING = ("torch", "nvidia-dali-cuda130", "av")
RUNTIMES = ("onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt_rtx_cu13")


def run_pipeline(config: Pipeline, until: str | None = None, force: Collection[str] = ()) -> int:
    """Brings a run up to date; the exit code tells its verdict, or 0 if it was not asked to reach one.

    Raises:
        CpdError: a stage failed.
    """
    if config.device == "cuda":
        from cpd_serve.cuda_driver import driver_present

        if not driver_present():
            raise CpdError("device cuda is asked for, and this machine has no NVIDIA driver", "use --device cpu")
    missing = _missing_checkpoints(config)
    if missing and until != "data":  # which needs none; the others would find out after it
        raise DataError("\n".join(missing))
    run_stages(STAGES, config, until, force)
    names = [stage.name for stage in STAGES]
    if until is not None and names.index(until) < names.index("validate"):
        return 0
    return EXIT_CODES[_json(config.run_dir / "validate/validation.json")["verdict"]]


def pipeline_status(config: Pipeline) -> list[Status]:
    """Where each stage of a run stands; changes nothing.

    Raises:
        DataError: a checkpoint that it names is a folder, or a pipe; one that is gone makes its stage stale.
    """
    for key, path in _checkpoints(config).items():
        if path.exists() and not path.is_file():  # to tell whether it changed, all of it would be read
            raise DataError(f"{key}: is no file: {path}")
    return status_of(STAGES, config)


def check_data(config: Pipeline) -> list[str]:
    """How many clips a config's data has, a line for each split; and that the checkpoints it names exist.

    Raises:
        DataError: something that it names is missing or cannot be used; with all of it, a line each.
    """
    problems, lines = _missing_checkpoints(config), list[str]()
    try:
        lines = _rendered(config) if config.data.rendered else _counted(config)
    except DataError as error:
        problems.append(str(error))
    if problems:
        raise DataError("\n".join(problems))
    return lines


def _checkpoints(config: Pipeline) -> dict[str, Path]:
    """The checkpoints that are named, by the key that does."""
    named = {"teacher.checkpoint": config.teacher.checkpoint, "student.checkpoint": config.student.checkpoint}
    return {key: path for key, path in named.items() if path is not None}


def _missing_checkpoints(config: Pipeline) -> list[str]:
    """A line for each checkpoint that is named and is no file."""
    return [f"{key}: there is no file {path}" for key, path in _checkpoints(config).items() if not path.is_file()]


def _rendered(config: Pipeline) -> list[str]:
    """What ``check_data`` says of clips that are to be rendered."""
    from cpd.dataset import SPLITS
    from cpd_train.motion import MOTIONS
    from cpd_train.sources import check_flip_labels

    check_flip_labels(config, MOTIONS)
    return [f"{split:<11}{getattr(config.data.rendered, split)} clips a class, to be rendered" for split in SPLITS]


def _counted(config: Pipeline) -> list[str]:
    """What ``check_data`` says of clips that are there."""
    from cpd.dataset import SPLITS
    from cpd_train.sources import check_flip_labels

    clips = _found(config.data)
    lines = []
    for split in SPLITS:
        counts = Counter(clip.label for clip in clips if clip.split == split)
        lines.append(f"{split:<11}{counts.total()} clips of {len(counts)} classes: {_class_sizes(counts)}")
    check_flip_labels(config, {clip.label for clip in clips})
    absent = [str(clip.path) for clip in clips if not os.path.exists(clip.path)]  # noqa: PTH110  # takes any name
    if absent:
        lines.append(f"{'missing':<11}{len(absent)} of {len(clips)} clips do not exist, such as {absent[0]}")
    if len(absent) > config.data.max_broken_fraction * len(clips):
        limit = f"data.max_broken_fraction ({config.data.max_broken_fraction:g})"
        raise DataError(f"{len(absent)} of {len(clips)} clips do not exist, more than {limit} allows: {absent[0]}")
    return lines


def _class_sizes(counts: Counter[str]) -> str:
    """Every class, or the extremes where there are many."""
    if len(counts) <= SHOWN_CLASSES:
        from cpd.dataset import natural_key

        return ", ".join(f"{label} {counts[label]}" for label in sorted(counts, key=natural_key))
    (most, largest), (fewest, smallest) = counts.most_common()[0], counts.most_common()[-1]
    return f"from {smallest} ({fewest}) to {largest} ({most}) each"


def _data(config: Pipeline, run_dir: Path) -> str:
    from cpd_train import prepare

    return prepare.run(config, run_dir)


def _teacher(config: Pipeline, run_dir: Path) -> str:
    from cpd_train import teacher

    return teacher.run(config, run_dir)


def _distill(config: Pipeline, run_dir: Path) -> str:
    from cpd_train import distill

    return distill.run(config, run_dir)


def _export(config: Pipeline, run_dir: Path) -> str:
    from cpd_export import stage

    return stage.run(config, run_dir)


def _validate(config: Pipeline, run_dir: Path) -> str:
    from cpd_serve import validate

    return validate.run(config, run_dir)


def _report(config: Pipeline, run_dir: Path) -> str:
    from cpd import report

    return report.run(config, run_dir)


def _source_clips(config: Pipeline) -> list[Path]:
    """The videos outside the run folder; none if they cannot be found, which the data stage then explains."""
    try:
        return [clip.path for clip in _found(config.data)] if config.data.rendered is None else []
    except DataError:
        return []


def _found(data: Data) -> list[Found]:
    """The clips that a config names."""
    from cpd_train.sources import find_clips

    return find_clips(data)


def _lists(config: Pipeline) -> list[str]:
    """The list files that a data set is described in."""
    named = config.data.list
    if named is None or not named.is_dir():
        return [str(named)] if named else []
    return [str(path) for path in sorted(named.iterdir()) if path.suffix in LIST_SUFFIXES]


def _clips(config: Pipeline) -> list[str]:
    """What tells the clips of a run, each by its content, and where the run rendered them itself, the clips."""
    return ["data/clips.csv", "data/data.json", *(["data/clips"] if config.data.rendered else [])]


def _checkpoint(model: Model) -> list[str]:
    return [str(model.checkpoint)] if model.checkpoint else []


def _trained(role: str) -> list[str]:
    return [f"{role}/{role}.safetensors", f"{role}/test_logits.npz", f"{role}/metrics.jsonl"]


def _exported(run_dir: Path) -> list[str]:
    """The models that the export stage built, as it lists them itself, with the manifests beside engines."""
    listing = run_dir / "export/export.json"
    try:
        table = _json(listing)
        built = [file["path"] for file in [*table["files"], *table.get("streams", [])] if file["status"] == "built"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        built = []  # missing or damaged since: the stage that owns it is stale and comes first
    manifests = [f"{path}.json" for path in built if path.endswith(".trt")]
    return ["export/export.json", *built, *manifests]


def _gpu(config: Pipeline) -> dict[str, str]:
    """The GPU that engines are built for."""
    devices = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")) if config.device != "cpu" else []
    model = re.search(r"Model:\s*(.*)", devices[0].read_text(errors="replace")) if devices else None
    return {"gpu": model[1] if model else "none"}


def _processors(config: Pipeline) -> dict[str, str]:
    """What latencies are measured on."""
    from cpd_serve.environment import cpu_name

    return {"cpu": cpu_name(), **_gpu(config)}


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


STAGES = (
    Stage(
        name="data",
        run=_data,
        config=("seed", "data"),
        inputs=lambda config, _: _lists(config),
        sources=_source_clips,
        outputs=lambda config, _: _clips(config),
        packages=("av",),
    ),
    Stage(
        name="teacher",
        run=_teacher,
        config=("seed", "precision", "clip", "augment", "teacher"),
        inputs=lambda config, _: [*_clips(config), *_checkpoint(config.teacher)],
        outputs=lambda *_: _trained("teacher"),
        packages=LOADING,
    ),
    Stage(
        name="distill",
        run=_distill,
        config=("seed", "precision", "clip", "augment", "student", "distill"),
        inputs=lambda config, _: [*_clips(config), "teacher/teacher.safetensors", *_checkpoint(config.student)],
        outputs=lambda *_: _trained("student"),
        packages=LOADING,
    ),
    Stage(
        name="export",
        run=_export,
        config=("seed", "export"),
        inputs=lambda config, _: [
            *_clips(config), "teacher/teacher.safetensors", "student/student.safetensors",
            "teacher/test_logits.npz", "student/test_logits.npz",
        ],
        outputs=lambda _, run_dir: _exported(run_dir),
        packages=("torch", "onnx", "onnxscript", "av", *RUNTIMES),
        machine=_gpu,
    ),
    Stage(
        name="validate",
        run=_validate,
        config=("seed", "validate"),
        inputs=lambda config, run_dir: [
            *_clips(config), "teacher/test_logits.npz", "student/test_logits.npz", *_exported(run_dir),
        ],
        outputs=lambda *_: ["validate/validation.json"],
        packages=("av", *RUNTIMES),
        machine=_processors,
    ),
    Stage(
        name="report",
        run=_report,
        config=("name",),
        inputs=lambda *_: [
            "data/data.json", "teacher/metrics.jsonl", "student/metrics.jsonl",
            "export/export.json", "validate/validation.json",
        ],
        outputs=lambda *_: ["report.json", "report.html"],
    ),
)  # fmt: skip
