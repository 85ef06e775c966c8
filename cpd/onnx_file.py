"""The manifest inside an ONNX file, and the proof that the file is the one it describes; read without ONNX itself.

An ONNX file is a protobuf message (https://protobuf.dev/programming-guides/encoding) whose top-level fields hold the
graph, the operator sets and the metadata. Telling these fields apart is all that is needed here, so a device checks a
model of any size before a runtime touches it, with nothing installed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from cpd.errors import EngineError, reason_of
from cpd.manifest import METADATA_KEY, Manifest, Precision

GRAPH, OPSET_IMPORT, METADATA_PROPS = 7, 8, 14
"""Field numbers in onnx.proto3's ModelProto."""
INITIALIZER, DATA_TYPE = 5, 2
"""Field numbers in its GraphProto and TensorProto."""
DOMAIN, VERSION = 1, 2
"""Field numbers in its OperatorSetIdProto."""
INT8, FLOAT16 = 3, 10
"""Values of a tensor's data type."""
KEY, VALUE = 1, 2
"""Field numbers in its StringStringEntryProto."""
VARINT, EIGHT_BYTES, COUNTED, FOUR_BYTES = 0, 1, 2, 5
"""Wire types of protobuf."""


def read_onnx_manifest(path: Path) -> Manifest:
    """The manifest of an ONNX file, once the file is proven to be what the manifest describes.

    Raises:
        EngineError: no ONNX file, damaged, without a manifest, or changed since it was exported.
    """
    return manifest_of(read_onnx(path), str(path))


def read_onnx(path: Path) -> bytes:
    """The whole file, unchecked.

    Raises:
        EngineError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise EngineError(f"{path}: cannot be read: {reason_of(error)}") from error


def manifest_of(data: bytes, where: str) -> Manifest:
    """``read_onnx_manifest`` for a file that is already in memory; ``where`` names it in an error."""
    again = "export it with cpd-pipeline run"
    try:
        texts = [value for key, value in _metadata(data) if key == METADATA_KEY]
        digest, opset, precision = graph_sha256(data), _opset(data), _precision(data)
    except ValueError as error:
        raise EngineError(f"{where}: not an ONNX file, or a damaged one: {error}", again) from error
    if len(texts) != 1:
        count = "no" if not texts else "more than one"
        raise EngineError(f"{where}: has {count} {METADATA_KEY} in its metadata", again)
    manifest = Manifest.from_json(texts[0], where)
    if manifest.graph_sha256 != digest:
        raise EngineError(f"{where}: was changed since it was exported (SHA-256 differs)", "export it again")
    if (opset, precision) != (manifest.opset, manifest.precision):
        said = f"opset {manifest.opset} in {manifest.precision}"
        raise EngineError(f"{where}: is of opset {opset} in {precision}, its manifest says {said}", "export it again")
    return manifest


def graph_sha256(data: bytes) -> str:
    """Hex SHA-256 of an ONNX file without its metadata, so that the metadata can hold it.

    Raises:
        ValueError: not a whole protobuf message with a graph in it.
    """
    digest, has_graph = hashlib.sha256(), False
    view = memoryview(data)
    for number, start, _, end in _fields(data):
        has_graph = has_graph or number == GRAPH
        if number != METADATA_PROPS:
            digest.update(view[start:end])
    if not has_graph:
        raise ValueError("it holds no graph")
    return digest.hexdigest()


def _metadata(data: bytes) -> Iterator[tuple[str, str]]:
    """Each key and value of the model's metadata."""
    for number, _, content, end in _fields(data):
        if number == METADATA_PROPS:
            entry = data[content:end]
            parts = {inner: entry[begin:stop] for inner, _, begin, stop in _fields(entry)}
            yield parts.get(KEY, b"").decode(), parts.get(VALUE, b"").decode()


def _opset(data: bytes) -> int:
    """Version of the standard ONNX operators; 0 where there is none."""
    for entry in _parts(data, OPSET_IMPORT):
        if b"".join(_parts(entry, DOMAIN)) in (b"", b"ai.onnx"):
            return _varint(b"".join(_parts(entry, VERSION)), 0)[0]
    return 0


def _precision(data: bytes) -> Precision:
    """The narrowest type that weights have."""
    types = {
        _varint(kind, 0)[0]
        for graph in _parts(data, GRAPH)
        for tensor in _parts(graph, INITIALIZER)
        for kind in _parts(tensor, DATA_TYPE)
    }
    return "int8" if INT8 in types else "fp16" if FLOAT16 in types else "fp32"


def _parts(data: bytes, wanted: int) -> Iterator[bytes]:
    """The content of each field of this number."""
    return (data[content:end] for number, _, content, end in _fields(data) if number == wanted)


def _fields(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """(field number, start, start of its content, end) of each field of a message.

    Raises:
        ValueError: the bytes are no whole message.
    """
    at = 0
    while at < len(data):
        start = at
        tag, at = _varint(data, at)
        content, kind = at, tag & 7
        if tag >> 3 == 0:  # as in a file of zeros, which a download or a power cut can leave
            raise ValueError(f"byte {start} starts no field")
        if kind == VARINT:
            _, at = _varint(data, at)
        elif kind == COUNTED:
            size, content = _varint(data, at)
            at = content + size
        elif kind in (EIGHT_BYTES, FOUR_BYTES):
            at += 8 if kind == EIGHT_BYTES else 4
        else:
            raise ValueError(f"byte {start} starts no field")
        if at > len(data):
            raise ValueError(f"it ends within the field at byte {start}")
        yield tag >> 3, start, content, at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, least significant first, and where the next byte lies."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError("it ends within a number")
        value |= (data[at] & 0x7F) << shift
        at += 1
        if data[at - 1] < 0x80:
            return value, at
    raise ValueError("a number in it never ends")
