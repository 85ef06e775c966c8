"""Items that are made in another thread come in order, and so does what goes wrong."""

import threading

import pytest

from cpd_train.ahead import ahead


def test_as_many_are_made_ahead_as_are_asked_for():
    begun = threading.Semaphore(0)

    def items():
        for number in range(6):
            begun.release()
            yield number

    made = ahead(items(), 2)
    assert next(made) == 0
    assert all(begun.acquire(timeout=60) for _ in range(4))  # the first, two that are ready, one that waits for room
    assert not begun.acquire(timeout=0.2)
    assert list(made) == [1, 2, 3, 4, 5]


def test_an_error_comes_after_the_items_before_it():
    def items():
        yield 1
        raise ValueError("no second")

    made = ahead(items(), 2)
    assert next(made) == 1
    with pytest.raises(ValueError, match="no second"):
        next(made)


def test_one_that_is_left_early_ends_its_thread():
    before = threading.active_count()
    made = ahead(iter(range(100)), 2)
    assert next(made) == 0
    made.close()
    assert threading.active_count() == before
