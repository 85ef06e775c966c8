"""A model that normalises each clip by its own mean and spread is exported like any other, in every precision.

So is one that sees grey, one that sees motion, and one that sees grey frame by frame.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from cpd.clip import ClipSpec
from cpd.errors import ExportError
from cpd_export.engine import build_engine
from cpd_export.flavours import FLAVOURS, BuildOptions
from cpd_export.graph import export_graph, preprocessing
from cpd_export.half import half_graph
from cpd_export.int8 import CALIBRATORS, Choice, quantise, quantise_as
from cpd_export.session import OnnxSession
from cpd_export.stream import export_stream, run_stream
from cpd_export.support import support
from cpd_train.models import ModelSpec, VideoClassifier, build_model

SPEC = ClipSpec(frames=4, resize=32, crop=(32, 32), normalise="clip")
GREY = replace(SPEC, colour="grey")
MOTION = replace(SPEC, colour="motion")
LARGEST_HALF = 65504
LOGIT_DIFFERENCE = {"fp32": 1e-4, "fp16": 2e-3, "int8": 0.5}
"""Of logits between -4 and 4."""


@pytest.fixture(scope="module", params=[SPEC, GREY, MOTION], ids=["rgb", "grey", "motion"])
def model(request: pytest.FixtureRequest) -> VideoClassifier:
    return classifier(request.param)


def classifier(clip: ClipSpec, causal: bool = False) -> VideoClassifier:
    torch.manual_seed(0)
    built = build_model(ModelSpec("tsm-tiny", width=8, blocks=1, causal=causal), 3, clip).eval()
    for module in built.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            nn.init.normal_(module.running_mean, std=0.2)
    nn.init.normal_(built.backbone.fc.weight, std=0.5)
    return built


@pytest.fixture(scope="module")
def graphs(model: VideoClassifier) -> dict[str, onnx.ModelProto]:
    fp32 = export_graph(model, 18)
    int8 = quantise(fp32, patterns(32, seed=1), patterns(16, seed=2), flops=10**8).graph
    return {"fp32": fp32, "fp16": half_graph(fp32), "int8": int8}


def patterns(count: int, seed: int) -> NDArray[np.uint8]:
    """(count, *SPEC.shape) uint8: large blocks of random colours, every clip in a light of its own."""
    random = np.random.default_rng(seed)
    blocks = random.uniform(size=(count, SPEC.frames, 4, 4, 3)).repeat(8, 2).repeat(8, 3)
    spread = random.uniform(20, 120, (count, 1, 1, 1, 1))
    return (blocks * spread + random.uniform(0, 255 - spread)).astype(np.uint8)


CLIPS = {
    "usual": patterns(16, seed=3),
    "white": np.full((1, *SPEC.shape), 255, np.uint8),
    "black": np.zeros((1, *SPEC.shape), np.uint8),
    "half black, half white": np.repeat(np.uint8([0, 255]), SPEC.frames * 32 * 16 * 3).reshape(1, *SPEC.shape),
}


@pytest.mark.parametrize("calibrator", CALIBRATORS)
def test_motion_of_a_single_frame_is_calibrated_in_silence(calibrator: str) -> None:
    """None of its tensors is empty, whose histogram would be 0 / 0; warnings are errors here."""
    graph = export_graph(classifier(replace(MOTION, frames=1)), 18)
    quantise_as(graph, patterns(8, seed=1)[:, :1], Choice(calibrator, 8))


def test_a_single_clip_is_calibrated_without_percentiles() -> None:
    """The mean of its squares is a single value, around which float32 has no room for the bins of a histogram."""
    graph = export_graph(classifier(SPEC), 18)
    with pytest.warns(UserWarning, match=r"int8 does without percentile of [78] bits: Too many bins"):
        found = quantise(graph, CLIPS["half black, half white"], patterns(4, seed=2), 10**8)
    assert {trial.choice.calibrator for trial in found.trials} == {"minmax", "entropy"}


def test_onnxruntime_adds_within_its_convolutions(model: VideoClassifier, tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(export_graph(model, 18).SerializeToString(), options, ["CPUExecutionProvider"])
    names = [node.name for node in onnx.load(tmp_path / "optimised.onnx").graph.node if node.op_type == "Relu"]
    assert not names, "a residual block's sum and its relu run on their own"


@pytest.mark.parametrize("precision", list(LOGIT_DIFFERENCE))
@pytest.mark.parametrize("name", list(CLIPS))
def test_logits_are_torchs_whatever_the_light(
    model: VideoClassifier, graphs: dict[str, onnx.ModelProto], precision: str, name: str
) -> None:
    clips = CLIPS[name]
    assert CLIPS["white"].sum() > LARGEST_HALF, "a sum that fp16 could hold would not show an overflow"
    with torch.inference_mode():
        want = model(torch.from_numpy(clips)).numpy()
    got = OnnxSession(graphs[precision].SerializeToString(), precision).logits(clips)
    np.testing.assert_allclose(got, want, atol=LOGIT_DIFFERENCE[precision])


@pytest.mark.parametrize("precision", list(LOGIT_DIFFERENCE))
def test_every_target_reads_it_and_an_engine_is_built(graphs: dict[str, onnx.ModelProto], precision: str) -> None:
    graph = graphs[precision]
    onnx.checker.check_model(graph, full_check=True)
    assert not [proof for proof in support(graph) if proof.status != "pass"]
    engine, _ = build_engine(graph.SerializeToString(), BuildOptions(), FLAVOURS["tensorrt_rtx"])
    assert len(engine.data) > 0


def test_mean_and_spread_are_fp32_in_every_precision(graphs: dict[str, onnx.ModelProto]) -> None:
    before, half, int8 = (sorted(node.op_type for node in preprocessing(graph)[1]) for graph in graphs.values())
    assert "ReduceMean" in before
    assert half == sorted([*before, "Cast"]), "one cast to fp16, after the last of them"
    assert int8 == sorted([*before, "QuantizeLinear", "DequantizeLinear"]), "one pair, after the last of them"


def test_grey_is_grey_frame_by_frame_too() -> None:
    model = classifier(replace(GREY, normalise="dataset"), causal=True)
    stream = OnnxSession(export_stream(model, 18).proto.SerializeToString(), "stream")
    clips = CLIPS["usual"]
    with torch.inference_mode():
        want = model(torch.from_numpy(clips)).numpy()
    np.testing.assert_allclose(run_stream(stream, clips), want, atol=1e-4)
    grey = np.repeat(np.rint(clips @ [0.299, 0.587, 0.114]).astype(np.uint8)[..., None], 3, -1)
    assert np.abs(run_stream(stream, grey) - want).max() < 0.05, "colours are seen after all"


def test_a_whole_clips_mean_is_not_known_frame_by_frame() -> None:
    with pytest.raises(ExportError, match=r"normalises whole clips .*clip\.normalise: dataset"):
        export_stream(classifier(SPEC, causal=True), 18)
