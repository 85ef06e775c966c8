"""The same code on an NVIDIA GPU: its answers are those of the CPU. Skipped, with the reason, where there is none."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from cpd.clip import ClipSpec
from cpd.config import Distill
from cpd.dataset import Clip
from cpd.errors import CpdError
from cpd.video import probe, read_windows
from cpd_export.engine_file import make_engine
from cpd_export.flavours import CURRENT, FLAVOURS, BuildOptions
from cpd_export.gpu import first_gpu
from cpd_serve.runner import Runner, open_runner
from cpd_train.common import on_device
from cpd_train.cuda import why_no_gpu
from cpd_train.distill import Collaboration
from cpd_train.loader import Batch, ClipLoader
from cpd_train.models import ModelSpec, build_model
from cpd_train.nvdec import Range, readable

SPEC = ClipSpec(frames=4, resize=48, crop=(40, 40))
DECODERS_DIFFER_BY = 1.0
"""Mean grey levels of a frame, at most, by which NVDEC's colours may be off those of a CPU decoder."""
GREENER_BY = 8
"""Levels of green from a frame to the next; a third of it is further than decoders differ."""
CPU, CUDA = torch.device("cpu"), torch.device("cuda")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="" if torch.cuda.is_available() else why_no_gpu()),
]


@pytest.fixture
def nvdec() -> None:
    if not readable(CUDA):
        pytest.skip("the driver offers no NVDEC")


def clip_of(path: Path) -> Clip:
    info = probe(path)
    return Clip(path, "a", "test", info.codec, info.height, info.width, info.rotation, info.bit_depth, info.times_s)


def loaded(clip: Clip, device: torch.device) -> np.ndarray:
    """(1, frames, height, width, 3) float: one clip as a loader on this device gives it."""
    loader = ClipLoader([clip], ["a"], SPEC, 1, device)
    if device == CUDA and not loader.reads(0):
        pytest.skip(f"NVDEC does not read {clip.codec} of {clip.width} x {clip.height} on this GPU")
    (batch,) = loader.evaluate()
    assert batch.frames.device.type == device.type
    return batch.frames.cpu().numpy().astype(float)


def ramp(frames: int) -> np.ndarray:
    """(frames, 240, 320, 3) uint8: grey from left to right, greener with every frame."""
    row = np.linspace(0, 60, 320, dtype=np.uint8)
    made = np.broadcast_to(row[None, None, :, None], (frames, 240, 320, 3)).copy()
    made[..., 1] += GREENER_BY * np.arange(frames, dtype=np.uint8)[:, None, None]
    return made


def apart(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Mean grey levels between two clips, (..., frames, height, width, 3), in the frame that differs most."""
    return float(np.abs(ours - theirs).mean((-3, -2, -1)).max())


@pytest.mark.parametrize("codec", ["libx264", "libx265", "libsvtav1", "libvpx", "libvpx-vp9", "mjpeg", "mpeg4"])
def test_frames_decoded_on_the_gpu_are_those_of_the_cpu(
    nvdec: None, codec: str, write_video: Callable[..., Path]
) -> None:
    clip = clip_of(write_video(ramp(12), codec))
    assert apart(loaded(clip, CUDA), loaded(clip, CPU)) <= DECODERS_DIFFER_BY


@pytest.mark.usefixtures("nvdec")
@pytest.mark.parametrize(
    ("codec", "name"), [("libx264", ""), ("libx265", ""), ("libvpx-vp9", ""), ("libx264", "turned.mp4")]
)  # PyAV decodes AV1 with libdav1d, which has no NVDEC
def test_the_server_reads_with_nvdec_what_it_reads_with_the_cpu(
    codec: str, name: str, write_video: Callable[..., Path]
) -> None:
    path = write_video(ramp(12), codec, name, rotation=90 if name else 0)
    if (read := clip_of(path).codec) not in readable(CUDA):
        pytest.skip(f"NVDEC does not read {read} on this GPU")
    by_cpu, by_nvdec = (read_windows(path, SPEC, 2, decoder=decoder).astype(float) for decoder in ("cpu", "nvdec"))
    assert apart(by_nvdec, by_cpu) <= DECODERS_DIFFER_BY


@pytest.mark.usefixtures("nvdec")
def test_a_clip_that_is_kept_is_not_decoded_again(write_video: Callable[..., Path]) -> None:
    clip = clip_of(write_video(ramp(24), "libx264"))
    loader = ClipLoader([clip], ["a"], SPEC, 1, CUDA, cache_bytes=1 << 30)
    (first,) = loader.evaluate()
    np.testing.assert_array_equal(first.frames.cpu().numpy(), loaded(clip, CUDA))
    clip.path.unlink()
    (again,) = loader.evaluate()
    assert torch.equal(first.frames, again.frames)


@pytest.mark.usefixtures("nvdec")
@pytest.mark.filterwarnings("default")  # the profiler has some of its own
def test_decoded_frames_do_not_pass_through_the_host(write_video: Callable[..., Path], tmp_path: Path) -> None:
    clip = clip_of(write_video(ramp(24), "libx264"))
    decoded_bytes = SPEC.frames * clip.height * clip.width * 3
    by_pyav = copied_bytes(clip, tmp_path, {})
    if not by_pyav["HtoD"]:
        pytest.skip("the profiler sees no copies here")
    assert by_pyav["HtoD"] >= decoded_bytes, "what PyAV decodes has to be copied, and is seen"
    by_nvdec = copied_bytes(clip, tmp_path, readable(CUDA))
    assert by_nvdec["HtoD"] < clip.path.stat().st_size + decoded_bytes // 10
    assert by_nvdec["DtoH"] < decoded_bytes // 10


def copied_bytes(clip: Clip, folder: Path, sizes: dict[str, Range]) -> dict[str, int]:
    """Bytes that a clip's second loading copies in each direction, where NVDEC is given these sizes."""
    loader = ClipLoader([clip], ["a"], SPEC, 1, CUDA)
    loader.readable = sizes
    list(loader.evaluate())
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        list(loader.evaluate())
        torch.cuda.synchronize()
    profile.export_chrome_trace(str(folder / "trace.json"))
    events = json.loads((folder / "trace.json").read_text())["traceEvents"]
    copies = [(event["name"], event["args"]["bytes"]) for event in events if event.get("cat") == "gpu_memcpy"]
    return {way: sum(size for name, size in copies if way in name) for way in ("HtoD", "DtoH")}


def test_a_model_answers_on_the_gpu_as_on_the_cpu() -> None:
    torch.manual_seed(0)
    model = build_model(ModelSpec("tsm-tiny"), 3, SPEC).eval()
    frames = torch.randint(0, 256, (2, *SPEC.shape), dtype=torch.uint8)
    with torch.no_grad():
        on_cpu = model(frames)
        on_gpu = on_device(model, CUDA)(frames.cuda()).cpu()
    torch.testing.assert_close(on_gpu, on_cpu, atol=1e-2, rtol=1e-2)


def test_the_losses_of_a_step_are_those_of_the_cpu_within_bf16() -> None:
    frames = torch.randint(0, 256, (4, *SPEC.shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    def terms(device: torch.device) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        teacher, student = (on_device(build_model(ModelSpec("tsm-tiny", width=w), 3, SPEC), device) for w in (8, 4))
        batch = Batch(frames.to(device), torch.eye(3)[torch.arange(4) % 3].to(device), [(row, 0) for row in range(4)])
        found = Collaboration(student, teacher, Distill(cache_gb=0), seed=0)(batch, 0.0)
        torch.stack(list(found.values())).sum().backward()
        assert all(p.grad.isfinite().all() for p in student.parameters() if p.grad is not None)
        return {name: term.detach().cpu() for name, term in found.items()}

    for name, wanted in (on_cpu := terms(CPU)).items():
        torch.testing.assert_close(
            terms(CUDA)[name], wanted, rtol=0.1, atol=0.02, msg=lambda told, name=name: name + told
        )
    assert on_cpu


def agrees(runner: Runner, colour_model: Path) -> None:
    """On batches of changing size and content, as CUDA graphs hold addresses and shapes."""
    random = np.random.default_rng(0)
    with open_runner(colour_model, "cpu") as cpu:
        for clips in (1, 3, 1, 8, 3, 8, 1, 20):
            frames = random.integers(0, 256, (clips, *cpu.manifest.clip.shape), dtype=np.uint8)
            np.testing.assert_allclose(runner.predict(frames), cpu.predict(frames), atol=1e-3)


@pytest.mark.filterwarnings("error")  # no CUDA graph, for one
@pytest.mark.parametrize("provider", ["CUDAExecutionProvider", "TensorrtExecutionProvider"])
def test_onnxruntime_answers_on_the_gpu_as_on_the_cpu(provider: str, colour_model: Path) -> None:
    import onnxruntime

    if provider not in onnxruntime.get_available_providers():
        pytest.skip(f"the onnxruntime installed here has no {provider}; install the cuda extra")
    if provider.startswith("Tensorrt") and importlib.util.find_spec("tensorrt") is None:
        pytest.skip("tensorrt is not installed")
    try:
        with open_runner(colour_model, provider) as runner:
            assert runner.provider == provider
            agrees(runner, colour_model)
    except CpdError as error:
        if "libnvinfer" not in str(error):
            raise
        pytest.skip(f"onnxruntime was built for another TensorRT than the one installed: {error}")


@pytest.mark.parametrize("flavour", ["tensorrt", "tensorrt_rtx"])
def test_an_engine_answers_as_its_onnx_file(flavour: str, colour_model: Path) -> None:
    pytest.importorskip(flavour)
    gpu, targets = first_gpu(), FLAVOURS[flavour].targets
    options = BuildOptions(max_batch=8, compute_capabilities=(CURRENT,) if targets else ())
    engine = colour_model.with_suffix(".trt")
    try:
        make_engine(colour_model, engine, options, flavour)
        with open_runner(engine) as runner:
            agrees(runner, colour_model)
    except CpdError as error:
        if not targets or gpu is None or gpu.capability in targets:
            raise
        pytest.skip(f"{flavour} does not list compute capability {gpu.capability}: {error}")
