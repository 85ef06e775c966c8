"""``cpd-serve`` as a user runs it: a process, its output, its exit code, and what it imports and takes."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from cpd_serve.cuda_driver import driver_present

WriteVideo = Callable[..., Path]
SERVE = [str(Path(sys.executable).with_name("cpd-serve"))]


def serve(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*SERVE, *map(str, arguments)], capture_output=True, text=True, cwd=cwd, timeout=300)


@pytest.fixture
def red(write_video: WriteVideo) -> Path:
    return write_video(np.full((10, 32, 48, 3), (240, 0, 0), np.uint8), "libvpx-vp9", "red.webm")


@pytest.fixture
def blue(write_video: WriteVideo) -> Path:
    return write_video(np.full((10, 48, 32, 3), (0, 0, 240), np.uint8), "libx264", "blue.mp4")


def test_labels_and_latency_are_printed(colour_model: Path, red: Path) -> None:
    result = serve("--engine", colour_model, "--video", red, "--top-k", 2)
    lines = result.stdout.splitlines()
    assert result.returncode == 0
    assert result.stderr == ""
    assert lines[0] == str(red)
    assert lines[1].split()[1:] == ["red"]
    assert "on onnxruntime CPUExecutionProvider" in lines[3]
    assert "ms (decode" in lines[3]
    assert len(lines) == 4


def test_json_is_the_contract(colour_model: Path, red: Path) -> None:
    result = serve("--engine", "colours.onnx", "--video", "red.webm", "--json", "--top-k", 1, cwd=red.parent)
    (line,) = result.stdout.splitlines()
    answer = json.loads(line)
    latency_ms = answer.pop("latency_ms")
    (prediction,) = answer.pop("predictions")
    assert answer == {
        "video": "red.webm", "engine": "colours.onnx", "runtime": "onnxruntime", "provider": "CPUExecutionProvider",
    }  # fmt: skip
    assert prediction["label"] == "red"
    assert 0.99 < prediction["probability"] <= 1
    assert set(prediction) == {"label", "probability"}
    assert set(latency_ms) == {"decode", "infer", "total"}
    assert 0 < latency_ms["decode"] + latency_ms["infer"] < latency_ms["total"]


def test_a_bad_video_does_not_stop_the_rest(colour_model: Path, red: Path, blue: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"not a video")
    result = serve("--engine", colour_model, "--video", red, "--video", bad, blue, "--json")
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.returncode == 1
    assert [answer["video"] for answer in answers] == [str(red), str(bad), str(blue)]
    assert [answer["predictions"][:1] and answer["predictions"][0]["label"] for answer in answers] == [
        "red",
        [],
        "blue",
    ]
    assert result.stderr == f"error: {answers[1]['error']}\n"
    assert answers[1]["error"].startswith(f"{bad}: cannot be opened as a video")


def test_folders_and_globs_are_read(colour_model: Path, red: Path, blue: Path) -> None:
    for source in (red.parent, red.parent / "*.*m*"):
        result = serve("--engine", colour_model, "--video", source, "--json", "--workers", 2)
        answers = [json.loads(line) for line in result.stdout.splitlines() if '"predictions": []' not in line]
        assert [Path(answer["video"]).name for answer in answers] == ["blue.mp4", "red.webm"]


def test_a_time_limit_gives_a_video_up(colour_model: Path, red: Path) -> None:
    result = serve("--engine", colour_model, "--video", red, "--timeout", 1e-6)
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr == f"error: {red}: took longer than 1e-06 s\n"
    assert "red" in serve("--engine", colour_model, "--video", red, "--timeout", 60).stdout


def test_explain_says_where_the_time_went(colour_model: Path, red: Path) -> None:
    result = serve("--engine", colour_model, "--video", red, "--explain")
    parts = [line.split()[0] for line in result.stdout.splitlines()[-5:]]
    assert parts == ["open", "decode", "resize", "infer", "post"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--engine", "none.onnx", "--video", "x.mp4"], 1, "error: none.onnx: no such file (export it with"),
        (["--engine", "colours.onnx"], 2, "name a video: --video FILE"),
        (["--video", "x.mp4"], 2, "Missing option '--engine'"),
        (["--engine", "colours.onnx", "--video", "x.mp4"], 1, "error: x.mp4: no such file\n"),
        (["--engine", "colours.onnx", "--video", "x.mp4", "--provider", "cuda"], 1, "error: onnxruntime has no CUDA"),
        (["--engine", "colours.trt", "--video", "x.mp4"], 1, "cpd-serve --rebuild builds it anew from colours.onnx)\n"),
        (["--engine", "colours.onnx", "--video", "x.mp4", "--top-k", "0"], 2, "0 is not in the range"),
        (["--engine", "colours.onnx", "--video", "x.mp4", "--timeline", "nan"], 2, "nan is not a number"),
        (["--engine", "colours.onnx", "--video", "x.mp4", "--timeout", "inf"], 2, "inf is not in the range"),
        (["--engine", "colours.onnx", "--video", "x.mp4", "--views", "200000"], 2, "200000 is not in the range"),
        (["--engine", "colours.onnx", "--video", ""], 2, "the name of a video is empty"),
        (["--engine", "", "--video", "x.mp4"], 2, "--engine is empty"),
        (["--engine", "colours.onnx", "--video", "x.mp4", "--provider", ""], 2, "--provider is empty"),
        (["--engine", "colours.onnx", "--video", "x.mp4", "--provider", "x"], 1, "(use --provider cpu)\n"),
        (["--engine", "colours.onnx", "rtsp://camera/1"], 2, "the address of a stream needs --stream"),
        (["--engine", "colours.onnx", "a" * 300], 1, "File name too long"),
        (["--engine", "a" * 300 + ".onnx", "--video", "x.mp4"], 1, "no such file"),
        (["--engine", "colours.onnx", "x.mp4", "--timeline", "1", "--views", "1"], 2, "--views would do nothing with"),
    ],
)
def test_mistakes_give_one_line_and_their_exit_code(
    colour_model: Path, arguments: list[str], code: int, message: str
) -> None:
    colour_model.with_suffix(".trt").write_bytes(b"an engine without a manifest")
    result = serve(*arguments, cwd=colour_model.parent)
    assert result.returncode == code
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert code == 2 or result.stderr.count("\n") == 1


OF_VIDEOS = ["--top-k=5", "--views=1", "--timeline=1", "--workers=2", "--timeout=9", "--explain"]
OF_STREAMS = ["--window=2", "--stride=0.5", "--smooth=0.5", "--reconnect=300"]


@pytest.mark.parametrize("option", [*OF_VIDEOS, *OF_STREAMS])
def test_an_option_that_would_do_nothing_is_refused_by_name_even_at_its_default(
    colour_model: Path, red: Path, option: str
) -> None:
    mode, told = (["--stream"], "with --stream") if option in OF_VIDEOS else ([], "without --stream")
    result = serve("--engine", colour_model, red, *mode, option)
    assert (result.returncode, result.stdout) == (2, "")
    assert f"{option.partition('=')[0]} would do nothing {told}\n" in result.stderr


def test_all_options_that_would_do_nothing_are_named_at_once(colour_model: Path, red: Path) -> None:
    result = serve("--engine", colour_model, red, *OF_STREAMS)
    assert "--window, --stride, --smooth, --reconnect would do nothing without --stream" in result.stderr


def test_json_may_be_asked_of_a_stream_which_is_json_anyway(colour_model: Path, red: Path) -> None:
    result = serve("--engine", colour_model, "--stream", "--json", red)
    assert (result.returncode, result.stderr) == (0, "")
    assert [json.loads(line)["event"] for line in result.stdout.splitlines()] == ["start", "label", "end"]


@pytest.mark.skipif(driver_present(), reason="there is an NVIDIA driver here")
@pytest.mark.parametrize("more", [[], ["--stream"]])
def test_a_decoder_that_is_not_here_is_one_clear_line(colour_model: Path, red: Path, more: list[str]) -> None:
    result = serve("--engine", colour_model, "--video", red, "--decoder", "nvdec", *more)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("error: decoder nvdec is asked for, but the NVIDIA driver's libcuda.so.1 cannot be")
    assert "use --decoder cpu" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--workers=1"], ["--workers=2"], ["--stream"]])
def test_nothing_is_left_behind_and_nobody_told(
    colour_model: Path, red: Path, blue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    """onnxruntime's telemetry keeps files in these places."""
    for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME"):
        folder = tmp_path / "places" / name
        folder.mkdir(parents=True)
        monkeypatch.setenv(name, str(folder))
    for name in ("ORT_DISABLE_TELEMETRY", "CI", "GITHUB_ACTIONS"):
        monkeypatch.delenv(name, raising=False)
    assert serve("--engine", colour_model, red, blue, *arguments).returncode == 0
    assert not [path for path in (tmp_path / "places").rglob("*") if path.is_file()]


def test_a_reader_that_goes_away_is_no_crash(colour_model: Path, red: Path) -> None:
    command = [*SERVE, "--engine", str(colour_model), *[str(red)] * 40, "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert "Traceback" not in process.stderr.read()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_being_stopped_leaves_no_worker(colour_model: Path, red: Path, number: signal.Signals) -> None:
    command = [*SERVE, "--engine", str(colour_model), *[str(red)] * 5000, "--json", "--workers", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert len(workers) == 2
        process.send_signal(number)
        errors = process.communicate(timeout=30)[1]
    assert "Traceback" not in errors
    if number == signal.SIGINT:
        assert (process.returncode, errors) == (130, "\ninterrupted\n")
    deadline_s = time.monotonic() + 20
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < deadline_s, "a worker outlives its parent"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("arguments", "number"),
    [
        (["red.webm"], "SIGINT"),
        (["red.webm", "--stream"], "SIGINT"),
        (["red.webm", "--stream"], "SIGTERM"),
        (["http"], "SIGINT"),
    ],
)
def test_an_interruption_that_a_library_makes_its_own_error_is_one_line(
    colour_model: Path, red: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], number: str
) -> None:
    """onnxruntime's import does, where Ctrl-C comes in the middle of it."""
    (tmp_path / "onnxruntime.py").write_text(
        "import signal\n"
        f"try: signal.raise_signal(signal.{number})\n"
        "except KeyboardInterrupt: raise ImportError('initialization failed')\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    result = serve(*arguments, "--engine", colour_model, cwd=red.parent)
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "\ninterrupted\n")


@pytest.mark.parametrize("arguments", [["--help"], ["http", "--help"]])
def test_help_is_instant(arguments: list[str]) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert serve(*arguments).stdout.startswith("Usage: cpd-serve")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # CPU time: what the command itself takes, whatever else the machine does.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.3


def test_one_answer_takes_little_memory(colour_model: Path, red: Path) -> None:
    # Not the child's rusage: that counts the memory of the process it was forked from.
    script = """
import atexit, pathlib
atexit.register(lambda: print(*[l for l in pathlib.Path("/proc/self/status").read_text().splitlines() if "VmHWM" in l]))
from cpd_serve.cli import main
main()
"""
    command = [sys.executable, "-c", script, "--engine", str(colour_model), "--video", str(red)]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    peak_kib = int(result.stdout.splitlines()[-1].split()[1])
    assert 50_000 < peak_kib < 130_000


def test_every_odd_file_gets_an_answer_or_a_line(colour_model: Path, real_data: Path) -> None:
    files = sorted(map(str, (real_data / "robustness").iterdir()))
    result = serve("--engine", colour_model, *files, "--json", "--top-k", 1)
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.returncode == 1
    assert [answer["video"] for answer in answers] == files
    assert result.stderr.count("\n") == sum("error" in answer for answer in answers) == 13
    assert "Traceback" not in result.stderr


def test_a_stream_gives_events(colour_model: Path, write_video: WriteVideo) -> None:
    colours = [(240, 0, 0)] * 50 + [(0, 0, 240)] * 50
    video = write_video(np.array(colours, np.uint8)[:, None, None].repeat(32, 1).repeat(48, 2), "libx264")
    result = serve("--engine", colour_model, "--stream", "--video", video, "--window", 1, "--stride", 0.25)
    start, *changes, end = (json.loads(line) for line in result.stdout.splitlines())
    assert result.returncode == 0
    assert (start["event"], start["runtime"], start["provider"]) == ("start", "onnxruntime", "CPUExecutionProvider")
    assert [(change["event"], change["label"]) for change in changes] == [("label", "red"), ("label", "blue")]
    assert 0.9 < changes[0]["time_s"] < changes[1]["time_s"] < 4
    assert (end["event"], end["reason"], end["frames"], end["dropped"]) == ("end", "", 100, 0)
    assert end["sustainable_fps"] > 0


@pytest.mark.parametrize("streams", [1, 2])
def test_a_file_is_played_as_fast_as_is_called_sustainable(
    colour_model: Path, write_video: WriteVideo, streams: int
) -> None:
    """Large frames, which cost far more to decode than the model takes for them."""
    videos = [
        write_video(np.broadcast_to(np.uint8(0), (12, 2048, 2048, 3)), "mjpeg", f"{number}.avi")
        for number in range(streams)
    ]
    result = serve("--engine", colour_model, "--stream", *videos)
    ends = [event for event in map(json.loads, result.stdout.splitlines()) if event["event"] == "end"]
    assert [end["frames"] for end in ends] == [12] * streams
    for end in ends:
        assert 0.8 < end["sustainable_fps"] / end["fps"] < 3, "the rest is opening the file"


def test_a_stream_that_comes_slowly_does_not_make_its_decoder_slow(colour_model: Path, write_video: WriteVideo) -> None:
    video = write_video(np.full((20, 32, 48, 3), (240, 0, 0), np.uint8), "mpeg4", "stream.ts")
    with endless_http(video.read_bytes(), rounds=20) as url:  # 400 frames a second
        command = [*SERVE, "--engine", str(colour_model), "--stream", url, "--reconnect", "0"]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    end = json.loads(result.stdout.splitlines()[-1])
    assert end["frames"] > 100
    assert end["sustainable_fps"] > 3 * end["fps"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("before", [["start"], ["start", "label"]])
def test_a_stream_that_is_stopped_sums_up(
    colour_model: Path, write_video: WriteVideo, number: signal.Signals, before: list[str]
) -> None:
    video = write_video(np.full((40, 32, 48, 3), (240, 0, 0), np.uint8), "mpeg4", "stream.ts")
    with endless_http(video.read_bytes()) as url:
        command = [*SERVE, "--engine", str(colour_model), "--stream", "--video", url, "--window", "0.5"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in before]
            process.send_signal(number)
            try:
                rest, errors = process.communicate(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()  # it would be waited for without end
                raise
    assert [json.loads(line)["event"] for line in lines] == before
    end = json.loads(rest.splitlines()[-1])
    assert (end["event"], end["reason"]) == ("end", "interrupted")
    assert process.returncode == 0
    assert "Traceback" not in errors


def test_several_streams_share_an_engine_and_a_bad_one_does_not_stop_the_rest(
    colour_model: Path, red: Path, blue: Path
) -> None:
    result = serve("--engine", colour_model, "--stream", "--video", red, "--video", "none.mp4", blue)
    events = [json.loads(line) for line in result.stdout.splitlines()]
    of = {
        name: [event.get("label", event["event"]) for event in events if event["video"] == str(name)]
        for name in (red, "none.mp4", blue)
    }
    assert result.returncode == 1
    assert of == {red: ["start", "red", "end"], "none.mp4": ["start", "end"], blue: ["start", "blue", "end"]}
    assert result.stderr == "error: none.mp4: no such file\n"
    assert {event["reason"] for event in events if event["event"] == "end"} == {"", "none.mp4: no such file"}


@pytest.mark.parametrize("source", ["films", "films/*.*"])
def test_the_videos_of_a_folder_or_a_glob_are_streams_side_by_side(
    colour_model: Path, red: Path, blue: Path, source: str
) -> None:
    (red.parent / "films").mkdir()
    for path in (red, blue):
        path.rename(path.parent / "films" / path.name)
    result = serve("--engine", colour_model, "--stream", source, cwd=red.parent)
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert (result.returncode, result.stderr) == (0, "")
    assert {event["video"]: event["label"] for event in events if event["event"] == "label"} == {
        "films/red.webm": "red", "films/blue.mp4": "blue"
    }  # fmt: skip


def test_more_streams_than_can_be_watched_are_refused_before_any_is_opened(colour_model: Path, tmp_path: Path) -> None:
    for number in range(65):
        (tmp_path / f"{number}.mp4").touch()
    result = serve("--engine", colour_model, "--stream", tmp_path)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("error: 65 streams at once are more than 64 (")


@pytest.mark.parametrize("mode", [[], ["--stream"]])
def test_a_folder_without_videos_says_so(colour_model: Path, tmp_path: Path, mode: list[str]) -> None:
    (tmp_path / "empty").mkdir()
    result = serve("--engine", colour_model, "empty", *mode, cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr == "error: empty: is a folder without videos or numbered .jpg images\n"


def test_a_dropped_stream_is_said_in_one_line_and_comes_back(colour_model: Path, write_video: WriteVideo) -> None:
    video = write_video(np.full((20, 32, 48, 3), (240, 0, 0), np.uint8), "mpeg4", "stream.ts")
    with endless_http(video.read_bytes(), rounds=2) as url:
        command = [*SERVE, "--engine", str(colour_model), "--stream", "--video", url, "--window", "0.25"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            events = []  # a label among them: of a burst that is too fast, the last eight frames stay, 0.28 s
            while not events or events[-1]["event"] != "back":
                events.append(json.loads(process.stdout.readline()))
            process.send_signal(signal.SIGINT)
            rest, errors = process.communicate(timeout=30)
    assert [event["event"] for event in events] == ["start", "label", "lost", "back"]
    assert "the stream broke off" in events[2]["reason"]
    assert {event["video"] for event in events} == {url}
    assert json.loads(rest.splitlines()[-1])["reconnects"] >= 1
    assert (process.returncode, errors) == (0, "")


def test_a_stream_that_is_not_there_gives_one_line(colour_model: Path) -> None:
    result = serve("--engine", colour_model, "--stream", "--video", "rtsp://127.0.0.1:9/x")
    assert result.returncode == 1
    assert result.stderr.startswith("error: rtsp://127.0.0.1:9/x: cannot be opened as a stream")
    assert result.stderr.count("\n") == 1


@contextmanager
def endless_http(data: bytes, rounds: int = 1 << 30) -> Iterator[str]:
    """The URL of a stream that sends these bytes again and again, and hangs up after so many rounds."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            with suppress(OSError):
                for _ in range(rounds):
                    if done.wait(0.05):
                        break
                    self.wfile.write(data)

        def log_message(self, *arguments: object) -> None:
            """Says nothing."""

    done = threading.Event()
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/stream.ts"
        finally:
            done.set()
            server.shutdown()


def test_a_worker_ends_with_its_parent_even_in_a_decoder_that_hangs(
    colour_model: Path, red: Path, tmp_path: Path
) -> None:
    many = tmp_path / "many"
    many.mkdir()
    for number in range(200):
        (many / f"{number}.webm").symlink_to(red)
    command = [*SERVE, "--engine", str(colour_model), str(many), "--workers", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(30):  # six answers: both have labelled something
            process.stdout.readline()
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for child in children:
            os.kill(int(child), signal.SIGSTOP)
        process.kill()
        process.communicate(timeout=30)  # returns when nobody holds its output any more: neither does a child
    assert len(children) == 2


def test_the_disk_that_answers_go_to_may_be_full(colour_model: Path, red: Path) -> None:
    with Path("/dev/full").open("w") as full:
        command = [*SERVE, "--engine", str(colour_model), str(red)]
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert result.returncode == 1
    assert result.stderr == "error: the answers cannot be written: no space left on device\n"


@pytest.mark.parametrize("mode", [[], ["http"]])
def test_answers_that_nobody_can_read_are_an_error(colour_model: Path, red: Path, mode: list[str]) -> None:
    source = ["--port", "0"] if mode else [str(red)]
    command = ["sh", "-c", '"$@" >&-', "sh", *SERVE, *mode, "--engine", str(colour_model), *source]
    result = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=60)
    assert result.returncode == 1
    assert result.stderr == "error: standard output is closed, and nothing can be printed\n"


def test_more_workers_than_the_system_has_room_for_is_one_line(colour_model: Path, red: Path) -> None:
    command = [*SERVE, "--engine", str(colour_model), *[str(red)] * 50, "--workers", "50"]
    limited = ["sh", "-c", 'ulimit -n 32 && exec "$@"', "sh", *command]
    result = subprocess.run(limited, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout) == (1, "")
    assert re.fullmatch(
        r"error: no \d+ worker processes can run: too many open files \(name fewer --workers\)\n", result.stderr
    )


def test_a_name_with_a_line_break_is_one_line(colour_model: Path) -> None:
    result = serve("--engine", colour_model, "two\nlines.mp4")
    assert result.stderr == "error: two\\nlines.mp4: no such file\n"
