"""The rendered classes teach a model to see motion, because nothing else tells them apart."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cpd.clip import ClipSpec
from cpd_train.models import ModelSpec, build_model
from cpd_train.motion import FRAMES_PER_STATE, MOTIONS, STATES, render_clip

LABELS = list(MOTIONS)


@pytest.mark.slow
def test_a_model_that_sees_shuffled_frames_stays_near_chance():
    """With the same clips, model and budget, order makes the difference between knowing and guessing."""

    def clips_of(count, seed):
        rng = np.random.default_rng(seed)
        frames = np.stack([render_clip(label, 32, rng)[::FRAMES_PER_STATE] for _ in range(count) for label in LABELS])
        return torch.from_numpy(frames), torch.arange(8).repeat(count)

    def shuffled(clips):
        return torch.stack([clip[torch.randperm(STATES)] for clip in clips])

    def accuracy(see):
        torch.manual_seed(0)
        model = build_model(ModelSpec("tsm-tiny", width=12), 8, ClipSpec(frames=8, resize=32, crop=(32, 32)))
        optimiser = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 5e-3, total_steps=EPOCHS * (len(frames) // 32))
        for _ in range(EPOCHS):
            for rows in torch.randperm(len(frames)).split(32):
                optimiser.zero_grad()
                F.cross_entropy(model(see(frames[rows])), labels[rows]).backward()
                optimiser.step()
                schedule.step()
        with torch.no_grad():
            return (model.eval()(see(test_frames)).argmax(1) == test_labels).float().mean().item()

    EPOCHS = 6  # noqa: N806
    frames, labels = clips_of(200, 0)
    test_frames, test_labels = clips_of(40, 1)
    # 320 clips: the 99.9 % bound of guessing one of eight is 0.125 + 3.1 * 0.0185
    assert accuracy(shuffled) < 0.19
    assert accuracy(lambda clips: clips) > 0.7
