"""Engines whose latencies differ by a known amount, for measuring how well latencies can be told apart.

A *ladder* is a small convolutional student of about 1 ms with a number of equal rungs: each rung is the same
convolution on the same tensor size. Its latency is a line in the number of rungs, so that a true slowdown of 3, 7 or
10 % is a matter of adding rungs, of real work of the same kind, and is measured to a few hundredths of a percent by
``calibrate`` of run.py.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from cpd.clip import ClipSpec
from cpd.manifest import METADATA_KEY, Manifest
from cpd.onnx_file import graph_sha256
from cpd_serve.bench.baseline import REFERENCE

LABELS = ("still", "left", "right", "up", "down", "grow", "shrink", "turn")
CLIP = ClipSpec(frames=16, resize=32, crop=(32, 32))
CHANNELS = 8
SEED = 0


def write_ladder(path: Path, rungs: int, clip: ClipSpec = CLIP, channels: int = CHANNELS) -> None:
    """Writes a student with this many rungs as ``cpd-pipeline`` exports one, preprocessing and manifest inside."""
    random = np.random.default_rng(SEED)
    nodes: list[onnx.NodeProto] = []
    constants: list[TensorProto] = []

    def constant(name: str, values: NDArray[np.generic]) -> str:
        constants.append(numpy_helper.from_array(values, name))
        return name

    def weights(name: str, *shape: int) -> str:
        scale = np.sqrt(2 / np.prod(shape[1:]))
        return constant(name, (random.standard_normal(shape) * scale).astype(np.float32))

    def add(kind: str, inputs: list[str], **attributes: Any) -> str:
        output = f"{kind.lower()}{len(nodes)}"
        nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    height, width = clip.crop
    x = add("Cast", ["frames"], to=TensorProto.FLOAT)
    x = add("Reshape", [x, constant("pictures", np.array([-1, height, width, 3]))])
    x = add("Transpose", [x], perm=[0, 3, 1, 2])
    x = add("Div", [x, constant("white", np.array(255, np.float32))])
    for index, (fan_in, stride) in enumerate(((3, 2), (channels, 4))):
        kernel = weights(f"stem{index}", channels, fan_in, 3, 3)
        x = add("Conv", [x, kernel], kernel_shape=[3, 3], strides=[stride, stride], pads=[1, 1, 1, 1])
        x = add("Relu", [x])
    kernel = weights("rung", channels, channels, 3, 3)
    for _ in range(rungs):
        x = add("Relu", [add("Conv", [x, kernel], kernel_shape=[3, 3], pads=[1, 1, 1, 1])])
    x = add("GlobalAveragePool", [x])
    x = add("Reshape", [x, constant("clips", np.array([-1, clip.frames, channels]))])
    x = add("ReduceMean", [x, constant("time", np.array([1]))], keepdims=0)
    nodes.append(helper.make_node("MatMul", [x, weights("head", channels, len(LABELS))], ["logits"]))

    graph = helper.make_graph(
        nodes,
        "ladder",
        [helper.make_tensor_value_info("frames", TensorProto.UINT8, ["batch", *clip.shape])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(LABELS)])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    manifest = Manifest("student", f"ladder-{rungs}", LABELS, clip, "fp32", 18, "0" * 64, "0" * 64)
    manifest = replace(manifest, graph_sha256=graph_sha256(model.SerializeToString()))
    helper.set_model_props(model, {METADATA_KEY: manifest.to_json()})
    onnx.checker.check_model(model)
    onnx.save(model, path)


def write_reference(path: Path) -> None:
    """Writes the reference workload that comes with cpd_serve: other shapes than any ladder, half a millisecond."""
    write_ladder(path, rungs=24, clip=ClipSpec(frames=4, resize=64, crop=(64, 64)), channels=16)


if __name__ == "__main__":
    write_reference(REFERENCE)
