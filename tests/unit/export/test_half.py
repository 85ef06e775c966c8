"""The fp16 converter on a graph whose every type is known."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from cpd_export.half import half_graph


@pytest.fixture
def normalising() -> onnx.ModelProto:
    """Casts, normalises and convolves, as an exported classifier does."""
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["frames"], ["pixels"], to=TensorProto.FLOAT),
            helper.make_node("Sub", ["pixels", "mean"], ["centred"]),
            helper.make_node("Div", ["centred", "std"], ["normal"]),
            helper.make_node("Conv", ["normal", "weight"], ["features"]),
            helper.make_node("Relu", ["features"], ["logits"]),
        ],
        "normalising",
        [helper.make_tensor_value_info("frames", TensorProto.UINT8, ["batch", 3, 6, 6])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2, 4, 4])],
        [
            numpy_helper.from_array(np.float32(120.3), "mean"),
            numpy_helper.from_array(np.float32(58.1), "std"),
            numpy_helper.from_array(np.random.default_rng(0).normal(size=(2, 3, 3, 3)).astype(np.float32), "weight"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def test_a_valid_graph_that_still_takes_uint8_and_gives_float32(normalising: onnx.ModelProto) -> None:
    before = normalising.SerializeToString()
    half = half_graph(normalising)
    assert normalising.SerializeToString() == before, "the fp32 graph is not touched"
    onnx.checker.check_model(half, full_check=True)
    types = {tensor.name: tensor.data_type for tensor in half.graph.initializer}
    assert types["weight"] == TensorProto.FLOAT16
    assert types["mean"] == types["std"] == TensorProto.FLOAT, "normalisation stays in fp32"
    assert half.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8
    assert half.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT
    frames = np.random.default_rng(1).integers(0, 256, (3, 3, 6, 6), dtype=np.uint8)
    answers = [
        onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(
            None, {"frames": frames}
        )[0]
        for model in (normalising, half)
    ]
    np.testing.assert_allclose(answers[1], answers[0], atol=2e-2)
    assert (answers[0] != answers[1]).any()
