"""How far an engine's answers may be from those of its ONNX file."""

from __future__ import annotations

import numpy as np
import pytest

from cpd.manifest import Precision
from cpd_serve.twin import difference_fault


@pytest.mark.parametrize(
    ("precision", "apart", "told"),
    [
        ("fp32", 0.009, ""),
        ("fp32", 0.011, "its logits are up to 0.011 from those of its ONNX file, where fp32 may be 0.01"),
        ("fp16", 0.19, ""),
        ("fp16", 0.21, "its logits are up to 0.21 from those of its ONNX file, where fp16 may be 0.2"),
        ("int8", 2.4, ""),
        ("int8", 2.6, "its logits are up to 2.6 from those of its ONNX file, where int8 may be 2.5"),
        ("fp32", float("nan"), "its logits are up to nan from those of its ONNX file, where fp32 may be 0.01"),
    ],
)
def test_each_precision_has_a_limit_that_grows_with_the_logits(precision: Precision, apart: float, told: str) -> None:
    onnx = np.array([[10.0, -2.0], [0.0, 1.0]])
    assert difference_fault(onnx + np.array([[0, 0], [0, apart]]), onnx, precision) == told


def test_small_logits_have_the_limit_of_one() -> None:
    onnx = np.full((1, 2), 1e-6)
    assert difference_fault(onnx + 9e-4, onnx, "fp32") == ""
    assert "may be 0.001" in difference_fault(onnx + 1.1e-3, onnx, "fp32")
