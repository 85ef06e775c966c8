from __future__ import annotations

import asyncio
import errno
import os
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from cpd.errors import EngineError
from cpd_serve.http import pool as pool_module
from cpd_serve.http.pool import WorkerLostError, WorkerPool

WORKER = """
import os, pathlib, signal, sys
fates = pathlib.Path(sys.argv[1])
print("{}", flush=True)
for line in sys.stdin:
    fate, _, rest = fates.read_text().partition(" ")
    fates.write_text(rest)
    if fate == "unbegun":
        os.kill(os.getpid(), signal.SIGKILL)
    print("{}", flush=True)
    if fate == "half-way":
        print('{"half an', end="", flush=True)
    if fate != "well":
        os.kill(os.getpid(), signal.SIGKILL)
    print('{"labelled": true}', flush=True)
"""
"""A process of ``cpd_serve.http.worker``, with what becomes of it at each clip written in a file."""


@pytest.mark.parametrize(
    ("fates", "answered", "lost"),
    [
        ("well", True, 0),
        ("unbegun well", True, 1),
        ("unbegun unbegun", False, 2),
        ("begun", False, 1),
        ("half-way", False, 1),
        ("unbegun begun", False, 2),
    ],
)
def test_a_clip_is_tried_again_once_where_a_process_was_lost_before_it_began(
    tmp_path: Path, fates: str, answered: bool, lost: int
) -> None:
    told, restarts = tmp_path / "fates", []

    async def labelled() -> dict[str, object]:
        pool = WorkerPool("", None, 1, waiting=0, timeout_s=20, on_restart=lambda: restarts.append(1))
        pool._command = [sys.executable, "-c", WORKER, str(told)]
        async with pool:
            try:
                return await pool.label({"name": "clip"}, still_there)
            except WorkerLostError as error:
                return {"error": str(error)}
            finally:
                await pool._next()  # the lost one has been replaced

    told.write_text(f"{fates} well")
    answer = asyncio.run(labelled())
    assert answer == ({"labelled": True} if answered else {"error": "clip: crashed the decoder"})
    assert len(restarts) == lost
    assert told.read_text() == "well", "no fate is left out, and no other was asked for"


async def still_there() -> bool:
    return False


def short(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@pytest.fixture
def refusals(monkeypatch: pytest.MonkeyPatch) -> list[Exception]:
    """The errors that the next processes start with."""
    waiting: list[Exception] = []
    real = asyncio.create_subprocess_exec

    async def short_of_something(*command: str, **options: object) -> asyncio.subprocess.Process:
        if waiting:
            raise waiting.pop(0)
        return await real(*command, **options)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", short_of_something)
    monkeypatch.setattr(pool_module, "RETRY_S", 0.01)
    return waiting


def test_a_machine_that_is_short_of_something_gets_its_worker_back(
    tmp_path: Path, refusals: list[Exception], capsys: pytest.CaptureFixture[str]
) -> None:
    async def labelled() -> dict[str, object]:
        pool = WorkerPool("", None, 1, waiting=1, timeout_s=20)
        pool._command = [sys.executable, "-c", WORKER, str(tmp_path / "fates")]
        async with pool:
            process = await pool._next()
            refusals.extend([short(errno.ENOMEM), short(errno.ENOMEM), RuntimeError("can't start new thread")])
            process.kill()
            await process.wait()
            assert not pool.ready
            async with asyncio.timeout(20):
                return await pool.label({"name": "clip"}, still_there)

    (tmp_path / "fates").write_text("well")
    assert asyncio.run(labelled()) == {"labelled": True}
    start = "warning: no worker in place of a lost one yet: the worker process does not start: "
    assert capsys.readouterr().err == f"{start}cannot allocate memory\n{start}can't start new thread\n"


def test_a_service_that_can_have_no_process_says_so(refusals: list[Exception]) -> None:
    async def start() -> None:
        async with WorkerPool("", None, 1, waiting=0, timeout_s=20):
            pass

    refusals.append(short(errno.EMFILE))
    with pytest.raises(EngineError, match="the worker process does not start: too many open files"):
        asyncio.run(start())


@pytest.mark.parametrize(
    ("provider", "starts"), [("tensorrt", True), ("TensorrtExecutionProvider", True), ("cuda", False)]
)
def test_a_worker_that_may_have_to_build_an_engine_is_given_the_time(
    monkeypatch: pytest.MonkeyPatch, provider: str, starts: bool
) -> None:
    monkeypatch.setattr(pool_module, "START_S", 0.05)

    async def started() -> None:
        pool = WorkerPool("", provider, 1, waiting=0, timeout_s=20)
        pool._command = [sys.executable, "-c", "import time; time.sleep(0.5); print('{}', flush=True); input()"]
        async with pool:
            pass

    with nullcontext() if starts else pytest.raises(EngineError, match="the worker process does not start"):
        asyncio.run(started())
