"""A causal student, exported both ways, and served frame by frame: real graphs of random weights."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cpd.clip import ClipSpec
from cpd.manifest import Manifest
from cpd_serve.runner import open_runner
from cpd_serve.runtimes.onnx_stream import OnnxStreamRunner
from cpd_serve.sources import TimedFrame
from cpd_serve.streaming import ByFrame

pytestmark = pytest.mark.slow
SPEC = ClipSpec(frames=4, resize=32, crop=(32, 32))
LABELS = ("red", "green", "blue")


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``student.onnx`` with ``student.stream.onnx`` beside it."""
    import torch

    from cpd_export.graph import export_graph, with_manifest
    from cpd_export.stream import export_stream
    from cpd_train.models import ModelSpec, build_model

    torch.manual_seed(0)
    spec = ModelSpec("tsm-tiny", width=8, blocks=1, shift_fraction=0.25, causal=True)
    model = build_model(spec, len(LABELS), SPEC).eval()
    folder = tmp_path_factory.mktemp("export")
    stream = export_stream(model, 18)
    for name, graph, signature in (
        ("student", export_graph(model, 18), None), ("student.stream", stream.proto, stream.signature)
    ):  # fmt: skip
        manifest = Manifest("student", "tsm-tiny", LABELS, SPEC, "fp32", 18, "", "", streaming=signature is not None)
        (folder / f"{name}.onnx").write_bytes(with_manifest(graph, manifest, signature))
    return folder / "student.onnx"


def test_frame_by_frame_gives_what_the_causal_model_gives_for_the_whole_window(student: Path) -> None:
    rng = np.random.default_rng(0)
    clips = rng.integers(0, 256, (2, *SPEC.shape), dtype=np.uint8)
    with open_runner(student) as whole, open_runner(student.with_suffix(".stream.onnx")) as stream:
        assert isinstance(stream, OnnxStreamRunner)
        expected = whole.predict(clips)
        answerer = ByFrame(stream, window_s=float(SPEC.frames))
        views = [answerer.view(), answerer.view()]
        alone = answerer.view()
        for index in range(SPEC.frames):
            for view, clip in zip(views, clips, strict=True):
                assert view.push(TimedFrame(float(index), clip[index]))
            together = answerer.answer(views)
            assert alone.push(TimedFrame(float(index), clips[0, index]))
            single = answerer.answer([alone])
    np.testing.assert_allclose(together, expected, atol=1e-4)
    np.testing.assert_allclose(single, expected[:1], atol=1e-4)
    assert np.abs(expected[0] - expected[1]).max() > 1e-3, "the clips must not look the same to the model"


def test_the_streaming_graph_is_found_beside_the_model(student: Path, write_video: Callable[..., Path]) -> None:
    video = write_video(np.full((45, 32, 48, 3), (240, 0, 0), np.uint8), "libx264")
    command = [str(Path(sys.executable).with_name("cpd-serve")), "--engine", str(student), "--stream", str(video)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    start, *_, end = map(json.loads, result.stdout.splitlines())
    assert (start["engine"], start["by"]) == (str(student.with_suffix(".stream.onnx")), "frame")
    assert end["answers"] == 4, "one for each frame that is due: at 0, 0.5, 1 and 1.5 s"
    assert end["frames"] == 45
