"""What loading keeps: whole clips first, then views, and no more than there is room for."""

from pathlib import Path

import numpy as np
import pytest

from cpd.clip import ClipSpec
from cpd.config import Augment
from cpd.dataset import Clip
from cpd_train.cache import Cache
from cpd_train.sampling import training_views, whole

SPEC = ClipSpec(frames=2, resize=8, crop=(4, 4))
FRAMES, WIDE = (10, 4), (8, 16)
CLIPS = [
    Clip(Path(f"{n}.mp4"), "x", "train", "h264", 8, WIDE[n % 2], 0, 8, np.arange(FRAMES[n % 2]) / 25) for n in range(4)
]
CLIP_BYTES = [frames * 8 * width * 3 for frames, width in zip(FRAMES, WIDE, strict=True)]
VIEW_BYTES = 2 * 4 * 4 * 3


class Maker:
    """Frames that hold their number in the video, and what it was asked for."""

    def __init__(self):
        self.asked = []

    def __call__(self, views):
        self.asked.append([view.row for view in views])
        (shape,) = {(len(view.indices), *view.size) for view in views}
        numbers = np.stack([view.indices for view in views]).astype(np.uint8)
        return np.broadcast_to(numbers[:, :, None, None, None], (len(views), *shape, 3)).copy()


@pytest.fixture
def views():
    found = training_views(CLIPS, ("x",), SPEC, Augment(), 0, 0)
    return sorted(found, key=lambda view: view.row)


def wholes(views):
    return [whole(view, CLIPS[view.row], SPEC) for view in views]


def test_clips_of_one_shape_are_made_together_and_give_their_views_frames(views):
    cache, maker = Cache(10**6), Maker()
    cache.keep_clips(wholes(views), maker)
    assert maker.asked == [[0, 2], [1, 3]]
    for view in views:
        assert view.row in cache
        frames = cache.frames_of(view)
        assert frames.shape == (2, *view.size, 3)
        assert frames[:, 0, 0, 0].tolist() == view.indices.tolist()


def test_a_clip_that_does_not_fit_leaves_its_room_to_smaller_ones(views):
    cache = Cache(sum(CLIP_BYTES))
    cache.keep_clips(wholes(views), Maker())
    assert [row for row in range(4) if row in cache] == [0, 1]
    cache = Cache(min(CLIP_BYTES))
    cache.keep_clips(wholes(views), Maker())
    assert [row for row in range(4) if row in cache] == [1]


def test_a_view_is_made_once_while_there_is_room(views):
    def make(new):
        asked.append([view.row for view in new])
        return np.stack([np.full((2, 4, 4, 3), view.row, np.uint8) for view in new])

    for room, again in ((4, []), (3, [[3]]), (0, [[0, 1, 2, 3]])):
        cache, asked = Cache(room * VIEW_BYTES), []
        first = cache.views(views, make)
        assert first[:, 0, 0, 0, 0].tolist() == [0, 1, 2, 3]
        np.testing.assert_array_equal(cache.views(views[::-1], make), first[::-1])
        assert [sorted(rows) for rows in asked] == [[0, 1, 2, 3], *again]
