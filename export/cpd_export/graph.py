"""A trained classifier as an ONNX graph: uint8 frames in, logits out, one file, its manifest inside."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from cpd.clip import ClipSpec
from cpd.errors import ExportError
from cpd.limits import NEWEST_OPSET, OLDEST_OPSET
from cpd.manifest import METADATA_KEY, Manifest
from cpd.onnx_file import graph_sha256, manifest_of
from cpd_export.session import OnnxSession
from cpd_train.models import VideoClassifier

INPUT, OUTPUT = "frames", "logits"
Signature = list[tuple[str, str, list[int | str]]]
"""(name, type, shape) of each input and then of each output, as onnxruntime says it."""
SINGLE_FILE_BYTES = (1 << 31) - 1
"""Protobuf's limit: a larger model would need its weights in a second file."""


def export_graph(model: VideoClassifier, opset: int) -> onnx.ModelProto:
    """Exports a model with a dynamic batch; preprocessing is part of the graph, batch norms are folded into weights.

    Raises:
        ExportError: torch cannot express the model in this opset.
    """
    proto = export_quietly(
        model.eval(),
        (torch.zeros((2, *model.clip.shape), dtype=torch.uint8),),
        inputs=[INPUT],
        outputs=[OUTPUT],
        dynamic_shapes={INPUT: {0: torch.export.Dim("batch")}},
        opset=opset,
    )
    return clean(proto, opset)


def export_quietly(
    module: nn.Module,
    example: tuple[Tensor, ...],
    inputs: list[str],
    outputs: list[str],
    dynamic_shapes: dict[str, Any],
    opset: int,
) -> onnx.ModelProto:
    """torch's exporter, without its remarks about itself.

    Raises:
        ExportError: torch cannot express the module in this opset.
    """
    name = type(module).__name__
    if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        raise ExportError(
            f"{name} cannot be exported in opset {opset}",
            f"set export.opset to {OLDEST_OPSET} at least, {NEWEST_OPSET} at most",
        )
    with _quiet():
        try:
            program = torch.onnx.export(
                module,
                example,
                input_names=inputs,
                output_names=outputs,
                dynamic_shapes=dynamic_shapes,
                opset_version=opset,
                dynamo=True,
                verbose=False,
            )
        except Exception as error:  # the exporter's errors share no parent of their own
            raise ExportError(
                f"{name} cannot be exported in opset {opset}: {first_line(error.__cause__ or error)}"
            ) from error
    if program is None:
        raise ExportError(f"{name} cannot be exported in opset {opset}: torch gave no program")
    return program.model_proto


def clean(proto: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """``tidy``, and a check that the exporter made the opset it was asked for.

    Raises:
        ExportError: it chose another.
    """
    made = opset_of(tidy(proto))
    if made != opset:
        raise ExportError(f"opset {opset} cannot be exported: torch made opset {made}", f"set export.opset to {made}")
    return proto


def tidy(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Takes out, in place, what tools note for themselves (paths of this machine among it) and domains nobody uses.

    Of the shapes between nodes those that a Reshape makes stay: from its input nobody could tell that the batch is in
    them, and only of tensors of one batch does onnxruntime fuse the addition into the convolution before.
    """
    reshaped = {node.output[0] for node in proto.graph.node if node.op_type == "Reshape"}
    shapes = [entry for entry in proto.graph.value_info if entry.name in reshaped]
    del proto.metadata_props[:]
    del proto.graph.metadata_props[:]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(shapes)
    graph = proto.graph
    for part in (*graph.node, *graph.input, *graph.output, *graph.initializer, *graph.value_info):
        del part.metadata_props[:]
        part.doc_string = ""
    used = {node.domain for node in proto.graph.node}
    imports = [entry for entry in proto.opset_import if entry.domain in ("", "ai.onnx", *used)]
    del proto.opset_import[:]
    proto.opset_import.extend(imports)
    proto.producer_name, proto.producer_version, proto.doc_string = "cpd", "", ""
    return proto


def opset_of(proto: onnx.ModelProto) -> int:
    """Version of the standard ONNX operators that a model uses."""
    return int(next(entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")))


def preprocessing(proto: onnx.ModelProto) -> tuple[str, list[onnx.NodeProto]]:
    """What the first convolution reads, and the nodes that make it of uint8 frames; fp32 in every precision."""
    images = next(node.input[0] for node in proto.graph.node if node.op_type == "Conv")
    maker = {output: node for node in proto.graph.node for output in node.output}
    found: list[onnx.NodeProto] = []
    waiting = [images]
    while waiting:
        node = maker.get(waiting.pop())
        if node is not None and node not in found:
            found.append(node)
            waiting.extend(node.input)
    return images, found


def with_manifest(proto: onnx.ModelProto, manifest: Manifest, want: Signature | None = None) -> bytes:
    """The finished file: the graph with its manifest inside, checked by ONNX and loaded by onnxruntime.

    Args:
        proto: the graph; it is not changed.
        manifest: without ``graph_sha256``, which is filled in here.
        want: what the graph must take and give; by default what the manifest says of a clip and its logits.

    Raises:
        ExportError: the graph is not valid, does not take and give what its manifest says, or is too large for a file.
    """
    name = f"{manifest.role} {manifest.precision}"
    if proto.ByteSize() > SINGLE_FILE_BYTES:
        raise ExportError(f"{name}: {proto.ByteSize()} bytes do not fit into one ONNX file")
    finished = onnx.ModelProto()
    finished.CopyFrom(proto)
    del finished.metadata_props[:]
    manifest = replace(manifest, graph_sha256=graph_sha256(finished.SerializeToString()))
    onnx.helper.set_model_props(finished, {METADATA_KEY: manifest.to_json()})
    try:
        onnx.checker.check_model(finished, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"{name}: not a valid ONNX graph: {first_line(error)}") from error
    data: bytes = finished.SerializeToString()
    if manifest_of(data, name) != manifest:
        raise ExportError(f"{name}: its manifest does not come back as it was written")
    signature = OnnxSession(data, name).signature
    want = want or expected_signature(manifest.clip, len(manifest.labels))
    if signature != want:
        raise ExportError(f"{name}: its graph takes and gives {signature}, its manifest says {want}")
    return data


def expected_signature(clip: ClipSpec, labels: int) -> Signature:
    """What onnxruntime must say about the inputs and outputs of an exported classifier."""
    return [
        (INPUT, "tensor(uint8)", ["batch", *clip.shape]),
        (OUTPUT, "tensor(float)", ["batch", labels]),
    ]


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the exporter's remarks about itself from the user: they ask nothing of them."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
