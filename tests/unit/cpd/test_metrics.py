from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from cpd.metrics import (
    agreement,
    bootstrap_interval,
    kl_divergence,
    log_softmax,
    retained_interval,
    retained_top1,
    top_k_correct,
    wilson_interval,
)

LOGITS = np.array([[3.0, 2.0, 1.0], [1.0, 3.0, 2.0], [1.0, 1.0, 1.0]], np.float32)


def test_top_k_by_hand() -> None:
    labels = np.array([0, 2, 1])
    assert top_k_correct(LOGITS, labels).tolist() == [True, False, False]
    assert top_k_correct(LOGITS, labels, 2).tolist() == [True, True, True]
    assert top_k_correct(LOGITS, labels, 5).tolist() == [True, True, True]


def test_equal_logits_go_to_the_first_class() -> None:
    assert top_k_correct(LOGITS[2:], np.array([0])).tolist() == [True]
    assert top_k_correct(LOGITS[2:], np.array([1])).tolist() == [False]


def test_agreement_is_of_labels_not_of_logits() -> None:
    assert agreement(LOGITS, LOGITS * 0.1 + 5).all()
    assert agreement(LOGITS, LOGITS[:, ::-1]).tolist() == [False, True, True]


def test_divergence_is_scipys_and_zero_of_the_same() -> None:
    teacher, student = (np.random.default_rng(seed).normal(0, 3, (20, 5)).astype(np.float32) for seed in (0, 1))
    want = stats.entropy(np.exp(log_softmax(teacher)), np.exp(log_softmax(student)), axis=1)
    np.testing.assert_allclose(kl_divergence(teacher, student), want, rtol=1e-9)
    np.testing.assert_allclose(kl_divergence(teacher, teacher), 0, atol=1e-12)


def test_divergence_of_huge_logits_is_finite() -> None:
    assert np.isfinite(kl_divergence(LOGITS * 1e30, LOGITS)).all()


@given(count=st.integers(1, 400), data=st.data())
def test_wilson_is_scipys(count: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, count))
    want = stats.binomtest(successes, count).proportion_ci(0.95, method="wilson")
    low, high = wilson_interval(np.arange(count) < successes)
    assert low == pytest.approx(want.low, abs=1e-9)
    assert high == pytest.approx(want.high, abs=1e-9)


def test_no_clips_tell_nothing() -> None:
    assert wilson_interval(np.empty(0, bool)) == (0.0, 1.0)


def test_a_bootstrap_of_a_mean_is_near_the_normal_interval_and_repeats() -> None:
    values = np.random.default_rng(0).normal(10, 2, 400)
    low, high = bootstrap_interval(lambda drawn: float(values[drawn].mean()), 400)
    half = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - half, abs=0.03)
    assert high == pytest.approx(values.mean() + half, abs=0.03)
    assert bootstrap_interval(lambda drawn: float(values[drawn].mean()), 400) == (low, high)
    assert bootstrap_interval(lambda drawn: float(values[drawn].mean()), 400, seed=1) != (low, high)


def test_a_paired_interval_is_narrower_than_an_unpaired_one() -> None:
    teacher = np.random.default_rng(0).random(300) < 0.7
    student = teacher.copy()
    student[:6] = False  # the student misses what the teacher misses, and a little more
    low, high = retained_interval(student, teacher)
    share_low, share_high = wilson_interval(student)
    assert low < retained_top1(student, teacher) < high
    assert high - low < (share_high - share_low) / 2


def test_nothing_is_retained_of_nothing() -> None:
    none = np.zeros(5, bool)
    assert math.isnan(retained_top1(~none, none))
    assert all(math.isnan(end) for end in retained_interval(~none, none))


def test_few_clips_on_which_both_are_right_leave_room_for_doubt() -> None:
    few, many = (retained_interval(np.ones(clips, bool), np.ones(clips, bool)) for clips in (5, 2000))
    assert few[0] < 0.8 < 1.2 < few[1]
    assert many == pytest.approx((1, 1), abs=0.01)
