"""The export stage: two checkpoints become ONNX files and engines, each proven equal to what it was made from."""

from __future__ import annotations

from contextlib import suppress
from importlib import metadata
from pathlib import Path

import torch

from cpd.config import Pipeline
from cpd.dataset import file_sha256, read_clips
from cpd.errors import ExportError
from cpd.manifest import Manifest
from cpd_export.engine import BuildOptions, build_engine, choose_flavour
from cpd_export.files import ExportedFile, write_engine, write_file, write_summary
from cpd_export.graph import export_graph, with_manifest
from cpd_export.proofs import Frames, Logits, Predict, Proof, parity, predict_all
from cpd_export.session import OnnxSession
from cpd_train.models import Checkpoint, read_checkpoint

ROLES = ("teacher", "student")
LOGIT_LIMIT = 1e-4
PACKAGES = ("cpd", "torch", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu")


def run(config: Pipeline, run_dir: Path) -> str:
    """Exports teacher and student of a run; returns the summary in one line.

    Raises:
        CpdError: a checkpoint or a clip cannot be read, or an exported graph is not equal to its source.
    """
    settings = config.export
    checkpoints = {role: read_checkpoint(run_dir / f"{role}/{role}.safetensors") for role in ROLES}
    if checkpoints["teacher"].model.clip != checkpoints["student"].model.clip:
        raise ExportError(
            "teacher and student were trained on different clips", "run the teacher and distill stages again"
        )
    graphs = {role: export_graph(checkpoint.model, settings.opset) for role, checkpoint in checkpoints.items()}
    models: dict[str, Predict] = {f"{role} torch": in_torch(checkpoint) for role, checkpoint in checkpoints.items()}
    models |= {role: OnnxSession(graph.SerializeToString(), role).logits for role, graph in graphs.items()}
    clips = read_clips(run_dir / "data/clips.csv", "test")
    outputs = predict_all(models, clips, checkpoints["student"].model.clip)
    files, manifests = [], {}
    for role in ROLES:
        path = f"export/{role}.onnx"
        proofs = parity(outputs[f"{role} torch"], outputs[role], LOGIT_LIMIT)
        require(proofs, path)
        manifests[role] = describe(checkpoints[role], run_dir / f"{role}/{role}.safetensors", settings.opset)
        data = with_manifest(graphs[role], manifests[role])
        write_file(run_dir / path, data)
        files.append(ExportedFile(path, role, "onnxruntime", "fp32", "built", size_bytes=len(data), proofs=proofs))
    if settings.engine:
        files.append(_engine(run_dir, manifests["student"], BuildOptions(settings.max_batch, settings.workspace_bytes)))
    write_summary(run_dir, files)
    built = [Path(file.path).name for file in files if file.status == "built"]
    return f"{', '.join(built)}: equal to torch within {max(file.proofs[0].value for file in files if file.proofs):.0e}"


def in_torch(checkpoint: Checkpoint) -> Predict:
    """The trained model itself."""

    def predict(frames: Frames) -> Logits:
        with torch.inference_mode():
            logits: Logits = checkpoint.model(torch.from_numpy(frames)).numpy()
        return logits

    return predict


def describe(checkpoint: Checkpoint, path: Path, opset: int) -> Manifest:
    """The manifest of a checkpoint's fp32 graph."""
    return Manifest(
        role=checkpoint.role,  # type: ignore[arg-type]  # written by training
        model=checkpoint.model.spec.model,
        labels=checkpoint.labels,
        clip=checkpoint.model.clip,
        precision="fp32",
        opset=opset,
        checkpoint_sha256=file_sha256(path),
        data_sha256=checkpoint.data_sha256,
        parameters=checkpoint.parameters,
        flops=checkpoint.flops,
        versions=installed_versions(),
    )


def installed_versions() -> dict[str, str]:
    """Versions of the packages that make the files, as far as they are installed."""
    versions = {}
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions


def require(proofs: list[Proof], path: str) -> None:
    """Raises ExportError for the first proof that fails, before the file it is about is replaced."""
    for proof in proofs:
        if proof.status == "fail":
            raise ExportError(f"{path}: {proof.name}: {proof.value:.3g}, and the limit is {proof.limit:.3g}")


def _engine(run_dir: Path, manifest: Manifest, options: BuildOptions) -> ExportedFile:
    """student.trt; what cannot be built here says why and does not stop the run."""
    onnx, path = run_dir / "export/student.onnx", "export/student.trt"
    runtime = "tensorrt"
    try:
        flavour = choose_flavour(options)
        runtime = flavour.module
        engine, _ = build_engine(onnx.read_bytes(), options, flavour)
    except ExportError as error:
        return ExportedFile(path, manifest.role, runtime, manifest.precision, "failed", reason=str(error))
    write_engine(run_dir / path, engine, onnx, manifest, options)
    return ExportedFile(path, manifest.role, runtime, manifest.precision, "built", size_bytes=len(engine.data))
