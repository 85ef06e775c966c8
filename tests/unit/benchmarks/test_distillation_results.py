"""What the comparison of methods says of its trainings."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[3] / "benchmarks" / "distillation"


@pytest.fixture
def results(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.delitem(sys.modules, "results", raising=False)
    import results

    return results


def result_of(results, kind="final", method="kd", weight=1.0, seed=0, validation=(0.5,), right=(True, False)):
    right = np.array(right)
    return results.Result(
        kind, method, weight, seed, list(validation), results.packed(right), len(right), [], 1.0, {"commit": "abc"}
    )


def test_a_result_survives_its_file(results, tmp_path):
    right = np.random.default_rng(0).random(500) < 0.6
    for seed in range(2):
        results.append(tmp_path / "new" / "x.jsonl", result_of(results, seed=seed, right=right))
    first, second = results.read(tmp_path / "new" / "x.jsonl")
    assert (first.seed, second.seed) == (0, 1)
    np.testing.assert_array_equal(first.right, right)


def test_results_stand_in_one_table_if_their_seeds_differ_and_their_clips_do_not(results):
    first, other = result_of(results, seed=0), result_of(results, seed=5)
    assert results.together([first], [other]) == [first, other]
    for more, why in (
        ([], "no results"),
        ([first], "seed 0 is among the others"),
        ([result_of(results, seed=5, right=(True,))], "other clips"),
    ):
        with pytest.raises(ValueError, match=why):
            results.together([first], more)


def test_a_weight_is_chosen_by_the_end_of_its_trials_on_the_validation_split(results):
    trials = [
        result_of(results, "search", weight=3, seed=0, validation=(0.9, 0.1, 0.1, 0.5)),
        result_of(results, "search", weight=3, seed=1, validation=(0.9, 0.1, 0.1, 0.7)),
        result_of(results, "search", weight=10, seed=0, validation=(0.1, 0.1, 0.1, 0.61)),
        result_of(results, "final", weight=30, seed=0, validation=(1.0,)),
        result_of(results, "search", "fitnet", weight=1, seed=0, validation=(1.0,)),
    ]
    assert results.scores(trials, "kd") == {3: [0.5, 0.7], 10: [0.61]}
    assert results.best_weight(trials, "kd") == 10
    assert results.best_weight(trials, "attention") is None


def test_the_interval_is_paired_over_seeds_and_clips(results):
    rng = np.random.default_rng(0)
    clips = rng.random(400) < 0.6
    better = {seed: clips | (rng.random(400) < 0.1) for seed in range(5)}
    same = dict.fromkeys(range(5), clips)
    mean, low, high = results.difference(better, same)
    assert mean == pytest.approx(np.mean([better[seed].mean() - clips.mean() for seed in range(5)]))
    assert 0 < low < mean < high
    assert results.difference(same, same) == (0, 0, 0)
    assert results.difference({0: clips}, {1: clips}) is None


def test_an_interval_over_people_is_wider_where_people_differ(results):
    """Two of four people gain, two lose nothing: over people that could be chance, over clips it could not."""
    worse, people = np.zeros(400, bool), np.repeat(["a", "b", "c", "d"], 100)
    better = dict.fromkeys(range(3), (people == "a") | (people == "b"))
    same = dict.fromkeys(range(3), worse)
    clips, whole = (
        results.difference(better, same, dict.fromkeys(range(3), people.tolist()), whole=whole)
        for whole in (False, True)
    )
    assert clips[0] == whole[0] == 0.5
    assert clips[1] > 0.4
    assert whole[1] == 0


def test_folds_of_unequal_size_count_alike(results):
    ours = {0: np.ones(10, bool), 1: np.ones(40, bool)}
    theirs = {0: np.ones(10, bool), 1: np.zeros(40, bool)}
    people = {0: ["a"] * 10, 1: ["b"] * 40}
    assert results.difference(ours, theirs, people, whole=True) == (0.5, 0, 1)
    mean, low, high = results.difference(ours, theirs, people)
    assert (mean, 0 < low < 0.5 < high < 1) == (0.5, True)


def test_people_of_all_folds_are_drawn_together(results):
    """Two seeds of each of two folds; in one fold one person of two gains, in the other both."""
    people = {0: ["a"] * 5 + ["b"] * 5, 1: ["c"] * 5 + ["d"] * 5}
    people |= {2: people[0], 3: people[1]}
    theirs = dict.fromkeys(people, np.zeros(10, bool))
    ours = {seed: np.array([person != "a" for person in of]) for seed, of in people.items()}
    mean, low, high = results.difference(ours, theirs, people, whole=True)
    assert (mean, low, high) == (0.75, 0.25, 1)


def test_the_table_shows_the_way_to_the_teacher(results):
    rows = [
        result_of(results, method="ce", right=[True, False, False, False]),
        result_of(results, method="kd", right=[True, True, False, False]),
        result_of(results, "teacher", "", right=[True, True, True, False]),
    ]
    table = results.table(rows, ["ce", "kd"])
    assert "| kd | 1 | 1 | 50.0 % | 50 % | +25.0" in table
    assert "| teacher | | 1 | 75.0 %" in table


def test_there_is_no_way_to_a_teacher_that_is_no_better(results):
    rows = [result_of(results, method="ce"), result_of(results, "teacher", "")]
    assert "| ce | 1 | 1 | 50.0 % | - |" in results.table(rows, ["ce"])


def test_the_table_says_by_how_much_the_method_is_above_the_others(results):
    rows = [result_of(results, method="kd"), result_of(results, method="method", right=(True, True))]
    lines = results.table(rows, ["kd", "method"]).splitlines()
    assert lines[2].endswith("| +50.0 (+0.0 to +100.0) |")
    assert lines[3].endswith("| +50.0 (+0.0 to +100.0) | - |")


def test_trainings_with_another_weight_are_a_row_of_their_own(results):
    rows = [
        result_of(results, weight=3, seed=0, right=(False, False)),
        result_of(results, weight=3, seed=1, right=(False, False)),
        result_of(results, method="method", right=(True, True)),
        result_of(results, weight=1, seed=0, right=(True, False)),
    ]
    lines = results.table(rows, ["kd", "method"]).splitlines()
    assert lines[2].startswith("| kd | 1 | 1 | 50.0 %")
    assert lines[3].startswith("| kd | 3 | 2 | 0.0 %")
    assert "| +50.0 (+0.0 to +100.0) | - |" in lines[4], "compared with the latest weight of KD"
