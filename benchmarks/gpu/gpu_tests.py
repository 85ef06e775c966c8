"""The tests marked gpu, counted. By itself it runs them: python benchmarks/gpu/gpu_tests.py RESULTS [pytest's options].

They run in a worker of pytest-xdist, so that a crash fails one test and the others go on in a new worker, and each test
is told when it ends, so that those told before the time is over are kept.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from rows import Rows, Setup, Values

ROOT = Path(__file__).parents[2]
NAME = "pytest -m gpu"
MOST_CRASHES = 100
"""After which pytest-xdist starts no new worker."""


def names(_setup: Setup) -> list[str]:
    return [NAME]


def run(setup: Setup, rows: Rows, tests: Sequence[str] = ("-m", "gpu", "tests/gpu")) -> None:
    told = setup.folder / "gpu-tests.jsonl"
    command = [sys.executable, __file__, str(told), *tests]
    why = f"not reached within {setup.seconds:.0f} s"
    with suppress(subprocess.TimeoutExpired):
        done = subprocess.run(command, cwd=ROOT, stdout=sys.stderr, timeout=setup.seconds, check=False)
        why = f"pytest ended with status {done.returncode}"
    if told.is_file() and (values := counted(told.read_text().splitlines(), why)):
        rows.put(NAME, values)
    else:
        rows.miss(NAME, why)


def counted(lines: Sequence[str], why: str) -> Values:
    """How many tests passed, failed, were skipped or not run, and why each that did not pass; empty if there are none.

    Args:
        lines: what ``Told`` wrote.
        why: the others did not run.
    """
    outcomes: dict[str, tuple[str, str]] = {}
    for told in map(json.loads, lines):
        outcomes = dict.fromkeys(told.get("collected", ()), ("not run", why)) | outcomes
        if "test" in told:
            outcomes[told["test"]] = told["outcome"], told["why"]
    counts = Counter(kind for kind, _ in outcomes.values())
    reasons = {f"{kind}: {test.rpartition('::')[2]}": reason for test, (kind, reason) in outcomes.items() if reason}
    kinds = ("passed", "failed", "skipped", *(["not run"] if counts["not run"] else []))
    return {**{kind: counts[kind] for kind in kinds}, **reasons} if outcomes else {}


class Told:
    """A plugin of pytest that writes what there is to run, and the outcome of each test when it is known."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", buffering=1)

    def pytest_xdist_node_collection_finished(self, ids: Sequence[str]) -> None:
        print(json.dumps({"collected": list(ids)}), file=self._file)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or not report.passed:
            row = {"test": report.nodeid, "outcome": report.outcome, "why": "" if report.passed else why(report)}
            print(json.dumps(row), file=self._file)


def why(report: pytest.TestReport) -> str:
    """The reason of a test that did not pass, in one line."""
    told: Any = report.longrepr
    if isinstance(told, tuple):  # (path, line, reason) of a test that was skipped
        told = told[2].removeprefix("Skipped: ")
    elif crash := getattr(told, "reprcrash", None):
        told = crash.message
    return " ".join(str(told).split())[:200]


if __name__ == "__main__":
    options = ["-q", "-n", "1", f"--max-worker-restart={MOST_CRASHES}", *sys.argv[2:]]
    sys.exit(pytest.main(options, plugins=[Told(Path(sys.argv[1]))]))
