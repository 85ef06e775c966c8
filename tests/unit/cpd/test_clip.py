from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpd.clip import ClipSpec, is_variable_rate, segment_indices, shown_s, window_indices


def even_times(count: int) -> np.ndarray:
    return np.arange(count) / 25.0


def test_each_segment_gives_its_middle_frame() -> None:
    assert segment_indices(even_times(16), 4).tolist() == [2, 6, 10, 14]


def test_a_short_video_repeats_frames() -> None:
    assert segment_indices(even_times(3), 6).tolist() == [0, 0, 1, 1, 2, 2]
    assert segment_indices(even_times(1), 4).tolist() == [0, 0, 0, 0]


def test_position_moves_within_the_segment() -> None:
    assert segment_indices(even_times(16), 4, position=0.0).tolist() == [0, 4, 8, 12]
    assert segment_indices(even_times(16), 4, position=np.array([0.0, 0.3, 0.6, 0.99])).tolist() == [0, 5, 10, 15]


def test_a_video_of_variable_rate_is_cut_by_time() -> None:
    # Ten frames in the first second, then one a second: half of the clip shows the later, longer part.
    times_s = np.concatenate([np.arange(10) / 10, [1.0, 2.0, 3.0]])
    assert is_variable_rate(times_s)
    assert segment_indices(times_s, 4).tolist() == [3, 10, 10, 11]


@pytest.mark.parametrize("start_s", [0.0, 64.0])
def test_of_a_variable_rate_what_is_shown_at_a_time_is_taken_to_the_end_of_the_last_frame(start_s: float) -> None:
    times_s = start_s + np.array([0, 0.25, 0.5, 0.75, 1, 2, 3, 4])  # for another quarter
    assert segment_indices(times_s, 17, position=0.0).tolist() == [0, 1, 2, 3, *[4] * 4, *[5] * 4, *[6] * 4, 7]


def test_a_position_just_before_the_end_of_a_segment_stays_in_the_video() -> None:
    assert segment_indices(even_times(16), 4, position=np.nextafter(1, 0)).max() == 15


def test_the_last_frame_is_shown_for_as_long_as_most() -> None:
    assert shown_s(np.array([5.0, 6.0, 8.0])) == 4.5
    assert shown_s(np.array([5.0, 6.0, 8.0, 9.0])) == 5.0
    assert shown_s(np.array([5.0])) == 0


@pytest.mark.parametrize(("odd", "variable"), [(0.6, False), (1.4, False), (0.4, True), (1.6, True)])
def test_an_interval_off_by_half_makes_a_variable_rate_and_jitter_does_not(odd: float, variable: bool) -> None:
    assert is_variable_rate(np.cumsum([0.0, 0.04, 0.04, 0.04 * odd, 0.04, 0.04])) == variable


def test_no_frames_are_refused() -> None:
    with pytest.raises(ValueError, match="without frames"):
        segment_indices(np.empty(0), 8)


@given(count=st.integers(1, 400), frames=st.integers(1, 32), windows=st.integers(1, 12), variable=st.booleans())
def test_indices_lie_in_the_video_and_ascend_within_each_window(
    count: int, frames: int, windows: int, variable: bool
) -> None:
    times_s = np.cumsum(np.where(np.arange(count) % 5 == 0, 0.4, 0.04)) if variable else even_times(count)
    indices = window_indices(times_s, frames, windows).reshape(windows, frames)
    assert indices.min() >= 0
    assert indices.max() < count
    assert (np.diff(indices, axis=1) >= 0).all()
    assert (np.diff(indices[:, 0]) >= 0).all()


def test_windows_are_equal_parts() -> None:
    assert window_indices(even_times(16), 2, 2).tolist() == [2, 6, 10, 14]
    assert window_indices(even_times(16), 4, 1).tolist() == segment_indices(even_times(16), 4).tolist()


def test_the_specification_survives_json() -> None:
    spec = ClipSpec(frames=4, resize=(48, 96), crop=(40, 80))
    assert ClipSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"frames": 0}, "frames must be at least 1"),
        ({"resize": 100, "crop": (112, 112)}, "larger than the resized frame"),
        ({"resize": (128, 100)}, "larger than the resized frame"),
        ({"crop": (112, 140)}, "larger than the resized frame"),
        ({"resize": 0}, "resize must be a short side"),
        ({"resize": (128, 128, 3)}, "resize must be a short side"),
        ({"crop": (112, 0)}, "crop must be"),
        ({"crop": (112, 112, 3)}, "crop must be"),
        ({"std": (0.2, 0.2, 0.0)}, "std above 0"),
        ({"mean": (0.5, 0.5)}, "mean and std need three values"),
        ({"std": (0.5, 0.5)}, "mean and std need three values"),
        ({"normalise": "video"}, "normalise must be dataset or clip"),
        ({"colour": "yuv"}, "colour must be rgb, grey or motion"),
        ({"colour": "motion"}, "motion needs normalise: clip"),
        ({"fps": 25}, "unknown keys in a clip specification: fps"),
    ],
)
def test_impossible_specifications_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClipSpec.from_dict(values)


def test_resizing_keeps_the_aspect_ratio_and_the_short_side() -> None:
    assert ClipSpec(resize=128).resized_size(240, 360) == (128, 192)
    assert ClipSpec(resize=128).resized_size(360, 240) == (192, 128)
    assert ClipSpec(resize=128).resized_size(240, 361) == (128, 193)
    assert ClipSpec(resize=128).resized_size(361, 240) == (193, 128)
    assert ClipSpec(resize=(120, 130)).resized_size(360, 240) == (120, 130)


def test_the_crop_lies_in_the_middle_which_every_resized_frame_has() -> None:
    assert ClipSpec(crop=(112, 100)).crop_corner(129, 193) == (8, 46)
    assert ClipSpec(resize=128).middle == (128, 128)
    assert ClipSpec(resize=(120, 130)).middle == (120, 130)
