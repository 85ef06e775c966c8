"""Answers reach clients that still send.

A connection that is closed on bytes nobody read is reset, and a reset takes an answer along that the client has not
read yet. Most clients send all of a clip before they read. So, as web servers do that call it a lingering close, what
comes after an early answer is read and thrown away for a while.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Message, Receive, Scope, Send

CLOSE = (b"connection", b"close")


@dataclass(frozen=True, slots=True, eq=False)
class Lingering:
    """An ASGI application that, once it has answered, reads the rest of a request before the connection is closed."""

    app: ASGIApp
    seconds: float
    """After the answer; then the connection is closed on whatever still comes."""
    size_bytes: int
    """Likewise."""
    waiting: set[asyncio.Timeout] = field(default_factory=set)
    """Of those who linger now."""

    def hurry(self) -> None:
        """Lingers no longer: the service stops. To be called in its loop."""
        for timeout in self.waiting:
            timeout.reschedule(0.0)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = dict(scope["headers"])
        unread = b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"

        async def receive_noting() -> Message:
            nonlocal unread
            message = await receive()
            unread = bool(message.get("more_body", False))  # none follows a disconnection either
            return message

        async def send_lingering(message: Message) -> None:
            if unread and message["type"] == "http.response.start" and CLOSE not in message["headers"]:
                message = {**message, "headers": [*message["headers"], CLOSE]}
            last = message["type"] == "http.response.body" and not message.get("more_body", False)
            if not (unread and last):
                return await send(message)
            await send({**message, "more_body": True})  # all of it: its length is in the head
            left_bytes = self.size_bytes
            with suppress(TimeoutError, asyncio.CancelledError):  # the latter when the service stops
                async with asyncio.timeout(self.seconds) as timeout:
                    self.waiting.add(timeout)
                    try:
                        while unread and left_bytes > 0:
                            left_bytes -= len((await receive_noting()).get("body", b""))
                    finally:
                        self.waiting.discard(timeout)
            return await send({"type": "http.response.body", "body": b""})

        return await self.app(scope, receive_noting, send_lingering)
