"""Listens, and runs the HTTP service until it is stopped."""

from __future__ import annotations

import os
import socket

import click
import uvicorn

from cpd.errors import CpdError
from cpd_serve.http_service import Limits, Service
from cpd_serve.rebuilding import open_engine
from cpd_serve.runner import usable_cpus

CONNECTIONS = 256
"""Open at once; more are answered with 503 at the door."""
__all__ = ["Limits", "serve"]


def serve(
    engine: str, provider: str | None, rebuild: bool, host: str, port: int, workers: int | None, limits: Limits
) -> None:
    """Serves until interrupted.

    Raises:
        EngineError: the model cannot be loaded.
        CpdError: the port is taken, or the address is not this machine's.
    """
    workers = workers or usable_cpus()
    with open_engine(engine, provider, may_rebuild=rebuild) as runner:  # says what is wrong before anything listens
        runs_on = f"{runner.runtime} {runner.provider}"
    try:
        listener = socket.create_server((host, port), backlog=CONNECTIONS)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise CpdError(f"cannot listen on {host}:{port}: {reason}", "choose another --host or --port") from error
    with listener:
        address, port = listener.getsockname()[:2]
        click.echo(f"{engine} on {runs_on}, {workers} workers: http://{address}:{port}")
        config = uvicorn.Config(
            Service(engine, provider, workers, limits).app(),
            log_level="warning", access_log=False, limit_concurrency=CONNECTIONS, timeout_graceful_shutdown=5,
            lifespan="on", server_header=False,
        )  # fmt: skip
        uvicorn.Server(config).run(sockets=[listener])
