"""fp16: the fp32 graph with half-precision weights and arithmetic."""

from __future__ import annotations

import onnx
import onnx_ir
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

from cpd_export.graph import tidy

NORMALISATION = ("Sub", "Div")
"""Kept in fp32: it costs nothing beside the convolutions, and 0..255 minus the mean loses a digit in half precision."""


def half_graph(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Converts a graph; uint8 frames still go in and float32 logits still come out.

    The batch norms were folded into the weights in fp32, so each weight is rounded once.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    blocked = [*DEFAULT_OP_BLOCK_LIST, *NORMALISATION]
    half: onnx.ModelProto = convert_float_to_float16(copy, keep_io_types=True, op_block_list=blocked)
    # The converter appends its casts at the end of the node list; ONNX wants every node behind those it reads from.
    ordered = onnx_ir.from_proto(half)
    ordered.graph.sort()
    return tidy(onnx_ir.to_proto(ordered))
