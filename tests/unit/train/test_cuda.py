"""What training asks of a GPU, as far as it can be shown without one."""

import ctypes

import numpy as np
import pytest
import torch

from cpd.clip import ClipSpec
from cpd.config import Distill, Model, Pipeline
from cpd.errors import TrainingError
from cpd_train.common import on_device
from cpd_train.cuda import Utilisation, arithmetic, choose_device, driver_obstacle, networks_in, scaler_of
from cpd_train.distill import Collaboration
from cpd_train.fit import Step, fit, room_for
from cpd_train.loader import Batch, ClipLoader, header_fits
from cpd_train.models import ModelSpec, build_model
from cpd_train.models.shift import temporal_shift
from cpd_train.nvdec import Range, _Caps, readable
from cpd_train.prepare import run as prepare

CLIP = ClipSpec(frames=4, resize=24, crop=(24, 24))
CPU = torch.device("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_that_is_not_there_says_why():
    with pytest.raises(TrainingError, match=r"torch sees no CUDA GPU: \w"):
        choose_device("cuda")


def test_a_driver_that_is_too_old_is_told_from_one_without_a_gpu():
    assert driver_obstacle(12040, "13.0", "2.13") == (
        "the NVIDIA driver runs CUDA up to 12.4, and torch 2.13 needs CUDA 13.0"
    )
    assert "finds no GPU" in driver_obstacle(13000, "13.2", "2.13")


def test_without_a_gpu_networks_run_as_they_are_told_and_nothing_is_reported(monkeypatch):
    with networks_in(CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
    for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        with networks_in(CPU, name):
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
    for has_it, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr("cpd_train.cuda.cpu_has_bf16", lambda has_it=has_it: has_it)
        with networks_in(CPU, "fastest"):
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
    with Utilisation(CPU) as busy:
        assert busy.take() == {}


def test_a_gpu_without_bf16_computes_in_fp16_unless_it_is_told_otherwise(monkeypatch):
    gpu = torch.device("cuda")
    for capability, half in (((7, 5), torch.float16), ((8, 0), torch.bfloat16), ((12, 1), torch.bfloat16)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, found=capability: found)
        assert [arithmetic(gpu, name) for name in ("auto", "fastest")] == [half, half]
        assert [arithmetic(gpu, name) for name in ("fp32", "fp16")] == [torch.float32, torch.float16]
    assert arithmetic(gpu, "bf16") == torch.bfloat16
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    with pytest.warns(UserWarning, match="no instructions for bf16"):
        assert arithmetic(gpu, "bf16") == torch.bfloat16


@pytest.mark.parametrize("precision", ["auto", "fp32", "bf16", "fp16"])
def test_losses_are_scaled_in_fp16_alone(precision):
    assert scaler_of(CPU, precision).is_enabled() == (precision == "fp16")


def test_nvdec_is_asked_in_the_structure_of_its_header():
    assert ctypes.sizeof(_Caps) == 88
    places = {name: getattr(_Caps, name).offset for name in ("supported", "max_width", "min_width", "reserved3")}
    assert places == {"supported": 24, "max_width": 28, "min_width": 40, "reserved3": 48}


@pytest.mark.parametrize(
    ("height", "width", "held"),
    [(144, 144, True), (143, 144, False), (144, 143, False), (4096, 4096, True), (4097, 144, False), (4000, 8192, True),
     (4096, 8192, False)],
)  # fmt: skip
def test_a_clip_is_given_to_nvdec_if_it_takes_its_size(height, width, held):
    assert Range((144, 144), (4096, 8192), 4000 * 8192 // 256).holds(height, width) == held


@pytest.mark.parametrize(("height", "width", "held"), [(240, 426, True), (240, 427, False), (241, 426, False)])
def test_a_clip_of_odd_size_is_not_given_to_nvdec(monkeypatch, height, width, held):
    class Driver:
        @staticmethod
        def cuvidGetDecoderCaps(asked):  # noqa: N802
            caps = asked._obj
            caps.supported, caps.max_width, caps.max_height, caps.max_macroblocks = 1, 8192, 8192, 1 << 18
            return 0

    monkeypatch.setattr(ctypes, "CDLL", lambda _: Driver)
    assert readable(CPU)["vp9"].holds(height, width) == held


@pytest.mark.parametrize(
    ("codec", "name", "options", "given"),
    [
        ("libx264", "", {}, True),
        ("libx264", "clip.flv", {}, False),
        ("libx264", "", {"x264-params": "interlaced=1"}, False),
        ("mjpeg", "", {}, True),
    ],
)
def test_a_clip_is_given_to_nvdec_by_its_header(write_video, codec, name, options, given):
    frames = np.zeros((3, 48, 64, 3), np.uint8)
    assert header_fits(write_video(frames, codec, name, options=options), torch.device("cuda")) == given


@pytest.mark.parametrize("causal", [False, True])
def test_a_shift_keeps_channels_last_and_moves_the_same(causal):
    x = torch.randn(8, 16, 5, 3)
    laid = x.contiguous(memory_format=torch.channels_last)
    shifted = temporal_shift(laid, 4, 0.25, causal)
    assert shifted.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(shifted, temporal_shift(x, 4, 0.25, causal), rtol=0, atol=0)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("section", [{}, {"parameters": {"form": "quantiles"}, "fitnet": 1, "relational": 1, "dist": 1,
                                          "attention": 1, "spatial_spectrum": 1}])  # fmt: skip
def test_networks_in_half_precision_leave_every_loss_in_fp32(section, precision):
    """The loss is that of fp32 networks within bf16's two or three digits, of which fp16 has one more."""
    torch.manual_seed(0)
    teacher, student = (build_model(ModelSpec("tsm-tiny", width=width), 3, CLIP) for width in (8, 4))
    frames = torch.randint(0, 256, (4, *CLIP.shape), dtype=torch.uint8)
    batch = Batch(frames, torch.eye(3)[torch.arange(4) % 3], [(row, 0) for row in range(4)])
    settings = Distill.model_validate(section | {"cache_gb": 0})
    whole, half = (Collaboration(student, teacher, settings, 0, name) for name in ("fp32", precision))
    for ours, theirs in zip(half.fixed.adapters, whole.fixed.adapters, strict=True):
        ours.load_state_dict(theirs.state_dict())
    wanted, terms = whole(batch, 0.0), half(batch, 0.0)
    assert any((terms[name] != wanted[name]).any() for name in terms), "this is fp32 again"
    for name, term in terms.items():
        assert term.dtype == torch.float32, name
        torch.testing.assert_close(term, wanted[name], rtol=0.1, atol=0.02, msg=lambda told, name=name: name + told)
    torch.stack(list(terms.values())).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in student.parameters() if parameter.grad is not None)


IN_DALI = (
    "Critical error in pipeline:\nError in MIXED operator `nvidia.dali.fn.decoders.video`\nencountered:\n{}\n"
    "Current pipeline object is no longer valid."
)
CANNOT = "Can't allocate 6220800 bytes on device 0"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 80 GiB."),
         "CUDA out of memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
         "CUBLAS_STATUS_ALLOC_FAILED"),
        (RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"), "CUFFT_ALLOC_FAILED"),
        (RuntimeError(IN_DALI.format("CUDA allocation failed")), "CUDA allocation failed"),
        (RuntimeError(IN_DALI.format(f"{CANNOT}.")), CANNOT),
        (MemoryError(f"{CANNOT}."), CANNOT),
    ],
    ids=["torch", "cuBLAS", "cuFFT", "DALI's CUDA", "DALI's pool", "outside of an operator"],
)  # fmt: skip
def test_a_gpu_that_is_full_names_the_setting_to_lower(tmp_path, error, told):
    config = Pipeline.model_validate(
        {"name": "full", "data": {"rendered": {"train": 1, "validation": 1, "test": 1, "size": 32}},
         "clip": {"frames": 4, "resize": 24, "crop": (24, 24)}, "teacher": {}, "student": {}}
    )  # fmt: skip
    prepare(config, tmp_path)
    from cpd.dataset import read_clips

    clips = read_clips(tmp_path / "data/clips.csv", "train")
    labels = tuple(sorted({clip.label for clip in clips}))
    loader = ClipLoader(clips, labels, CLIP, 4, CPU)
    model = build_model(ModelSpec("tsm-tiny", width=4), len(labels), CLIP)

    class Fails(Step):
        def __call__(self, batch, progress):
            raise error

    with pytest.raises(TrainingError) as caught:
        fit(model, loader, loader, Fails(), Model(epochs=1, batch_size=4), config.augment, seed=0, role="student",
            labels=labels, data_sha256="", folder=tmp_path / "student")  # fmt: skip
    assert str(caught.value) == f"the GPU has too little memory for the student: {told} (lower student.batch_size)"


def test_a_batch_of_one_value_a_channel_names_the_setting_to_raise():
    model = build_model(ModelSpec("tsm-tiny"), 2, ClipSpec(frames=1, resize=16, crop=(16, 16)))
    with pytest.raises(TrainingError, match=r"\(raise student\.batch_size\)"), room_for("student"):
        model(torch.zeros((1, *model.clip.shape), dtype=torch.uint8))


@pytest.mark.parametrize("error", [RuntimeError("shapes do not fit"), MemoryError("Can't allocate 9 bytes on host.")])
def test_any_other_error_of_a_library_keeps_its_traceback(error):
    with pytest.raises(type(error), match=str(error)), room_for("student"):
        raise error


@pytest.mark.parametrize(("width", "last"), [(16, True), (12, False), (8, False)])
def test_kernels_are_channels_last_where_torch_computes_so_without_harm(width, last):
    model = on_device(build_model(ModelSpec("tsm-tiny", width), 3, CLIP), CPU)
    assert model.channels_last == last
    frames = torch.zeros((1, *CLIP.shape), dtype=torch.uint8)
    assert model.backbone.conv1(model.normalise(frames)).is_contiguous(memory_format=torch.channels_last) == last
