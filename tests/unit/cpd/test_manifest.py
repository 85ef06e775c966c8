"""Manifests survive the way to a device, and nothing that was altered on it is believed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from cpd.clip import ClipSpec
from cpd.errors import EngineError
from cpd.manifest import METADATA_KEY, SEAL, EngineInfo, Manifest, _digest
from cpd.onnx_file import graph_sha256, manifest_of, read_onnx_manifest

ENGINE = EngineInfo(
    "tensorrt_rtx", "1.7", "compute capability 8.0+", "student.onnx", "1" * 64, "2" * 64, {"max_batch": 8}
)
MANIFEST = Manifest(
    "student", "tsm-tiny", ("wave", "clap"), ClipSpec(resize=(48, 96), crop=(40, 80)), "int8", 18, "3" * 64, "4" * 64,
    parameters=7, flops=9, accuracy={"top1": 0.5}, latency_ms={"p50": 1.25}, versions={"torch": "2.13"}, engine=ENGINE,
)  # fmt: skip
TEXT = MANIFEST.to_json()


def sealed(**changes: Any) -> str:
    """A manifest altered by someone who knows how to seal it."""
    values = json.loads(TEXT) | changes
    del values[SEAL]
    return json.dumps({**values, SEAL: _digest(values)})


def test_a_manifest_comes_back_as_it_was() -> None:
    assert Manifest.from_json(TEXT, "it") == MANIFEST
    assert Manifest.from_json(json.dumps(json.loads(TEXT)), "it") == MANIFEST, "another layout is the same manifest"
    without = replace(MANIFEST, engine=None)
    assert Manifest.from_json(without.to_json(), "it") == without


def test_no_altered_byte_is_believed() -> None:
    for at, was in enumerate(TEXT):
        for byte in {chr(ord(was) ^ 1), "0", "}", "\x00"} - {was}:
            try:
                read = Manifest.from_json(TEXT[:at] + byte + TEXT[at + 1 :], "it")
            except EngineError:
                continue
            assert read == MANIFEST, f"{was!r} became {byte!r} at {at}"


@given(st.text() | st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.lists(inner)).map(json.dumps))
def test_anything_else_is_no_manifest(text: str) -> None:
    with pytest.raises(EngineError, match="it: its manifest cannot be used"):
        Manifest.from_json(text, "it")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 2}, "schema 2, this version reads 1"),
        ({"schema": 0}, "schema 0, this version reads 1"),
        ({"x" * 200: 1}, "unknown keys x{80}(?!x)"),
        ({"lables": []}, "unknown keys lables"),
        ({"labels": []}, "labels must be a list of names"),
        ({"labels": "wave"}, "labels must be a list of names"),
        ({"labels": ["wave", 3]}, "labels must be a list of names"),
        ({"labels": ["wave", "wave"]}, "labels must differ"),
        ({"precision": "fp8"}, "precision must be one of fp32, fp16, int8, got 'fp8'"),
        ({"precision": ["int8"]}, "precision must be one of"),
        ({"role": "pupil"}, "role must be one of teacher, student"),
        ({"opset": -1}, "opset must be a count"),
        ({"opset": True}, "opset must be a count"),
        ({"flops": 1.5}, "flops must be a count"),
        ({"model": 3}, "model must be text"),
        ({"accuracy": {"top1": "high"}}, "accuracy must hold numbers"),
        ({"accuracy": {"top1": 10**400}}, "accuracy must hold numbers from 0 to 1"),
        ({"accuracy": {"top1": True}}, "accuracy must hold numbers"),
        ({"latency_ms": {"p50": float("nan")}}, "latency_ms must hold numbers"),
        ({"latency_ms": {"p50": -1}}, "latency_ms must hold numbers from 0"),
        ({"latency_ms": {"p50": 24 * 3600 * 1000 + 1}}, "latency_ms must hold numbers from 0 to 86400000"),
        ({"versions": {"torch": 2.13}}, "so must versions"),
        ({"checkpoint_sha256": "../student"}, "checkpoint_sha256 must be a SHA-256, got '../student'"),
        ({"data_sha256": "A" * 64}, "data_sha256 must be a SHA-256"),
        ({"graph_sha256": "1" * 65}, "graph_sha256 must be a SHA-256"),
        ({"clip": {"frames": 1.5}}, "frames, resize and crop must be whole"),
        ({"clip": {"frames": float("inf")}}, "frames, resize and crop must be whole"),
        ({"clip": {"crop": [True, 8]}}, "frames, resize and crop must be whole"),
        ({"clip": {"mean": [0.5, float("nan"), 0.5]}}, "mean and std must be numbers"),
        ({"clip": {"mean": ["a", 0.5, 0.5]}}, "its manifest cannot be used"),
        ({"clip": {"layout": "NCHW"}}, "layout 'NCHW' is not known here"),
        ({"clip": {"sampling": ["dense"]}}, "is not known here"),
        ({"streaming": "yes"}, "streaming must be true or false"),
        ({"clip": {"frames": 0}}, "frames must be at least 1"),
        ({"clip": {"fps": 3}}, "unknown keys in a clip specification: fps"),
        ({"engine": {}}, "'onnx'"),
        ({"engine": []}, "list"),
        ({"engine": json.loads(TEXT)["engine"] | {"target": ""}}, "engine.target must say where the engine runs"),
        ({"engine": {"flavor": "x"}}, "unknown keys flavor"),
        ({"engine": json.loads(TEXT)["engine"] | {"version": 10}}, "engine must hold text"),
        ({"engine": json.loads(TEXT)["engine"] | {"options": [8]}}, "its options a mapping"),
    ],
)
def test_impossible_values_are_named_even_under_a_right_seal(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(EngineError, match=message):
        Manifest.from_json(sealed(**changes), "it")


def test_all_or_nothing_right_and_a_day_for_a_clip_are_possible() -> None:
    read = Manifest.from_json(sealed(accuracy={"top1": 0, "top5": 1}, latency_ms={"p50": 24 * 3600 * 1000}), "it")
    assert read.accuracy == {"top1": 0, "top5": 1}


@pytest.mark.parametrize(
    "name",
    [
        "../student.onnx",
        "/etc/passwd",
        "..",
        ".",
        "",
        "a\\b.onnx",
        "c:x.onnx",
        "a\0.onnx",
        "/x.onnx",
        "x/y.onnx",
        "passwd",
        "x.onnx.sh",
    ],
)
def test_an_engine_names_a_model_beside_it_and_nothing_elsewhere(name: str) -> None:
    engine = json.loads(TEXT)["engine"] | {"onnx": name}
    with pytest.raises(EngineError, match=r"engine\.onnx must be a file name in the same folder"):
        Manifest.from_json(sealed(engine=engine), "it")


@pytest.mark.parametrize("name", ["engine_sha256", "onnx_sha256"])
@pytest.mark.parametrize("digest", ["", "2" * 63, "2" * 65, "/etc/passwd"])
def test_an_engine_and_its_model_are_known_by_a_whole_digest(name: str, digest: str) -> None:
    engine = json.loads(TEXT)["engine"] | {name: digest}
    with pytest.raises(EngineError, match=rf"engine\.{name} must be a SHA-256"):
        Manifest.from_json(sealed(engine=engine), "it")


def test_brackets_without_end_are_no_manifest() -> None:
    with pytest.raises(EngineError, match="it: its manifest cannot be used"):
        Manifest.from_json("[" * 100_000, "it")


def test_a_missing_value_is_named() -> None:
    values = json.loads(TEXT)
    del values["labels"], values[SEAL]
    with pytest.raises(EngineError, match="labels"):
        Manifest.from_json(json.dumps({**values, SEAL: _digest(values)}), "it")


@pytest.fixture
def described(write_model: Callable[..., Path], tmp_path: Path) -> Path:
    """A real ONNX file whose manifest knows its graph."""
    digest = graph_sha256(write_model(tmp_path / "plain.onnx").read_bytes())
    return write_model(tmp_path / "model.onnx", graph_sha256=digest)


def test_the_manifest_is_read_from_the_file_without_onnx(described: Path) -> None:
    proto = onnx.load(described)
    assert read_onnx_manifest(described).to_json() == proto.metadata_props[0].value


def test_no_altered_byte_of_a_model_is_believed(described: Path) -> None:
    data = described.read_bytes()
    manifest = manifest_of(data, "it")
    for at in range(len(data)):
        altered = bytearray(data)
        altered[at] ^= 1
        try:
            read = manifest_of(bytes(altered), "it")
        except EngineError:
            continue
        assert read == manifest
        assert onnx.load_from_string(bytes(altered)).graph == onnx.load_from_string(data).graph, f"byte {at}"


def test_no_part_of_a_model_is_taken_for_all_of_it(described: Path) -> None:
    data = described.read_bytes()
    for end in range(len(data)):
        with pytest.raises(EngineError):
            manifest_of(data[:end], "it")


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_with_one_clear_error(data: bytes) -> None:
    with pytest.raises(EngineError, match="it: "):
        manifest_of(data, "it")


def test_a_large_file_of_zeros_is_not_read_through() -> None:
    with pytest.raises(EngineError, match="byte 0 starts no field"):
        manifest_of(bytes(1 << 26), "student.onnx")


def test_foreign_and_missing_models_are_named(tmp_path: Path, described: Path) -> None:
    foreign = onnx.load(described)
    del foreign.metadata_props[:]
    onnx.save(foreign, described)
    with pytest.raises(EngineError, match=r"model\.onnx: has no cpd\.manifest in its metadata"):
        read_onnx_manifest(described)
    with pytest.raises(EngineError, match="no such file"):
        read_onnx_manifest(tmp_path / "absent.onnx")
    with pytest.raises(EngineError, match="is a directory"):
        read_onnx_manifest(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"graph_sha256": ""}, "was changed since it was exported"),
        ({"opset": 19}, "is of opset 18 in fp32, its manifest says opset 19 in fp32"),
    ],
)
def test_a_manifest_is_of_the_graph_it_is_in(
    write_model: Callable[..., Path], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(EngineError, match=message):
        read_onnx_manifest(write_model(tmp_path / "model.onnx", **changes))


def test_a_precision_that_the_weights_do_not_have_is_refused(described: Path) -> None:
    proto = onnx.load(described)
    said = Manifest.from_json(proto.metadata_props[0].value, "it")
    proto.metadata_props[0].value = replace(said, precision="int8").to_json()
    with pytest.raises(EngineError, match="is of opset 18 in fp32, its manifest says opset 18 in int8"):
        manifest_of(proto.SerializeToString(), "it")


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_precision_is_that_of_the_narrowest_weights(
    write_model: Callable[..., Path], tmp_path: Path, precision: str
) -> None:
    path = write_model(tmp_path / "model.onnx", precision=precision)
    assert read_onnx_manifest(path).precision == precision


def test_other_metadata_operators_and_weights_of_more_bits_are_passed_over(
    write_model: Callable[..., Path], tmp_path: Path
) -> None:
    proto = onnx.load(write_model(tmp_path / "model.onnx", precision="int8"))
    proto.graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.float16), "wider"))
    proto.opset_import[0].domain = "ai.onnx"
    proto.opset_import.insert(0, helper.make_opsetid("com.microsoft", 1))
    said = Manifest.from_json(proto.metadata_props.pop().value, "it")
    manifest = replace(said, graph_sha256=graph_sha256(proto.SerializeToString()))
    helper.set_model_props(proto, {"author": "someone", METADATA_KEY: manifest.to_json(), "": ""})
    assert manifest_of(proto.SerializeToString(), "it") == manifest


@pytest.mark.parametrize(
    "field",
    [b"\x79" + b"\xff" * 8, b"\x7d" + b"\xff" * 4, b"\x78" + b"\xff" * 9 + b"\x01"],
    ids=["eight bytes", "four bytes", "ten bytes of a number"],
)
def test_a_field_of_any_kind_that_was_added_is_seen(described: Path, field: bytes) -> None:
    with pytest.raises(EngineError, match="it: was changed since it was exported"):
        manifest_of(described.read_bytes() + field, "it")
    with pytest.raises(EngineError, match="it holds no graph"):
        manifest_of(field, "it")


def test_a_second_manifest_is_refused(described: Path) -> None:
    proto = onnx.load(described)
    proto.metadata_props.append(proto.metadata_props[0])
    with pytest.raises(EngineError, match="more than one"):
        manifest_of(proto.SerializeToString(), "it")


def test_a_key_that_comes_twice_is_refused_without_a_seal_being_broken() -> None:
    with pytest.raises(EngineError, match="a key comes twice"):
        Manifest.from_json(TEXT.replace("{", '{"labels": ["x", "y"], ', 1), "it")
