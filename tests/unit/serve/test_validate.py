"""What the validate stage says of itself."""

from __future__ import annotations

import pytest

from cpd_serve.validate import summary


@pytest.mark.parametrize(("speedup", "said"), [(2.0, ", 2.0x faster"), (0.125, ", 8.0x slower"), (None, "")])
def test_a_student_that_is_slower_is_not_called_faster(speedup: float | None, said: str) -> None:
    student = {
        "path": "export/student.onnx", "role": "student", "runtime": "onnxruntime", "precision": "fp32", "top1": 0.5,
        "latency_ms": {"p50": 1.0}, "speedup_over_teacher": speedup,
    }  # fmt: skip
    line = summary({"engines": [student], "teacher": {"top1": 0.75}, "verdict": "fail"})
    assert line == f"student.onnx 50.0% top-1 (teacher 75.0%), 1.00 ms a clip{said}: fail"
