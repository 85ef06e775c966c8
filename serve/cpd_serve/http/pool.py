"""Worker processes for the HTTP service: as many as may label at once, replaced when one crashes or hangs."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import click

from cpd.errors import CpdError, EngineError, reason_of
from cpd_serve.options import printable

LINE_BYTES = 1 << 20
"""Longest answer of a worker."""
TRIES = 2
"""Processes that a clip may be given to before it is to blame for a loss that came before it was begun."""
RETRY_S = 1.0
"""Until a worker that did not start is tried again."""
START_S = 60.0
"""A worker that has not loaded its model by then never will."""
BUILD_S = 600.0
"""Instead, where onnxruntime's TensorRT provider may have to build an engine first."""


class PoolBusyError(CpdError):
    """More clips wait than may, or no worker came free while this one waited."""


class WorkerLostError(CpdError):
    """The clip crashed the decoder, or took longer than a clip may."""


class UnwantedError(CpdError):
    """Whoever asked for the clip had gone when a process was free for it."""


class WorkerPool:
    """Labels clips in processes of their own; used as an async context manager."""

    def __init__(
        self, engine: str, provider: str | None, workers: int, waiting: int, timeout_s: float,
        on_restart: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        """
        Args:
            engine: the model's path.
            provider: as for ``open_runner``.
            workers: processes, and so clips labelled at once.
            waiting: clips that may wait for a process; more are refused.
            timeout_s: a clip that takes longer is given up, and its process killed; so is one that waits longer.
            on_restart: called whenever a process is lost.
        """
        self._command = [sys.executable, "-m", "cpd_serve.http.worker", engine, *([provider] if provider else [])]
        self._start_s = BUILD_S if (provider or "").lower().startswith("tensorrt") else START_S
        self._workers, self._may_wait, self._timeout_s, self._on_restart = workers, waiting, timeout_s, on_restart
        self._idle: asyncio.Queue[Process] = asyncio.Queue()
        self._started: set[Process] = set()
        self._loaded: set[Process] = set()
        """Those of them that said they are ready; those that are idle are among these."""
        self._keepers: list[asyncio.Task[None]] = []
        self.waiting = 0
        """Clips that wait for a process."""

    async def __aenter__(self) -> WorkerPool:
        """Starts the processes.

        Raises:
            EngineError: the model cannot be loaded.
        """
        try:
            processes = await asyncio.gather(*(self._start() for _ in range(self._workers)))
        except BaseException:
            await self.__aexit__()
            raise
        self._keepers = [asyncio.create_task(self._keep(process)) for process in processes]
        return self

    async def __aexit__(self, *_: object) -> None:
        for keeper in self._keepers:
            keeper.cancel()
        if self._keepers:
            await asyncio.wait(self._keepers)
        for process in list(self._started):
            await self._end(process)

    @property
    def ready(self) -> bool:
        """Whether a clip sent now would find a process, at once or after those that wait."""
        return any(process.returncode is None for process in self._loaded)

    @property
    def busy(self) -> int:
        """Processes that are labelling."""
        return len(self._loaded) - self._idle.qsize()

    async def label(self, asked: dict[str, Any], unwanted: Callable[[], Awaitable[bool]]) -> dict[str, Any]:
        """Sends one request of ``cpd_serve.http.worker`` to the next free process.

        Args:
            asked: the request.
            unwanted: whether nobody waits for its answer any longer; asked when a process is free.

        Raises:
            UnwantedError: nobody does.
            PoolBusyError: too many wait already, or none came free in time.
            WorkerLostError: the process crashed or took too long; it is being replaced.
        """
        if self._idle.empty() and self.waiting >= self._may_wait:
            raise PoolBusyError(f"{self._may_wait} clips wait already", "try again later")
        for _ in range(TRIES):
            process = await self._next()
            begun, line = False, b""
            if await unwanted():
                self._idle.put_nowait(process)
                raise UnwantedError(f"{asked['name']}: nobody waits for its labels")
            try:
                async with asyncio.timeout(self._timeout_s):
                    begun = bool(await exchange(process, json.dumps(asked)))
                    line = await exchange(process, "") if begun else b""
            except TimeoutError:
                raise WorkerLostError(f"{asked['name']}: took longer than {self._timeout_s:g} s") from None
            finally:
                # Cancelled, too, when the service stops: the process is then in the middle of a clip.
                if not line:
                    kill(process)
                elif process in self._loaded:  # unless it ended right after its answer
                    self._idle.put_nowait(process)
            if line:
                answer: dict[str, Any] = json.loads(line)
                return answer
            if begun:
                break
        raise WorkerLostError(f"{asked['name']}: crashed the decoder")

    async def _next(self) -> Process:
        """Waits for a free process, for as long as a clip may take."""
        self.waiting += 1
        try:
            async with asyncio.timeout(self._timeout_s):
                process = await self._idle.get()
                while process.returncode is not None:  # it died while nobody needed it, which is no clip's fault
                    process = await self._idle.get()
        except TimeoutError:
            raise PoolBusyError(f"no worker was free within {self._timeout_s:g} s", "try again later") from None
        finally:
            self.waiting -= 1
        return process

    async def _keep(self, process: Process) -> None:
        """Replaces a process whenever it has ended, also while nobody needs it; otherwise nobody would be sent here."""
        while True:
            await process.wait()
            self._forget(process)
            self._on_restart()
            process = await self._replacement()

    async def _replacement(self) -> Process:
        told = ""
        while True:
            try:
                return await self._start()
            except EngineError as error:  # one did before: the machine is short of something, which may pass
                if str(error) != told:
                    told = str(error)
                    click.echo(f"warning: no worker in place of a lost one yet: {printable(told)}", err=True)
                await asyncio.sleep(RETRY_S)

    async def _start(self) -> Process:
        """A process that has loaded the model.

        Raises:
            EngineError: it cannot, or there can be no process.
        """
        try:
            # A session of its own: Ctrl-C is for the service, which then ends its workers.
            process = await asyncio.create_subprocess_exec(
                *self._command, stdin=PIPE, stdout=PIPE, limit=LINE_BYTES, start_new_session=True
            )
        except (OSError, RuntimeError) as error:  # the latter where there can be no thread that waits for it
            reason = reason_of(error) if isinstance(error, OSError) else str(error)
            raise EngineError(f"the worker process does not start: {reason}") from error
        self._started.add(process)
        try:
            async with asyncio.timeout(self._start_s):
                line = await exchange(process, "")
        except TimeoutError:
            line = b""
        state = json.loads(line or b'{"failed": "the worker process does not start"}')
        if "failed" in state:
            await self._end(process)
            raise EngineError(state["failed"])
        self._loaded.add(process)
        self._idle.put_nowait(process)
        return process

    async def _end(self, process: Process) -> None:
        self._forget(process)
        kill(process)
        await process.wait()

    def _forget(self, process: Process) -> None:
        self._started.discard(process)
        self._loaded.discard(process)
        for one in [self._idle.get_nowait() for _ in range(self._idle.qsize())]:
            if one is not process:
                self._idle.put_nowait(one)


def kill(process: Process) -> None:
    """Ends a process, if it has not ended yet.

    Not with ``process.kill``, which first looks whether it has: asyncio, which waits for it too, then finds nobody, and
    prints so.
    """
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)


async def exchange(process: Process, line: str) -> bytes:
    """Sends a line, if there is one, and gives the next line back; empty where the process has ended."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        if line:
            process.stdin.write(line.encode() + b"\n")
            await process.stdin.drain()
        return await process.stdout.readuntil()
    except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        return b""
