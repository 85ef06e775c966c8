"""What ONNX says of a graph, and targets that cannot be asked here; onnxruntime and TensorRT are asked themselves.

Sources: docs/operators.md of onnx-tensorrt, and the ONNX opset guide of TensorRT (opset 25 from version 11 on; 20 is
what the first TensorRT 10 reads, which JetPack 6 stays on).
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from cpd_export.graph import first_line, opset_of
from cpd_export.proofs import Proof, at_most

OPSET_MAX = {"TensorRT 10": 20, "TensorRT 11": 25}
TENSORRT_OPS = frozenset({
    "Abs", "Add", "And", "ArgMax", "ArgMin", "AveragePool", "BatchNormalization", "Cast", "Ceil", "Clip",
    "Concat", "Constant", "ConstantOfShape", "Conv", "ConvTranspose", "CumSum", "DepthToSpace",
    "DequantizeLinear", "Div", "Dropout", "Elu", "Equal", "Erf", "Exp", "Expand", "Flatten", "Floor", "Gather",
    "GatherElements", "Gemm", "GlobalAveragePool", "GlobalMaxPool", "Greater", "GreaterOrEqual", "HardSigmoid",
    "Identity", "InstanceNormalization", "LeakyRelu", "Less", "LessOrEqual", "Log", "LogSoftmax", "MatMul",
    "Max", "MaxPool", "Mean", "Min", "Mul", "Neg", "Not", "Or", "Pad", "Pow", "PRelu", "QuantizeLinear", "Range",
    "ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "Relu",
    "Reshape", "Resize", "Round", "Selu", "Shape", "Sigmoid", "Sign", "Slice", "Softmax", "Softplus",
    "Softsign", "SpaceToDepth", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Tanh", "Tile", "TopK", "Transpose",
    "Unsqueeze", "Where",
})  # fmt: skip
"""Operators that both majors read, of those a video classifier may hold."""


def valid(graph: onnx.ModelProto) -> Proof:
    """That ONNX itself finds nothing wrong: its checker, types and shapes included."""
    fault = ""
    try:
        onnx.checker.check_model(graph, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        fault = first_line(error)
    return at_most("faults found by onnx.checker", bool(fault), 0, fault)


def support(graph: onnx.ModelProto) -> list[Proof]:
    """That every documented target reads the graph; what one does not read is named."""
    opset, obstacles = opset_of(graph), list(_obstacles(graph))
    return [
        at_most(
            f"obstacles to {target}",
            len(found := [*obstacles, *([f"opset {opset}, it reads up to {newest}"] if opset > newest else [])]),
            0,
            "; ".join(found),
        )
        for target, newest in OPSET_MAX.items()
    ]


def _obstacles(graph: onnx.ModelProto) -> Iterator[str]:
    """Operators TensorRT lacks, and uses of uint8, which it knows as the type of an input alone."""
    uint8 = {value.name for value in graph.graph.input if value.type.tensor_type.elem_type == onnx.TensorProto.UINT8}
    for node in graph.graph.node:
        if node.domain not in ("", "ai.onnx") or node.op_type not in TENSORRT_OPS:
            yield f"operator {node.domain + '.' if node.domain else ''}{node.op_type}"
        elif node.op_type != "Cast" and uint8 & set(node.input):
            yield f"uint8 into {node.op_type}"
