"""How often does a latency check say the wrong thing? Records checks under changing load, then scores them.

    python benchmarks/latency/run.py calibrate               the true slowdowns of the engines, 3 minutes
    python benchmarks/latency/run.py record --budget-s 600   goes on where it stopped, until 500 checks are recorded
    python benchmarks/latency/run.py score                   table.md and operating-curve.svg, from the recorded samples
    python benchmarks/latency/run.py simulate                rounds to a verdict where the noise is known, in seconds

Everything is kept in results/: every timed call of every check, so that other rules can be scored on the same samples.
"""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
from engines import write_ladder

from cpd.lock import atomic
from cpd_serve.bench.baseline import in_100ns
from cpd_serve.bench.check import Gate, Plan, check
from cpd_serve.bench.decision import centre, interval
from cpd_serve.bench.machine import machine
from cpd_serve.bench.rounds import Rounds, log_ratio, run_rounds
from cpd_serve.bench.worker import Engine

HERE = Path(__file__).parent
RESULTS = HERE / "results"
SAMPLES, CALIBRATION = "checks.jsonl.gz", "calibration.json"
BASE_RUNGS = 94
RUNGS = {0: 0, 3: 3, 7: 7, 10: 10}
"""Rungs to add for a slowdown of this many percent."""
CHECKS = {0: 200, 3: 100, 7: 100, 10: 100}
LIMIT_FRACTION = 0.05
SECONDS_A_CHECK = 120.0


@contextmanager
def engines() -> Iterator[dict[int, Engine]]:
    """The engines, by their slowdown in percent."""
    with tempfile.TemporaryDirectory() as folder:
        made = {}
        for percent, more in RUNGS.items():
            path = Path(folder, f"slower-{percent}.onnx")
            write_ladder(path, BASE_RUNGS + more)
            made[percent] = Engine(path)
        yield made


@contextmanager
def load(seed: int) -> Iterator[None]:
    """The changing background load of load.py."""
    process = subprocess.Popen([sys.executable, str(HERE / "load.py"), str(seed)], start_new_session=True)
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


@click.group()
@click.option("--results", default=RESULTS, show_default=True, type=click.Path(file_okay=False, path_type=Path))
@click.pass_context
def main(context: click.Context, results: Path) -> None:
    """Measures the error rates of cpd-bench."""
    results.mkdir(parents=True, exist_ok=True)
    context.obj = results


@main.command()
@click.option("--seconds", default=60.0, show_default=True, help="For each engine.")
@click.pass_obj
def calibrate(results: Path, seconds: float) -> None:
    """Measure the true slowdown of each engine, with as little load as the machine has."""
    truth = {}
    with engines() as made:
        for percent in (3, 7, 10):
            rounds = run_rounds(
                made[percent], made[0], percentile=50, max_s=seconds, seed=percent, enough=lambda _: False
            )
            ratios = rounds.log_ratios(lambda timed: log_ratio(timed, 50))
            low, high = interval(ratios, 0.025)
            truth[percent] = {
                "fraction": float(np.expm1(centre(ratios))),
                "interval95": [float(np.expm1(low)), float(np.expm1(high))],
                "rounds": len(ratios),
            }
            click.echo(f"{percent} %: {truth[percent]}")
        here = machine(made[0], rounds.opened["baseline"])
    (results / CALIBRATION).write_text(json.dumps({"machine": here, "slowdown": truth}, indent=2) + "\n")


@main.command()
@click.option("--budget-s", default=600.0, show_default=True, help="Stop after the check that is running then.")
@click.pass_obj
def record(results: Path, budget_s: float) -> None:
    """Record checks under changing load; goes on where it stopped."""
    plan = np.random.default_rng(2026).permutation([percent for percent, count in CHECKS.items() for _ in range(count)])
    start_s = time.monotonic()
    path = results / SAMPLES
    done = mend(path)
    with engines() as made, load(done):
        for index in range(done, len(plan)):
            if time.monotonic() - start_s > budget_s:
                break
            percent = int(plan[index])
            plan_of_check = Plan((Gate("latency", LIMIT_FRACTION),), max_s=SECONDS_A_CHECK, seed=index)
            outcome = check(made[percent], made[0], plan_of_check)
            (judged,) = outcome.judged
            entry = {
                "index": index,
                "slowdown_percent": percent,
                "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "status": judged.decision.status,
                "reason": judged.reason,
                "change_fraction": judged.decision.change_fraction,
                "interval": judged.decision.interval,
                "elapsed_s": round(outcome.elapsed_s, 3),
                **samples(outcome.measured),
            }
            with gzip.open(path, "at") as file:
                file.write(json.dumps(entry) + "\n")
            rounds, repeated = len(outcome.measured.rounds), outcome.measured.repeated.total()
            click.echo(
                f"{index + 1}/{len(plan)}  {percent:2} %  {judged.decision.status:12} {outcome.elapsed_s:5.1f} s"
                f"  {rounds} rounds, {repeated} repeated {judged.reason}"
            )


@main.command()
@click.pass_obj
def score(results: Path) -> None:
    """Score cpd-bench and other rules on the recorded samples."""
    # Here, as the processes of each check import this file again, and scipy takes longer than all else.
    from score import Recorded, asked, operating_curve, rounds_told, table

    checks = [Recorded.of(json.loads(line)) for line in whole_lines(results / SAMPLES)[0]]
    if not checks:
        raise click.ClickException(f"no checks in {results / SAMPLES}: run record first")
    lines = [f"{len(checks)} of {sum(CHECKS.values())} checks recorded", "", *asked(checks), "", *table(checks), ""]
    lines += rounds_told(checks)
    (results / "table.md").write_text("\n".join(lines) + "\n")
    (results / "operating-curve.svg").write_text(operating_curve(checks))
    click.echo("\n".join(lines))


@main.command()
@click.option("--seed", default=0, show_default=True)
def simulate(seed: int) -> None:
    """How many rounds a verdict takes where the noise of a round is known; measures nothing."""
    from score import simulated

    click.echo("\n".join(simulated(seed)))


def samples(measured: Rounds) -> dict[str, Any]:
    """Every call, in tenths of a microsecond: (rounds, turns, runs) of both engines, and the waiting left out."""
    return {
        "new_100ns": [in_100ns(each.new_s) for each in measured.rounds],
        "baseline_100ns": [in_100ns(each.baseline_s) for each in measured.rounds],
        "waited_100ns": [
            in_100ns(np.zeros((2, *each.new_s.shape)) if each.waited_s is None else each.waited_s)
            for each in measured.rounds
        ],
        "waiting_fraction": round(measured.waiting_fraction, 3),
        "repeated": dict(measured.repeated),
    }


def whole_lines(path: Path) -> tuple[list[str], bool]:
    """The checks recorded so far, and whether the file ends with them and not with one that was cut short."""
    lines: list[str] = []
    if path.exists():
        try:
            with gzip.open(path, "rt") as file:
                for line in file:
                    json.loads(line)
                    lines.append(line)
        except (EOFError, OSError, zlib.error, ValueError):
            return lines, False
    return lines, True


def mend(path: Path) -> int:
    """Takes away what a killed recording left of its last check, which hides all behind it; counts the rest."""
    lines, whole = whole_lines(path)
    if not whole:
        with atomic(path) as draft:
            draft.write_bytes(b"".join(gzip.compress(line.encode()) for line in lines))
    return len(lines)


if __name__ == "__main__":
    main()
