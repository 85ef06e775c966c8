"""What a gate or a proof comes to, what many of them do together, and the exit code that tells it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

Status = Literal["pass", "fail", "inconclusive"]
EXIT_CODES: dict[Status, int] = {"pass": 0, "fail": 3, "inconclusive": 4}


def verdict(statuses: Iterable[Status]) -> Status:
    """Fail where one fails, else inconclusive where one is, else pass."""
    found = set(statuses)
    return "fail" if "fail" in found else "inconclusive" if "inconclusive" in found else "pass"
