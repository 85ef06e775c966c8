"""The TensorRT adapter: what is built, and what is said when it cannot be."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from cpd.errors import EngineError, ExportError
from cpd.lock import content_sha256
from cpd.manifest import SEAL, Manifest, _digest, engine_manifest_path
from cpd_export import engine_file
from cpd_export.engine import BuiltEngine, build_engine
from cpd_export.engine_file import make_engine, rebuild
from cpd_export.flavours import CURRENT, FLAVOURS, BuildOptions, Flavour
from cpd_export.gpu import first_gpu

RTX = FLAVOURS["tensorrt_rtx"]
OPTIONS = BuildOptions(max_batch=4)


def test_what_tensorrt_cannot_hold_is_one_clear_error(colour_model: Path) -> None:
    with pytest.raises(ExportError, match="tensorrt_rtx cannot build the engine: "):
        build_engine(colour_model.read_bytes(), replace_unchecked(max_batch=10**30), RTX)


def replace_unchecked(**values: object) -> BuildOptions:
    options = BuildOptions()
    for name, value in values.items():
        object.__setattr__(options, name, value)
    return options


def test_an_engine_and_its_manifest_are_written_together(colour_model: Path) -> None:
    path = colour_model.with_suffix(".trt")
    info = make_engine(colour_model, path, OPTIONS)
    manifest = Manifest.from_json(engine_manifest_path(path).read_text(), "it")
    assert manifest.engine == info
    assert (info.flavour, info.onnx) == ("tensorrt_rtx", "colours.onnx")
    assert info.target == "compute capability 8.0, 8.6, 8.9, 12.0+"
    assert (info.engine_sha256, info.onnx_sha256) == (content_sha256(path), content_sha256(colour_model))
    assert info.options["max_batch"] == 4
    assert manifest.labels == ("red", "green", "blue")


def test_while_an_engine_is_replaced_it_has_no_manifest_and_nobody_else_replaces_it(
    colour_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, safe, seen = colour_model.with_suffix(".trt"), os.fsync, []
    make_engine(colour_model, path, OPTIONS)

    def written(draft: int) -> None:
        safe(draft)
        folder = os.open(path.parent, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(folder)
        seen.append(engine_manifest_path(path).exists())

    monkeypatch.setattr(os, "fsync", written)
    make_engine(colour_model, path, BuildOptions(max_batch=2))
    assert seen == [False, False], "each draft was safe on disk before it took its place"


def test_timings_of_one_build_are_given_to_the_next(colour_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[bytes] = []

    def built(data: bytes, options: BuildOptions, flavour: Flavour, cache: bytes) -> tuple[BuiltEngine, bytes]:
        given.append(cache)
        return BuiltEngine(b"plan", flavour.module, "1", "here"), b"timings" if len(given) < 3 else b""

    monkeypatch.setattr(engine_file, "build_engine", built)
    for _ in range(4):
        make_engine(colour_model, colour_model.with_suffix(".trt"), OPTIONS)
    assert given == [b"", b"timings", b"timings", b"timings"]


def test_an_engine_does_not_claim_what_was_measured_of_its_onnx_file(
    write_model: Callable[..., Path], tmp_path: Path
) -> None:
    onnx_path = write_model(tmp_path / "student.onnx", accuracy={"top1": 0.9}, latency_ms={"p50": 1.3})
    make_engine(onnx_path, tmp_path / "student.trt", OPTIONS)
    manifest = Manifest.from_json((tmp_path / "student.trt.json").read_text(), "it")
    assert (manifest.accuracy, manifest.latency_ms) == ({}, {})


def test_named_targets_are_built_for(colour_model: Path) -> None:
    built, cache = build_engine(colour_model.read_bytes(), BuildOptions(compute_capabilities=("8.9", "12.0")), RTX)
    assert built.target == "compute capability 8.9, 12.0"
    assert cache == b"", "tensorrt_rtx measures nothing, so it has nothing to remember"
    assert len(built.data) > 0


@pytest.mark.skipif(first_gpu() is not None, reason="there is a GPU")
def test_an_engine_for_the_gpu_at_hand_needs_one(colour_model: Path) -> None:
    with pytest.raises(ExportError, match=r"tensorrt_rtx cannot build the engine: .*(?i:driver|device)"):
        build_engine(colour_model.read_bytes(), BuildOptions(compute_capabilities=(CURRENT,)), RTX)


def test_too_little_workspace_names_the_setting(write_conv_model: Callable[[], bytes]) -> None:
    with pytest.raises(ExportError, match=r"raise export\.workspace_bytes, now 1"):
        build_engine(write_conv_model(), BuildOptions(workspace_bytes=1), RTX)


def test_a_batch_too_large_for_the_workspace_names_what_to_change(write_conv_model: Callable[[], bytes]) -> None:
    options = BuildOptions(max_batch=4096, workspace_bytes=1 << 24)
    with pytest.raises(ExportError, match=r"OutOfMemory .*workspace_bytes, now 16777216, or lower export\.max_batch"):
        build_engine(write_conv_model(), options, RTX)


@pytest.fixture
def write_conv_model() -> Callable[[], bytes]:
    """A convolution, which needs scratch memory."""

    def write() -> bytes:
        import numpy as np

        weight = numpy_helper.from_array(np.ones((8, 3, 3, 3), dtype=np.float32), "weight")
        graph = helper.make_graph(
            [
                helper.make_node("Cast", ["frames"], ["pixels"], to=TensorProto.FLOAT),
                helper.make_node("Conv", ["pixels", "weight"], ["logits"]),
            ],
            "conv",
            [helper.make_tensor_value_info("frames", TensorProto.UINT8, ["batch", 3, 32, 32])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 8, 30, 30])],
            [weight],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        return bytes(model.SerializeToString())

    return write


def test_an_operator_tensorrt_lacks_is_named(colour_model: Path) -> None:
    model = onnx.load(colour_model)
    model.graph.node[1].op_type, model.graph.node[1].domain = "ColourMean", "made.up"
    model.opset_import.append(helper.make_opsetid("made.up", 1))
    with pytest.raises(ExportError, match=r"cannot read the graph: .*ColourMean"):
        build_engine(model.SerializeToString(), OPTIONS, RTX)


def test_uint8_anywhere_but_at_the_input_is_named(colour_model: Path) -> None:
    model = onnx.load(colour_model)
    cast = model.graph.node[0]
    model.graph.node.insert(0, helper.make_node("Identity", ["frames"], ["copied"]))
    model.graph.node.insert(1, helper.make_node("Concat", ["copied", "copied"], ["doubled"], axis=1))
    cast.input[0] = "doubled"
    with pytest.raises(ExportError, match="cannot read the graph"):
        build_engine(model.SerializeToString(), OPTIONS, RTX)


@pytest.mark.parametrize("damage", ["truncated", "foreign", "empty", "tampered", "missing"])
def test_a_model_that_is_none_of_ours_makes_no_engine(
    write_model: Callable[..., Path], tmp_path: Path, damage: str
) -> None:
    from cpd.onnx_file import graph_sha256

    digest = graph_sha256(write_model(tmp_path / "plain.onnx").read_bytes())
    path = write_model(tmp_path / "student.onnx", graph_sha256=digest)
    old = tmp_path / "student.trt"
    old.write_bytes(b"the last good one")
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "tampered":
        path.write_bytes(data.replace(b"pixels", b"pixeds", 1))
    else:
        path.write_bytes({"truncated": data[:-40], "foreign": b"GIF89a" * 9, "empty": b""}[damage])
    with pytest.raises(EngineError, match=r"student\.onnx: "):
        make_engine(path, old, OPTIONS)
    assert old.read_bytes() == b"the last good one"
    assert not engine_manifest_path(old).exists()


def test_an_engine_is_built_again_with_the_options_it_had(colour_model: Path) -> None:
    path = colour_model.with_suffix(".trt")
    first = make_engine(colour_model, path, BuildOptions(max_batch=3, compute_capabilities=("8.9",)))
    path.write_bytes(b"of another machine")
    rewrite_engine(path, {"an option of later": 1})
    again = rebuild(path)
    assert again.options["max_batch"] == 3
    assert again.target != first.target, "it was built again because the GPU is another"
    assert content_sha256(path) == again.engine_sha256


def test_options_that_cannot_be_had_here_are_left_out_and_named(
    colour_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = colour_model.with_suffix(".trt")
    make_engine(colour_model, path, OPTIONS)
    rewrite_engine(path, {"hardware_compatible": True})
    assert rebuild(path).options == {**OPTIONS.to_dict(), "hardware_compatible": False}
    assert "is built without hardware_compatible, which tensorrt_rtx lacks here" in capsys.readouterr().err


def test_another_model_beside_the_engine_is_not_built_silently(
    colour_model: Path, write_model: Callable[..., Path]
) -> None:
    path = colour_model.with_suffix(".trt")
    make_engine(colour_model, path, OPTIONS)
    before = path.read_bytes()
    write_model(colour_model, scale=30.0)
    with pytest.raises(EngineError, match=r"another model than the one colours\.trt was built from .*delete colours"):
        rebuild(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("manifest", [None, b"", b"{}", b"\0", b"\xff"])
def test_an_engine_without_a_manifest_is_built_from_the_model_of_its_name(
    colour_model: Path, manifest: bytes | None
) -> None:
    path = colour_model.with_suffix(".trt")
    if manifest is not None:
        engine_manifest_path(path).write_bytes(manifest)
    info = rebuild(path)
    assert (info.onnx, info.options["max_batch"]) == ("colours.onnx", BuildOptions().max_batch)


def test_nothing_is_built_again_from_nothing(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"cannot be built again without student\.onnx"):
        rebuild(tmp_path / "student.trt")


@pytest.mark.parametrize(
    "options", [{"max_batch": 0}, {"max_batch": "many"}, {"workspace_bytes": 1.5}, {"version_compatible": "yes"}]
)
def test_impossible_options_in_a_manifest_are_an_error(colour_model: Path, options: dict[str, object]) -> None:
    path = colour_model.with_suffix(".trt")
    make_engine(colour_model, path, OPTIONS)
    rewrite_engine(path, options)
    with pytest.raises(ExportError, match="the engine's options cannot be used"):
        rebuild(path)


def rewrite_engine(path: Path, options: dict[str, object]) -> None:
    """Gives the manifest of an engine other options, under a right seal."""
    values = json.loads(engine_manifest_path(path).read_text())
    del values[SEAL]
    values["engine"]["options"] |= options
    engine_manifest_path(path).write_text(json.dumps({**values, SEAL: _digest(values)}))
