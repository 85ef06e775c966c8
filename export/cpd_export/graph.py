"""A trained classifier as an ONNX graph: uint8 frames in, logits out, one file, its manifest inside."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import onnx
import torch

from cpd.clip import ClipSpec
from cpd.errors import ExportError
from cpd.manifest import METADATA_KEY, Manifest
from cpd_export.session import OnnxSession
from cpd_train.models import VideoClassifier

INPUT, OUTPUT = "frames", "logits"
SINGLE_FILE_BYTES = (1 << 31) - 1
"""Protobuf's limit: a larger model would need its weights in a second file."""


def export_graph(model: VideoClassifier, opset: int) -> onnx.ModelProto:
    """Exports a model with a dynamic batch; preprocessing is part of the graph, batch norms are folded into weights.

    Raises:
        ExportError: torch cannot express the model in this opset, or it does not fit into one file.
    """
    example = torch.zeros((2, *model.clip.shape), dtype=torch.uint8)
    with _quiet():
        try:
            program = torch.onnx.export(
                model.eval(),
                (example,),
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes={"frames": {0: torch.export.Dim("batch")}},
                opset_version=opset,
                dynamo=True,
                verbose=False,
            )
        except Exception as error:  # the exporter's errors share no parent of their own
            raise ExportError(f"{model.spec.model} cannot be exported: {first_line(error)}") from error
    if program is None:
        raise ExportError(f"{model.spec.model} cannot be exported: torch gave no program")
    return clean(program.model_proto, opset)


def clean(proto: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Takes out the exporter's notes (they hold paths of this machine) and checks that the opset is the one asked for.

    Raises:
        ExportError: the exporter chose another opset.
    """
    del proto.metadata_props[:]
    del proto.graph.metadata_props[:]
    del proto.graph.value_info[:]
    for part in (*proto.graph.node, *proto.graph.input, *proto.graph.output, *proto.graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    proto.producer_name, proto.doc_string = "cpd", ""
    made = opset_of(proto)
    if made != opset:
        raise ExportError(f"opset {opset} cannot be exported: torch made opset {made}", f"set export.opset to {made}")
    return proto


def opset_of(proto: onnx.ModelProto) -> int:
    """Version of the standard ONNX operators that a model uses."""
    return int(next(entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")))


def with_manifest(proto: onnx.ModelProto, manifest: Manifest) -> bytes:
    """The finished file: a copy of the graph with its manifest inside, checked by ONNX and loaded by onnxruntime.

    Raises:
        ExportError: the graph is not valid, does not take and give what its manifest says, or is too large for a file.
    """
    finished = onnx.ModelProto()
    finished.CopyFrom(proto)
    onnx.helper.set_model_props(finished, {METADATA_KEY: manifest.to_json()})
    name = f"{manifest.role} {manifest.precision}"
    if finished.ByteSize() > SINGLE_FILE_BYTES:
        raise ExportError(f"{name}: {finished.ByteSize()} bytes do not fit into one ONNX file")
    try:
        onnx.checker.check_model(finished, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"{name}: not a valid ONNX graph: {first_line(error)}") from error
    data: bytes = finished.SerializeToString()
    session = OnnxSession(data, name)
    want = expected_signature(manifest.clip, len(manifest.labels))
    if session.signature != want or session.metadata != {METADATA_KEY: manifest.to_json()}:
        raise ExportError(f"{name}: its graph takes and gives {session.signature}, its manifest says {want}")
    return data


def expected_signature(clip: ClipSpec, labels: int) -> list[tuple[str, str, list[int | str]]]:
    """What onnxruntime must say about the inputs and outputs of an exported classifier."""
    return [
        (INPUT, "tensor(uint8)", ["batch", *clip.shape]),
        (OUTPUT, "tensor(float)", ["batch", labels]),
    ]


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the exporter's remarks about itself from the user: they ask nothing of them."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
