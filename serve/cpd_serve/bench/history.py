"""Latency over the commits of a project: recorded runs in a file, one JSON object a line, and where it changed.

Milliseconds of different jobs cannot be compared (they differ by a quarter for no reason), so the series is what was
measured in turns: the change against the same baseline, or engine over reference workload of recorded baselines.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from cpd.errors import CpdError

SCHEMA = 1
PENALTY = 3.0
"""Times the noise variance and the logarithm of the length: what a further change point must gain."""
SHORTEST = 2
"""Runs between two change points, at least: a single odd run is no change."""


@dataclass(frozen=True, slots=True)
class Run:
    """One recorded run."""

    time: str
    """UTC."""
    commit: str
    engine: str
    against: str
    """SHA-256 of the baseline that the ratio is taken against, or "reference workload"."""
    measured: str
    """What the ratio is of, and how it was measured, such as "p50 of frames, batch 1, threads 1, cpu"."""
    log_ratio: float
    p50_ms: float
    status: str
    schema: int = SCHEMA


def append(path: Path, run: Run) -> None:
    """Adds a run at the end of a file, in one write."""
    with path.open("a") as file:
        file.write(json.dumps(asdict(run)) + "\n")


def read(path: Path) -> list[Run]:
    """The runs of a file, in order.

    Raises:
        CpdError: the file is missing, or a line of it is not a run.
    """
    if not path.is_file():
        raise CpdError(f"{path}: no such file", "write one with cpd-bench check --history FILE")
    runs = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            runs.append(Run(**json.loads(line)))
            if runs[-1].schema != SCHEMA:
                raise ValueError(f"schema {runs[-1].schema}, this version reads {SCHEMA}")
            if not math.isfinite(runs[-1].log_ratio):
                raise ValueError(f"log_ratio is {runs[-1].log_ratio}")
        except (ValueError, TypeError) as error:
            raise CpdError(f"{path}:{number}: not a recorded run: {error}", "remove the line") from error
    return runs


def series(runs: Sequence[Run]) -> dict[tuple[str, str], list[Run]]:
    """The runs that can be compared with each other, by what they were measured against and how."""
    found: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        found.setdefault((run.against, run.measured), []).append(run)
    return found


def change_points(log_ratios: Sequence[float]) -> list[int]:
    """Positions of the first run of each new level.

    The segmentation of least squared error plus ``PENALTY`` * variance * log(n) for each change, found exactly by
    dynamic programming (Jackson et al. 2005, "optimal partitioning"). The noise is taken from the differences of
    neighbours, by their median, so that the changes themselves do not count as noise.
    """
    values = np.asarray(log_ratios, dtype=np.float64)
    count = len(values)
    if count < 2 * SHORTEST:
        return []
    noise = max(float(np.median(np.abs(np.diff(values)))) * 1.4826 / math.sqrt(2), 1e-4)
    penalty = PENALTY * noise**2 * math.log(count)
    sums, squares = (np.concatenate([[0.0], np.cumsum(terms)]) for terms in (values, values**2))
    best = np.full(count + 1, math.inf)
    best[0], came_from = -penalty, np.zeros(count + 1, dtype=np.int64)
    for end in range(SHORTEST, count + 1):
        starts = np.arange(0, end - SHORTEST + 1)
        errors = squares[end] - squares[starts] - (sums[end] - sums[starts]) ** 2 / (end - starts)
        costs = best[starts] + errors + penalty
        came_from[end] = starts[np.argmin(costs)]
        best[end] = costs.min()
    found = []
    position = int(came_from[count])
    while position > 0:
        found.append(position)
        position = int(came_from[position])
    return found[::-1]


def as_text(runs: Sequence[Run]) -> str:
    """A table of every series with its change points, and between which commits to bisect."""
    lines = []
    for (against, measured), members in series(runs).items():
        lines.append(f"{measured}, against {against[:12] if len(against) == 64 else against}")
        values = [run.log_ratio for run in members]
        starts = change_points(values)
        highest = max(abs(value) for value in values) or 1.0
        for index, run in enumerate(members):
            bar = "▏" + "█" * round(20 * abs(run.log_ratio) / highest)
            lines.append(
                f"  {run.time}  {run.commit[:10]:10}  {math.expm1(run.log_ratio):+8.1%}  {bar:22} {run.status}"
            )
            if index + 1 in starts:
                later = values[index + 1 : next((start for start in starts if start > index + 1), None)]
                earlier = values[max((start for start in starts if start <= index), default=0) : index + 1]
                step = math.expm1(float(np.mean(later) - np.mean(earlier)))
                lines.append(
                    f"  ── {step:+.1%} between {run.commit[:10]} and {members[index + 1].commit[:10]}: "
                    f"git bisect start {members[index + 1].commit[:10]} {run.commit[:10]}"
                )
    return "\n".join(lines)


def now() -> str:
    """UTC to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def current_commit() -> str:
    """The commit that CI or git names; empty where neither does."""
    for name in ("GITHUB_SHA", "CI_COMMIT_SHA"):
        if os.environ.get(name):
            return os.environ[name]
    try:
        asked = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return asked.stdout.strip() if asked.returncode == 0 else ""
