"""The validate stage: every exported file on every test clip, against torch, the teacher and the gates.

Each clip is decoded once, by the server's own decoder, and goes through every engine; torch's answers are those that
the training stages wrote, on frames loaded by DALI. So a difference between them holds all there is between training
and serving: decoder, resize and runtime. What the runtime alone changes was proven at export, on the same frames.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from cpd.dataset import Clip, path_in, read_clips
from cpd.errors import DataError, EngineError
from cpd.lock import atomic
from cpd.metrics import (
    Logits,
    agreement,
    kl_divergence,
    retained_interval,
    retained_top1,
    top_k_correct,
    wilson_interval,
)
from cpd.verdict import verdict
from cpd_serve.environment import environment
from cpd_serve.gates import Gate, exact_gate, latency_gate, split_gate
from cpd_serve.latency import Samples, summarise
from cpd_serve.measuring import Engine, open_engine, percentile_interval_ms, run_on_clips, speedup, time_in_turns
from cpd_serve.twin import difference_fault

if TYPE_CHECKING:
    from cpd.config import Pipeline

JUDGED = ("student", "onnxruntime", "fp32")
"""The file that the gates judge: the student as it runs everywhere."""
ITS_TEACHER = ("teacher", "onnxruntime", "fp32")
GRAPH_PROOF = "torch = onnxruntime"
"""What export calls the proofs that the graph alone changes nothing."""


@dataclass(frozen=True, slots=True)
class Reference:
    """What torch answered on the test split."""

    logits: Logits
    """(clips, classes)."""
    labels: NDArray[np.int64]
    """(clips,) true class indices."""


def run(config: Pipeline, run_dir: Path) -> str:
    """Measures what the run has exported and judges the gates; writes validate/validation.json.

    Returns:
        The student's and the teacher's accuracy, the speed-up, and the verdict.

    Raises:
        DataError: the stages before have left something out.
        EngineError: the student cannot be run at all.
    """
    clips = read_clips(run_dir / "data/clips.csv", "test")
    if not clips:
        raise DataError("the test split has no clips", "set data.test_fraction above 0")
    labels = tuple(_json(run_dir / "data/data.json")["labels"])
    files = _json(run_dir / "export/export.json")["files"]
    references = {role: read_reference(run_dir / role / "test_logits.npz", clips) for role in ("teacher", "student")}
    with ExitStack() as stack:
        engines = [open_engine(file, run_dir, labels, config.device, stack) for file in files]
        run_on_clips(engines, clips)
        compare_with_onnx(engines)
        time_in_turns(engines, clips[0], config.validate_.latency_runs, config.seed)
    gates = judge(config, engines, references)
    result = {
        **{role: describe_model(role, engines, reference) for role, reference in references.items()},
        "engines": [describe_engine(engine, engines, references, run_dir) for engine in engines],
        "gates": [gate.to_dict() for gate in gates],
        "verdict": verdict(gate.status for gate in gates),
        "environment": environment(),
    }
    (run_dir / "validate").mkdir(exist_ok=True)
    with atomic(run_dir / "validate/validation.json") as path:
        path.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return summary(result)


def read_reference(path: Path, clips: list[Clip]) -> Reference:
    """Torch's answers, in the order of the clips.

    Raises:
        DataError: they are missing, or were made for other clips.
    """
    remedy = "run the stages from the teacher on again"
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            logits, labels, paths = arrays["logits"], arrays["labels"], arrays["paths"].tolist()
    except (OSError, KeyError, ValueError, EOFError, BadZipFile) as error:
        raise DataError(f"{path}: cannot be read: {error}", remedy) from error
    rows = {path_in(path.parent.parent, name): row for row, name in enumerate(paths)}
    missing = [clip.path for clip in clips if clip.path not in rows]
    if missing:
        raise DataError(f"{path}: has no row for {missing[0]}", remedy)
    order = [rows[clip.path] for clip in clips]
    return Reference(logits[order], labels[order])


def judge(config: Pipeline, engines: list[Engine], references: dict[str, Reference]) -> list[Gate]:
    """Every gate that the configuration sets, in its order.

    Raises:
        EngineError: the student that is judged was not exported, or does not run.
    """
    student, teacher = validated(engines, JUDGED), references["teacher"]
    if student is None or student.logits is None or student.samples_s is None:
        why = next((engine.reason for engine in engines if engine.kind == JUDGED), "it was not exported")
        raise EngineError(f"the student cannot be validated: {why}", "run the export stage again")
    right, agrees = top_k_correct(student.logits, teacher.labels), agreement(student.logits, teacher.logits)
    taught = top_k_correct(teacher.logits, teacher.labels)
    decide: dict[str, Callable[[str, float], Gate]] = {
        "top1_min": partial(share_gate, right),
        "top1_retained_min": partial(
            split_gate, retained_top1(right, taught), retained_interval(right, taught), len(right)
        ),
        "agreement_min": partial(share_gate, agrees),
        "logit_difference_max": partial(
            exact_gate, graph_difference(student, engines), "proven at export, on the same frames"
        ),
        "speedup_min": partial(speedup_gate, student, validated(engines, ITS_TEACHER)),
        "latency_p50_ms_max": partial(percentile_gate, student.samples_s, 50),
        "latency_p99_ms_max": partial(percentile_gate, student.samples_s, 99),
    }
    return [decide[name](name, limit) for name, limit in config.validate_.gates if limit is not None]


def share_gate(holds: NDArray[np.bool_], name: str, limit: float) -> Gate:
    """A gate on the share of test clips for which something holds."""
    return split_gate(float(holds.mean()), wilson_interval(holds), len(holds), name, limit)


def percentile_gate(samples_s: Samples, percentile: float, name: str, limit: float) -> Gate:
    """A gate on a percentile of latency, in milliseconds."""
    value_ms = float(np.percentile(samples_s, percentile)) * 1e3
    return latency_gate(value_ms, percentile_interval_ms(samples_s, percentile), len(samples_s), name, limit)


def speedup_gate(student: Engine, teacher: Engine | None, name: str, limit: float) -> Gate:
    """A gate on the teacher's median latency over the student's, in the same runtime and turns."""
    if teacher is None or teacher.samples_s is None or student.samples_s is None:
        return Gate(name, "inconclusive", None, None, limit, "the teacher does not run in the same runtime")
    value, interval = speedup(teacher.samples_s, student.samples_s)
    return latency_gate(value, interval, len(student.samples_s), name, limit, at_least=True)


def graph_difference(engine: Engine, engines: list[Engine]) -> float | None:
    """What the graph alone changes, on the same frames; None where that was not measured.

    Of an ONNX file the largest torch to onnxruntime difference that export found, of an engine its difference to
    onnxruntime here.
    """
    role, runtime, precision = engine.kind
    if runtime != "onnxruntime":
        source = validated(engines, (role, "onnxruntime", precision))
        if source is None or source.logits is None or engine.logits is None:
            return None
        return float(np.abs(engine.logits - source.logits).max())
    values = [proof["value"] for proof in engine.file["proofs"] if proof["name"].startswith(GRAPH_PROOF)]
    return max(values) if values else None


def compare_with_onnx(engines: list[Engine]) -> None:
    """An engine whose answers are not those of its ONNX file, as far as its precision allows, fails."""
    for engine in engines:
        role, runtime, precision = engine.kind
        source = validated(engines, (role, "onnxruntime", precision))
        if runtime == "onnxruntime" or source is None or source.logits is None or engine.logits is None:
            continue
        engine.reason = difference_fault(engine.logits, source.logits, source.file["precision"])
        if engine.reason:
            engine.status = "failed"


def validated(engines: list[Engine], kind: tuple[str, str, str]) -> Engine | None:
    """The engine of this role, runtime and precision, if it ran."""
    return next((engine for engine in engines if engine.kind == kind and engine.status == "validated"), None)


def describe_model(role: str, engines: list[Engine], reference: Reference) -> dict[str, Any]:
    """A model as torch measured it."""
    manifest = next((e.runner.manifest for e in engines if e.runner and e.file["role"] == role), None)
    return {
        "model": manifest.model if manifest else None,
        "parameters": manifest.parameters if manifest else None,
        "flops": manifest.flops if manifest else None,
        **accuracy(reference.logits, reference.labels),
        "clips": len(reference.labels),
    }


def describe_engine(
    engine: Engine, engines: list[Engine], references: dict[str, Reference], run_dir: Path
) -> dict[str, Any]:
    """An engine as report.json holds it; what was not measured is null."""
    path, (role, runtime, precision) = run_dir / engine.file["path"], engine.kind
    values: dict[str, Any] = {
        "path": engine.file["path"],
        "role": role,
        "runtime": engine.runner.runtime if engine.runner else runtime,
        "precision": precision,
        "provider": engine.runner.provider if engine.runner else None,
        "status": engine.status,
        "reason": engine.reason,
        "top1": None, "top5": None, "top1_interval": None, "agreement_with_teacher": None, "kl_from_teacher": None,
        "max_abs_logit_difference": None, "max_abs_graph_difference": graph_difference(engine, engines),
        "latency_ms": None, "speedup_over_teacher": None,
        "size_bytes": path.stat().st_size if path.exists() else None,
    }  # fmt: skip
    if engine.logits is None or engine.samples_s is None:
        return values
    torch, teacher = references[role], references["teacher"]
    slow = validated(engines, ("teacher", runtime, "fp32"))
    return values | {
        **accuracy(engine.logits, torch.labels),
        "agreement_with_teacher": float(agreement(engine.logits, teacher.logits).mean()),
        "kl_from_teacher": float(kl_divergence(teacher.logits, engine.logits).mean()),
        "max_abs_logit_difference": float(np.abs(engine.logits - torch.logits).max()),
        "latency_ms": summarise(engine.samples_s).to_dict(),
        "speedup_over_teacher": speedup(slow.samples_s, engine.samples_s)[0]
        if slow and slow.samples_s is not None
        else None,
    }


def accuracy(logits: Logits, labels: NDArray[np.int64]) -> dict[str, Any]:
    """top1 and top5 as fractions, and the 95 % interval of top1."""
    right = top_k_correct(logits, labels)
    return {
        "top1": float(right.mean()),
        "top5": float(top_k_correct(logits, labels, 5).mean()),
        "top1_interval": wilson_interval(right),
    }


def summary(result: dict[str, Any]) -> str:
    """The stage in one line."""
    student = next(e for e in result["engines"] if (e["role"], e["runtime"], e["precision"]) == JUDGED)
    speedup = student["speedup_over_teacher"]
    faster = ""
    if speedup:
        faster = f", {speedup:.1f}x faster" if speedup >= 1 else f", {1 / speedup:.1f}x slower"
    return (
        f"{Path(student['path']).name} {student['top1']:.1%} top-1 (teacher {result['teacher']['top1']:.1%}), "
        f"{student['latency_ms']['p50']:.2f} ms a clip{faster}: {result['verdict']}"
    )


def _json(path: Path) -> Any:
    """The content of a JSON file that an earlier stage wrote.

    Raises:
        DataError: it is missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}", "run the stages before validate again") from error
