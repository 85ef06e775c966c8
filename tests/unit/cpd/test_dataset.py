"""The clip table, written and read again."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from cpd.dataset import Clip, read_clips, write_clips


def test_every_property_of_a_clip_comes_back(tmp_path):
    times_s = np.arange(3.0)
    odd = Clip(Path("/a, b.mp4"), "é", "test", "vp9", 4, 6, 90, 10, times_s, "ab", mirrored=True, plain=False)
    clips = [odd, replace(odd, mirrored=False, plain=True)]
    (tmp_path / "data").mkdir()
    write_clips(tmp_path / "data/clips.csv", clips, [False, False])
    read = read_clips(tmp_path / "data/clips.csv")
    np.testing.assert_array_equal([clip.times_s for clip in read], [times_s, times_s])
    assert [replace(clip, times_s=times_s) for clip in read] == clips


def test_a_long_clip_of_variable_rate_comes_back(tmp_path):
    """An hour at about 30 frames a second: some 1 MB of times in one field."""
    times_s = np.cumsum(np.resize([0.033, 0.034, 0.080], 60 * 60 * 20))
    clip = Clip(Path("/clips/long.mp4"), "a", "train", "h264", 48, 64, 0, 8, times_s)
    (tmp_path / "data").mkdir()
    write_clips(tmp_path / "data/clips.csv", [clip], [True])
    (read,) = read_clips(tmp_path / "data/clips.csv")
    np.testing.assert_allclose(read.times_s, times_s, atol=1e-3)
