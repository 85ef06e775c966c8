"""The rendered classes: told apart by motion, and by nothing else."""

import av
import numpy as np
import pytest
import scipy.stats

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
