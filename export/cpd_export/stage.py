"""The export stage: two checkpoints become ONNX files and engines, each proven equal to what it was made from."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import click

from cpd.config import Export, Pipeline
from cpd.dataset import Clip, evenly, read_clips
from cpd.errors import ExportError
from cpd.manifest import engine_manifest_path
from cpd.threads import threads_for
from cpd_export.engine_file import engine_of
from cpd_export.files import ExportedFile, engine_path, replace_files
from cpd_export.flavours import BuildOptions, choose_flavour
from cpd_export.graph import export_graph
from cpd_export.half import half_graph
from cpd_export.inputs import ROLES, in_torch, read_checkpoints, test_clips
from cpd_export.int8 import quantise
from cpd_export.onnx_model import Model, finish, prove, streaming_file
from cpd_export.proofs import Predict, predict_all, read_batch, without
from cpd_export.session import OnnxSession
from cpd_export.timing import Samples, in_turns, is_faster
from cpd_train.models import Checkpoint

HELD_OUT_CLIPS = 64
"""Most clips that judge how int8 is made: of validation, or else of training such as calibrate nothing."""


def run(config: Pipeline, run_dir: Path) -> str:
    """Exports teacher and student of a run; returns the summary in one line.

    Raises:
        CpdError: a checkpoint or a clip cannot be read, or an fp32 graph is not equal to its source.
    """
    checkpoints = read_checkpoints(run_dir)
    student = checkpoints["student"]
    options = build_options(config.export)
    if config.export.engine:
        warn_of_engines(options)
    clips = test_clips(run_dir, student)
    models = [Model(role, "fp32", export_graph(checkpoints[role].model, config.export.opset)) for role in ROLES]
    fp32 = models[-1]
    models += reduced_models(fp32, student, config.export, run_dir)
    sessions = {
        model.path: OnnxSession(model.graph.SerializeToString(), model.path, threads_for(checkpoints[model.role].flops))
        for model in models
    }
    predict: dict[str, Predict] = {role: in_torch(checkpoints[role]) for role in ROLES}
    predict |= {path: session.logits for path, session in sessions.items()}
    outputs = predict_all(predict, clips, student.model.clip)
    times_s = time_sessions(sessions, clips[0], student)
    files = [prove(model, outputs, times_s[model.path], clips, checkpoints[model.role], run_dir) for model in models]
    recommend(files, times_s)
    made = {
        file.path: finish(run_dir, model, file, outputs, clips, checkpoints[model.role])
        for model, file in zip(models, files, strict=True)
        if file.status == "built"
    }
    if config.export.engine:
        for file in [file for file in files if file.status == "built"]:
            engine, engine_files = build(run_dir, file, made[file.path], options)
            files.append(engine)
            made |= engine_files
    streams = []
    if student.model.spec.causal:
        stream, data = streaming_file(run_dir, student, config.export.opset, fp32.graph, clips)
        streams.append(stream)
        made[stream.path] = data
    replace_files(run_dir, made, files, streams)
    return summary([*files, *streams])


def reduced_models(fp32: Model, checkpoint: Checkpoint, settings: Export, run_dir: Path) -> list[Model]:
    """The student's other precisions, as far as the settings name them."""
    models = []
    if "fp16" in settings.precisions:
        models.append(Model("student", "fp16", half_graph(fp32.graph)))
    if "int8" in settings.precisions:
        spec, table = checkpoint.model.clip, run_dir / "data/clips.csv"
        training = read_clips(table, "train")
        shown = evenly(training, settings.calibration_clips)
        held_out = read_clips(table, "validation") or without(training, shown) or training
        found = quantise(
            fp32.graph,
            read_batch(shown, spec),
            read_batch(evenly(held_out, HELD_OUT_CLIPS), spec),
            checkpoint.flops,
        )
        models.append(Model("student", "int8", found.graph, found.to_dict()))
    return models


def time_sessions(sessions: dict[str, OnnxSession], clip: Clip, checkpoint: Checkpoint) -> dict[str, Samples]:
    """Seconds that every graph takes for one clip."""
    frames = read_batch([clip], checkpoint.model.clip)
    calls: dict[str, Callable[[], object]] = {
        path: partial(session.logits, frames) for path, session in sessions.items()
    }
    return in_turns(calls)


def recommend(files: list[ExportedFile], times_s: dict[str, Samples]) -> None:
    """Marks the student to serve on this machine's CPU: fp32, unless another precision is faster beyond the noise."""
    students = [file for file in files if file.role == "student" and file.status == "built"]
    best = students[0]
    for file in students[1:]:
        if is_faster(times_s[file.path], times_s[best.path]):
            best = file
    best.recommended = True


def build_options(settings: Export) -> BuildOptions:
    """What the settings ask of engines."""
    return BuildOptions(
        max_batch=settings.max_batch,
        workspace_bytes=settings.workspace_bytes,
        version_compatible=settings.version_compatible,
        hardware_compatible=settings.hardware_compatible,
        compute_capabilities=settings.compute_capabilities,
    )


def warn_of_engines(options: BuildOptions) -> None:
    """Says before the long work that there will be no engines, while there is time to stop and change it."""
    try:
        choose_flavour(options, precision="fp16")  # which is built wherever anything is
    except ExportError as error:
        click.echo(f"warning: there will be no engines: {error}", err=True)


def build(
    run_dir: Path, model: ExportedFile, data: bytes, options: BuildOptions
) -> tuple[ExportedFile, dict[str, bytes]]:
    """What is to be said of a model's engine, and its files; one that cannot be built here does not stop the run."""
    file = ExportedFile(engine_path(model.path), model.role, "tensorrt", model.precision, "built")
    try:
        engine = engine_of(run_dir / model.path, data, options)
    except ExportError as error:
        file.status, file.reason = "failed", str(error)
        return file, {}
    file.runtime, file.size_bytes = engine.info.flavour, len(engine.data)
    manifest = engine_manifest_path(Path(file.path))
    return file, {file.path: engine.data, manifest.as_posix(): engine.manifest.to_json().encode()}


def summary(files: list[ExportedFile]) -> str:
    """What was built, what was not and why, which proofs failed, and which student to serve here."""
    built = ", ".join(Path(file.path).name for file in files if file.status == "built")
    faults: dict[str, list[str]] = {}
    for file in files:
        if file.reason:
            name = f"{'failed: ' if file.status == 'failed' else ''}{Path(file.path).name}"
            faults.setdefault(file.reason, []).append(name)
    told = "".join(f"; {', '.join(names)}: {reason}" for reason, names in faults.items())
    (served,) = (file for file in files if file.recommended)
    apart = max(file.proofs[0].value for file in files if file.precision == "fp32" and file.proofs)
    return (
        f"{built}{told}; fp32 equal to torch within {apart:.0e}; "
        f"fastest here: {Path(served.path).name}, {served.latency_ms['p50']:.2g} ms"
    )
