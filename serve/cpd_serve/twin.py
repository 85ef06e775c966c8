"""An engine against the ONNX file it was built from: the same numbers, as far as its precision allows."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cpd.errors import EngineError
from cpd.manifest import Precision
from cpd_serve.runner import Logits, open_runner

LIMITS: dict[Precision, float] = {"fp32": 1e-3, "fp16": 0.02, "int8": 0.25}
"""Largest difference of a logit, as a share of the largest logit or of 1.

Sums in another order move fp32 by some 1e-5. fp16 and int8 graphs of real students are 0.003 to 0.006 and 0.16 to 0.96
from fp32, of logits up to 10, and an engine is no further from onnxruntime than two roundings of the same graph can be.
"""
CLIPS = 4


def difference_fault(engine: Logits, onnx: Logits, precision: Precision) -> str:
    """What is wrong with an engine's logits, (clips, classes) as onnxruntime's of the same clips; empty if nothing."""
    limit = LIMITS[precision] * max(1.0, float(np.abs(onnx).max()))
    apart = float(np.abs(engine - onnx).max())
    if apart <= limit:  # which no NaN is
        return ""
    return f"its logits are up to {apart:.3g} from those of its ONNX file, where {precision} may be {limit:.3g}"


def check_engine(engine: Path, onnx: Path) -> None:
    """Shows both the same noise.

    Raises:
        EngineError: the engine does not run here, or answers otherwise than its ONNX file.
    """
    with open_runner(engine) as built, open_runner(onnx, "cpu") as source:
        shape = (CLIPS, *source.manifest.clip.shape)
        frames = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        fault = difference_fault(built.predict(frames), source.predict(frames), source.manifest.precision)
    if fault:
        raise EngineError(f"{engine}: {fault}", "export it again")
