"""What a part is told and what it tells: one JSON object a line, so that what was measured before a crash is kept."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

ROLES = ("student", "teacher")
BATCHES = (1, 16)
"""Clips in a call, for latency and for throughput."""
Values = Mapping[str, float | str]
"""Name with its unit -> value."""


@dataclass(frozen=True, slots=True)
class Setup:
    """Where a part runs, and how large."""

    device: str
    """cuda or cpu."""
    quick: bool
    """Tiny sizes: shows that a part works, not how fast anything is."""
    folder: Path
    """For its files; parts of one run share it."""
    seconds: float
    """How long the part may take."""

    @property
    def on_gpu(self) -> bool:
        return self.device == "cuda"


class Rows:
    """The rows of one part.

    Args:
        file: receives them.
        skip: rows that another process of this part has told already.
    """

    def __init__(self, file: TextIO, skip: Collection[str] = ()) -> None:
        self._file, self._skip = file, skip

    def plan(self, names: Iterable[str]) -> None:
        """Names the rows that should come; those that do not are reported with the reason why the part ended."""
        self._write({"planned": list(names)})

    def put(self, name: str, values: Values) -> None:
        self._write({"name": name, "values": dict(values)})

    def miss(self, name: str, why: str) -> None:
        """A row that cannot be measured here."""
        self._write({"name": name, "not_run": why})

    def wants(self, name: str) -> bool:
        """Whether a row is not told already."""
        return name not in self._skip

    def begin(self, name: str) -> None:
        """Says which row a crash would be of."""
        self._write({"begun": name})

    def failed(self, name: str, error: Exception) -> None:
        """A row that an error costs; where it costs the GPU's context too, the process ends, and another goes on.

        Raises:
            SystemExit: in this process all that follows would fail.
        """
        if context_is_lost():
            raise SystemExit(reason(error)) from error
        self.miss(name, reason(error))

    def measure(self, name: str, work: Callable[[], Values]) -> None:
        """Puts what the work returns, or why it failed."""
        if not self.wants(name):
            return
        self.begin(name)
        try:
            self.put(name, work())
        except Exception as error:  # whatever a library raises costs this row alone
            self.failed(name, error)

    def _write(self, row: Mapping[str, object]) -> None:
        print(json.dumps(row), file=self._file, flush=True)


def context_is_lost() -> bool:
    """Whether a kernel of this process failed, as by an illegal access: CUDA then answers every call with its error."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return False
    try:
        torch.cuda.synchronize()
    except Exception:  # torch's, of several kinds
        return True
    return False


def reason(error: BaseException) -> str:
    """What an error says, in one line."""
    return (" ".join(str(error).split()) or type(error).__name__)[:300]


def significant(value: float) -> float:
    """Three digits, or all before the point: more would be noise."""
    return float(f"{value:.3g}") if abs(value) < 1000 else round(value)
