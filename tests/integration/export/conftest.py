"""A tiny run folder as the distill stage leaves it, and what the export stage makes of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from cpd.clip import ClipSpec
from cpd.config import Pipeline
from cpd.dataset import Clip, name_in, write_clips
from cpd.lock import content_sha256
from cpd.video import read_clip
from cpd_export import stage
from cpd_train.models import ModelSpec, build_model, write_checkpoint

SPEC = ClipSpec(frames=4, resize=16, crop=(16, 16))
LABELS = ("left", "right", "still")
SPECS = {
    "teacher": ModelSpec("tsm-tiny", width=8, blocks=1, shift_fraction=0.5),
    "student": ModelSpec("tsm-tiny", width=4, blocks=1, shift_fraction=0.5, causal=True),
}

MakeRun = Callable[..., Path]
MakeConfig = Callable[..., Pipeline]


@pytest.fixture(scope="session")
def exported(make_run: MakeRun, make_config: MakeConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder after the stage, to read only."""
    run_dir = make_run(tmp_path_factory.mktemp("run"))
    stage.run(make_config(), run_dir)
    return run_dir


@pytest.fixture(scope="session")
def make_run() -> MakeRun:
    """Fills a run folder; by default with a teacher that looks ahead and a student that does not."""
    return fill_run


@pytest.fixture(scope="session")
def make_config() -> MakeConfig:
    """The config of such a run, with these settings of ``export``."""
    return config


def config(**export: object) -> Pipeline:
    return Pipeline.model_validate({
        "name": "tiny",
        "data": {"rendered": {}},
        "clip": {"frames": 4, "resize": 16, "crop": [16, 16]},
        "teacher": {"model": "tsm-tiny"},
        "student": {"model": "tsm-tiny"},
        "export": export,
    })  # fmt: skip


def write_video(path: Path, seed: int) -> None:
    """Six frames of a bright square that moves over noise."""
    random = np.random.default_rng(seed)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=10, options={"q:v": "2"})
        stream.width, stream.height, stream.pix_fmt = 24, 16, "yuvj420p"
        for index in range(6):
            pixels = random.integers(0, 120, (16, 24, 3), dtype=np.uint8)
            at = (seed + (index if seed % 3 == 1 else -index if seed % 3 == 0 else 0)) * 3 % 20
            pixels[4:12, at : at + 5] = 250
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def fill_run(run_dir: Path, **specs: ModelSpec) -> Path:
    """Videos, checkpoints with random weights, and their logits; ``specs`` replace those of the roles they name."""
    for part in ("data", "teacher", "student"):
        (run_dir / part).mkdir(parents=True)
    clips = []
    for split, count in (("train", 6), ("validation", 6), ("test", 6)):
        for index in range(count):
            path = run_dir / f"data/{split}{index}.avi"
            write_video(path, seed=index)
            clips.append(Clip(path, LABELS[index % 3], split, "mjpeg", 16, 24, 0, 8, np.arange(6.0)))  # type: ignore[arg-type]
    write_clips(run_dir / "data/clips.csv", clips, [False] * len(clips))
    torch.manual_seed(0)
    for role, spec in (SPECS | specs).items():
        model = build_model(spec, len(LABELS), SPEC)
        data_sha256 = content_sha256(run_dir / "data/clips.csv")
        write_checkpoint(run_dir / f"{role}/{role}.safetensors", model, role, LABELS, data_sha256, epoch=1, top1=0.5)
        test = [clip for clip in clips if clip.split == "test"]
        frames = torch.from_numpy(np.stack([read_clip(clip.path, SPEC) for clip in test]))
        with torch.inference_mode():
            logits = model.eval()(frames).numpy()
        paths = np.array([name_in(run_dir, clip.path) for clip in test])
        np.savez(run_dir / role / "test_logits.npz", logits=logits, labels=np.arange(len(test)) % 3, paths=paths,
                 grey_mean=0.25, grey_largest=9)  # fmt: skip
    return run_dir
