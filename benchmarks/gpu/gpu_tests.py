"""The tests marked gpu, counted."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

from rows import Rows, Setup

ROOT = Path(__file__).parents[2]
NAME = "pytest -m gpu"


def names(_setup: Setup) -> list[str]:
    return [NAME]


def run(setup: Setup, rows: Rows) -> None:
    junit = setup.folder / "gpu-tests.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/gpu", f"--junitxml={junit}"]
    done = subprocess.run(command, cwd=ROOT, stdout=sys.stderr, timeout=setup.seconds, check=False)
    if junit.is_file():
        rows.put(NAME, counted(junit))
    else:
        rows.miss(NAME, f"pytest ended with status {done.returncode} and wrote no results")


def counted(junit: Path) -> dict[str, float | str]:
    """passed, failed, skipped, and the tests that did not pass with the reason of each."""
    counts: Counter[str] = Counter()
    told = {}
    for case in ElementTree.parse(junit).iter("testcase"):
        outcome = next((child for child in case if child.tag in ("failure", "error", "skipped")), None)
        kind = "passed" if outcome is None else "skipped" if outcome.tag == "skipped" else "failed"
        counts[kind] += 1
        if outcome is not None:
            why = " ".join(outcome.get("message", "").split())
            told[f"{kind}: {case.get('name')}"] = why.removeprefix("Skipped: ")[:200]
    return {kind: counts[kind] for kind in ("passed", "failed", "skipped")} | told
