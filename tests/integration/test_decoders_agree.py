"""Frames as DALI loads them for training are frames as the server reads them, for every codec both can read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cpd.clip import ClipSpec
from cpd.dataset import Clip
from cpd.errors import VideoError
from cpd.video import probe, read_clip
from cpd_train.loader import ClipLoader

SPECS = (ClipSpec(frames=8, resize=64, crop=(56, 56)), ClipSpec(frames=8, resize=(48, 96), crop=(40, 80)))
MEAN_GREY_LEVELS_MAX = 0.5
"""Of 255, for every clip."""


def loaded_both_ways(paths: list[Path], spec: ClipSpec) -> dict[str, tuple[float, int]]:
    """For each codec and bit depth, the mean and the largest difference in grey levels."""
    found: dict[str, tuple[float, int]] = {}
    for path in paths:
        try:
            info = probe(path)
            served = read_clip(path, spec)
        except VideoError:
            continue
        if info.damage:
            continue
        clip = Clip(path, "x", "test", info.codec, info.height, info.width, info.rotation, info.bit_depth, info.times_s)
        (batch,) = ClipLoader([clip], ["x"], spec, 1, torch.device("cpu")).evaluate()
        apart = np.abs(batch.frames.numpy()[0].astype(np.int16) - served)
        found[f"{path.name} ({info.codec}, {info.bit_depth} bit)"] = (float(apart.mean()), int(apart.max()))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("spec", SPECS, ids=["short side", "stretched"])
def test_every_codec_of_the_robustness_set(spec: ClipSpec, real_data: Path) -> None:
    paths = sorted(path for path in (real_data / "robustness").iterdir() if path.is_file() and path.suffix != ".tsv")
    found = loaded_both_ways(paths, spec)
    assert len(found) > 20, "too few files were read both ways to say anything"
    assert not {name: mean for name, (mean, _) in found.items() if mean > MEAN_GREY_LEVELS_MAX}


@pytest.mark.slow
def test_mouth_crops(real_data: Path) -> None:
    paths = sorted((real_data / "miracl_words").rglob("*.avi"))[::150]
    means = [mean for mean, _ in loaded_both_ways(paths, SPECS[1]).values()]
    assert means
    assert max(means) <= MEAN_GREY_LEVELS_MAX
