"""cpd-serve http under load: 64 clients at once, then half as many, then 64 at half the rate of the first.

    python benchmarks/serve/http_load.py runs/motion --video clip.mp4

The script starts a server of its own on the loopback address and talks to nothing else. Clients keep their connection
and post the same clip. In the first two parts each asks again as soon as it has its answer, or after the pause that a
refusal (503, 429) asks for. In the third part requests begin at random times (a Poisson process) at half the rate of
answers of the first, and the latency counts from the time a request was due: a client that is late counts against the
server, and so does a crowd that chance makes. What chance alone would make of it is told below the table. Clients and
server share the CPUs.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import os
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cpd.dataset import read_clips
from cpd.errors import CpdError
from cpd_serve.environment import cpu_name

HOST = "127.0.0.1"
MAX_CLIENTS, MAX_SECONDS = 256, 300.0
REFUSED = (429, 503)
ANSWER_S = 60.0


@dataclass
class Part:
    """What the clients saw."""

    seconds: float
    latencies_s: list[float] = field(default_factory=list)
    """Of requests that were answered with labels."""
    statuses: Counter[int | str] = field(default_factory=Counter)
    """Answers by status, and errors by name."""

    def row(self, name: str) -> str:
        p50, p90, p99 = 1e3 * np.percentile(self.latencies_s, (50, 90, 99))
        counts = ", ".join(f"{count} x {status}" for status, count in self.statuses.most_common())
        return (
            f"| {name} | {self.seconds:.0f} | {self.answers_a_second:.1f} | {p50:.1f} | {p90:.1f} | {p99:.1f}"
            f" | {p99 / p50:.2f} | {counts} |"
        )

    @property
    def answers_a_second(self) -> float:
        return len(self.latencies_s) / self.seconds

    @property
    def errors(self) -> int:
        return sum(count for status, count in self.statuses.items() if status != 200 and status not in REFUSED)


class Client:
    """One connection, kept open; requests go one after the other."""

    def __init__(self, port: int, clip: bytes) -> None:
        head = f"POST /label?top_k=1 HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {len(clip)}\r\n\r\n"
        self._port, self._request = port, head.encode() + clip
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self) -> tuple[int, float]:
        """Status of the answer, and the seconds to wait that it asks for."""
        if self._streams is None:
            self._streams = await asyncio.open_connection(HOST, self._port)
        reader, writer = self._streams
        writer.write(self._request)
        await writer.drain()
        status, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        await reader.readexactly(int(headers["content-length"]))
        if headers.get("connection") == "close":
            await self.close()
        return int(status.split()[1]), float(headers.get("retry-after", 0))

    async def close(self) -> None:
        if self._streams:
            self._streams[1].close()
            self._streams = None


async def ask(client: Client, part: Part, due_s: float) -> float:
    """One request; what came of it goes into ``part``. Returns the seconds to wait that the answer asks for."""
    try:
        async with asyncio.timeout(ANSWER_S):
            status, pause_s = await client.post()
    except (OSError, TimeoutError, EOFError, ValueError, KeyError) as error:
        part.statuses[type(error).__name__] += 1
        await client.close()
        return 0.0
    part.statuses[status] += 1
    if status == 200:
        part.latencies_s.append(time.perf_counter() - due_s)
    return pause_s


async def full_load(port: int, clip: bytes, clients: int, seconds: float) -> Part:
    part = Part(seconds)
    end_s = time.perf_counter() + seconds

    async def run() -> None:
        client = Client(port, clip)
        while (now_s := time.perf_counter()) < end_s:
            await asyncio.sleep(await ask(client, part, now_s))
        await client.close()

    await asyncio.gather(*(run() for _ in range(clients)))
    return part


async def half_load(port: int, clip: bytes, clients: int, seconds: float, rate: float) -> Part:
    part = Part(seconds)
    start_s, rng = time.perf_counter(), np.random.default_rng(0)
    due: asyncio.Queue[float] = asyncio.Queue()

    async def run() -> None:
        client = Client(port, clip)
        while (due_s := await due.get()) < np.inf:
            await ask(client, part, due_s)
        await client.close()

    running = [asyncio.create_task(run()) for _ in range(clients)]
    due_s = start_s
    while (due_s := due_s + rng.exponential(1 / rate)) < start_s + seconds:
        await asyncio.sleep(due_s - time.perf_counter())
        due.put_nowait(due_s)
    for _ in running:
        due.put_nowait(np.inf)
    await asyncio.gather(*running)
    return part


def by_chance(workers: int, requests: int = 200_000) -> float:
    """p99 over p50 of random requests at half the rate of as many perfect workers, each a second a request (M/D/c)."""
    due_s = np.cumsum(np.random.default_rng(0).exponential(2 / workers, requests))
    free_s = [0.0] * workers
    latencies_s = []
    for at_s in due_s.tolist():
        done_s = max(at_s, heapq.heappop(free_s)) + 1
        heapq.heappush(free_s, done_s)
        latencies_s.append(done_s - at_s)
    p50, p99 = np.percentile(latencies_s, (50, 99))
    return float(p99 / p50)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--video", type=Path, help="default: the first test clip of the run")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each part")
    arguments = parser.parse_args()
    clients, seconds = min(arguments.clients, MAX_CLIENTS), min(arguments.seconds, MAX_SECONDS)
    video = arguments.video or read_clips(arguments.run_dir / "data/clips.csv", "test")[0].path
    clip = video.read_bytes()
    serve = [str(Path(sys.executable).with_name("cpd-serve")), "http", "--port", "0"]
    command = [*serve, "--engine", str(arguments.run_dir / "export/student.onnx")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            port = int(server.stdout.readline().rsplit(":", 1)[1])
            asyncio.run(wait_until_ready(port))
            full = asyncio.run(full_load(port, clip, clients, seconds))
            fewer = asyncio.run(full_load(port, clip, clients // 2, seconds))
            half = asyncio.run(half_load(port, clip, clients, seconds, full.answers_a_second / 2))
        finally:
            server.terminate()
    print(f"{cpu_name()}, {os.cpu_count()} CPUs, {clients} clients, {video.name} of {len(clip)} bytes\n")
    print(
        "| load | s | labelled/s | p50 ms | p90 ms | p99 ms | p99 / p50 | answers |\n|---|---|---|---|---|---|---|---|"
    )
    parts = {f"{clients} clients": full, f"{clients // 2} clients": fewer, "half the rate": half}
    print(*(part.row(name) for name, part in parts.items()), sep="\n")
    print(f"\np99 / p50 at half the rate of perfect workers: one {by_chance(1):.1f}, two {by_chance(2):.1f}")
    print(f"errors other than {' and '.join(map(str, REFUSED))}: {sum(part.errors for part in parts.values())}")


async def wait_until_ready(port: int) -> None:
    async with asyncio.timeout(ANSWER_S):
        while True:
            reader, writer = await asyncio.open_connection(HOST, port)
            writer.write(b"GET /ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            status = await reader.readline()
            writer.close()
            if b"200" in status:
                return
            await asyncio.sleep(0.1)


if __name__ == "__main__":
    try:
        main()
    except CpdError as error:
        sys.exit(f"error: {error}")
