"""The HTTP service: a clip goes in as the body of a POST, its labels come back as JSON.

    curl --data-binary @clip.mp4 http://127.0.0.1:8000/label

Everything a client sends is bounded: size, duration, time to send it, time to label it, and how many wait. What is in
the clip is seen by a worker process alone (``cpd_serve.http.pool``).
"""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import IO, Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from cpd.errors import reason_of
from cpd_serve.http.lingering import Lingering
from cpd_serve.http.pool import PoolBusyError, UnwantedError, WorkerLostError, WorkerPool

MAX_VIEWS = 32
LINGER_TIMES = 4
"""How much of the largest clip a refused client may still send, and yet read its answer: for as long as a clip may take
to arrive, since a client that is slower would have been refused for that."""
DURATIONS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SECURITY = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; media-src blob:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client may ask for."""

    upload_bytes: int = 64 << 20
    upload_s: float = 60.0
    """Time to send a clip in."""
    duration_s: float = 600.0
    """Length of a clip."""
    label_s: float = 60.0
    """Time to decode and label a clip, and before that to wait for a worker."""
    waiting: int = 32
    """Clips that may wait for a worker."""


class Metrics:
    """What Prometheus reads."""

    def __init__(self, pool: WorkerPool) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("cpd_requests", "Requests to /label.", ["status"], registry=self.registry)
        self.restarts = Counter("cpd_worker_restarts", "Workers lost to a clip and replaced.", registry=self.registry)
        self.seconds = Histogram(
            "cpd_clip_seconds", "Time in a worker.", ["part"], buckets=DURATIONS_S, registry=self.registry
        )
        for name, text, value in (
            ("cpd_clips_waiting", "Clips waiting for a worker.", lambda: pool.waiting),
            ("cpd_workers_busy", "Workers that are labelling.", lambda: pool.busy),
        ):
            Gauge(name, text, registry=self.registry).set_function(value)

    def observe(self, answer: dict[str, Any]) -> None:
        """Counts the time that an answer took."""
        for part in ("decode", "infer", "total"):
            self.seconds.labels(part).observe(answer["latency_ms"][part] / 1e3)


class RefusedError(Exception):
    """A request that gets no answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Service:
    """The endpoints, around a pool of workers that whoever serves them starts and ends."""

    def __init__(self, engine: str, provider: str | None, workers: int, limits: Limits) -> None:
        self.limits = limits
        self.pool = WorkerPool(
            engine, provider, workers, limits.waiting, limits.label_s, lambda: self.metrics.restarts.inc()
        )
        self.metrics = Metrics(self.pool)

    def app(self) -> Lingering:
        """The ASGI application."""
        app = Starlette(
            routes=[
                Route("/", self.page),
                Route("/label", self.label, methods=["POST"]),
                Route("/health", self.health),
                Route("/ready", self.ready),
                Route("/metrics", self.show_metrics),
            ],
        )
        return Lingering(app, self.limits.upload_s, LINGER_TIMES * self.limits.upload_bytes)

    async def label(self, request: Request) -> Response:
        """POST a clip as the body; ``top_k``, ``views``, ``timeline`` (seconds) and ``name`` in the query."""
        response: Response
        try:
            asked = question(request) | {"max_duration_s": self.limits.duration_s}
            with tempfile.NamedTemporaryFile(prefix="cpd-serve-") as file:
                await self._receive(request, file)
                answer = await self.pool.label(asked | {"path": file.name}, request.is_disconnected)
            if "error" not in answer:
                self.metrics.observe(answer)
            response = JSONResponse(answer, 422 if "error" in answer else 200)
        except RefusedError as error:
            response = JSONResponse({"error": str(error)}, error.status)
        except OSError as error:
            response = JSONResponse({"error": f"the clip cannot be kept: {reason_of(error)}"}, 507)
        except PoolBusyError as error:
            response = JSONResponse({"error": str(error)}, 503, headers={"Retry-After": "1"})
        except WorkerLostError as error:
            response = JSONResponse({"error": str(error)}, 422)
        except asyncio.CancelledError:  # the service stops, and does not wait for this any longer
            response = JSONResponse({"error": "the service is stopping"}, 503)
        except (ClientDisconnect, UnwantedError):
            response = Response(status_code=499)  # nobody reads it; the metrics count it
        self.metrics.requests.labels(str(response.status_code)).inc()
        return response

    async def health(self, _: Request) -> Response:
        """The process runs."""
        return PlainTextResponse("ok\n")

    async def ready(self, _: Request) -> Response:
        """A clip would be labelled: some worker has loaded the model."""
        return PlainTextResponse("ready\n") if self.pool.ready else PlainTextResponse("no worker is ready\n", 503)

    async def show_metrics(self, _: Request) -> Response:
        """For Prometheus."""
        return Response(generate_latest(self.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    async def page(self, _: Request) -> Response:
        """A page to drop a clip on."""
        text = resources.files("cpd_serve.http").joinpath("page.html").read_text(encoding="utf-8")
        return HTMLResponse(text, headers=SECURITY)

    async def _receive(self, request: Request, file: IO[bytes]) -> None:
        """Writes the body to a file, and no more of it than is allowed."""
        announced, limit = request.headers.get("content-length", "0"), self.limits.upload_bytes
        if not announced.isdecimal() or int(announced) > limit:
            raise RefusedError(413, f"the clip is larger than {limit} bytes")
        received = 0
        try:
            async with asyncio.timeout(self.limits.upload_s):
                async for chunk in request.stream():
                    received += len(chunk)
                    if received > limit:
                        raise RefusedError(413, f"the clip is larger than {limit} bytes")
                    file.write(chunk)
            file.flush()
        except TimeoutError:
            raise RefusedError(408, f"the clip took longer than {self.limits.upload_s:g} s to arrive") from None
        if received == 0:
            raise RefusedError(400, "the body is empty: send the clip as it is, curl --data-binary @clip.mp4")


def question(request: Request) -> dict[str, Any]:
    """What a request asks of its clip.

    Raises:
        RefusedError: something that cannot be.
    """
    if request.headers.get("content-type", "").lower().startswith("multipart/"):
        raise RefusedError(415, "send the clip as the body, not as a form: curl --data-binary @clip.mp4")
    values = request.query_params
    unknown = sorted(set(values) - {"top_k", "views", "timeline", "name"})
    if unknown:
        raise RefusedError(400, f"unknown in the query: {', '.join(unknown)}")
    if {"timeline", "views"} <= set(values):
        raise RefusedError(400, "views would do nothing with timeline: leave one of them out")
    part_s = number(values.get("timeline"), "timeline", 0.1, 3600.0)
    return {
        "name": Path(values.get("name", "clip")).name[:200] or "clip",
        "top_k": whole(values.get("top_k", "5"), "top_k", 1000),
        "views": whole(values.get("views", "1"), "views", MAX_VIEWS),
        "part_s": part_s,
    }


def whole(text: str, name: str, high: int) -> int:
    """A whole number from 1.

    Raises:
        RefusedError: it is not one, or out of range.
    """
    if not (text.isdecimal() and len(text) < 10 and 1 <= int(text) <= high):
        raise RefusedError(400, f"{name} must be a whole number from 1 to {high}, got {text[:40]!r}")
    return int(text)


def number(text: str | None, name: str, low: float, high: float) -> float | None:
    """A number in a range; None for none.

    Raises:
        RefusedError: it is no number, or out of range.
    """
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise RefusedError(400, f"{name} must be a number from {low:g} to {high:g}, got {text[:40]!r}")
    return value
