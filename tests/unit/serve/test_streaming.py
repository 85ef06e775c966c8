from __future__ import annotations

import math
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from cpd.clip import ClipSpec
from cpd.container import open_file
from cpd.errors import VideoError
from cpd.manifest import METADATA_KEY, Manifest
from cpd_serve.runner import open_runner
from cpd_serve.sources import WAITING_FRAMES, Source, TimedFrame, open_source
from cpd_serve.streaming import (
    MAX_FRAMES_A_SEGMENT,
    ByFrame,
    ByWindow,
    Progress,
    SlidingWindow,
    Smoother,
    label_changes,
)

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
    due = {
        number: numbers(clip) for number, frame in enumerate(numbered(30)) if (clip := window.push(frame)) is not None
    }
    assert list(due) == [16, 20, 24, 28]
    assert due[16] == [2, 6, 10, 14]
    assert due[28] == [14, 18, 22, 26]


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
    clips = [window.push(TimedFrame(t, np.full((2, 2, 3), n, np.uint8))) for n, t in enumerate(times_s)]
    assert numbers(clips[-1]) == [4, 8, 9, 10]


def test_a_clock_that_jumps_starts_the_window_anew() -> None:
    window = SlidingWindow(SPEC, window_s=2.0, stride_s=0.5)
    for frame in numbered(20):
        window.push(frame)
    again = [window.push(frame) is not None for frame in numbered(17, start_s=-100.0)]
    assert again.index(True) == 16
    later = [window.push(frame) is not None for frame in numbered(17, start_s=1000.0)]
    assert later.index(True) == 16


def test_smoothing_is_exponential_in_time() -> None:
    smoother = Smoother(2.0)
    assert smoother.update(0.0, np.array([1.0, 0.0])).tolist() == [1.0, 0.0]
    np.testing.assert_allclose(smoother.update(2.0, np.array([0.0, 1.0])), [1 / math.e, 1 - 1 / math.e])
    np.testing.assert_allclose(smoother.update(1.0, np.array([0.5, 0.5])), [0.5, 0.5])
    unsmoothed = Smoother(0.0)
    unsmoothed.update(0.0, np.array([1.0, 0.0]))
    assert unsmoothed.update(0.1, np.array([0.0, 1.0])).tolist() == [0.0, 1.0]


@pytest.mark.parametrize(("smoothing_s", "sooner"), [(0.0, True), (1.5, False)])
def test_changes_of_the_label_are_told(
    write_video: WriteVideo, colour_model: Path, smoothing_s: float, sooner: bool
) -> None:
    path = write_video(coloured("red", "blue", "blue", count=50), "libx264")
    progress = Progress()
    with open_runner(colour_model) as runner, open_source(str(path), runner.manifest.clip) as source:
        answerer = ByWindow(runner, window_s=1.0, stride_s=0.25)
        changes = list(label_changes(answerer, runner.manifest.labels, source, Smoother(smoothing_s), progress))
    assert [change.label for change in changes] == ["red", "blue"]
    assert changes[0].time_s == pytest.approx(1.0, abs=0.05)
    assert 2.4 < changes[1].time_s < 4.5
    assert (changes[1].time_s < 3.1) == sooner
    assert progress.frames == source.frames == 150
    assert source.dropped == 0
    assert progress.answers == 20
    assert progress.sustainable_fps > 25


def test_a_stream_shorter_than_a_window_is_labelled_all_the_same(write_video: WriteVideo, colour_model: Path) -> None:
    path = write_video(coloured("green", count=5))
    with open_runner(colour_model) as runner, open_source(str(path), runner.manifest.clip) as source:
        answerer = ByWindow(runner, window_s=10.0, stride_s=1.0)
        (change,) = label_changes(answerer, runner.manifest.labels, source, Smoother(0.0), Progress())
    assert change.label == "green"


@pytest.fixture
def stream_model(tmp_path: Path) -> Path:
    """A streaming graph whose logits are half of this frame's colour, a quarter of that before, and so on."""
    path = tmp_path / "stream.onnx"
    nodes = [
        helper.make_node("Cast", ["frame"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "axes"], ["colour"], keepdims=0),
        helper.make_node("Add", ["colour", "past"], ["sum"]),
        helper.make_node("Mul", ["sum", "half"], ["next_past"]),
        helper.make_node("Identity", ["next_past"], ["logits"]),
    ]
    tensors = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3])
               for name in ("past", "next_past", "logits")}  # fmt: skip
    frame = helper.make_tensor_value_info("frame", TensorProto.UINT8, ["batch", 32, 32, 3])
    constants = [numpy_helper.from_array(np.array([1, 2]), "axes"), numpy_helper.from_array(np.float32(0.5), "half")]
    graph = helper.make_graph(
        nodes, "stream", [frame, tensors["past"]], [tensors["logits"], tensors["next_past"]], constants
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    manifest = Manifest("student", "colour", tuple(COLOURS), SPEC, "fp32", 18, "", "", streaming=True)
    helper.set_model_props(model, {METADATA_KEY: manifest.to_json()})
    onnx.save(model, path)
    return path


def test_a_streaming_model_sees_each_frame_once_and_remembers(stream_model: Path) -> None:
    with open_runner(stream_model) as runner:
        answerer = ByFrame(runner, window_s=2.0)  # four frames a window: one each half second
        frames = [TimedFrame(n / 8, np.full((32, 32, 3), 8 * n, np.uint8)) for n in range(17)]
        logits = {
            n: float(found[0, 0]) for n, frame in enumerate(frames) if (found := answerer.push(frame)) is not None
        }
        assert list(logits) == [0, 4, 8, 12, 16]
        expected = 0.0
        for number, value in logits.items():
            expected = (expected + 8 * number) / 2
            assert value == expected
        again = answerer.push(TimedFrame(100.0, np.full((32, 32, 3), 10, np.uint8)))
        assert again.tolist() == [[5.0, 5.0, 5.0]]  # after a gap it starts anew


def test_a_streaming_model_labels_clips_too(stream_model: Path) -> None:
    clips = np.arange(2 * 4, dtype=np.uint8).reshape(2, 4, 1, 1, 1) * np.ones((32, 32, 3), np.uint8)
    with open_runner(stream_model) as runner:
        runner.push(clips[0, 0])
        logits = runner.predict(clips)
    np.testing.assert_allclose(logits[:, 0], [0 / 16 + 1 / 8 + 2 / 4 + 3 / 2, 4 / 16 + 5 / 8 + 6 / 4 + 7 / 2])


def test_a_streaming_model_labels_a_stream(write_video: WriteVideo, stream_model: Path) -> None:
    path, progress = write_video(coloured("red", "blue", count=50), "libx264"), Progress()
    with open_runner(stream_model) as runner, open_source(str(path), SPEC) as source:
        answerer = ByFrame(runner, window_s=1.0)
        changes = list(label_changes(answerer, tuple(COLOURS), source, Smoother(0.0), progress))
    assert [change.label for change in changes] == ["red", "blue"]
    assert changes[0].time_s == 0.0
    assert 2.0 <= changes[1].time_s < 2.6
    assert progress.answers == 16


def test_a_live_stream_that_is_too_fast_loses_its_oldest_frames(write_video: WriteVideo) -> None:
    path = write_video(np.repeat(np.arange(40, dtype=np.uint8), 32 * 48 * 3).reshape(40, 32, 48, 3) * 5)
    with open_file(path) as (container, stream):
        source = Source(container, stream, "camera", SPEC, live=True)
        frames = iter(source)
        while not source._ended:
            time.sleep(0.01)
        seen = [round(frame.time_s * 25) for frame in frames]
    assert source.frames == 40
    assert source.dropped == 40 - WAITING_FRAMES
    assert seen == list(range(40 - WAITING_FRAMES, 40))


def test_a_source_can_be_left_before_its_end(write_video: WriteVideo) -> None:
    path = write_video(coloured("red", count=200))
    before = threading.active_count()
    with open_source(str(path), SPEC) as source:
        next(iter(source))
    assert threading.active_count() == before


def test_a_stream_that_breaks_off_says_so_after_its_frames(write_video: WriteVideo) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 64, 64, 3), dtype=np.uint8)
    path = write_video(noise, "libx264", options={"g": "5"})
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 20_000] = b"\xff" * 20_000
    path.write_bytes(bytes(data))
    seen = []
    with open_source(str(path), SPEC) as source, pytest.raises(VideoError, match="the stream broke off"):
        seen.extend(source)
    assert 5 < len(seen) < 40


def test_a_stream_comes_over_http(write_video: WriteVideo) -> None:
    path = write_video(coloured("red", count=12), "libvpx-vp9")
    handler = partial(QuietHandler, directory=str(path.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with open_source(f"http://127.0.0.1:{server.server_port}/{path.name}", SPEC) as source:
            assert source.live
            assert len(list(source)) + source.dropped == 12
        server.shutdown()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        """Says nothing."""


@pytest.mark.parametrize("name", ["/dev/video77", "77", "http://127.0.0.1:9/clip.mp4", "nosuch://x"])
def test_a_stream_that_cannot_be_opened_gives_one_line(name: str) -> None:
    with pytest.raises(VideoError, match="cannot be opened as a stream") as raised, open_source(name, SPEC):
        pass
    assert "\n" not in str(raised.value)
