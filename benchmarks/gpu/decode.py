"""Clips a second by codec and resolution: DALI (NVDEC on a GPU) against PyAV on all CPUs, both to the model's input."""

from __future__ import annotations

import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch
from inputs import ENCODERS, LABELS, clip_of, written
from rows import Rows, Setup, Values, reason, significant

from cpd.container import Decoder
from cpd.dataset import Clip
from cpd.errors import VideoError
from cpd.threads import usable_cpus
from cpd.video import read_windows
from cpd_train.loader import ClipLoader

SIZES = {"240p": (240, 424), "720p": (720, 1280), "1080p": (1080, 1920)}
QUICK_SIZES = {"60p": (60, 106)}
FRAMES = 60
"""Two seconds, of which a clip samples eight frames."""
BATCH = 16


def names(setup: Setup) -> list[str]:
    return [f"{codec} {size}" for size in sizes(setup) for codec in ENCODERS]


def sizes(setup: Setup) -> dict[str, tuple[int, int]]:
    return QUICK_SIZES if setup.quick else SIZES


def run(setup: Setup, rows: Rows) -> None:
    frames, files, repeats = (8, 1, 2) if setup.quick else (FRAMES, 2, 16)
    for size, (height, width) in sizes(setup).items():
        clips = written(setup.folder / "decode", ENCODERS, height, width, frames, files)
        for codec in ENCODERS:
            of_codec = [clip for clip in clips if clip.path.name.startswith(f"{codec}-")] * repeats
            rows.measure(f"{codec} {size}", partial(compare, of_codec, frames, setup))


def compare(clips: list[Clip], frames: int, setup: Setup) -> Values:
    """The loader of training, and PyAV alone."""
    device = torch.device(setup.device)
    loader = ClipLoader(clips, LABELS, clip_of(setup.quick), 2 if setup.quick else BATCH, device)
    with_loader = loader_rate(loader)
    with_pyav = pyav_rate(clips, setup, "cpu")
    values: dict[str, float | str] = {
        "decoder": "PyAV, into DALI's graph" if not loader.reads(0) else "NVDEC" if setup.on_gpu else "DALI on the CPU",
        "loader clips/s": significant(with_loader),
        f"PyAV clips/s, {usable_cpus()} CPUs": significant(with_pyav),
        "loader over PyAV": significant(with_loader / with_pyav),
    }
    if loader.reads(0) and setup.on_gpu:  # as cpd-serve --decoder nvdec does, each time with a new decoder
        try:
            values["PyAV with NVDEC clips/s"] = significant(pyav_rate(clips, setup, "nvdec"))
        except VideoError as error:  # AV1, for which PyAV takes a decoder without NVDEC
            values["PyAV with NVDEC"] = f"not run: {reason(error)}"
    if loader.reads(0):  # every frame between a keyframe and the sampled ones is decoded; here that is nearly all
        values["loader frames/s"] = significant(with_loader * frames)
    return values


def loader_rate(loader: ClipLoader) -> float:
    """Clips a second to tensors on the device, after a batch that starts the decoders."""
    next(loader.evaluate())
    began = time.perf_counter()
    for batch in loader.evaluate():
        if batch.frames.device.type != loader.device.type:
            raise RuntimeError(f"frames are on {batch.frames.device}, not on {loader.device}")
    if loader.device.type == "cuda":
        torch.cuda.synchronize(loader.device)
    return len(loader.clips) / (time.perf_counter() - began)


def pyav_rate(clips: Iterable[Clip], setup: Setup, decoder: Decoder) -> float:
    """Clips a second to arrays of the host."""
    spec = clip_of(setup.quick)
    began = time.perf_counter()
    with ThreadPoolExecutor(usable_cpus()) as pool:
        decoded = list(pool.map(lambda clip: read_windows(clip.path, spec, 1, decoder=decoder), clips))
    return len(decoded) / (time.perf_counter() - began)
