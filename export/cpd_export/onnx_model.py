"""From a graph in memory to the content of its file: proven, described, and with that description inside."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx

from cpd.dataset import Clip, evenly
from cpd.errors import ExportError
from cpd.lock import content_sha256
from cpd.manifest import Manifest, Precision
from cpd.versions import installed
from cpd_export.decoders import decoder_proofs
from cpd_export.files import STREAM, ExportedFile, onnx_path
from cpd_export.graph import opset_of, with_manifest
from cpd_export.inputs import true_labels
from cpd_export.proofs import BATCH, Outputs, accuracy, advice, failures, faithfulness, parity, read_batch
from cpd_export.session import OnnxSession
from cpd_export.stream import export_stream, prove_stream
from cpd_export.support import support, valid
from cpd_export.timing import Samples, percentiles_ms
from cpd_train.models import Checkpoint

PACKAGES = ("cpd", "torch", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu")
"""Those that make the files."""


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
        return onnx_path(self.role, self.precision)


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
        fp32 = outputs[onnx_path(model.role, "fp32")]
        proofs = faithfulness(fp32, outputs[model.path], true_labels(clips, checkpoint), model.precision)
    proofs.append(valid(model.graph))
    broken = failures(proofs)
    if broken and model.precision == "fp32":
        raise ExportError(f"{model.path}: {broken}", advice(outputs[model.role].logits, model.role))
    if model.precision == "fp32":
        proofs += decoder_proofs(run_dir / f"{model.role}/test_logits.npz", clips, outputs[model.role].logits)
    proofs += support(model.graph)
    return ExportedFile(
        path=model.path,
        role=model.role,
        runtime="onnxruntime",
        precision=model.precision,
        status="failed" if broken else "built",
        reason=failures(proofs),
        latency_ms=percentiles_ms(times_s),
        proofs=proofs,
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


def streaming_file(
    run_dir: Path, checkpoint: Checkpoint, opset: int, whole: onnx.ModelProto, clips: list[Clip]
) -> tuple[ExportedFile, bytes]:
    """The file of the student frame by frame, proven against its whole-clip graph, and what is to be said of it.

    Raises:
        ExportError: it is not equal to the whole-clip graph.
    """
    graph = export_stream(checkpoint.model, opset)
    # On one thread both: what waking a second costs a frame would hide the work that it saves.
    stream, clip = (OnnxSession(proto.SerializeToString(), STREAM, threads=1) for proto in (graph.proto, whole))
    proofs, latency_ms = prove_stream(stream, clip, read_batch(evenly(clips, BATCH), checkpoint.model.clip))
    if proofs[0].status == "fail":
        raise ExportError(f"{STREAM}: {proofs[0].name}: {proofs[0].value:.3g}, limit {proofs[0].limit}")
    manifest = replace(describe(run_dir, checkpoint, graph.proto), streaming=True, latency_ms=latency_ms)
    data = with_manifest(graph.proto, manifest, graph.signature)
    file = ExportedFile(STREAM, "student", "onnxruntime", "fp32", "built", size_bytes=len(data), latency_ms=latency_ms)
    file.proofs = [*proofs, valid(graph.proto), *support(graph.proto)]
    file.reason = failures(file.proofs)
    return file, data


def describe(run_dir: Path, checkpoint: Checkpoint, graph: onnx.ModelProto) -> Manifest:
    """The manifest of a graph, as far as its checkpoint tells it."""
    return Manifest(
        role=checkpoint.role,  # type: ignore[arg-type]  # written by training
        model=checkpoint.model.spec.model,
        labels=checkpoint.labels,
        clip=checkpoint.model.clip,
        precision="fp32",
        opset=opset_of(graph),
        checkpoint_sha256=content_sha256(run_dir / f"{checkpoint.role}/{checkpoint.role}.safetensors"),
        data_sha256=checkpoint.data_sha256,
        parameters=checkpoint.parameters,
        flops=checkpoint.flops,
        versions=installed(PACKAGES),
    )
