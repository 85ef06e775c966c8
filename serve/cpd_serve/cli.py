"""The ``cpd-serve`` command; ``cpd-serve http`` is a command of its own."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from cpd_serve.options import POSITIVE, Amount, Command, check_engine, check_sources, refuse_idle

if TYPE_CHECKING:  # PyAV is imported when a video is opened
    from cpd.container import Decoder

MAX_VIEWS = 1000
OF_VIDEOS = ("top_k", "views", "part_s", "workers", "timeout_s", "explain")
OF_STREAMS = ("window_s", "stride_s", "smoothing_s", "patience_s")
"""Options that do something in one of the two modes alone. Streams are JSON lines with or without --json."""


def main() -> None:
    """Runs the command that the arguments name."""
    if sys.stdout is None:  # closed by who started it: what is printed would be lost without an error
        sys.exit("error: standard output is closed, and nothing can be printed")
    if sys.argv[1:2] == ["http"]:
        from cpd_serve.http.cli import http

        http(sys.argv[2:], prog_name="cpd-serve http")
    label_command(prog_name="cpd-serve")


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--engine", required=True, metavar="FILE", help="The model: an .onnx file or a .trt engine.")
@click.option("--video", "named", multiple=True, metavar="SOURCE", help="A file, a folder or a glob; may be repeated.")
@click.argument("videos", nargs=-1, metavar="[SOURCE]...")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a clip, one line each.")
@click.option("--top-k", default=5, show_default=True, type=click.IntRange(min=1), help="Labels to print.")
@click.option("--views", default=1, show_default=True, type=click.IntRange(1, MAX_VIEWS),
              help="Look at this many equal parts of each video and average.")  # fmt: skip
@click.option("--timeline", "part_s", type=Amount(min=0.1), metavar="SECONDS",
              help="Also label each part of about so many seconds.")  # fmt: skip
@click.option("--provider", help="cpu, cuda, tensorrt, or the name of an onnxruntime provider.")
@click.option("--decoder", default="cpu", show_default=True, type=click.Choice(["cpu", "nvdec"]),
              help="What decodes the videos; nvdec, an NVIDIA GPU, pays for long or large ones.")  # fmt: skip
@click.option(
    "--rebuild", is_flag=True, help="Build an engine that does not fit this machine anew, from its ONNX file."
)
@click.option("--workers", type=click.IntRange(min=1), help="Videos labelled at once.  [default: one a CPU]")
@click.option("--timeout", "timeout_s", type=POSITIVE, metavar="SECONDS",
              help="Give a video up that takes longer, with the model on the CPU.  "
              "[default: 600 with several workers]")  # fmt: skip
@click.option("--explain", is_flag=True, help="Print where the time went.")
@click.option("--stream", is_flag=True, help="Label files, cameras and stream URLs as they go; prints JSON lines.")
@click.option("--window", "window_s", default=2.0, show_default=True, type=POSITIVE, metavar="SECONDS",
              help="With --stream: how much video an answer looks at.")  # fmt: skip
@click.option("--stride", "stride_s", default=0.5, show_default=True, type=POSITIVE, metavar="SECONDS",
              help="With --stream: between answers of a model that takes whole clips.")  # fmt: skip
@click.option("--smooth", "smoothing_s", default=0.5, show_default=True, type=Amount(), metavar="SECONDS",
              help="With --stream: over which answers are averaged.")  # fmt: skip
@click.option("--reconnect", "patience_s", default=300.0, show_default=True, type=Amount(), metavar="SECONDS",
              help="With --stream: how long a network stream which broke off may stay away.")  # fmt: skip
@click.version_option(package_name="cpd")
@click.pass_context
def label_command(
    ctx: click.Context, engine: str, named: tuple[str, ...], videos: tuple[str, ...], as_json: bool, top_k: int,
    views: int, part_s: float | None, provider: str | None, decoder: Decoder, rebuild: bool, workers: int | None,
    timeout_s: float | None, explain: bool, stream: bool, window_s: float, stride_s: float, smoothing_s: float,
    patience_s: float,
) -> None:  # fmt: skip
    """Label video clips with an exported model.

    \b
    cpd-serve --engine student.onnx --video clip.mp4
    cpd-serve --engine student.onnx clips/ 'more/*.webm' --json
    cpd-serve --engine student.onnx --stream --video rtsp://camera/1 --video rtsp://camera/2
    cpd-serve http --help
    """
    sources = (*named, *videos)
    refuse_idle(ctx, *(("with --stream", *OF_VIDEOS) if stream else ("without --stream", *OF_STREAMS)))
    if part_s is not None:
        refuse_idle(ctx, "with --timeline", "views")
    check_engine(engine, provider)
    check_sources(sources, stream)
    if stream:
        from cpd_serve.watching import Manner, watch

        manner = Manner(window_s, stride_s, smoothing_s, patience_s, decoder)
        sys.exit(watch(engine, sources, provider, rebuild, manner))
    from cpd_serve.commands import label
    from cpd_serve.labelling import Question

    question = Question(top_k, views, part_s, decoder)
    sys.exit(label(engine, sources, provider, rebuild, question, workers, timeout_s, as_json, explain))
