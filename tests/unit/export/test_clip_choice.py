"""Which clips calibrate int8, and that none of them judges it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cpd.dataset import Clip, evenly
from cpd_export.proofs import without


def clips(count: int) -> list[Clip]:
    return [
        Clip(Path(f"{index}.avi"), "x", "train", "mjpeg", 16, 24, 0, 8, np.arange(6.0))  # no file is opened
        for index in range(count)
    ]


def test_clips_are_spread_over_all() -> None:
    assert [clip.path.stem for clip in evenly(clips(10), 4)] == ["0", "3", "6", "9"]
    assert len(evenly(clips(3), 4)) == 3


def test_what_calibrates_does_not_judge() -> None:
    every = clips(10)
    shown = evenly(every, 4)
    judging = evenly(without(every, shown), 4)
    assert len(judging) == 4
    assert not {clip.path for clip in shown} & {clip.path for clip in judging}
