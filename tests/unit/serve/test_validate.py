"""What the validate stage makes of answers and times that are written down."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.special
import scipy.stats

from cpd.config import Data, Gates, Model, Pipeline, Rendered, Validate
from cpd.dataset import Clip, write_clips
from cpd.errors import DataError, EngineError
from cpd.metrics import Logits
from cpd_serve.latency import Samples
from cpd_serve.measuring import Engine, in_rounds, percentile_interval_ms, speedup
from cpd_serve.validate import (
    Reference,
    describe_engine,
    graph_difference,
    judge,
    read_reference,
    run,
    summary,
)

LABELS = np.arange(100) % 3
TEACHER, STUDENT = LABELS.copy(), LABELS.copy()
TEACHER[:10] = (LABELS[:10] + 1) % 3
STUDENT[5:25] = (LABELS[5:25] + 2) % 3
FAST_S, SLOW_S = (np.where(np.arange(100) == 7, 30, 1) * per_call_s for per_call_s in (1e-3, 3e-3))
"""Of student and teacher, with one call that takes thirty times as long."""


def logits(classes: np.ndarray, scale: float = 4.0) -> Logits:
    return np.eye(3, dtype=np.float32)[classes] * np.float32(scale)


def engine(
    role: str, answers: Logits | None, samples_s: Samples | None, runtime: str = "onnxruntime", **file: Any
) -> Engine:
    proofs = [
        {"name": name, "value": value}
        for name, value in (("torch = onnxruntime", 2e-6), ("torch = onnxruntime, one by one", 3e-6), ("same", 1.0))
    ]
    entry = {"path": f"export/{role}.onnx", "role": role, "runtime": runtime, "precision": "fp32", "proofs": proofs}
    return Engine(entry | file, None, "validated", "", answers, samples_s)


def references() -> dict[str, Reference]:
    return {"teacher": Reference(logits(TEACHER), LABELS), "student": Reference(logits(STUDENT, 3.5), LABELS)}


def config(**gates: float | None) -> Pipeline:
    unset = dict.fromkeys(Gates.model_fields)
    return Pipeline(
        name="test", data=Data(rendered=Rendered()), teacher=Model(), student=Model(),
        validate=Validate(gates=Gates(**{**unset, **gates})),
    )  # fmt: skip


def test_each_gate_is_of_its_own_number() -> None:
    engines = [engine("teacher", logits(TEACHER), SLOW_S), engine("student", logits(STUDENT), FAST_S)]
    shares = ("top1_min", "top1_retained_min", "agreement_min")
    limits = {name: 0.0 if name in shares else 1e-9 for name in Gates.model_fields}  # a limit of 0 is one too
    gates = judge(config(**limits), engines, references())
    assert {gate.name: gate.value for gate in gates} == pytest.approx({
        "top1_min": 0.8, "top1_retained_min": 0.8 / 0.9, "agreement_min": 0.75, "logit_difference_max": 3e-6,
        "speedup_min": 3.0, "latency_p50_ms_max": 1.0, "latency_p99_ms_max": np.percentile(FAST_S, 99) * 1e3,
    }, rel=1e-6)  # fmt: skip
    statuses = {gate.name: gate.status for gate in gates}
    assert statuses == {name: "fail" if name.endswith("_max") else "pass" for name in Gates.model_fields}
    assert [gate.name for gate in judge(config(top1_min=0.5), engines, references())] == ["top1_min"]


def test_without_a_teacher_in_the_same_runtime_no_speedup_is_told() -> None:
    (gate,) = judge(config(speedup_min=1.0), [engine("student", logits(STUDENT), FAST_S)], references())
    assert (gate.status, gate.reason) == ("inconclusive", "the teacher does not run in the same runtime")


def test_why_the_student_that_is_judged_did_not_run_is_told() -> None:
    others = [engine("teacher", logits(TEACHER), SLOW_S), engine("student", None, None, "tensorrt")]
    with pytest.raises(EngineError, match="cannot be validated: it was not exported"):
        judge(config(), others, references())
    failed = engine("student", None, None)
    failed.status, failed.reason = "failed", "no memory"
    with pytest.raises(EngineError, match="cannot be validated: no memory"):
        judge(config(), [*others, failed], references())


def test_an_engine_is_described_beside_the_teacher_of_its_runtime(tmp_path: Path) -> None:
    (tmp_path / "export").mkdir()
    (tmp_path / "export/student.onnx").write_bytes(b"four")
    student = engine("student", logits(STUDENT) + np.float32([0, 0.25, 0]), FAST_S, "tensorrt", size_bytes=0)
    engines = [
        engine("teacher", logits(TEACHER), FAST_S),
        engine("teacher", logits(TEACHER), SLOW_S, "tensorrt"),
        engine("student", logits(STUDENT), FAST_S),
        student,
    ]
    told = describe_engine(student, engines, references(), tmp_path)
    assert (told["top1"], told["agreement_with_teacher"], told["size_bytes"]) == (0.8, 0.75, 4)
    assert told["speedup_over_teacher"] == pytest.approx(3.0)
    assert told["max_abs_graph_difference"] == graph_difference(student, engines) == pytest.approx(0.25)
    assert told["max_abs_logit_difference"] == pytest.approx(0.75), "from torch's own, not from the teacher's"
    taught, answered = (scipy.special.softmax(one, axis=1) for one in (logits(TEACHER), student.logits))
    assert told["kl_from_teacher"] == pytest.approx(scipy.stats.entropy(taught, answered, axis=1).mean(), rel=1e-5)
    assert told["latency_ms"]["p50"] == pytest.approx(1.0)


@pytest.mark.parametrize(("speed", "words"), [(2.0, ", 2.0x faster"), (0.5, ", 2.0x slower"), (None, "")])
def test_the_summary_says_how_much_faster_or_slower(speed: float | None, words: str) -> None:
    student = {
        "role": "student", "runtime": "onnxruntime", "precision": "fp32", "path": "export/student.onnx", "top1": 0.8,
        "latency_ms": {"p50": 1.25}, "speedup_over_teacher": speed,
    }  # fmt: skip
    told = summary({"engines": [student], "teacher": {"top1": 0.9}, "verdict": "pass"})
    assert told == f"student.onnx 80.0% top-1 (teacher 90.0%), 1.25 ms a clip{words}: pass"


def test_a_split_without_clips_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    clip = Clip(tmp_path / "one.avi", "left", "train", "mjpeg", 32, 32, 0, 8, np.arange(3.0))
    write_clips(tmp_path / "data/clips.csv", [clip], [False])
    with pytest.raises(DataError, match="the test split has no clips"):
        run(config(), tmp_path)


def test_intervals_are_of_whole_rounds_and_speed_of_medians() -> None:
    assert in_rounds(np.arange(11.0)).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert in_rounds(np.arange(3.0)).tolist() == [[0, 1, 2]]
    value, (low, high) = speedup(SLOW_S, np.full(100, 1e-3))
    assert (value, low, high) == pytest.approx((3, 3, 3))
    low, high = percentile_interval_ms(FAST_S, 99)
    assert low == pytest.approx(1)
    assert high > 20


@pytest.mark.parametrize("kept", [0, 0.5, 0.99])
def test_answers_that_were_cut_off_are_one_clear_line(tmp_path: Path, kept: float) -> None:
    path = tmp_path / "teacher" / "test_logits.npz"
    path.parent.mkdir()
    np.savez(path, logits=np.zeros((3, 2), np.float32), labels=np.zeros(3, np.int64), paths=np.array(["a", "b", "c"]))
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(DataError, match=re.escape(f"{path}: cannot be read: ")):
        read_reference(path, [])
