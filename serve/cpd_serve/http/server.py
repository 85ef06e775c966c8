"""Listens, and runs the HTTP service until it is stopped."""

from __future__ import annotations

import asyncio
import os
import signal
import socket

import click
import uvicorn
from starlette.responses import JSONResponse
from uvicorn.protocols.http.h11_impl import H11Protocol

from cpd.errors import CpdError
from cpd.interruption import interruptible
from cpd.threads import usable_cpus
from cpd_serve.http.lingering import Lingering
from cpd_serve.http.pool import WorkerPool
from cpd_serve.http.service import Limits, Service
from cpd_serve.rebuilding import open_engine
from cpd_serve.runner import Runner
from cpd_serve.runtimes.onnx import ON_CUDA

CONNECTIONS = 256
"""Open at once; more are answered with 503 at the door."""
HEAD_S = 10.0
"""Time in which a client must have said what it wants, after it came or had its last answer."""
STOP_S = 5
"""What answers may still take when the service stops."""
FULL = Lingering(
    JSONResponse({"error": "too many connections"}, 503, headers={"Retry-After": "1", "Connection": "close"}),
    HEAD_S, Limits().upload_bytes,
)  # fmt: skip
"""Answers at the door, and holds a connection for ``HEAD_S`` after that."""
WORKERS_ON_GPU = 4
"""By default and at most. Each has an engine and a CUDA context of its own on the GPU, hundreds of MB, and they take
turns there. More than one, because decoding, which each does on a CPU, takes longer than its turn."""


@interruptible()
def serve(
    engine: str, provider: str | None, rebuild: bool, host: str, port: int, workers: int | None, limits: Limits
) -> None:
    """Serves until Ctrl-C or SIGTERM; who is being answered then has ``STOP_S`` left.

    Raises:
        EngineError: the model cannot be loaded, here or by a worker.
        CpdError: the port is taken, or the address is not this machine's.
        KeyboardInterrupt: it was stopped before it listened.
    """
    with open_engine(engine, provider, may_rebuild=rebuild) as runner:  # says what is wrong before anything listens
        runs_on = f"{runner.runtime} {runner.provider}"
        workers = workers or default_workers(runner)
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=CONNECTIONS)
    except (OSError, TypeError) as error:  # the latter of a name that cannot be one
        number = getattr(error, "errno", None) or 0  # below 0 for a name that is not found
        said = getattr(error, "strerror", None) or str(error)
        reason = os.strerror(number) if number > 0 else said.partition(" (")[0]
        raise CpdError(f"cannot listen on {host}:{port}: {reason}", "choose another --host or --port") from error
    with listener:
        address, port = listener.getsockname()[:2]
        where = f"[{address}]" if ":" in address else address
        service = Service(engine, provider, workers, limits)
        config = uvicorn.Config(
            service.app(), http=ImpatientProtocol, log_level="warning", access_log=False,
            timeout_graceful_shutdown=STOP_S, lifespan="off", server_header=False,
        )  # fmt: skip
        server = Server(config, service.pool)
        for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn raises them once more when it has stopped
            signal.signal(number, server.handle_exit)
        click.echo(f"{engine} on {runs_on}, {workers} worker{'s' * (workers > 1)}: http://{where}:{port}")
        server.run(sockets=[listener])


def default_workers(runner: Runner) -> int:
    """How many clips to label at once where nobody said: one a CPU, and no more than suit a GPU."""
    on_gpu = runner.runtime != "onnxruntime" or runner.provider in ON_CUDA
    return min(usable_cpus(), WORKERS_ON_GPU) if on_gpu else usable_cpus()


class Server(uvicorn.Server):
    """With its workers; does not wait for those who linger when it stops."""

    def __init__(self, config: uvicorn.Config, pool: WorkerPool) -> None:
        super().__init__(config)
        self._pool = pool

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        async with self._pool:
            await super().serve(sockets)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for lingering in (self.config.app, FULL):
            if isinstance(lingering, Lingering):
                lingering.hurry()
        await super().shutdown(sockets)
        if self.force_exit:  # by a second Ctrl-C; uvicorn then leaves them
            for task in self.server_state.tasks:
                task.cancel()


class ImpatientProtocol(H11Protocol):
    """Hangs up on who says nothing, or says it letter by letter: uvicorn itself would keep the connection for ever.

    It also counts the connections: uvicorn's own refusal of one too many closes it at once, and the answer may be lost.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        super().connection_made(transport)
        self._one_too_many = len(self.connections) > CONNECTIONS
        if self._one_too_many:
            self.logger.warning("more than %d connections", CONNECTIONS)
        self._silent_since_s = self.loop.time()
        self._watch()

    def data_received(self, data: bytes) -> None:
        if self._one_too_many:  # unless others have gone meanwhile
            self._one_too_many = len(self.connections) > CONNECTIONS
            self.app = FULL if self._one_too_many else self.config.loaded_app
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        self._silent_since_s = self.loop.time()
        super().on_response_complete()

    def _watch(self) -> None:
        answering = self.cycle is not None and not self.cycle.response_complete
        left_s = HEAD_S if answering else self._silent_since_s + HEAD_S - self.loop.time()
        if left_s <= 0:
            self.transport.close()
        else:
            self._timer = self.loop.call_later(left_s, self._watch)
