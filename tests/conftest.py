"""What tests of every room need: small real videos, and the real data where it is."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models: more threads wait for each other
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

CODECS = {
    "mjpeg": ".avi", "mpeg4": ".avi", "libvpx": ".webm", "libvpx-vp9": ".webm", "libx264": ".mp4", "libx265": ".mp4",
    "libsvtav1": ".mp4",
}  # fmt: skip
"""Encoders every PyAV wheel has, with a container each is commonly found in."""

WriteVideo = Callable[..., Path]


@pytest.fixture
def write_video(tmp_path: Path) -> WriteVideo:
    """Encodes (frames, height, width, 3) uint8 RGB and returns the file's path."""

    def write(
        frames: NDArray[np.uint8],
        codec: str = "mjpeg",
        name: str = "",
        fps: int = 25,
        times_ms: list[int] | None = None,
        rotation: int = 0,
        options: dict[str, str] | None = None,
    ) -> Path:
        path = tmp_path / (name or f"clip{CODECS[codec]}")
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=fps, options=options or {})
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            stream.bit_rate = 8_000_000
            stream.codec_context.time_base = Fraction(1, 1000) if times_ms else Fraction(1, fps)
            if rotation:
                stream.set_display_rotation(rotation)
            for index, pixels in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts = times_ms[index] if times_ms else index
                frame.time_base = stream.codec_context.time_base
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return path

    return write


@pytest.fixture
def colour_model(tmp_path: Path) -> Path:
    """``colours.onnx``: a real exported model in small, whose label is the strongest colour of the clip."""
    return write_colour_model(tmp_path / "colours.onnx")


@pytest.fixture(scope="session")
def write_model() -> Callable[..., Path]:
    """Writes a model as ``colour_model`` is, with another manifest, weight or graph."""
    return write_colour_model


def write_colour_model(path: Path, scale: float = 20.0, **changes: object) -> Path:
    """Logits are ``scale`` times the mean of each of R, G, B in 0..1; ``changes`` go into the manifest."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from cpd.clip import ClipSpec
    from cpd.manifest import METADATA_KEY, Manifest
    from cpd.onnx_file import graph_sha256

    values = {
        "role": "student", "model": "colour", "labels": ("red", "green", "blue"), "precision": "fp32", "opset": 18,
        "clip": ClipSpec(frames=4, resize=32, crop=(32, 32)), "checkpoint_sha256": "0" * 64, "data_sha256": "0" * 64,
        "parameters": 9, "flops": 1000,
    }  # fmt: skip
    manifest = Manifest(**(values | changes))
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["frames"], ["pixels"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["pixels", "axes"], ["colour"], keepdims=0),
            helper.make_node("MatMul", ["colour", "weight"], ["logits"]),
        ],
        "colours",
        [helper.make_tensor_value_info("frames", TensorProto.UINT8, ["batch", *manifest.clip.shape])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [
            numpy_helper.from_array(np.array([1, 2, 3]), "axes"),
            numpy_helper.from_array(np.eye(3, dtype=np.float32) * np.float32(scale / 255), "weight"),
        ],
    )
    if manifest.precision != "fp32":  # a weight that nothing reads
        kind = {"fp16": np.float16, "int8": np.int8}[manifest.precision]
        graph.initializer.append(numpy_helper.from_array(np.zeros(1, kind), "narrow"))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    if "graph_sha256" not in changes:
        manifest = replace(manifest, graph_sha256=graph_sha256(model.SerializeToString()))
    helper.set_model_props(model, {METADATA_KEY: manifest.to_json()})
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


@pytest.fixture
def real_data() -> Path:
    """The folder of real clips, which the project does not carry."""
    folder = Path(os.environ.get("CPD_REAL_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real clips at {folder}; set CPD_REAL_DATA")
    return folder
