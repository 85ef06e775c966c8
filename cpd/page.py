"""report.json as a page for people: how each figure is called and written, and the template it goes into."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from cpd.charts import LimitChart, LineChart, Series, limit_chart, line_chart

TEMPLATE = "page.html.jinja"
NOTHING = "–"

Written = Callable[[float], str]


def fraction(value: float) -> str:
    return f"{100 * value:.1f} %"


def percent(value: float) -> str:
    return f"{100 * value:g} %"


def times(value: float) -> str:
    return f"{value:.1f}×" if value < 100 else f"{value:.0f}×"


def milliseconds(value: float) -> str:
    return f"{value:.3g} ms" if value < 1000 else f"{value:.0f} ms"


def short(value: float) -> str:
    return f"{value:.3g}"


def small(value: float) -> str:
    """Two digits, and a power of ten where there would be many zeros: 0.41, 3.3e-6."""
    if value == 0 or value >= 0.01:
        return f"{value:.2g}" if value < 100 else f"{value:.0f}"
    digits, exponent = f"{value:.1e}".split("e")
    return f"{digits.removesuffix('.0')}e{int(exponent)}"


def count(value: float) -> str:
    for unit, name in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:.3g} {name}"
    return f"{value:.0f} "


def operations(value: float) -> str:
    return f"{count(value)}FLOP"


def size(value: float) -> str:
    return f"{count(value)}B"


GATES: Mapping[str, tuple[str, Written]] = {
    "top1_min": ("Top-1 accuracy", fraction),
    "top1_retained_min": ("Top-1 kept of the teacher's", fraction),
    "agreement_min": ("Agreement with the teacher", fraction),
    "logit_difference_max": ("Largest logit difference, torch to ONNX", small),
    "speedup_min": ("Speed-up over the teacher", times),
    "latency_p50_ms_max": ("Median latency", milliseconds),
    "latency_p99_ms_max": ("99th percentile latency", milliseconds),
}
"""What people call a gate, and how its values are written."""

CURVES: Sequence[tuple[str, str, Written, Written]] = (
    ("Top-1 on the validation clips", "validation_top1", fraction, percent),
    ("Cross-entropy on the validation clips", "validation_loss", short, short),
)
"""Of both models: title, key in metrics.jsonl, how its values are written, and how on the axis."""

OF_TERMS = (("Loss terms", "loss"), ("Learned weights", "learned_weights"))
"""Of one model: title, and section of metrics.jsonl that has a value for each term."""

VERDICTS = {
    "pass": "Every gate is passed.",
    "fail": "At least one gate failed.",
    "inconclusive": "No gate failed, but the measurements cannot decide them all.",
}

UNKNOWN = dict.fromkeys((
    "provider", "reason", "top1", "agreement_with_teacher", "max_abs_logit_difference", "max_abs_graph_difference",
    "latency_ms", "speedup_over_teacher", "size_bytes",
))  # fmt: skip
"""What may not be known of an engine."""

TERM_COLOURS = 6
"""Classes term0 to term5 of the style sheet."""

HIGHLIGHTS = ("Top-1 accuracy", "Operations a clip", "Parameters", "Median latency")
"""Comparisons to show at the top."""


@dataclass(frozen=True, slots=True)
class Gate:
    """One condition of the verdict."""

    title: str
    status: str
    value: str
    interval: str
    limit: str
    reason: str
    chart: LimitChart | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """One property of both models; the bars are shares of the larger one."""

    title: str
    teacher: str
    student: str
    teacher_bar: float
    student_bar: float
    ratio: str


def render(report: Mapping[str, Any]) -> str:
    """The page of one report.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: it is not as contracts say.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["known"] = lambda value, written: NOTHING if value is None else written(value)
    environment.globals.update(fraction=fraction, milliseconds=milliseconds, small=small, size=size, times=times)
    environment.globals["nothing"] = NOTHING
    training = report.get("training", {})
    comparisons = list(_comparisons(report))
    return environment.get_template(TEMPLATE).render(
        name=report.get("name", "run"),
        version=report.get("version", ""),
        created=f"{datetime.fromisoformat(report['created']):%d %B %Y, %H:%M} UTC" if "created" in report else "",
        verdict=report["verdict"],
        verdict_sentence=VERDICTS[report["verdict"]] if report["gates"] else "No gates were set.",
        models=[(role, report[role]["model"]) for role in ("teacher", "student")],
        comparisons=comparisons,
        highlights=[row for title in HIGHLIGHTS for row in comparisons if row.title == title],
        gates=[_gate(gate) for gate in report["gates"]],
        engines=[{**UNKNOWN, **engine} for engine in report["engines"]],
        charts=_charts(training),
        epochs=_epochs(training),
        proofs=[
            (file["path"], {"interval": None, "detail": "", **proof})
            for files in ("exports", "streams")
            for file in report.get(files, [])
            for proof in file.get("proofs", [])
        ],
        data=_data(report["data"]) if "data" in report else None,
        environment=list(_facts(report["environment"])),
    )


def _gate(gate: Mapping[str, Any]) -> Gate:
    name, value, limit = gate["name"], gate["value"], gate["limit"]
    title, written = GATES.get(name, (name.replace("_", " "), short))
    at_least = not name.endswith("_max")
    low, high = gate["interval"] or (value, value)
    interval = (low, high) if low != high else None
    return Gate(
        title=title,
        status=gate["status"],
        value=NOTHING if value is None else written(value),
        interval=f"{written(low)} to {written(high)}" if interval else "",
        limit=f"at {'least' if at_least else 'most'} {written(limit)}",
        reason=gate.get("reason", ""),
        chart=None if value is None else limit_chart(value, interval, limit, at_least),
    )


def _comparisons(report: Mapping[str, Any]) -> Iterator[Comparison]:
    teacher, student = report["teacher"], report["student"]
    # The fp32 ONNX files are the form in which both models are measured alike.
    engines = {PurePosixPath(engine["path"]).name: engine for engine in report["engines"]}
    files = engines.get("teacher.onnx", {}), engines.get("student.onnx", {})
    sizes = [file.get("size_bytes") for file in files]
    latencies = [(file.get("latency_ms") or {}).get("p50") for file in files]
    yield from _compared("Parameters", teacher["parameters"], student["parameters"], count, "fewer", "more")
    yield from _compared("Operations a clip", teacher["flops"], student["flops"], operations, "fewer", "more")
    yield from _compared("ONNX file, fp32", sizes[0], sizes[1], size, "smaller", "larger")
    yield from _compared("Median latency", latencies[0], latencies[1], milliseconds, "faster", "slower")
    yield from _compared("Top-1 accuracy", teacher["top1"], student["top1"], fraction)
    yield from _compared("Top-5 accuracy", teacher["top5"], student["top5"], fraction)


def _compared(
    title: str, teacher: float | None, student: float | None, written: Written, less: str = "", more: str = ""
) -> Iterator[Comparison]:
    """A row, if both values are known; ``less`` and ``more`` say what a factor is, without them a share is kept."""
    if not teacher or not student:
        return
    if not less:
        ratio = f"{fraction(student / teacher)} kept"
    elif student <= teacher:
        ratio = f"{times(teacher / student)} {less}"
    else:
        ratio = f"{times(student / teacher)} {more}"
    largest = max(teacher, student)
    yield Comparison(title, written(teacher), written(student), teacher / largest, student / largest, ratio)


def _charts(training: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[LineChart]:
    """The learning curves of both models, and what the losses of each are made of."""
    flat = {role: [dict(_flat(row)) for row in rows] for role, rows in training.items()}
    charts = []
    for title, key, written, on_axis in CURVES:
        series = [Series(role, role, _points(rows, key)) for role, rows in flat.items()]
        charts.append(line_chart(title, series, written, on_axis))
    for role, rows in flat.items():
        for title, section in OF_TERMS:
            keys = list(dict.fromkeys(key for row in rows for key in row if key.startswith(f"{section} ")))
            series = [
                Series(_term(key, section), f"term{n % TERM_COLOURS}", _above_0(_points(rows, key)))
                for n, key in enumerate(keys)
            ]
            if len(series) > 1:
                charts.append(line_chart(f"{title} of the {role}", series, small, small, logarithmic=True))
    return [chart for chart in charts if chart.lines]


def _term(key: str, section: str) -> str:
    return key.removeprefix(f"{section} ").replace("_", " ")


def _above_0(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(x, y) for x, y in points if y > 0]


def _points(rows: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    return [(row["epoch"], row[key]) for row in rows if row.get(key) is not None and math.isfinite(row[key])]


def _epochs(training: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The numbers behind the curves, a table for each model that was trained."""
    tables = []
    for role, nested in training.items():
        rows = [dict(_flat(row)) for row in nested]
        columns = list(dict.fromkeys(key for row in rows for key in row))
        cells = [[_cell(row.get(column)) for column in columns] for row in rows]
        tables.append({"role": role, "columns": columns, "cells": cells})
    return [table for table in tables if table["cells"]]


def _flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Names and values; inside a section, names follow the section's."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{name} ")
        else:
            yield above + name, value


def _cell(value: Any) -> str:
    if value is None:
        return NOTHING
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _data(data: Mapping[str, Any]) -> dict[str, Any]:
    notes = [f"{clips:,} in {codec}" for codec, clips in data.get("codecs", {}).items()]
    if data.get("variable_rate"):
        notes.append(f"{data['variable_rate']:,} of variable frame rate")
    return {
        "labels": data["labels"],
        "splits": list(data["splits"].items()),
        "clips": sum(data["splits"].values()),
        "notes": notes,
        "broken": data["broken"],
    }


def _facts(environment: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Names and values; packages, which are a section of their own, last."""
    for name, value in sorted(environment.items(), key=lambda item: isinstance(item[1], Mapping)):
        if isinstance(value, Mapping):
            yield from value.items()
        else:
            yield name.replace("_", " "), "none" if value is None else str(value)
