"""The same code on an NVIDIA GPU: its answers are those of the CPU. Skipped, with the reason, where there is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from cpd.clip import ClipSpec
from cpd.dataset import Clip
from cpd.video import probe
from cpd_train.loader import ClipLoader
from cpd_train.models import ModelSpec, build_model

SPEC = ClipSpec(frames=4, resize=48, crop=(40, 40))
DECODERS_DIFFER_BY = 4.0
"""Mean grey levels by which NVDEC's colours may be off those of a CPU decoder."""

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason=f"torch {torch.__version__} sees no NVIDIA GPU"),
]


def loaded(path: Path, device: str) -> np.ndarray:
    """(1, frames, height, width, 3) float: one clip as a loader on this device gives it."""
    info = probe(path)
    clip = Clip(path, "a", "test", info.codec, info.height, info.width, info.rotation, info.bit_depth, info.times_s)
    (batch,) = ClipLoader([clip], ["a"], SPEC, 1, torch.device(device)).evaluate()
    assert batch.frames.device.type == device
    return batch.frames.cpu().numpy().astype(float)


@pytest.mark.parametrize("codec", ["libx264", "libvpx-vp9", "mjpeg"])
def test_frames_decoded_on_the_gpu_are_those_of_the_cpu(codec: str, write_video: Callable[..., Path]) -> None:
    ramp = np.linspace(0, 200, 160, dtype=np.uint8)
    frames = np.broadcast_to(ramp[None, None, :, None], (12, 120, 160, 3)).copy()
    frames[..., 1] += np.arange(12, dtype=np.uint8)[:, None, None]
    path = write_video(frames, codec)
    assert np.abs(loaded(path, "cuda") - loaded(path, "cpu")).mean() < DECODERS_DIFFER_BY


def test_a_model_answers_on_the_gpu_as_on_the_cpu() -> None:
    torch.manual_seed(0)
    model = build_model(ModelSpec("tsm-tiny"), 3, SPEC).eval()
    frames = torch.randint(0, 256, (2, *SPEC.shape), dtype=torch.uint8)
    with torch.no_grad():
        on_cpu = model(frames)
        on_gpu = model.cuda()(frames.cuda()).cpu()
    torch.testing.assert_close(on_gpu, on_cpu, atol=1e-2, rtol=1e-2)


def test_onnxruntime_answers_on_the_gpu_as_on_the_cpu(colour_model: Path) -> None:
    import onnxruntime

    from cpd_serve.runner import open_runner

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("the onnxruntime installed here has no CUDA provider; install the cuda extra")
    frames = np.random.default_rng(0).integers(0, 256, (2, 4, 32, 32, 3), dtype=np.uint8)
    with open_runner(colour_model, "cpu") as cpu, open_runner(colour_model, "cuda") as gpu:
        assert gpu.provider == "CUDAExecutionProvider"
        np.testing.assert_allclose(gpu.predict(frames), cpu.predict(frames), atol=1e-3)
