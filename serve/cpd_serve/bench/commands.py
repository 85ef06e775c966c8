"""What ``cpd-bench`` does once its options are read."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import click

from cpd.errors import CpdError
from cpd.lock import content_sha256
from cpd.verdict import EXIT_CODES
from cpd_serve.bench.baseline import check_recorded, read_baseline, record, write_baseline
from cpd_serve.bench.check import Check, Gate, Plan, check
from cpd_serve.bench.decision import centre
from cpd_serve.bench.history import Run, append, current_commit, now
from cpd_serve.bench.machine import machine
from cpd_serve.bench.report import as_junit, as_markdown, as_text, to_json, write_report
from cpd_serve.bench.rounds import Rounds, log_ratio
from cpd_serve.bench.worker import Engine

DEFAULT_LIMIT_FRACTION = 0.05
REFERENCE_NAME = "reference workload"


def run_check(
    engine: Path,
    baseline: Path,
    limit: float | None,
    gates: tuple[Gate, ...],
    percentile: float,
    error_rate: float,
    max_s: float,
    seed: int,
    normalise: bool,
    json_path: str | None,
    junit_path: str | None,
    markdown_path: str | None,
    history: Path | None,
    commit: str | None,
    **how: Any,
) -> int:
    """Checks, prints and writes what was asked for.

    Returns:
        The exit code: 0 passed, 3 failed, 4 undecided.
    """
    if limit is not None or not gates:
        gates = (Gate("latency", DEFAULT_LIMIT_FRACTION if limit is None else limit), *gates)
    if commit is not None and history is None:
        raise click.UsageError("--commit would do nothing without --history")
    plan = Plan(tuple(dict.fromkeys(gates)), percentile, error_rate, max_s, seed)
    new = engine_of(engine, **how)
    if baseline.suffix == ".json":
        outcome = check_recorded(new, read_baseline(baseline), plan, normalise, show_progress)
        against = REFERENCE_NAME
    elif normalise:
        raise CpdError("--normalise is for a recorded baseline", "leave it out: both engines run on this machine")
    else:
        outcome = check(new, engine_of(baseline, **how), plan, show_progress)
        against = content_sha256(baseline)
    end_progress()
    here = machine(new, outcome.measured.opened["new"])
    click.echo(as_text(outcome), err=json_path == "-")
    for path, text in (
        (json_path, to_json(outcome, here)),
        (junit_path, as_junit(outcome)),
        (markdown_path, as_markdown(outcome, here)),
    ):
        if path is not None:
            write_report(path, text)
    if history is not None and outcome.measured.rounds:
        append(history, run_of(outcome, against, measured(new, percentile, here), commit))
    return EXIT_CODES[outcome.verdict]


def run_record(
    engine: Path,
    output: Path,
    rounds: int,
    percentile: float,
    max_s: float,
    seed: int,
    history: Path | None,
    commit: str | None,
    **how: Any,
) -> None:
    """Records a baseline file."""
    named = current_commit() if commit is None else commit
    timed = engine_of(engine, **how)
    baseline = record(timed, percentile=percentile, rounds=rounds, max_s=max_s, seed=seed, commit=named)
    write_baseline(output, baseline)
    assert baseline.engine.latency is not None  # a baseline without rounds is refused
    p50_ms = baseline.engine.latency.p50_ms
    click.echo(f"{output}: {p50_ms:.3g} ms at the median of {len(baseline.rounds)} rounds")
    if history is not None:
        how_measured = measured(timed, percentile, baseline.machine)
        level = centre(Rounds(baseline.rounds).log_ratios(lambda each: log_ratio(each, percentile)))
        append(history, Run(now(), named, str(engine), REFERENCE_NAME, how_measured, level, p50_ms, "recorded"))


def engine_of(path: Path, start: str, video: Path | None, batch: int, threads: int, provider: str | None) -> Engine:
    """The engine that the options describe."""
    if start == "clip" and video is None:
        raise click.UsageError("--from clip needs a clip: --video FILE")
    if start == "clip" and batch != 1:
        raise click.UsageError("--from clip labels one clip in a call, so --batch does not go with it")
    if start == "frames" and video is not None:
        raise click.UsageError("--video would do nothing without --from clip")
    return Engine(path, provider, threads, batch, video if start == "clip" else None)


def measured(engine: Engine, percentile: float, here: dict[str, Any]) -> str:
    """What the ratio of a run is of, in words; ``here`` is the machine."""
    return (
        f"p{percentile:g} of {here['from']}, batch {engine.batch}, threads {engine.threads}, "
        f"{here['provider']} on {here['gpu'] or here['cpu']}"
    )


def run_of(outcome: Check, against: str, how_measured: str, commit: str | None) -> Run:
    """A check as a line of a history."""
    p50_ms = outcome.new.latency.p50_ms if outcome.new.latency else math.nan
    ratios = outcome.measured.log_ratios(lambda timed: log_ratio(timed, outcome.plan.percentile))
    named = current_commit() if commit is None else commit
    return Run(now(), named, outcome.new.path, against, how_measured, centre(ratios), p50_ms, outcome.verdict)


def show_progress(rounds: Rounds) -> None:
    """One line on a terminal, none elsewhere."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r  {len(rounds.rounds)} rounds, {rounds.repeated.total()} repeated ")
        sys.stderr.flush()


def end_progress() -> None:
    if sys.stderr.isatty():
        sys.stderr.write("\r\033[K")
