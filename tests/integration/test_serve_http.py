"""``cpd-serve http`` as a client meets it: real processes, sockets and clips, and a real browser where there is one."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

from cpd_serve.http import server as http_server
from cpd_serve.http.server import CONNECTIONS, STOP_S, default_workers

WriteVideo = Callable[..., Path]
SERVE = [str(Path(sys.executable).with_name("cpd-serve")), "http"]
UPLOAD_MB = 0.5


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.body)
        return value


class Server(NamedTuple):
    port: int
    process: subprocess.Popen[str]

    def ask(self, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> Answer:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("GET" if body is None else "POST", path, body, headers or {})
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    def workers(self) -> list[int]:
        """Process ids of the workers."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(number) for number in children.split()]


@contextmanager
def serving(engine: Path, *options: str) -> Iterator[Server]:
    command = [*SERVE, "--engine", str(engine), "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        assert "http://127.0.0.1:" in line, process.stderr.read()
        server = Server(int(line.rsplit(":", 1)[1]), process)
        wait_until(lambda: reachable(server))
        try:
            yield server
        finally:
            process.terminate()
            errors = process.communicate(timeout=30)[1]
    assert "Traceback" not in errors, errors


def wait_until(holds: Callable[[], bool], seconds: float = 20.0, every_s: float = 0.05) -> None:
    deadline_s = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline_s, "waited in vain"
        time.sleep(every_s)


def has_a_clip_open(worker: int) -> bool:
    found = []
    for handle in Path(f"/proc/{worker}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed since
            found.append(handle.readlink().name)
    return any(name.startswith("cpd-serve-") for name in found)


def reachable(server: Server) -> bool:
    try:
        return server.ask("/ready").status == 200
    except OSError:
        return False


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, write_model: Callable[..., Path]) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "colours.onnx")


@pytest.fixture(scope="module")
def server(engine: Path) -> Iterator[Server]:
    limits = ["--max-upload-mb", str(UPLOAD_MB), "--max-duration", "20", "--timeout", "20"]
    with serving(engine, "--workers", "2", *limits) as running:
        yield running


@pytest.fixture
def red(write_video: WriteVideo) -> bytes:
    return write_video(np.full((10, 32, 48, 3), (240, 0, 0), np.uint8), "libx264").read_bytes()


@pytest.fixture
def large(write_video: WriteVideo) -> bytes:
    """A clip that takes half a second to decode."""
    return write_video(np.broadcast_to(np.uint8(0), (4, 4096, 4096, 3)), "mjpeg", "large.avi").read_bytes()


def test_a_clip_is_labelled(server: Server, red: bytes) -> None:
    answer = server.ask("/label?top_k=2&name=../../etc/my%20clip.mp4", red)
    assert answer.status == 200
    assert answer.json["video"] == "my clip.mp4"
    assert answer.json["predictions"][0]["label"] == "red"
    assert len(answer.json["predictions"]) == 2
    assert answer.json["runtime"] == "onnxruntime"
    assert answer.json["latency_ms"]["total"] > 0
    assert set(answer.json["explain_ms"]) == {"open", "decode", "resize", "infer", "post"}


def test_a_timeline_comes_back(server: Server, write_video: WriteVideo) -> None:
    colours = np.repeat(np.array([(240, 0, 0), (0, 0, 240)], np.uint8), 50, axis=0)
    clip = write_video(np.broadcast_to(colours[:, None, None], (100, 32, 48, 3)), "libvpx-vp9").read_bytes()
    answer = server.ask("/label?timeline=1", clip)
    assert [part["label"] for part in answer.json["timeline"]] == ["red", "red", "blue", "blue"]


@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "message"),
    [
        ("/label", b"not a video", {}, 422, "clip: cannot be opened as a video"),
        ("/label?name=a.mp4", b"", {}, 400, "the body is empty"),
        ("/label", b"x" * 600_000, {}, 413, "larger than 500000 bytes"),
        ("/label", b"x", {"Content-Type": "multipart/form-data; boundary=x"}, 415, "send the clip as the body"),
        ("/label?top_k=0", b"x", {}, 400, "top_k must be a whole number from 1 to 1000, got '0'"),
        ("/label?views=many", b"x", {}, 400, "views must be a whole number"),
        ("/label?timeline=nan", b"x", {}, 400, "timeline must be a number"),
        ("/label?timeline=1&views=2", b"x", {}, 400, "views would do nothing with timeline"),
        ("/label?topk=1", b"x", {}, 400, "unknown in the query: topk"),
    ],
)
def test_what_cannot_be_labelled_says_why(
    server: Server, path: str, body: bytes, headers: dict[str, str], status: int, message: str
) -> None:
    answer = server.ask(path, body, headers)
    assert answer.status == status
    assert message in answer.json["error"]
    assert "/tmp" not in answer.json["error"]
    assert server.ask("/ready").status == 200


def test_a_long_clip_is_refused(server: Server, write_video: WriteVideo) -> None:
    clip = write_video(np.zeros((60, 32, 32, 3), np.uint8), "libx264", fps=2).read_bytes()
    answer = server.ask("/label", clip)
    assert answer.status == 422
    assert answer.json["error"] == "clip: takes 30 s, and the limit is 20 s"


def test_a_body_larger_than_it_says_or_without_a_size_is_bounded(server: Server, red: bytes) -> None:
    def chunked(total: int) -> Answer:
        chunks = (b"x" * 10_000 for _ in range(total // 10_000))
        with closing(HTTPConnection("127.0.0.1", server.port, timeout=30)) as connection:
            connection.request("POST", "/label", chunks, {"Transfer-Encoding": "chunked"}, encode_chunked=True)
            response = connection.getresponse()
            return Answer(response.status, {}, response.read())

    assert chunked(400_000).status == 422
    assert chunked(900_000).status == 413
    with suppress(BrokenPipeError, ConnectionResetError):  # far too much: the server hangs up while we still send
        assert chunked(20_000_000).status == 413
    for size in (b"-1", b"1e3", b"99999999999999999999"):
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as raw:
            raw.sendall(b"POST /label HTTP/1.1\r\nHost: x\r\nContent-Length: " + size + b"\r\n\r\n")
            assert raw.recv(100).split()[1] in (b"400", b"413")
    assert server.ask("/label", red).status == 200


@pytest.mark.parametrize(("path", "status"), [("/label", b"413"), ("/nothing", b"404")])
def test_a_refused_client_that_still_sends_for_seconds_reads_its_answer(
    server: Server, path: str, status: bytes
) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as raw:
        raw.sendall(b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: 800000\r\n\r\n" % path.encode())
        for _ in range(16):  # longer than any answer takes, and than the server used to listen
            raw.sendall(b"x" * 50_000)
            time.sleep(0.25)
        answer = b"".join(iter(lambda: raw.recv(1 << 16), b""))  # to the end: then the server hangs up
    assert answer.split()[1] == status
    assert b"connection: close" in answer.lower()


def test_a_client_that_goes_away_is_no_trouble(server: Server, red: bytes) -> None:
    for _ in range(10):
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as raw:
            raw.sendall(b"POST /label HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + red[:500])
    assert server.ask("/label", red).status == 200


def test_a_client_that_goes_while_it_waits_costs_no_worker_its_time(engine: Path, red: bytes) -> None:
    def told(server: Server, metric: str) -> float:
        found = re.search(rf"^{re.escape(metric)} (\S+)$", server.ask("/metrics").body.decode(), re.M)
        return float(found[1]) if found else 0.0

    with serving(engine, "--workers", "1") as server, ThreadPoolExecutor(1) as pool:
        (worker,) = server.workers()
        os.kill(worker, signal.SIGSTOP)
        first = pool.submit(server.ask, "/label", red)
        wait_until(lambda: told(server, "cpd_workers_busy") == 1)
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as raw:
            raw.sendall(b"POST /label HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(red) + red)
            wait_until(lambda: told(server, "cpd_clips_waiting") == 1)
        os.kill(worker, signal.SIGCONT)
        assert first.result(30).status == 200
        assert server.ask("/label", red).status == 200
        assert told(server, 'cpd_requests_total{status="499"}') == 1
        assert told(server, 'cpd_clip_seconds_count{part="total"}') == 2


@pytest.mark.slow
def test_clients_that_do_not_say_what_they_want_do_not_keep_others_out(server: Server, red: bytes) -> None:
    head = b"POST /label HTTP/1.1\r\nHost: x\r\nContent-Le"
    with ExitStack() as connections:
        raw = [
            connections.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=30))
            for _ in range(CONNECTIONS)
        ]
        for one in raw[::2]:  # the others say nothing at all
            one.sendall(head)
        assert server.ask("/health").status == 503
        assert server.ask("/label", b"x" * 5_000_000).json == {"error": "too many connections"}
        assert {one.recv(1) for one in raw} == {b""}, "the server hangs up"
        assert server.ask("/label", red).status == 200


def test_metrics_count(server: Server, red: bytes) -> None:
    def labelled() -> float:
        lines = server.ask("/metrics").body.decode().splitlines()
        return next(
            (float(line.split()[1]) for line in lines if line.startswith('cpd_requests_total{status="200"}')), 0
        )

    before = labelled()
    server.ask("/label", red)
    assert labelled() == before + 1
    text = server.ask("/metrics").body.decode()
    for name in ("cpd_clip_seconds_bucket", "cpd_worker_restarts_total", "cpd_clips_waiting", "cpd_workers_busy"):
        assert name in text


def test_health_ready_and_wrong_paths(server: Server) -> None:
    assert server.ask("/health").body == b"ok\n"
    assert server.ask("/ready").body == b"ready\n"
    assert server.ask("/nothing").status == 404
    assert server.ask("/label").status == 405


def test_clips_at_once_all_get_their_own_answer(server: Server, write_video: WriteVideo) -> None:
    colours = {"red": (240, 0, 0), "green": (0, 240, 0), "blue": (0, 0, 240)}
    clips = {
        name: write_video(np.full((10, 32, 48, 3), colour, np.uint8), name=f"{name}.avi").read_bytes()
        for name, colour in colours.items()
    }
    names = [*clips] * 8
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda name: server.ask(f"/label?name={name}", clips[name]), names))
    assert [(answer.status, answer.json["video"]) for answer in answers] == [(200, name) for name in names]
    assert [answer.json["predictions"][0]["label"] for answer in answers] == names


def test_a_clip_that_finds_no_folder_to_wait_in_says_so(
    engine: Path, red: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "waiting"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    with serving(engine, "--workers", "1") as server:
        assert server.ask("/label", red).status == 200
        shutil.rmtree(folder)
        answer = server.ask("/label", red)
    assert (answer.status, answer.json) == (507, {"error": "the clip cannot be kept: no such file or directory"})


def test_a_crashed_worker_is_replaced(engine: Path, red: bytes, large: bytes) -> None:
    with serving(engine, "--workers", "1") as server:
        (worker,) = server.workers()
        with ThreadPoolExecutor(1) as pool:
            pending = pool.submit(server.ask, "/label", large)
            wait_until(lambda: has_a_clip_open(worker), every_s=0.005)
            os.kill(worker, signal.SIGKILL)  # as a decoder that crashes
            answer = pending.result(30)
        assert answer.status == 422
        assert answer.json["error"] == "clip: crashed the decoder"
        wait_until(lambda: server.ask("/label", red).status == 200)
        assert b"cpd_worker_restarts_total 1.0" in server.ask("/metrics").body


def test_a_worker_that_is_killed_before_it_begins_a_clip_costs_it_no_answer(engine: Path, red: bytes) -> None:
    with serving(engine, "--workers", "1") as server:
        (worker,) = server.workers()
        os.kill(worker, signal.SIGSTOP)  # it is given the clip, and never reads of it
        with ThreadPoolExecutor(1) as pool:
            pending = pool.submit(server.ask, "/label", red)
            wait_until(lambda: b"cpd_workers_busy 1.0" in server.ask("/metrics").body)
            os.kill(worker, signal.SIGKILL)
            answer = pending.result(30)
        assert (answer.status, answer.json["predictions"][0]["label"]) == (200, "red")
        assert b"cpd_worker_restarts_total 1.0" in server.ask("/metrics").body


def test_a_worker_that_dies_idle_costs_no_clip_its_answer(engine: Path, red: bytes) -> None:
    with serving(engine, "--workers", "2") as server:
        before = server.workers()
        for worker in before:
            os.kill(worker, signal.SIGKILL)
        wait_until(lambda: server.ask("/ready").status == 503)
        assert server.ask("/label", red).status == 200
        wait_until(lambda: b"cpd_worker_restarts_total 2.0" in server.ask("/metrics").body)


def test_a_worker_that_dies_idle_is_replaced_before_a_clip_comes(engine: Path) -> None:
    with serving(engine, "--workers", "1") as server:
        (worker,) = server.workers()
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: server.ask("/ready").status == 503)  # nobody sends a clip to one that says so
        wait_until(lambda: server.ask("/ready").status == 200)
        assert server.workers() != [worker]


def test_without_a_worker_nobody_waits_for_ever_and_ready_says_no(engine: Path, red: bytes, tmp_path: Path) -> None:
    model, away = Path(shutil.copy(engine, tmp_path / "model.onnx")), tmp_path / "away.onnx"
    with serving(model, "--workers", "1", "--timeout", "3") as server:
        model.rename(away)
        os.kill(server.workers()[0], signal.SIGKILL)
        wait_until(lambda: server.ask("/ready").status == 503)
        with ThreadPoolExecutor(1) as pool:
            pending = pool.submit(server.ask, "/label", red)
            said = set()
            while not pending.done():  # in which time several processes are started, and load nothing
                said.add(server.ask("/ready").status)
                time.sleep(0.02)
            answer = pending.result()
        assert said == {503}
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert answer.json == {"error": "no worker was free within 3 s (try again later)"}
        away.rename(model)
        wait_until(lambda: server.ask("/ready").status == 200)
        assert server.ask("/label", red).status == 200


def test_a_clip_that_hangs_is_given_up(engine: Path, red: bytes) -> None:
    with serving(engine, "--workers", "1", "--timeout", "2") as server:
        (worker,) = server.workers()
        os.kill(worker, signal.SIGSTOP)
        answer = server.ask("/label", red)
        assert answer.status == 422
        assert answer.json["error"] == "clip: took longer than 2 s"
        wait_until(lambda: server.ask("/label", red).status == 200)


def test_more_than_may_wait_are_sent_away(engine: Path, red: bytes) -> None:
    with serving(engine, "--workers", "1", "--waiting", "1") as server:
        (worker,) = server.workers()
        os.kill(worker, signal.SIGSTOP)
        with ThreadPoolExecutor(4) as pool:
            pending = [pool.submit(server.ask, "/label", red) for _ in range(4)]
            wait_until(lambda: sum(one.done() for one in pending) == 2)
            os.kill(worker, signal.SIGCONT)
            answers = [one.result(30) for one in pending]
        assert sorted(answer.status for answer in answers) == [200, 200, 503, 503]
        busy = next(answer for answer in answers if answer.status == 503)
        assert busy.headers["retry-after"] == "1"
        assert "1 clips wait already" in busy.json["error"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopping_leaves_no_worker_and_waits_for_no_client(engine: Path, number: signal.Signals) -> None:
    with serving(engine, "--workers", "2") as server, socket.create_connection(("127.0.0.1", server.port)) as client:
        workers = server.workers()
        assert len(workers) == 2
        client.sendall(b"POST /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
        assert client.recv(1000).startswith(b"HTTP/1.1 404 ")
        server.process.send_signal(number)
        server.process.wait(20)
        assert server.process.returncode == 0
        wait_until(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))


@pytest.mark.parametrize("numbers", [[signal.SIGTERM], [signal.SIGINT] * 2], ids=["in time", "at once"])
def test_stopping_waits_no_longer_than_it_says_for_answers_and_sends(
    engine: Path, red: bytes, numbers: list[signal.Signals]
) -> None:
    with serving(engine, "--workers", "1") as server, socket.create_connection(("127.0.0.1", server.port)) as sends:
        (worker,) = server.workers()
        os.kill(worker, signal.SIGSTOP)
        sends.sendall(b"POST /label HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nfirst bytes")
        with ThreadPoolExecutor(1) as pool:
            pending = pool.submit(server.ask, "/label", red)
            wait_until(lambda: b"cpd_workers_busy 1.0" in server.ask("/metrics").body)
            start_s = time.monotonic()
            for number in numbers:
                server.process.send_signal(number)
                time.sleep(0.3)  # two at once would be one
            assert server.process.wait(20) == 0
            took_s = time.monotonic() - start_s
            answer = pending.result(30)
        assert (took_s > STOP_S) == (len(numbers) == 1)
        assert (answer.status, answer.json) == (503, {"error": "the service is stopping"})
        assert sends.recv(1000).split()[1] == b"503"
        assert not Path(f"/proc/{worker}").exists()


@pytest.mark.parametrize(
    ("runs_on", "cpus", "workers"),
    [
        (("onnxruntime", "CPUExecutionProvider"), 16, 16),
        (("onnxruntime", "OpenVINOExecutionProvider"), 16, 16),
        (("onnxruntime", "CUDAExecutionProvider"), 16, 4),
        (("onnxruntime", "TensorrtExecutionProvider"), 2, 2),
        (("tensorrt_lean", "NVIDIA L4"), 16, 4),
    ],
)
def test_a_gpu_does_not_get_an_engine_for_every_cpu(
    monkeypatch: pytest.MonkeyPatch, runs_on: tuple[str, str], cpus: int, workers: int
) -> None:
    monkeypatch.setattr(http_server, "usable_cpus", lambda: cpus)
    runner: Any = SimpleNamespace(runtime=runs_on[0], provider=runs_on[1])
    assert default_workers(runner) == workers


def test_a_worker_that_does_not_start_is_one_line(engine: Path) -> None:
    command = [*SERVE, "--engine", str(engine), "--port", "0", "--workers", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        server = Server(0, process)
        wait_until(lambda: bool(server.workers()), every_s=0.005)
        os.kill(server.workers()[0], signal.SIGKILL)  # as the kernel does where memory is short
        errors = process.communicate(timeout=60)[1]
    assert (process.returncode, errors) == (1, "error: the worker process does not start\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopping_before_the_workers_run_is_in_order_too(engine: Path, number: signal.Signals) -> None:
    command = [*SERVE, "--engine", str(engine), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(number)
        errors = process.communicate(timeout=60)[1]
    assert (process.returncode, errors) == (0, "")


def test_mistakes_give_one_line(engine: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = subprocess.run([*SERVE, "--engine", str(engine), "--port", port], capture_output=True, text=True)
    assert result.returncode == 1
    assert (
        result.stderr
        == f"error: cannot listen on 127.0.0.1:{port}: Address already in use (choose another --host or --port)\n"
    )
    result = subprocess.run([*SERVE, "--engine", str(engine), "--host", "no host"], capture_output=True, text=True)
    assert result.returncode == 1
    assert re.fullmatch(
        r"error: cannot listen on no host:8000: [^()]+ \(choose another --host or --port\)\n", result.stderr
    )
    result = subprocess.run([*SERVE, "--engine", str(engine), "--host", "ö.."], capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.startswith("error: cannot listen on ö..:8000: encoding of hostname failed (choose another")
    with Path("/dev/full").open("w") as full:
        command = [*SERVE, "--engine", str(engine), "--port", "0"]
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert result.returncode == 1
    assert result.stderr == "error: the answers cannot be written: no space left on device\n"
    result = subprocess.run([*SERVE, "--engine", "none.onnx"], capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.startswith("error: none.onnx: no such file")
    result = subprocess.run([*SERVE, "--engine", str(engine), "--host", ""], capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.endswith("Error: --host is empty\n")


DROP = """
<script>
const clip = Uint8Array.from(atob("CLIP"), letter => letter.charCodeAt(0));
const transfer = new DataTransfer();
transfer.items.add(new File([clip], "my clip.mp4"));
document.getElementById("drop").dispatchEvent(new DragEvent("drop", {dataTransfer: transfer, cancelable: true}));
</script>
"""
"""Drops a clip on the page, as a user does."""


@contextmanager
def page_with_drop(server: Server, clip: bytes) -> Iterator[str]:
    """The URL of the service's own page, under its own security policy, with a clip being dropped on it."""
    page = server.ask("/")
    drop = DROP.replace("CLIP", base64.b64encode(clip).decode()).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", page.headers["content-type"])
            self.send_header("Content-Security-Policy", page.headers["content-security-policy"])
            self.end_headers()
            self.wfile.write(page.body + drop)

        def do_POST(self) -> None:
            answer = server.ask(self.path, self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(answer.status)
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, *arguments: object) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{proxy.server_port}/"
        proxy.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize(("good", "shown"), [(True, "red"), (False, "my clip.mp4: cannot be opened as a video")])
def test_a_clip_dropped_on_the_page_is_labelled(
    server: Server, red: bytes, tmp_path: Path, good: bool, shown: str
) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium on this machine")
    with page_with_drop(server, red if good else b"not a video") as url:
        command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}",
                   "--virtual-time-budget=20000", "--dump-dom", url]  # fmt: skip
        page = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    body = page[: page.index("<script>")]
    assert shown in body
    assert ("<meter" in body) == good
    assert ('title="0.0 to 0.4 s: red' in body) == good
    assert ('role="alert"' in body) == (not good)
