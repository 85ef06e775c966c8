from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpd.clip import ClipSpec, is_variable_rate, segment_indices, window_indices


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


def test_jitter_is_no_variable_rate() -> None:
    assert not is_variable_rate(np.array([0.0, 0.041, 0.079, 0.121, 0.16]))


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
        ({"std": (0.2, 0.2, 0.0)}, "std above 0"),
        ({"fps": 25}, "unknown keys in a clip specification: fps"),
    ],
)
def test_impossible_specifications_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClipSpec.from_dict(values)


def test_resizing_keeps_the_aspect_ratio_and_the_short_side() -> None:
    assert ClipSpec(resize=128).resized_size(240, 360) == (128, 192)
    assert ClipSpec(resize=128).resized_size(360, 240) == (192, 128)
    assert ClipSpec(resize=(120, 130)).resized_size(360, 240) == (120, 130)
