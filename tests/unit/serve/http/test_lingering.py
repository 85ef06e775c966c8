"""An early answer is followed by reading, and the reading by an end: bounded by time and by bytes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from cpd_serve.http.lingering import Lingering

ANSWER = PlainTextResponse("no", 413)
REST: Message = {"type": "http.request", "body": b"x" * 10, "more_body": True}
END: Message = {"type": "http.request", "body": b"x", "more_body": False}


async def read_all(scope: Scope, receive: Receive, send: Send) -> None:
    await Request(scope, receive).body()
    await ANSWER(scope, receive, send)


def talk(
    app: Any, messages: list[Message], headers: list[tuple[bytes, bytes]], size_bytes: int = 1000, seconds: float = 60.0
) -> tuple[list[Message], int]:
    """What is sent, with the number of messages that were received; a client that has no more to say is silent."""
    sent: list[Message] = []
    waiting = list(messages)

    async def receive() -> Message:
        if not waiting:
            await asyncio.Event().wait()
        return waiting.pop(0)

    async def send(message: Message) -> None:
        sent.append({**message, "received": len(messages) - len(waiting)})

    scope: Scope = {"type": "http", "method": "POST", "headers": headers}
    asyncio.run(asyncio.wait_for(Lingering(app, seconds, size_bytes)(scope, receive, send), 30))
    return sent, len(messages) - len(waiting)


SIZED = [(b"content-length", b"31")]


@pytest.mark.parametrize("headers", [SIZED, [(b"transfer-encoding", b"chunked")]])
def test_the_answer_goes_first_and_the_rest_is_read(headers: list[tuple[bytes, bytes]]) -> None:
    (start, body, end), received = talk(ANSWER, [REST, REST, REST, END], headers)
    assert (b"connection", b"close") in start["headers"]
    assert (body["body"], body["more_body"], body["received"]) == (b"no", True, 0)
    assert (end["body"], end.get("more_body", False), end["received"]) == (b"", False, 4)
    assert received == 4


def test_a_client_without_end_is_read_for_so_many_bytes() -> None:
    (_, _, end), received = talk(ANSWER, [REST] * 1000, SIZED, size_bytes=95)
    assert (end["body"], received) == (b"", 10)


def test_a_silent_client_is_waited_for_so_long() -> None:
    (_, body, end), received = talk(ANSWER, [REST], SIZED, seconds=0.01)
    assert (body["body"], end["body"], received) == (b"no", b"", 1)


def test_a_service_that_stops_does_not_wait() -> None:
    async def stopped_early() -> list[Message]:
        sent: list[Message] = []
        lingering = Lingering(ANSWER, 60.0, 1000)

        async def receive() -> Message:
            asyncio.get_running_loop().call_soon(lingering.hurry)
            await asyncio.Event().wait()
            raise AssertionError

        async def send(message: Message) -> None:
            sent.append(message)

        await lingering({"type": "http", "method": "POST", "headers": SIZED}, receive, send)
        assert not lingering.waiting
        return sent

    assert len(asyncio.run(asyncio.wait_for(stopped_early(), 30))) == 3


def test_a_client_that_went_away_is_not_waited_for() -> None:
    sent, received = talk(ANSWER, [REST, {"type": "http.disconnect"}], SIZED)
    assert (len(sent), received) == (3, 2)


@pytest.mark.parametrize(("app", "headers"), [(read_all, SIZED), (ANSWER, []), (ANSWER, [(b"content-length", b"0")])])
def test_a_request_that_was_read_or_has_no_body_keeps_its_connection(app: Any, headers: Any) -> None:
    (start, body), _ = talk(app, [REST, END] if app is read_all else [], headers)
    assert (b"connection", b"close") not in start["headers"]
    assert (body["body"], body.get("more_body", False)) == (b"no", False)
