"""Blends of clips, and of their labels in the same shares."""

import numpy as np
import torch

from cpd_train.loader import Batch
from cpd_train.teacher import mixed

FRAMES = torch.stack([torch.full((2, 4, 4, 3), value, dtype=torch.uint8) for value in (0, 100, 200)])
BATCH = Batch(FRAMES, torch.tensor([2, 0, 1]), [(row, 0) for row in range(3)])


def test_without_mixup_clips_stay_as_they_are():
    frames, truth = mixed(BATCH, 3, 0.0, np.random.default_rng(0))
    assert frames is FRAMES
    assert truth.tolist() == [[0, 0, 1], [1, 0, 0], [0, 1, 0]]


def test_labels_are_blended_as_frames_are():
    draws = np.random.default_rng(0)
    shares = []
    for _ in range(200):
        frames, truth = mixed(BATCH, 3, 0.2, draws)
        assert frames.dtype == torch.uint8
        torch.testing.assert_close(truth.sum(1), torch.ones(3))
        share = float(truth[1, 0])  # of the second clip, blended with the first
        assert abs(float(frames[1, 0, 0, 0, 0]) - 100 * share) <= 0.5
        assert abs(float(truth[1, 2]) - (1 - share)) < 1e-6
        shares.append(share)
    assert abs(np.mean(shares) - 0.5) < 0.1
    assert np.std(shares) > 0.3, "Beta(0.2, 0.2) is mostly near 0 and 1"
