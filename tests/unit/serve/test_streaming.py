from __future__ import annotations

import math
import re
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import numpy as np
import pytest

from cpd import container as container_module
from cpd.clip import ClipSpec
from cpd.errors import EngineError
from cpd_serve import sources as sources_module
from cpd_serve.runner import Runner, open_runner
from cpd_serve.sources import WAITING_FRAMES, Back, Ended, Item, Lost, Source, Sources, TimedFrame, open_sources
from cpd_serve.streaming import MAX_FRAMES_A_SEGMENT, ByFrame, ByWindow, Change, Labeller, SlidingWindow, Smoother
from cpd_serve.watching import Manner, labeller_of, streaming_twin

SPEC = ClipSpec(frames=4, resize=32, crop=(32, 32))
COLOURS = {"red": (240, 0, 0), "green": (0, 240, 0), "blue": (0, 0, 240)}
WriteVideo = Callable[..., Path]


def numbered(count: int, fps: float = 8.0, start_s: float = 0.0) -> Iterator[TimedFrame]:
    """Frames whose pixels all hold their number."""
    for number in range(count):
        yield TimedFrame(start_s + number / fps, np.full((2, 2, 3), number % 256, np.uint8))


def coloured(*labels: str, count: int = 25) -> np.ndarray:
    return np.concatenate([np.full((count, 32, 48, 3), COLOURS[label], np.uint8) for label in labels])


def numbers(clip: np.ndarray) -> list[int]:
    return clip[0, :, 0, 0, 0].tolist()


def test_an_answer_is_due_when_the_window_is_full_and_every_stride_after() -> None:
    window = SlidingWindow(SPEC, window_s=2.0, stride_s=0.5)
    due = {number: numbers(window.clip()) for number, frame in enumerate(numbered(30)) if window.push(frame)}
    assert list(due) == [16, 20, 24, 28]
    assert due[16] == [2, 6, 10, 14]
    assert due[28] == [14, 18, 22, 26]


@pytest.mark.parametrize(("last_s", "due"), [(1.96, False), (1.98, True)])
def test_a_window_that_is_full_but_for_half_of_the_least_interval_is_full(last_s: float, due: bool) -> None:
    window = SlidingWindow(SPEC, window_s=2.0, stride_s=0.5)  # keeps a frame each 1/16 s at most
    pixels = np.zeros((2, 2, 3), np.uint8)
    assert not window.push(TimedFrame(0.0, pixels))
    assert window.push(TimedFrame(last_s, pixels)) == due


def test_answers_that_a_gap_left_out_are_not_made_up_for() -> None:
    window = SlidingWindow(SPEC, window_s=2.0, stride_s=0.5)
    pixels = np.zeros((2, 2, 3), np.uint8)
    due = [window.push(TimedFrame(time_s, pixels)) for time_s in (0, 1, 2, 3.9, 4.0, 4.1, 4.2, 4.3)]
    assert due == [False, False, True, True, True, False, False, False]


def test_frames_faster_than_needed_are_thinned_and_memory_stays_flat() -> None:
    window = SlidingWindow(SPEC, window_s=2.0, stride_s=0.5)
    kept_at_most = MAX_FRAMES_A_SEGMENT * SPEC.frames + 1
    pixels = np.zeros((32, 32, 3), np.uint8)

    def watch(frames: int, start_s: float) -> None:
        for number in range(frames):
            window.push(TimedFrame(start_s + number / 100, pixels.copy()))

    watch(2_000, 0.0)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        watch(20_000, 20.0)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < (kept_at_most + 5) * pixels.nbytes * 1.2  # what the window held before was not traced
    assert len(window._frames) <= kept_at_most


def test_variable_rate_is_sampled_by_time() -> None:
    window = SlidingWindow(SPEC, window_s=4.0, stride_s=1.0)
    times_s = [*np.arange(0, 1, 0.125), 1.0, 2.0, 3.0, 4.0]
    due = [window.push(TimedFrame(t, np.full((2, 2, 3), n, np.uint8))) for n, t in enumerate(times_s)]
    assert due[-1]
    assert numbers(window.clip()) == [4, 8, 9, 10]


def test_a_clock_that_jumps_starts_the_window_anew() -> None:
    window = SlidingWindow(SPEC, window_s=2.0, stride_s=0.5)
    for frame in numbered(20):
        window.push(frame)
    again = [window.push(frame) for frame in numbered(17, start_s=-100.0)]
    assert again.index(True) == 16
    later = [window.push(frame) for frame in numbered(17, start_s=1000.0)]
    assert later.index(True) == 16


def test_times_that_step_back_a_little_do_not_start_a_stream_anew(
    write_video: WriteVideo, colour_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FFmpeg guesses the times of B-frames that AVI does not store."""
    path = write_video(np.full((50, 32, 48, 3), (240, 0, 0), np.uint8))
    guessed = iter([0.04 * (index + (2 if index % 3 == 1 else 0)) for index in range(50)])
    monkeypatch.setattr(sources_module.Clock, "time_s", lambda clock, frame: next(guessed))
    with open_runner(colour_model) as runner:
        labeller = Labeller(ByWindow(runner, 0.5, 0.25), runner.manifest.labels, 0.0)
        stream = labeller.add()
        with open_sources([str(path)], runner.manifest.clip) as opened:
            for taken in opened.rounds():
                frames = [item for _, item in taken if isinstance(item, TimedFrame)]
                labeller.push([(stream, frame) for frame in frames])
    assert stream.answers == 7, "half a second, then every quarter until 2.0 s"


@pytest.mark.parametrize(
    ("name", "live"),
    [
        ("/dev/video0", True),
        ("0", True),
        ("rtsp://camera/1", True),
        ("/dev/shm/a.avi", False),
        ("file:///a.avi", False),
    ],
)
def test_what_comes_at_its_own_pace(name: str, live: bool) -> None:
    assert sources_module.is_live(name) == live


def test_a_file_that_is_called_like_a_camera_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "7").touch()
    assert not sources_module.is_live("7")


def test_smoothing_is_exponential_in_time() -> None:
    smoother = Smoother(2.0)
    assert smoother.update(0.0, np.array([1.0, 0.0])).tolist() == [1.0, 0.0]
    np.testing.assert_allclose(smoother.update(2.0, np.array([0.0, 1.0])), [1 / math.e, 1 - 1 / math.e])
    np.testing.assert_allclose(smoother.update(1.0, np.array([0.5, 0.5])), [0.5, 0.5])
    unsmoothed = Smoother(0.0)
    unsmoothed.update(0.0, np.array([1.0, 0.0]))
    assert unsmoothed.update(0.1, np.array([0.0, 1.0])).tolist() == [0.0, 1.0]


def watched(
    runner: Runner, manner: Manner, *videos: Path
) -> tuple[dict[str, list[Change]], dict[str, Source], Labeller]:
    """Changes of each stream, in order, and what was counted."""
    labeller, changes = labeller_of(runner, manner), {str(video): [] for video in videos}
    with open_sources(list(changes), runner.manifest.clip) as sources:
        streams = {source: labeller.add() for source in sources.all}
        names = {stream: source.name for source, stream in streams.items()}
        for taken in sources.rounds():
            frames = [(streams[source], item) for source, item in taken if isinstance(item, TimedFrame)]
            for stream, change in labeller.push(frames):
                changes[names[stream]].append(change)
            for source, item in taken:
                if isinstance(item, Ended) and (change := labeller.finish(streams[source], 0.0)):
                    changes[source.name].append(change)
    return changes, {source.name: source for source in sources.all}, labeller


@pytest.mark.parametrize(("smoothing_s", "sooner"), [(0.0, True), (1.5, False)])
def test_changes_of_the_label_are_told(
    write_video: WriteVideo, colour_model: Path, smoothing_s: float, sooner: bool
) -> None:
    path = write_video(coloured("red", "blue", "blue", count=50), "libx264")
    with open_runner(colour_model) as runner:
        found, sources, labeller = watched(runner, Manner(1.0, 0.25, smoothing_s), path)
    changes = found[str(path)]
    assert [change.label for change in changes] == ["red", "blue"]
    assert changes[0].time_s == pytest.approx(1.0, abs=0.05)
    assert 2.4 < changes[1].time_s < 4.5
    assert (changes[1].time_s < 3.1) == sooner
    assert (changes[1].probability > 0.9) == sooner, "what is told is smoothed"
    assert (sources[str(path)].frames, sources[str(path)].dropped) == (150, 0)
    assert labeller.busy_s > 0


def test_a_stream_shorter_than_a_window_is_labelled_all_the_same(write_video: WriteVideo, colour_model: Path) -> None:
    path = write_video(coloured("green", count=5))
    with open_runner(colour_model) as runner:
        found, _, _ = watched(runner, Manner(10.0, 1.0, 0.0), path)
    assert [change.label for change in found[str(path)]] == ["green"]


def test_a_streaming_model_sees_each_frame_once_and_remembers(stream_model: Path) -> None:
    with open_runner(stream_model) as runner:
        answerer = ByFrame(runner, window_s=2.0)  # four frames a window: one each half second
        view = answerer.view()
        frames = [TimedFrame(n / 8, np.full((32, 32, 3), 8 * n, np.uint8)) for n in range(17)]
        logits = {n: float(answerer.answer([view])[0, 0]) for n, frame in enumerate(frames) if view.push(frame)}
        assert list(logits) == [0, 4, 8, 12, 16]
        expected = 0.0
        for number, value in logits.items():
            expected = (expected + 8 * number) / 2
            assert value == expected
        assert view.push(TimedFrame(100.0, np.full((32, 32, 3), 10, np.uint8)))
        assert answerer.answer([view]).tolist() == [[5.0, 5.0, 5.0]]  # after a gap it starts anew
        assert view.push(TimedFrame(50.0, np.full((32, 32, 3), 20, np.uint8)))
        assert answerer.answer([view]).tolist() == [[10.0, 10.0, 10.0]]  # and where the clock steps back
        rounded = [view.push(TimedFrame(50.0 + time_s, frames[0].pixels)) for time_s in (0.44, 0.46, 0.99, 1.49, 2.0)]
        assert rounded == [False, True, True, True, True]
        late = [view.push(TimedFrame(time_s, frames[0].pixels)) for time_s in (52.6, 53.0, 54.7, 54.8, 54.9)]
        assert late == [True, True, True, True, False], "one late frame delays no other, and none is made up for"


def test_a_streaming_model_labels_clips_too(stream_model: Path) -> None:
    clips = np.arange(2 * 4, dtype=np.uint8).reshape(2, 4, 1, 1, 1) * np.ones((32, 32, 3), np.uint8)
    with open_runner(stream_model) as runner:
        runner.push([runner.memory()], clips[0, :1])
        logits = runner.predict(clips)
    np.testing.assert_allclose(logits[:, 0], [0 / 16 + 1 / 8 + 2 / 4 + 3 / 2, 4 / 16 + 5 / 8 + 6 / 4 + 7 / 2])


def test_frames_that_a_stream_does_not_take_are_refused(stream_model: Path) -> None:
    with open_runner(stream_model) as runner:
        memory = runner.memory()
        frame = np.zeros(runner.manifest.clip.shape[1:], np.uint8)
        for memories, frames in (([], []), ([memory, memory], [frame, frame]), ([memory], [frame, frame])):
            with pytest.raises(ValueError, match="push takes one memory or more, each once"):
                runner.push(memories, frames)
        for wrong in (frame.astype(np.float32), frame[:1]):
            with pytest.raises(ValueError, match="a frame must be"):
                runner.push([memory], [wrong])


def test_streams_in_one_batch_do_not_touch_each_other(stream_model: Path) -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (3, 12, 32, 32, 3), dtype=np.uint8)
    shown = [[rng.random() < 0.6 for _ in range(3)] for _ in range(12)]
    with open_runner(stream_model) as runner:
        together, alone = ([runner.memory() for _ in range(3)] for _ in range(2))
        for index, mask in enumerate(shown):
            ready = [number for number in range(3) if mask[number]]
            if not ready:
                continue
            logits = runner.push([together[number] for number in ready], [frames[number, index] for number in ready])
            each = [runner.push([alone[number]], [frames[number, index]])[0] for number in ready]
            np.testing.assert_allclose(logits, each, rtol=1e-6)
            together[ready[0]].clear()
            alone[ready[0]].clear()
    assert {sum(mask) for mask in shown} >= {1, 2, 3}, "every size of batch was tried"


def test_a_streaming_model_labels_a_stream(write_video: WriteVideo, stream_model: Path) -> None:
    path = write_video(coloured("red", "blue", count=50), "libx264")
    with open_runner(stream_model) as runner:
        found, _, _ = watched(runner, Manner(window_s=1.0, smoothing_s=0.0), path)
    changes = found[str(path)]
    assert [change.label for change in changes] == ["red", "blue"]
    assert changes[0].time_s == 0.0
    assert 2.0 <= changes[1].time_s < 2.6


class Counting:
    """A runner that notes the size of each batch."""

    def __init__(self, runner: Runner) -> None:
        self._runner, self.manifest, self.batches = runner, runner.manifest, []

    def predict(self, frames: np.ndarray) -> np.ndarray:
        self.batches.append(len(frames))
        return self._runner.predict(frames)


def test_frames_that_are_due_together_go_through_in_one_batch(colour_model: Path) -> None:
    pixels = {label: np.full((32, 32, 3), colour, np.uint8) for label, colour in COLOURS.items()}
    with open_runner(colour_model) as runner:
        counting = Counting(runner)
        labeller = labeller_of(counting, Manner(1.0, 1.0, 0.0))
        streams = {label: labeller.add() for label in pixels}
        changes = []
        for number in range(33):
            ready = [label for label in pixels if label != "blue" or number > 8]  # the third starts later
            frames = [(streams[label], TimedFrame(number / 8, pixels[label])) for label in ready]
            changes += [(stream.label, change.label, change.time_s) for stream, change in labeller.push(frames)]
    assert counting.batches == [2, 2, 1, 2, 1, 2]
    assert sum(counting.batches) == sum(stream.answers for stream in streams.values())
    assert [(is_of, says) for is_of, says, _ in changes] == [("red", "red"), ("green", "green"), ("blue", "blue")]


def test_several_files_are_labelled_together_and_a_bad_one_stops_none(
    write_video: WriteVideo, colour_model: Path, tmp_path: Path
) -> None:
    red = write_video(coloured("red", count=60), "libx264", "red.mp4")
    blue = write_video(coloured("blue", "green", count=40), "libx264", "blue.mp4")
    with open_runner(colour_model) as runner:
        found, sources, _ = watched(runner, Manner(1.0, 0.25, 0.0), red, tmp_path / "none.mp4", blue)
    assert {Path(name).name: [change.label for change in changes] for name, changes in found.items()} == {
        "red.mp4": ["red"], "none.mp4": [], "blue.mp4": ["blue", "green"],
    }  # fmt: skip
    assert [source.frames for source in sources.values()] == [60, 0, 80]


def test_many_silent_streams_hold_an_ending_up_no_longer_than_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"  # whoever connects hears nothing
        with open_sources([url] * 4, SPEC):
            start_s = time.monotonic()
    assert time.monotonic() - start_s < 2 * sources_module.STOP_S


@pytest.mark.parametrize("by_frame", [False, True])
def test_an_endless_stream_keeps_no_more_than_a_short_one(
    colour_model: Path, stream_model: Path, by_frame: bool
) -> None:
    """No list grows with the frames: the memory of Python's objects is the same after 200 s and after 2000 s."""
    pixels = np.zeros((32, 32, 3), np.uint8)
    with open_runner(stream_model if by_frame else colour_model) as runner:
        labeller = labeller_of(runner, Manner())
        stream = labeller.add()

        def run(seconds: range) -> None:
            for number in range(seconds.start * 10, seconds.stop * 10):
                labeller.push([(stream, TimedFrame(number / 10, pixels.copy()))])

        tracemalloc.start()
        try:
            run(range(200))
            before = tracemalloc.get_traced_memory()[0]
            run(range(200, 2000))
            grown = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
    assert stream.frames == 20_000
    assert grown < 2 * pixels.nbytes  # a byte for each of 18 000 frames would be more


def test_a_live_stream_that_is_too_fast_loses_its_oldest_frames(write_video: WriteVideo) -> None:
    path = write_video(np.repeat(np.arange(40, dtype=np.uint8), 32 * 48 * 3).reshape(40, 32, 48, 3) * 5)
    changed = threading.Condition()
    source = Source(str(path), SPEC, changed, live=True, patience_s=0.0)
    with changed:
        assert changed.wait_for(lambda: source.waiting and isinstance(source.waiting[-1], Ended), 20)
    *frames, _ = source.waiting
    assert source.frames == 40
    assert source.dropped == 40 - WAITING_FRAMES
    assert [round(frame.time_s * 25) for frame in frames] == list(range(40 - WAITING_FRAMES, 40))


def test_sources_can_be_left_before_their_end(write_video: WriteVideo) -> None:
    path = write_video(coloured("red", count=200))
    before = threading.active_count()
    with open_sources([str(path)] * 3, SPEC) as sources:
        next(sources.rounds())
    assert threading.active_count() == before


def items(sources: Sources) -> list[Item]:
    return [item for taken in sources.rounds() for _, item in taken]


def test_a_stream_that_breaks_off_says_so_after_its_frames(write_video: WriteVideo) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 64, 64, 3), dtype=np.uint8)
    path = write_video(noise, "libx264", options={"g": "5"})
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 20_000] = b"\xff" * 20_000
    path.write_bytes(bytes(data))
    with open_sources([str(path)], SPEC) as sources:
        *frames, ended = items(sources)
    assert 5 < len(frames) < 40
    assert isinstance(ended, Ended)
    assert ended.reason.startswith(f"{path}: the stream broke off")


@contextmanager
def serving(handler: Callable[..., BaseHTTPRequestHandler]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


@pytest.mark.parametrize(("codec", "name"), [("libvpx-vp9", "clip.webm"), ("libx264", "clip.ts")])
def test_a_recording_comes_over_http_and_ends(write_video: WriteVideo, codec: str, name: str) -> None:
    """The server knows no Range, and so the end of a .ts, which tells its length, is not looked at."""
    path = write_video(coloured("red", count=12), codec, name)
    with (
        serving(partial(QuietHandler, directory=str(path.parent))) as url,
        open_sources([f"{url}/{path.name}"], SPEC, patience_s=0.0) as sources,
    ):
        *frames, ended = items(sources)
    (source,) = sources.all
    assert not source.live
    assert (len(frames), source.dropped) == (12, 0)
    assert ended == Ended("")


def test_an_mp4_with_its_index_at_its_end_says_what_is_amiss(write_video: WriteVideo) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (30, 128, 128, 3), dtype=np.uint8)
    path = write_video(noise, "libx264")
    with (
        serving(partial(QuietHandler, directory=str(path.parent))) as url,
        open_sources([f"{url}/{path.name}"], SPEC, patience_s=60.0) as sources,
    ):
        (ended,) = items(sources)
    assert re.search(r"clip\.mp4: no frame can be decoded.* \(an mp4 needs its index at its start", ended.reason)


class DroppingHandler(BaseHTTPRequestHandler):
    """An endless stream that the server drops after one round of its frames; from the third on it is gone."""

    data = b""
    asked = 0

    def do_GET(self) -> None:
        type(self).asked += 1
        if self.asked > 2:
            self.send_error(404)
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.data)

    def log_message(self, *arguments: object) -> None:
        """Says nothing."""


def test_a_dropped_connection_is_opened_again_and_given_up_in_the_end(
    write_video: WriteVideo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources_module, "RETRY_S", (0.05, 0.2))
    video = write_video(coloured("red", count=30), "mpeg4", "stream.ts")
    handler = type("Handler", (DroppingHandler,), {"data": video.read_bytes()})
    with serving(handler) as url, open_sources([f"{url}/stream.ts"], SPEC, patience_s=1.0) as sources:
        found = [item for item in items(sources) if not isinstance(item, TimedFrame)]
    assert [type(item) for item in found] == [Lost, Back, Lost, Ended]
    assert "stream.ts: the stream broke off" in found[0].reason
    assert found[1].lost_s < 1.0
    assert "and did not come back within 1 s" in found[-1].reason
    assert "404" in found[-1].reason
    (source,) = sources.all
    assert source.frames == 60
    assert source.reconnects == 1
    assert 4 < handler.asked < 14, "it was asked again, at growing intervals"


@pytest.mark.parametrize(
    ("codec", "name"), [("libvpx-vp9", "clip.webm"), ("libx264", "clip.mkv"), ("mpeg4", "clip.avi")]
)
@pytest.mark.parametrize("whole", [True, False])
def test_a_recording_of_unknown_size_has_ended_where_all_of_it_was_shown(
    write_video: WriteVideo, codec: str, name: str, whole: bool
) -> None:
    """HTTP/1.0 tells the end of what is made as it is sent by hanging up."""
    noise = np.random.default_rng(0).integers(0, 255, (60, 64, 64, 3), dtype=np.uint8)
    data = write_video(noise, codec, name).read_bytes()
    handler = type("Handler", (DroppingHandler,), {"data": data if whole else data[: len(data) // 2]})
    with serving(handler) as url, open_sources([url], SPEC, patience_s=60.0) as sources:
        *frames, ended = items(sources)
    (source,) = sources.all
    assert (source.live, source.dropped, len(frames) == 60) == (False, 0, whole)
    assert ended == Ended("" if whole else f"{url}: the stream broke off: Input/output error")


class PictureHandler(BaseHTTPRequestHandler):
    """A camera's pictures one after the other, announced as more bytes than will ever come."""

    pictures: tuple[bytes, ...] = ()

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=next")
        self.send_header("Content-Length", str(1 << 40))
        self.end_headers()
        for picture in self.pictures:
            head = f"--next\r\nContent-Type: image/jpeg\r\nContent-Length: {len(picture)}\r\n\r\n"
            self.wfile.write(head.encode() + picture + b"\r\n")

    def log_message(self, *arguments: object) -> None:
        """Says nothing."""


def test_a_camera_that_announces_a_size_is_no_recording(write_video: WriteVideo) -> None:
    with av.open(str(write_video(coloured("red", count=12)))) as container:
        pictures = tuple(bytes(packet) for packet in container.demux(video=0) if packet.size)
    handler = type("Handler", (PictureHandler,), {"pictures": pictures})
    with serving(handler) as url, open_sources([url], SPEC, patience_s=0.0) as sources:
        *_, lost, ended = items(sources)
    assert sources.all[0].live
    assert isinstance(lost, Lost)
    assert "did not come back within 0 s" in ended.reason


def test_a_stream_that_falls_silent_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container_module, "TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/stream.ts"
        with open_sources([url], SPEC) as sources:
            (ended,) = items(sources)
    assert ended == Ended(f"{url}: cannot be opened as a stream: nothing came for 0.2 s")


def test_waiting_for_a_lost_stream_can_be_interrupted(write_video: WriteVideo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources_module, "RETRY_S", (60.0, 60.0))
    video = write_video(coloured("red", count=5), "mpeg4", "stream.ts")
    handler = type("Handler", (DroppingHandler,), {"data": video.read_bytes()})
    with serving(handler) as url, open_sources([f"{url}/stream.ts"], SPEC, patience_s=300.0) as sources:
        for ((_, item),) in sources.rounds():
            if isinstance(item, Lost):
                break
        start_s = time.monotonic()
    assert not sources.all[0]._thread.is_alive()
    assert time.monotonic() - start_s < 5


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        """Says nothing."""


@pytest.mark.parametrize("name", ["/dev/video77", "77", "http://127.0.0.1:9/clip.mp4", "nosuch://x"])
def test_a_stream_that_cannot_be_opened_gives_one_line(name: str) -> None:
    with open_sources([name], SPEC, patience_s=60.0) as sources:
        (ended,) = items(sources)
    assert "cannot be opened as a stream" in ended.reason
    assert "\n" not in ended.reason


def test_the_streaming_graph_beside_a_model_is_taken_if_it_is_of_the_same_weights(
    write_model: Callable[..., Path], stream_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = write_model(tmp_path / "student.onnx", checkpoint_sha256="")
    assert streaming_twin(whole) == whole
    twin = stream_model.rename(tmp_path / "student.stream.onnx")
    assert streaming_twin(whole) == twin
    assert streaming_twin(twin) == twin
    assert streaming_twin(tmp_path / "none.onnx") == tmp_path / "none.onnx"
    assert streaming_twin(Path("/")) == Path("/")  # which has no name that could be another's
    assert capsys.readouterr().err == ""
    other = write_model(tmp_path / "student.onnx", checkpoint_sha256="1" * 64)
    assert streaming_twin(other) == other
    assert capsys.readouterr().err == (
        f"warning: {twin} was exported from another model than {other}, and is not used\n"
    )
    twin.write_bytes(b"damaged")
    with pytest.raises(EngineError, match=r"student\.stream\.onnx: not an ONNX file"):
        streaming_twin(whole)
