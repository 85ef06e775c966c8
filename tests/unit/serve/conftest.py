"""What tests of the server need: a streaming graph in small."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from cpd.clip import ClipSpec
from cpd.manifest import METADATA_KEY, Manifest
from cpd.onnx_file import graph_sha256


@pytest.fixture
def stream_model(tmp_path: Path) -> Path:
    """A streaming graph whose logits are half of this frame's colour, a quarter of that before, and so on."""
    path, spec = tmp_path / "stream.onnx", ClipSpec(frames=4, resize=32, crop=(32, 32))
    nodes = [
        helper.make_node("Cast", ["frame"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "axes"], ["colour"], keepdims=0),
        helper.make_node("Add", ["colour", "past"], ["sum"]),
        helper.make_node("Mul", ["sum", "half"], ["next_past"]),
        helper.make_node("Identity", ["next_past"], ["logits"]),
    ]
    tensors = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3])
               for name in ("past", "next_past", "logits")}  # fmt: skip
    frame = helper.make_tensor_value_info("frame", TensorProto.UINT8, ["batch", 32, 32, 3])
    constants = [numpy_helper.from_array(np.array([1, 2]), "axes"), numpy_helper.from_array(np.float32(0.5), "half")]
    graph = helper.make_graph(
        nodes, "stream", [frame, tensors["past"]], [tensors["logits"], tensors["next_past"]], constants
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    manifest = Manifest("student", "colour", ("red", "green", "blue"), spec, "fp32", 18, "", "", streaming=True)
    manifest = replace(manifest, graph_sha256=graph_sha256(model.SerializeToString()))
    helper.set_model_props(model, {METADATA_KEY: manifest.to_json()})
    onnx.save(model, path)
    return path
