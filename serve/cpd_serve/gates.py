"""Whether the student is good enough: each gate of the pipeline.yaml.

What a gate rests on decides how it is judged (docs/adr/gates.md):

* a latency varies from run to run: decided by its 95 % interval alone, inconclusive where the limit lies inside or
  fewer than ``FEW_RUNS`` were timed;
* an accuracy on the test split is the same every time: decided by its value on this split, with the interval shown
  for what it says about other clips; inconclusive where the limit lies inside and there are fewer than ``FEW_CLIPS``;
* a largest difference is exact: decided by its value.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from cpd.metrics import Interval
from cpd.verdict import Status

FEW_CLIPS = 30
"""With fewer test clips one clip moves the accuracy by more than 3 points: too few to go by the value alone."""
FEW_RUNS = 24
"""With fewer timed runs, six rounds of four, even the whole range of the rounds misses the truth more than once in
twenty times, so it holds no 95 % interval."""


@dataclass(frozen=True, slots=True)
class Gate:
    """One limit and what was measured against it."""

    name: str
    """The key in pipeline.yaml, under validate.gates."""
    status: Status
    value: float | None
    """None where it could not be measured."""
    interval: Interval | None
    """95 %; both ends equal to the value where that is exact."""
    limit: float
    reason: str
    """What the status rests on, in words."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def exact_gate(value: float | None, reason: str, name: str, limit: float) -> Gate:
    """A gate on a largest allowed value that is the same every time; inconclusive without a value."""
    if value is None or not math.isfinite(value):
        return Gate(name, "inconclusive", None, None, limit, reason)
    return Gate(name, "pass" if value <= limit else "fail", value, (value, value), limit, reason)


def split_gate(value: float, interval: Interval, clips: int, name: str, limit: float) -> Gate:
    """A gate on a smallest allowed value that was measured on the test split."""
    if not math.isfinite(value):
        return Gate(name, "inconclusive", None, None, limit, "the teacher is right on no test clip")
    inside = interval[0] < limit <= interval[1]
    if inside and clips < FEW_CLIPS:
        return Gate(name, "inconclusive", value, interval, limit, f"{clips} test clips are too few to tell")
    status: Status = "pass" if value >= limit else "fail"
    reason = f"measured on {clips} test clips"
    if inside:
        reason += "; the limit lies within the interval, so other clips might decide otherwise"
    return Gate(name, status, value, interval, limit, reason)


def latency_gate(
    value: float, interval: Interval, runs: int, name: str, limit: float, *, at_least: bool = False
) -> Gate:
    """A gate on a latency, or on a ratio of two, that varies from run to run."""
    if runs < FEW_RUNS:
        reason = f"{runs} runs are too few to tell: set validate.latency_runs to {FEW_RUNS} at least"
        return Gate(name, "inconclusive", value, interval, limit, reason)
    low, high = interval if at_least else (-interval[1], -interval[0])
    edge = limit if at_least else -limit
    status: Status = "pass" if low >= edge else "fail" if high < edge else "inconclusive"
    reason = f"{runs} runs in turns"
    if status == "inconclusive":
        reason += "; the limit lies within the interval: raise validate.latency_runs, or measure on a quieter machine"
    return Gate(name, status, value, interval, limit, reason)
