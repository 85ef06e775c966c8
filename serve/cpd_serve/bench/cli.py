"""The ``cpd-bench`` command."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from cpd.interruption import SIGNALS
from cpd_serve.options import Command

FILE = click.Path(path_type=Path)


class Percent(click.ParamType):  # type: ignore[type-arg]  # generic only since click 8.5
    """``5%`` or ``0.05``; a bare 5 could mean either and is refused."""

    name = "percent"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        text = str(value).strip()
        try:
            fraction = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            self.fail(f"{value!r} is not a percentage such as 5%", param, ctx)
        if not text.endswith("%") and abs(fraction) >= 1:
            self.fail(f"{value!r} could mean {text}% or {fraction:.0%}; write {text}%", param, ctx)
        if not -1 < fraction < 100:
            self.fail(f"{value!r} is out of range", param, ctx)
        return fraction


class GateOption(click.ParamType):  # type: ignore[type-arg]
    """``METRIC=5%``."""

    name = "metric=percent"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from cpd_serve.bench.check import METRICS, Gate

        metric, _, limit = str(value).partition("=")
        if metric not in METRICS:
            self.fail(f"{metric!r} is none of {', '.join(METRICS)}", param, ctx)
        return Gate(metric, Percent().convert(limit, param, ctx))


class Commands(Command, click.Group):
    """Subcommands, which CI may cancel."""

    interrupted = "interrupted: no verdict, and nothing was written"
    signals = SIGNALS  # CI cancels with SIGTERM


def how(command: Any) -> Any:
    """The options that say how an engine is run and measured."""
    for option in reversed((
        click.option("--engine", required=True, type=FILE, metavar="FILE", help="An .onnx file or a .trt engine."),
        click.option("--percentile", default=50.0, show_default=True, type=click.FloatRange(1, 99.9),
                     help="Of single calls; tails need longer."),
        click.option("--from", "start", default="frames", show_default=True, type=click.Choice(["frames", "clip"]),
                     help="Time the model alone, or everything from a video file to its label."),
        click.option("--video", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE",
                     help="The clip that --from clip reads."),
        click.option("--batch", default=1, show_default=True, type=click.IntRange(min=1), help="Clips in a call."),
        click.option("--threads", default=1, show_default=True, type=click.IntRange(min=1),
                     help="CPU threads of a call; more than one is far noisier on a shared machine."),
        click.option("--provider", help="cpu, cuda, tensorrt, or the name of an onnxruntime provider."),
        click.option("--max-time", "max_s", default=120.0, show_default=True, metavar="SECONDS",
                     type=click.FloatRange(min=0, min_open=True), help="Stop here, decided or not."),
        click.option("--seed", default=0, show_default=True, help="Of the order in which the engines take turns."),
        click.option("--commit", help="What to call this version.  [default: what CI or git says]"),
        click.option("--history", type=FILE, metavar="FILE", help="Add the result to this file of runs."),
    )):  # fmt: skip
        command = option(command)
    return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="cpd")
def main() -> None:
    """Tell whether an engine became slower, with a known error rate, on a machine that others use too.

    \b
    cpd-bench check --engine new.onnx --baseline old.onnx --max-slowdown 5%
    cpd-bench record --engine old.onnx --output baseline.json
    cpd-bench check --engine new.onnx --baseline baseline.json --max-slowdown 5%

    \b
    Exit codes: 0 passed, 1 error, 2 wrong usage, 3 a gate failed, 4 a gate could not be decided.
    """


@main.command()
@how
@click.option("--baseline", required=True, type=FILE, metavar="FILE", help="The engine before, or a recorded .json.")
@click.option("--max-slowdown", "limit", type=Percent(), help="How much slower the new engine may be.  [default: 5%]")
@click.option("--gate", "gates", multiple=True, type=GateOption(), metavar="METRIC=5%",
              help="How much more of something else: throughput (mean time of a clip), memory, cold-start, "
              "first-inference, size, energy. May be repeated.")  # fmt: skip
@click.option("--error-rate", default=0.01, show_default=True, type=click.FloatRange(1e-6, 0.2),
              help="Largest probability of a wrong fail, and of a wrong pass.")  # fmt: skip
@click.option("--normalise", is_flag=True, help="Accept a baseline of another machine, with a wider interval.")
@click.option("--json", "json_path", metavar="FILE", help="Write the result as JSON; - is stdout.")
@click.option("--junit", "junit_path", metavar="FILE", help="Write the result as JUnit XML.")
@click.option("--markdown", "markdown_path", metavar="FILE", help="Write a summary with a plot.")
def check(**options: Any) -> None:
    """Compare an engine with its baseline: pass, fail or undecided."""
    from cpd_serve.bench.commands import run_check

    sys.exit(run_check(**options))


@main.command()
@how
@click.option("--output", required=True, type=FILE, metavar="FILE", help="The baseline file to write (.json).")
@click.option("--rounds", default=60, show_default=True, type=click.IntRange(min=10), help="How long to record.")
def record(**options: Any) -> None:
    """Record an engine, to compare with when it is gone. Holds for this machine."""
    from cpd_serve.bench.commands import run_record

    run_record(**options)


@main.command()
@click.argument("path", metavar="FILE", type=FILE)
def history(path: Path) -> None:
    """Show recorded runs and the commits between which latency changed."""
    from cpd_serve.bench.history import as_text, read

    click.echo(as_text(read(path)))
