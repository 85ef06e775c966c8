"""The comparison of methods on clips of one's own: what it brings by itself, what it resumes, what it refuses."""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from cpd.errors import install

FOLDER = Path(__file__).parents[2] / "benchmarks" / "distillation"
PEOPLE = ("ann", "bob/2", "cy", "dee", "eve", "flo")
PIPELINE = """\
name: mine
device: cpu
data: {list: clips.csv, validation_fraction: 0.2}
clip: {frames: 4, resize: 20, crop: [16, 16]}
teacher: {model: tsm-tiny, width: 8, epochs: 1, batch_size: 4}
student: {model: tsm-tiny, width: 4, epochs: 1, batch_size: 4}
"""


@pytest.fixture
def compare(monkeypatch, tmp_path):
    """Runs the command in an empty folder: the exit code, and the lines of both streams."""
    monkeypatch.syspath_prepend(str(FOLDER))
    names = ("run", "trainings", "results", "methods")  # other benchmarks have modules of these names too
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    import run
    import trainings

    monkeypatch.setattr(trainings, "HERE", tmp_path)
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        result = CliRunner().invoke(run.main, [str(argument) for argument in arguments])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result.exit_code, result.output.splitlines()

    yield call
    for name in names:
        del sys.modules[name]


@pytest.fixture
def own(write_video, tmp_path):
    """``mine.yaml``: two clips of each of six people, brighter or darker, listed with who is seen."""
    rng = np.random.default_rng(0)
    with (tmp_path / "clips.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label", "group"])
        for number, person in enumerate(PEOPLE):
            for label, level in (("dark", 60), ("light", 190)):
                frames = rng.integers(level - 20, level + 20, (6, 24, 24, 3)).astype(np.uint8)
                rows.writerow([write_video(frames, name=f"{label}-{number}.avi").name, label, person])
    path = tmp_path / "mine.yaml"
    path.write_text(PIPELINE)
    return path


def recorded(path, kind):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [(row["method"], row["weight"], row["seed"]) for row in rows if row["kind"] == kind]


@pytest.mark.slow
def test_one_command_teaches_searches_and_compares_and_continues_where_it_stopped(compare, own, tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text(PIPELINE.replace("mine", "other"))
    asked = (own, other, "--method", "ce", "--method", "kd", "--seed", "7")
    code, lines = compare("final", *asked)
    assert code == 0
    assert sum(line.startswith("| kd |") for line in lines) == 2, "a table for each"
    assert any("groups drawn" in line for line in lines)
    for name in ("mine", "other"):
        path = tmp_path / "results" / f"{name}.jsonl"
        tried = recorded(path, "search")
        assert [weight for _, weight, _ in tried] == [0.3, 0.5, 0.7, 0.9]
        assert {method for method, _, _ in tried} == {"kd"}, "there is one weight for CE, so nothing to search"
        assert [method for method, _, _ in recorded(path, "final")] == ["ce", "kd"]
    assert "| kd | 0.3: " in (tmp_path / "results" / "mine.md").read_text()
    before = (tmp_path / "results" / "mine.jsonl").read_text()
    code, lines = compare("final", *asked)
    assert code == 0
    assert not any(line.startswith(("final", "search", "teacher")) for line in lines), "nothing is trained again"
    assert (tmp_path / "results" / "mine.jsonl").read_text() == before


@pytest.mark.slow
def test_folds_to_choose_by_and_folds_to_test_on_have_teachers_of_their_own(compare, own, tmp_path):
    assert compare("folds", own, "--method", "kd", "--seed", "0")[0] == 0
    assert compare("final", own, "--leave-out", "2", "--method", "kd", "--seed", "0", "--seed", "4")[0] == 0
    path = tmp_path / "results" / "mine.jsonl"
    assert len(recorded(path, "fold")) == 4, "one of each weight"
    assert compare("folds", own, "--method", "kd", "--seed", "3", "--searched", "mine")[0] == 0
    assert len(recorded(path, "fold")) == 5, "of the weight that was best"
    assert [seed for _, _, seed in recorded(path, "final")] == [0, 4], "with the weight that the folds chose"
    assert [seed for _, _, seed in recorded(path, "fold teacher")] == [0]
    assert [seed for _, _, seed in recorded(path, "teacher")] == [0, 1], "seed 4 is of the second of three folds"
    (fold,) = (tmp_path / "runs" / "mine").glob("1-*.csv")
    tested = {row["group"] for row in csv.DictReader(fold.read_text().splitlines()) if row["split"] == "test"}
    assert tested == {"bob/2", "eve"}


@pytest.mark.slow
def test_a_weight_that_diverges_loses_and_others_go_on(compare, own, tmp_path, monkeypatch):
    from cpd.errors import TrainingError
    from cpd_train import distill

    train = distill.run

    def fails_at_03(config, *rest):
        if config.distill.logits == 0.3:
            raise TrainingError("the logits loss of the student is not finite")
        return train(config, *rest)

    monkeypatch.setattr(distill, "run", fails_at_03)
    code, lines = compare("search", own, "--method", "kd")
    assert code == 0
    assert "search kd 0.3 seed 100: the logits loss of the student is not finite" in lines
    assert any(line.startswith("| kd | 0.3: 0.0 % (1), 0.5: ") for line in lines)


@pytest.mark.slow
def test_results_of_other_clips_or_folds_are_not_taken_for_these(compare, own, tmp_path):
    assert compare("final", own, "--method", "ce", "--seed", "7")[0] == 0
    other = tmp_path / "other.yaml"
    other.write_text(PIPELINE.replace("clips.csv", "other.csv"))
    (tmp_path / "other.csv").write_text((tmp_path / "clips.csv").read_text().replace("dark,", "night,"))
    for arguments, what in (((other,), "clips"), ((own, "--leave-out", "2"), "folds")):
        code, lines = compare("final", *arguments, "--method", "ce", "--seed", "7")
        assert code == 1
        assert any(f"holds results of other {what} (give these a name too" in line for line in lines)
    assert compare("final", own, "--set", "student.epochs=2", "--method", "ce")[0] == 1


def test_what_cannot_be_compared_is_refused_in_one_line(compare, own, tmp_path):
    alone = tmp_path / "alone.yaml"
    (tmp_path / "alone.csv").write_text((tmp_path / "clips.csv").read_text().replace("group", "person"))
    alone.write_text(PIPELINE.replace("clips.csv", "alone.csv"))
    for arguments, why in (
        (("final", tmp_path / "no.yaml"), "no.yaml: no such file"),
        (("final", alone, "--leave-out", "2"), "names no groups to leave out"),
        (("folds", alone), "names no groups to leave out"),
        (("final", own, "--leave-out", "6"), "has 6 groups, and 6 left out leave none"),
        (("final", own, "--method", "kd", "--leave-out", "2"), "no validation clips to choose the weight of kd by"),
        (("final", own, "--method", "kd", "--searched", "elsewhere"), "elsewhere.jsonl: has no trials of kd"),
        (("folds", own, "--method", "method without spectrum"), "has no trials of method"),
        (("folds", own, "--method", "kd", "--searched", "elsewhere"), "elsewhere.jsonl: has no trials of kd"),
        (("table", own), "nothing is recorded yet"),
    ):
        code, lines = compare(*arguments)
        assert code in (1, 2), (arguments, lines)
        (line,) = [line for line in lines if line.startswith("error: ")]
        assert why in line


def test_what_plots_need_is_not_looked_for_by_a_name_on_a_package_index(compare, own, tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "plots", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, lines = compare("plots", own, "--output", tmp_path)
    assert (code, lines) == (1, [f"error: matplotlib is not installed ({install('plots')})"])
