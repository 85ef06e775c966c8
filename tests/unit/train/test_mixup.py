"""Blends of clips, and of their labels in the same shares."""

from pathlib import Path

import numpy as np
import torch

from cpd.clip import ClipSpec
from cpd.config import Augment
from cpd.dataset import Clip
from cpd_train.loader import blended
from cpd_train.sampling import training_views

SPEC = ClipSpec(frames=4, resize=64, crop=(56, 56), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
CLIPS = [Clip(Path(f"{n}.mp4"), "x", "train", "h264", 64, 64, 0, 8, np.arange(8) / 25) for n in range(200)]


def views_of(epoch: int, repeat: int = 0, mixup: float = 0.2):
    return training_views(CLIPS, ("x",), SPEC, Augment(), 0, epoch, repeat, mixup)


def test_without_mixup_clips_stay_as_they_are():
    assert {view.share for view in views_of(0, mixup=0)} == {1.0}


def test_shares_follow_their_distribution():
    shares = [view.share for view in views_of(0)]
    assert abs(np.mean(shares) - 0.5) < 0.1
    assert np.std(shares) > 0.3, "Beta(0.2, 0.2) is mostly near 0 and 1"


def test_a_view_that_is_met_again_has_the_same_share_and_partner():
    first, other, again = ([(view.row, view.share) for view in views_of(epoch, repeat=2)] for epoch in (0, 1, 2))
    assert first == again
    assert first != other
    fresh = [(view.row, view.share) for view in views_of(2)]
    assert fresh != first


def test_frames_and_labels_are_blended_with_the_one_before():
    frames = torch.stack([torch.full((2, 4, 4, 3), value, dtype=torch.uint8) for value in (0, 100, 200)])
    shares = torch.tensor([1.0, 0.75, 0.5])
    assert blended(frames, shares)[:, 0, 0, 0, 0].tolist() == [0, 75, 150]
    truth = blended(torch.eye(3), shares)
    torch.testing.assert_close(truth, torch.tensor([[1, 0, 0], [0.25, 0.75, 0], [0, 0.5, 0.5]]))
