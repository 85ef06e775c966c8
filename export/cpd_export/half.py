"""fp16: the fp32 graph with half-precision weights and arithmetic."""

from __future__ import annotations

import onnx
import onnx_ir
from onnx import TensorProto, helper
from onnxruntime.transformers.float16 import convert_float_to_float16

from cpd_export.graph import preprocessing, tidy


def half_graph(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Converts a graph; uint8 frames still go in and float32 logits still come out.

    The batch norms were folded into the weights in fp32, so each weight is rounded once. What comes before the first
    convolution stays in fp32: it costs nothing beside the rest, and in half precision 0..255 minus a mean loses a digit
    and a sum over a clip overflows.
    """
    images, before = preprocessing(graph)
    rest = [node for node in graph.graph.node if node not in before]
    read = {name for node in rest for name in node.input}
    made = {name for node in rest for name in node.output}
    body = onnx.ModelProto()
    body.CopyFrom(graph)
    body.graph.ClearField("node")
    body.graph.node.extend(rest)
    body.graph.ClearField("initializer")
    body.graph.initializer.extend(weight for weight in graph.graph.initializer if weight.name in read)
    body.graph.ClearField("value_info")
    body.graph.value_info.extend(shape for shape in graph.graph.value_info if shape.name in made)
    body.graph.input.append(helper.make_tensor_value_info(images, TensorProto.FLOAT, None))

    half: onnx.ModelProto = convert_float_to_float16(body, keep_io_types=True)
    half.graph.input.pop()
    half.graph.node.extend(before)
    half.graph.initializer.extend(weight for weight in graph.graph.initializer if weight.name not in read)
    # The converter appends its casts at the end of the node list; ONNX wants every node behind those it reads from.
    ordered = onnx_ir.from_proto(half)
    ordered.graph.sort()
    return tidy(onnx_ir.to_proto(ordered))
