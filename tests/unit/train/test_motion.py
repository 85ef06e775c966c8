"""The rendered classes: told apart by motion, and by nothing else."""

import av
import numpy as np
import pytest
import scipy.stats
import torch
import torch.nn.functional as F

from cpd.clip import ClipSpec
from cpd_train.models import ModelSpec, build_model
from cpd_train.motion import FRAMES_PER_STATE, MOTIONS, STATES, render_clip, state_orders, write_video

LABELS = list(MOTIONS)


@pytest.mark.parametrize("label", LABELS)
def test_every_thing_passes_through_every_state_once(label):
    orders = state_orders(label, np.random.default_rng(0))
    assert (np.sort(orders, axis=1) == np.arange(STATES)).all()
    thing, step = MOTIONS[label]
    assert (np.diff(orders[thing]) % STATES == step % STATES).all()


def test_the_set_of_frames_has_one_distribution_for_all_classes():
    """Sort the moments by the states of one thing: which state of another goes with each is then as random as any."""
    counts = {}
    for label in LABELS:
        rng = np.random.default_rng(LABELS.index(label))
        table = np.zeros((4, 4, STATES))
        for _ in range(600):
            orders = state_orders(label, rng)
            for a in range(4):
                by_a = orders[:, np.argsort(orders[a])]
                for b in range(4):
                    table[a, b, by_a[b, 0]] += 1
        counts[label] = table
    p_values = [
        scipy.stats.chisquare(counts[label][a, b]).pvalue
        for label in LABELS for a in range(4) for b in range(4) if a != b
    ]  # fmt: skip
    assert min(p_values) > 0.01 / len(p_values)


def test_the_same_seed_renders_the_same_clip():
    first, second = (render_clip("grow", 48, np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert first.shape == (STATES * FRAMES_PER_STATE, 48, 48, 3)
    assert not np.array_equal(first, render_clip("grow", 48, np.random.default_rng(4)))


def test_clips_are_real_video_files(tmp_path):
    frames = render_clip("swing_fast", 48, np.random.default_rng(0))
    write_video(tmp_path / "a.avi", frames)
    with av.open(str(tmp_path / "a.avi")) as container:
        decoded = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert decoded.shape == frames.shape
    assert np.abs(decoded.astype(int) - frames).mean() < 12


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
