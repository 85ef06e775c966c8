"""What a check says: lines for a person, JSON for a program, JUnit XML and Markdown for CI."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from cpd.lock import atomic
from cpd_serve.bench.check import Check, Facts, Judged

SCHEMA = 1
WORDS = {"pass": "pass", "fail": "fail", "inconclusive": "undecided"}
PLOT_COLUMNS = 61


def as_text(check: Check) -> str:
    """A few lines for a terminal."""
    lines = [f"{WORDS[check.verdict]}: {check.new.path} against {check.baseline.path}"]
    for judged in check.judged:
        lines.append(f"  {name_of(judged, check):17}{change(judged):>8}  {between(judged):24}"
                     f"limit {judged.gate.limit_fraction:+.1%}   {WORDS[judged.decision.status]}")  # fmt: skip
        if judged.reason:
            lines.append(f"    {judged.reason}")
    lines += [f"  {what:17}{new:>14}  was {old}" for what, new, old in compared(check.new, check.baseline)]
    lines.append(f"  {method(check)}")
    return "\n".join(lines)


def as_dict(check: Check, machine: dict[str, Any]) -> dict[str, Any]:
    """The document that ``--json`` writes. Fractions are of the baseline: 0.05 is 5 % more."""
    return {
        "schema": SCHEMA,
        "verdict": check.verdict,
        "gates": [
            {
                "name": name_of(judged, check),
                "status": judged.decision.status,
                "value": judged.decision.change_fraction,
                "interval": list(judged.decision.interval),
                "limit": judged.gate.limit_fraction,
                "rounds": judged.decision.rounds,
                "reason": judged.reason,
            }
            for judged in check.judged
        ],
        "error_rate": check.plan.error_rate,
        "margin_log_ratio": check.margin,
        "new": facts_dict(check.new),
        "baseline": facts_dict(check.baseline),
        "rounds": len(check.measured.rounds),
        "repeated": dict(check.measured.repeated),
        "waiting_fraction": check.measured.waiting_fraction,
        "elapsed_s": check.elapsed_s,
        "machine": machine,
    }


def facts_dict(facts: Facts) -> dict[str, Any]:
    values = asdict(facts)
    values["latency_ms"] = facts.latency.to_dict() if facts.latency else None
    del values["latency"]
    return values


def as_junit(check: Check) -> str:
    """JUnit XML: a test case for each gate. An undecided gate is an error, so that no CI takes it for a pass."""
    failed, undecided = (
        sum(each.decision.status == what for each in check.judged) for what in ("fail", "inconclusive")
    )
    suite = ElementTree.Element(
        "testsuite", name="cpd-bench", tests=str(len(check.judged)), failures=str(failed), errors=str(undecided),
        time=f"{check.elapsed_s:.3f}",
    )  # fmt: skip
    for judged in check.judged:
        name = f"{name_of(judged, check)} at most {judged.gate.limit_fraction:+.1%}"
        case = ElementTree.SubElement(
            suite, "testcase", classname=Path(check.new.path).stem, name=name, time=f"{check.elapsed_s:.3f}"
        )
        if judged.decision.status != "pass":
            kind = "failure" if judged.decision.status == "fail" else "error"
            message = judged.reason or f"{change(judged)}, {between(judged)}"
            ElementTree.SubElement(case, kind, message=message, type=WORDS[judged.decision.status])
    ElementTree.SubElement(suite, "system-out").text = as_text(check)
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def as_markdown(check: Check, machine: dict[str, Any]) -> str:
    """A summary for a pull request, with a plot of each interval."""
    sign = {"pass": "✅", "fail": "❌", "inconclusive": "❔"}
    lines = [
        f"### {sign[check.verdict]} Latency: {WORDS[check.verdict]}",
        "",
        f"`{check.new.path}` against `{check.baseline.path}`",
        "",
        "| gate | change | between | limit | verdict |",
        "|---|--:|---|--:|---|",
        *(
            f"| {name_of(judged, check)} | {change(judged)} | {between(judged)} "
            f"| {judged.gate.limit_fraction:+.1%} | {WORDS[judged.decision.status]} |"
            for judged in check.judged
        ),
        "",
        *(f"> {judged.reason}" for judged in check.judged if judged.reason),
        "```text",
        *(line for judged in check.judged for line in plot(judged, check)),
        "```",
        "",
        "| | new | baseline |",
        "|---|--:|--:|",
        *(f"| {what} | {new} | {old} |" for what, new, old in compared(check.new, check.baseline)),
        "",
        method(check),
        "",
        "Machine: " + ", ".join(f"{key} {value}" for key, value in machine.items() if value is not None),
    ]
    return "\n".join(lines) + "\n"


def plot(judged: Judged, check: Check) -> Iterator[str]:
    """Two lines: the interval and the limit on an axis of percent."""
    low, high = judged.decision.interval
    limit = judged.gate.limit_fraction
    ends = [end for end in (low, high, judged.decision.change_fraction, limit, 0.0) if end is not None]
    left, right = min(ends), max(ends)
    room = 0.08 * ((right - left) or 1.0)
    left, right = left - room, right + room

    def column(fraction: float) -> int:
        return round((fraction - left) / (right - left) * (PLOT_COLUMNS - 1))

    row = [" "] * PLOT_COLUMNS
    start, stop = (0 if low is None else column(low)), (PLOT_COLUMNS - 1 if high is None else column(high))
    row[start : stop + 1] = "─" * (stop + 1 - start)
    row[start], row[stop] = ("├" if low is not None else "◄"), ("┤" if high is not None else "►")
    if judged.decision.change_fraction is not None:
        row[column(judged.decision.change_fraction)] = "●"
    axis = [" "] * (PLOT_COLUMNS + 12)
    marks = [(column(limit), f"|limit {limit:+.0%}")]
    if abs(column(0.0) - column(limit)) > 3:
        marks.append((column(0.0), "|0"))
    for position, text in sorted(marks, reverse=True):
        axis[position : position + len(text)] = text
    yield f"{name_of(judged, check):17}{''.join(row).rstrip()}"
    yield " " * 17 + "".join(axis).rstrip()


def compared(new: Facts, baseline: Facts) -> Iterator[tuple[str, str, str]]:
    """(what, new, baseline) of everything that was seen of both."""

    def both(what: str, unit: str, ours: float | None, theirs: float | None) -> Iterator[tuple[str, str, str]]:
        if ours is not None and theirs is not None:
            one, other = (f"{value:,.3g} {unit}" if value < 100 else f"{value:,.0f} {unit}" for value in (ours, theirs))
            yield what, one, other

    if new.latency and baseline.latency:
        for name in ("p50", "p90", "p99"):
            yield from both(f"latency {name}", "ms", new.latency.to_dict()[name], baseline.latency.to_dict()[name])
    yield from both("throughput", "clips/s", new.throughput_per_s, baseline.throughput_per_s)
    yield from both("cold start", "ms", new.cold_start_ms, baseline.cold_start_ms)
    yield from both("first inference", "ms", new.first_inference_ms, baseline.first_inference_ms)
    yield from both("peak memory", "MB", new.peak_memory_bytes / 1e6, baseline.peak_memory_bytes / 1e6)
    yield from both("size", "kB", new.size_bytes / 1e3, baseline.size_bytes / 1e3)
    yield from both("energy of a call", "mJ", new.energy_mj, baseline.energy_mj)


def name_of(judged: Judged, check: Check) -> str:
    return f"latency p{check.plan.percentile:g}" if judged.gate.metric == "latency" else judged.gate.metric


def change(judged: Judged) -> str:
    fraction = judged.decision.change_fraction
    return f"{fraction:+.1%}" if fraction is not None else "unknown"


def between(judged: Judged) -> str:
    """The interval in words."""
    low, high = judged.decision.interval
    if judged.gate.metric == "size":
        return "exact"
    if low is None and high is None:
        return "no interval yet"
    return " to ".join(f"{end:+.1%}" if end is not None else "any" for end in (low, high))


def method(check: Check) -> str:
    """One line on how the verdict was reached."""
    repeated, busy = check.measured.repeated.total(), check.measured.waiting_fraction
    return (
        f"{len(check.measured.rounds)} rounds in {check.elapsed_s:.1f} s"
        + (f", {repeated} more repeated" if repeated else "")
        + (f", waiting for a core {busy:.0%} of the time" if busy > 0.1 else "")
        + f"; wrong with probability at most {check.plan.error_rate:.2g} either way"
        + (f"; ±{math.expm1(check.margin):.0%} for the sitting or machine" if check.margin else "")
    )


def write_report(path: str, text: str) -> None:
    """Writes a report, whole or not at all; to stdout where the path is ``-``."""
    if path == "-":
        print(text, end="")
        return
    with atomic(Path(path)) as draft:
        draft.write_text(text)


def to_json(check: Check, machine: dict[str, Any]) -> str:
    return json.dumps(as_dict(check, machine), indent=2) + "\n"
