"""Views: what is drawn, from what seed, and within what bounds."""

from pathlib import Path

import numpy as np
import pytest

from cpd.clip import ClipSpec
from cpd.config import Augment
from cpd.dataset import Clip
from cpd_train.sampling import batches, candidate_indices, evaluation_views, training_views

SPEC = ClipSpec(frames=4, resize=20, crop=(16, 16))
LABELS = ("left", "right")


def clip(number=0, label="left", frames=12, height=30, width=40):
    return Clip(Path(f"{number}.avi"), label, "train", "mjpeg", height, width, 0, 8, np.arange(frames, dtype=float))


def test_evaluation_takes_the_middle_of_each_segment_and_of_the_frame():
    (view,) = evaluation_views([clip()], LABELS, SPEC)
    assert view.indices.tolist() == [1, 4, 7, 10]
    assert view.size == (20, 27)
    assert view.box == (2, 5, 18, 21)
    assert (view.mirror, view.brightness, view.contrast) == (False, 1.0, 1.0)


def test_training_draws_one_frame_of_each_segment():
    views = training_views([clip(n) for n in range(50)], LABELS, SPEC, Augment(), seed=0, epoch=0)
    drawn = np.array([view.indices for view in views])
    assert (drawn // 3 == np.arange(4)).all()
    assert {tuple(np.unique(column % 3)) for column in drawn.T} == {(0, 1, 2)}


def test_an_epoch_is_replayed_by_its_numbers_and_differs_from_others():
    clips, augment = [clip(n) for n in range(20)], Augment(flip=True, brightness=0.3)

    def told(seed, epoch):
        return [str(view) for view in training_views(clips, LABELS, SPEC, augment, seed, epoch)]

    assert told(1, 2) == told(1, 2)
    assert told(1, 2) != told(1, 3)
    assert told(1, 2) != told(2, 2)


def test_a_mirrored_clip_takes_the_label_it_is_mapped_to():
    clips = [clip(n, LABELS[n % 2]) for n in range(40)]
    swap = Augment(flip=True, flip_labels={"left": "right", "right": "left"})
    for view in training_views(clips, LABELS, SPEC, swap, 0, 0):
        own = LABELS.index(clips[view.row].label)
        assert view.label == (1 - own if view.mirror else own)


def test_flips_are_off_unless_asked_for():
    views = training_views([clip(n) for n in range(40)], LABELS, SPEC, Augment(), 0, 0)
    assert not any(view.mirror for view in views)


def test_random_crops_stay_inside_the_frame_and_within_their_scale():
    augment = Augment(crop_scale=(0.5, 1.0))
    for view in training_views([clip(n) for n in range(200)], LABELS, SPEC, augment, 0, 0):
        top, left, bottom, right = view.box
        assert 0 <= top < bottom <= view.size[0]
        assert 0 <= left < right <= view.size[1]
        assert 8 <= bottom - top <= 16


def test_as_many_clips_are_erased_as_asked_for_within_the_frame_and_nothing_else_changes():
    clips = [clip(n) for n in range(400)]
    whole = training_views(clips, LABELS, SPEC, Augment(flip=True), 0, 0)
    erased = training_views(clips, LABELS, SPEC, Augment(flip=True, erase=0.25), 0, 0)
    assert not any(any(view.hole) for view in whole)
    holes = [view.hole for view in erased if view.hole != (0, 0, 0, 0)]
    assert 70 < len(holes) < 130
    for top, left, height, width in holes:
        assert 0 <= top <= top + height <= SPEC.crop[0]
        assert 0 <= left <= left + width <= SPEC.crop[1]
        assert {height, width} <= set(range(int(SPEC.crop[0] * 0.2), SPEC.crop[0] // 2 + 1)) - {0}
    for before, after in zip(whole, erased, strict=True):
        assert (before.row, before.mirror, before.box) == (after.row, after.mirror, after.box)
        assert before.indices.tolist() == after.indices.tolist()


@pytest.mark.parametrize("frames", [1, 3, 12, 500])
def test_frozen_frames_stand_still_in_one_run_and_change_nothing_else(frames):
    clips = [clip(n, frames=frames) for n in range(200)]
    free = training_views(clips, LABELS, SPEC, Augment(flip=True), 0, 0)
    runs = set()
    frozen = training_views(clips, LABELS, SPEC, Augment(flip=True, freeze=2), 0, 0)
    for before, after in zip(free, frozen, strict=True):
        assert (before.row, before.mirror, before.box) == (after.row, after.mirror, after.box)
        assert set(after.indices) <= set(before.indices)
        assert (np.diff(after.indices) >= 0).all()
        if frames == 12:
            changed = np.flatnonzero(after.indices != before.indices)
            assert len(changed) <= 2
            runs.add(tuple(changed.tolist()))
    if frames == 12:
        assert runs == {(), (0,), (1,), (2,), (3,), (0, 1), (1, 2), (2, 3)}


@pytest.mark.parametrize("frames", [1, 3, 12, 500])
def test_a_cache_of_candidates_holds_every_frame_a_view_can_ask_for(frames):
    clips = [clip(n, frames=frames) for n in range(30)]
    held = set(candidate_indices(clips[0], SPEC).tolist())
    views = training_views(clips, LABELS, SPEC, Augment(), 0, 0) + evaluation_views(clips, LABELS, SPEC)
    assert all(set(view.indices.tolist()) <= held for view in views)


def test_batches_leave_out_a_last_one_that_is_not_full_when_asked():
    views = evaluation_views([clip(n) for n in range(7)], LABELS, SPEC)
    assert [len(batch) for batch in batches(views, 3, drop_last=True)] == [3, 3]
    assert [len(batch) for batch in batches(views, 3, drop_last=False)] == [3, 3, 1]
