"""The export stage: two checkpoints become ONNX files and engines, each proven equal to what it was made from."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from cpd.config import Export, Pipeline
from cpd.dataset import Clip, file_sha256, read_clips
from cpd.errors import DataError, ExportError
from cpd.manifest import Manifest, Precision
from cpd_export.decoders import decoder_proofs, evenly
from cpd_export.engine import BuildOptions
from cpd_export.engine_file import make_engine
from cpd_export.files import ExportedFile, write_file, write_summary
from cpd_export.graph import export_graph, opset_of, with_manifest
from cpd_export.half import half_graph
from cpd_export.int8 import quantise
from cpd_export.proofs import (
    BATCH,
    Frames,
    Logits,
    Outputs,
    Predict,
    accuracy,
    faithfulness,
    parity,
    predict_all,
    read_batch,
)
from cpd_export.session import OnnxSession
from cpd_export.stream import export_stream, prove_stream
from cpd_export.support import support
from cpd_export.timing import Samples, in_turns, is_faster, percentiles_ms
from cpd_train.models import Checkpoint, read_checkpoint

ROLES = ("teacher", "student")
HELD_OUT_CLIPS = 64
"""Most validation clips that judge how int8 is made."""
PACKAGES = ("cpd", "torch", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu")


@dataclass(slots=True)
class Model:
    """One graph on its way to a file."""

    role: str
    precision: Precision
    graph: onnx.ModelProto
    quantisation: dict[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """Relative to the run folder."""
        return f"export/{self.role}{'' if self.precision == 'fp32' else '.' + self.precision}.onnx"


def run(config: Pipeline, run_dir: Path) -> str:
    """Exports teacher and student of a run; returns the summary in one line.

    Raises:
        CpdError: a checkpoint or a clip cannot be read, or an fp32 graph is not equal to its source.
    """
    checkpoints = read_checkpoints(run_dir)
    student = checkpoints["student"]
    clips = test_clips(run_dir, student)
    models = [Model(role, "fp32", export_graph(checkpoints[role].model, config.export.opset)) for role in ROLES]
    models += reduced_models(models[-1], student, config.export, run_dir)
    sessions = {model.path: OnnxSession(model.graph.SerializeToString(), model.path) for model in models}
    predict: dict[str, Predict] = {role: in_torch(checkpoints[role]) for role in ROLES}
    predict |= {path: session.logits for path, session in sessions.items()}
    outputs = predict_all(predict, clips, student.model.clip)
    times_s = time_sessions(sessions, clips[0], student)
    files = [prove(model, outputs, times_s[model.path], clips, checkpoints[model.role], run_dir) for model in models]
    recommend(files, times_s)
    finished = {
        file.path: finish(run_dir, model, file, outputs, clips, checkpoints[model.role])
        for model, file in zip(models, files, strict=True)
        if file.status == "built"
    }
    for path, data in finished.items():
        write_file(run_dir / path, data)
    if config.export.engine:
        files += [build(run_dir, file, config.export) for file in files if file.status == "built"]
    streams = []
    if student.model.spec.causal:
        streams.append(stream(run_dir, student, config.export.opset, sessions["export/student.onnx"], clips))
    write_summary(run_dir, files, streams)
    return summary([*files, *streams])


def read_checkpoints(run_dir: Path) -> dict[str, Checkpoint]:
    """Both trained models.

    Raises:
        TrainingError: one cannot be read.
        ExportError: they were trained for different clips or labels.
    """
    checkpoints = {role: read_checkpoint(run_dir / f"{role}/{role}.safetensors") for role in ROLES}
    teacher, student = checkpoints["teacher"], checkpoints["student"]
    if (teacher.model.clip, teacher.labels) != (student.model.clip, student.labels):
        raise ExportError(
            "teacher and student were trained for different clips or labels", "run the teacher and distill stages again"
        )
    return checkpoints


def test_clips(run_dir: Path, checkpoint: Checkpoint) -> list[Clip]:
    """The clips everything is proven on.

    Raises:
        DataError: there is none, or one has a label the models do not know.
    """
    clips = read_clips(run_dir / "data/clips.csv", "test")
    if not clips:
        raise DataError("the test split has no clips", "set data.test_fraction above 0")
    unknown = sorted({clip.label for clip in clips} - set(checkpoint.labels))
    if unknown:
        raise DataError(f"the models do not know the label {unknown[0]}", "run the teacher and distill stages again")
    return clips


def reduced_models(fp32: Model, checkpoint: Checkpoint, settings: Export, run_dir: Path) -> list[Model]:
    """The student's other precisions, as far as the settings name them."""
    models = []
    if "fp16" in settings.precisions:
        models.append(Model("student", "fp16", half_graph(fp32.graph)))
    if "int8" in settings.precisions:
        spec, table = checkpoint.model.clip, run_dir / "data/clips.csv"
        training = read_clips(table, "train")
        calibration = read_batch(evenly(training, settings.calibration_clips), spec)
        held_out = read_batch(evenly(read_clips(table, "validation") or training, HELD_OUT_CLIPS), spec)
        found = quantise(fp32.graph, calibration, held_out, checkpoint.flops)
        models.append(Model("student", "int8", found.graph, found.to_dict()))
    return models


def in_torch(checkpoint: Checkpoint) -> Predict:
    """The trained model itself."""

    def predict(frames: Frames) -> Logits:
        with torch.inference_mode():
            logits: Logits = checkpoint.model(torch.from_numpy(frames)).numpy()
        return logits

    return predict


def time_sessions(sessions: dict[str, OnnxSession], clip: Clip, checkpoint: Checkpoint) -> dict[str, Samples]:
    """Seconds that every graph takes for one clip."""
    frames = read_batch([clip], checkpoint.model.clip)
    calls: dict[str, Callable[[], object]] = {
        path: partial(session.logits, frames) for path, session in sessions.items()
    }
    return in_turns(calls)


def prove(
    model: Model,
    outputs: dict[str, Outputs],
    times_s: Samples,
    clips: list[Clip],
    checkpoint: Checkpoint,
    run_dir: Path,
) -> ExportedFile:
    """What is to be said of a graph; a reduced precision that does too much damage is not built.

    Raises:
        ExportError: an fp32 graph is not equal to its source.
    """
    if model.precision == "fp32":
        proofs = parity(outputs[model.role], outputs[model.path])
    else:
        fp32 = outputs[Model(model.role, "fp32", model.graph).path]
        proofs = faithfulness(fp32, outputs[model.path], true_labels(clips, checkpoint), model.precision)
    broken = [proof for proof in proofs if proof.status == "fail"]
    reasons = [f"{proof.name}: {proof.value:.3g}, limit {proof.limit}" for proof in broken]
    if broken and model.precision == "fp32":
        raise ExportError(f"{model.path}: {reasons[0]}")
    if model.precision == "fp32":
        proofs += decoder_proofs(run_dir / f"{model.role}/test_logits.npz", clips, outputs[model.role].logits)
    return ExportedFile(
        path=model.path,
        role=model.role,
        runtime="onnxruntime",
        precision=model.precision,
        status="failed" if broken else "built",
        reason="; ".join(reasons),
        latency_ms=percentiles_ms(times_s),
        proofs=[*proofs, *support(model.graph)],
        quantisation=model.quantisation,
    )


def finish(
    run_dir: Path,
    model: Model,
    file: ExportedFile,
    outputs: dict[str, Outputs],
    clips: list[Clip],
    checkpoint: Checkpoint,
) -> bytes:
    """The file of a proven graph, with all that is known of it inside."""
    manifest = replace(
        describe(run_dir, checkpoint, model.graph),
        precision=model.precision,
        accuracy=accuracy(outputs[model.path].logits, true_labels(clips, checkpoint)),
        latency_ms=file.latency_ms,
    )
    data = with_manifest(model.graph, manifest)
    file.size_bytes = len(data)
    return data


def describe(run_dir: Path, checkpoint: Checkpoint, graph: onnx.ModelProto) -> Manifest:
    """The manifest of a graph, as far as its checkpoint tells it."""
    return Manifest(
        role=checkpoint.role,  # type: ignore[arg-type]  # written by training
        model=checkpoint.model.spec.model,
        labels=checkpoint.labels,
        clip=checkpoint.model.clip,
        precision="fp32",
        opset=opset_of(graph),
        checkpoint_sha256=file_sha256(run_dir / f"{checkpoint.role}/{checkpoint.role}.safetensors"),
        data_sha256=checkpoint.data_sha256,
        parameters=checkpoint.parameters,
        flops=checkpoint.flops,
        versions=installed_versions(),
    )


def stream(run_dir: Path, checkpoint: Checkpoint, opset: int, whole: OnnxSession, clips: list[Clip]) -> ExportedFile:
    """The student frame by frame.

    Raises:
        ExportError: it is not equal to the whole-clip graph.
    """
    path = "export/student.stream.onnx"
    graph = export_stream(checkpoint.model, opset)
    session = OnnxSession(graph.proto.SerializeToString(), path)
    proofs, latency_ms = prove_stream(session, whole, read_batch(clips[:BATCH], checkpoint.model.clip))
    if proofs[0].status == "fail":
        raise ExportError(f"{path}: {proofs[0].name}: {proofs[0].value:.3g}, limit {proofs[0].limit}")
    manifest = replace(describe(run_dir, checkpoint, graph.proto), streaming=True, latency_ms=latency_ms)
    data = with_manifest(graph.proto, manifest, graph.signature)
    write_file(run_dir / path, data)
    proofs += support(graph.proto)
    return ExportedFile(
        path, "student", "onnxruntime", "fp32", "built", size_bytes=len(data), latency_ms=latency_ms, proofs=proofs
    )


def true_labels(clips: list[Clip], checkpoint: Checkpoint) -> np.ndarray[Any, np.dtype[np.int64]]:
    """(clips,) class indices."""
    return np.array([checkpoint.labels.index(clip.label) for clip in clips])


def installed_versions() -> dict[str, str]:
    """Versions of the packages that make the files, as far as they are installed."""
    versions = {}
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions


def recommend(files: list[ExportedFile], times_s: dict[str, Samples]) -> None:
    """Marks the student to serve on this machine's CPU: fp32, unless another precision is faster beyond the noise."""
    students = [file for file in files if file.role == "student" and file.status == "built"]
    best = students[0]
    for file in students[1:]:
        if is_faster(times_s[file.path], times_s[best.path]):
            best = file
    best.recommended = True


def build(run_dir: Path, file: ExportedFile, settings: Export) -> ExportedFile:
    """The engine of an ONNX file; one that cannot be built here says why and does not stop the run."""
    onnx_path = run_dir / file.path
    engine_path = onnx_path.with_suffix(".trt")
    engine = ExportedFile(str(engine_path.relative_to(run_dir)), file.role, "tensorrt", file.precision, "built")
    options = BuildOptions(
        max_batch=settings.max_batch,
        workspace_bytes=settings.workspace_bytes,
        version_compatible=settings.version_compatible,
        hardware_compatible=settings.hardware_compatible,
        compute_capabilities=settings.compute_capabilities,
    )
    try:
        engine.runtime = make_engine(onnx_path, engine_path, options).flavour
        engine.size_bytes = engine_path.stat().st_size
    except ExportError as error:
        engine.status, engine.reason = "failed", str(error)
    return engine


def summary(files: list[ExportedFile]) -> str:
    """What was built, what it was proven to, and which student to serve here."""
    names = {
        status: [Path(file.path).name for file in files if file.status == status] for status in ("built", "failed")
    }
    failed = f"; failed: {', '.join(names['failed'])}" if names["failed"] else ""
    (served,) = (file for file in files if file.recommended)
    apart = max(file.proofs[0].value for file in files if file.precision == "fp32" and file.proofs)
    return (
        f"{', '.join(names['built'])}{failed}; fp32 equal to torch within {apart:.0e}; "
        f"fastest here: {Path(served.path).name}, {served.latency_ms['p50']:.2g} ms"
    )
