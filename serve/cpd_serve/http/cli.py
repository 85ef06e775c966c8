"""The ``cpd-serve http`` command."""

from __future__ import annotations

import sys

import click

from cpd.errors import install
from cpd_serve.options import POSITIVE, Command, check_engine


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--engine", required=True, metavar="FILE", help="The model: an .onnx file or a .trt engine.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 for all.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free one.")
@click.option("--workers", type=click.IntRange(min=1),
              help="Clips labelled at once.  [default: one a CPU; with the model on a GPU at most 4]")  # fmt: skip
@click.option("--provider", help="cpu, cuda, tensorrt, or the name of an onnxruntime provider.")
@click.option(
    "--rebuild", is_flag=True, help="Build an engine that does not fit this machine anew, from its ONNX file."
)
@click.option("--max-upload-mb", default=64.0, show_default=True, type=POSITIVE, metavar="MB",
              help="Size of a clip.")  # fmt: skip
@click.option("--max-duration", "duration_s", default=600.0, show_default=True,
              type=POSITIVE, metavar="SECONDS", help="Length of a clip.")  # fmt: skip
@click.option("--timeout", "label_s", default=60.0, show_default=True,
              type=POSITIVE, metavar="SECONDS",
              help="Time to label a clip in, and before that to wait for a worker.")  # fmt: skip
@click.option("--waiting", default=32, show_default=True, type=click.IntRange(min=0), help="Clips that may wait.")
@click.version_option(package_name="cpd", prog_name="cpd-serve")
def http(
    engine: str, host: str, port: int, workers: int | None, provider: str | None, rebuild: bool,
    max_upload_mb: float, duration_s: float, label_s: float, waiting: int,
) -> None:  # fmt: skip
    """Label the clips that are posted to an HTTP port.

    \b
    cpd-serve http --engine student.onnx
    curl --data-binary @clip.mp4 http://127.0.0.1:8000/label
    """
    check_engine(engine, provider)
    if not host:  # as an unset variable leaves it, and sockets take it for all addresses
        raise click.UsageError("--host is empty")
    try:
        from cpd_serve.http.server import serve
        from cpd_serve.http.service import Limits
    except ModuleNotFoundError as error:
        sys.exit(f"error: {error.name} is not installed ({install('http')})")
    limits = Limits(int(max_upload_mb * 1e6), duration_s=duration_s, label_s=label_s, waiting=waiting)
    serve(engine, provider, rebuild, host, port, workers, limits)
