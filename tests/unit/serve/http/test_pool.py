from __future__ import annotations

import asyncio
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
                return await pool.label({"name": "clip"})
            except WorkerLostError as error:
                return {"error": str(error)}
            finally:
                await pool._next()  # the lost one has been replaced

    told.write_text(f"{fates} well")
    answer = asyncio.run(labelled())
    assert answer == ({"labelled": True} if answered else {"error": "clip: crashed the decoder"})
    assert len(restarts) == lost
    assert told.read_text() == "well", "no fate is left out, and no other was asked for"


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
