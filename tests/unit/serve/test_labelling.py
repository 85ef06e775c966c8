from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cpd.clip import ClipSpec
from cpd.errors import EngineError, VideoError
from cpd.video import probe
from cpd_serve import labelling
from cpd_serve.batch import label_videos
from cpd_serve.labelling import (
    MAX_PARTS,
    PARTS,
    Question,
    label_together,
    label_video,
    look_at,
    probabilities,
    top_labels,
    try_label_video,
)
from cpd_serve.runner import open_runner

WriteVideo = Callable[..., Path]
WriteModel = Callable[..., Path]


def coloured(*colours: tuple[int, int, int], count: int = 12) -> np.ndarray:
    """(count, 32, 48, 3) uint8: equal parts of the video in these colours."""
    parts = [np.full((count // len(colours), 32, 48, 3), colour, np.uint8) for colour in colours]
    return np.concatenate(parts)


def test_probabilities_are_softmax_even_of_large_logits() -> None:
    shares = probabilities(np.array([[1000.0, 1000.0 - np.log(3), -1000.0], [0, 0, -1000], [3e38] * 3], np.float32))
    np.testing.assert_allclose(shares, [[0.75, 0.25, 0.0], [0.5, 0.5, 0.0], [1 / 3] * 3], atol=1e-4)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers_are_an_error(bad: float) -> None:
    with pytest.raises(EngineError, match="values that are not numbers"):
        probabilities(np.array([[0.0, bad]], np.float32))


def test_labels_come_most_probable_first() -> None:
    shares = np.array([0.2, 0.5, 0.2, 0.1])
    assert top_labels(shares, ("a", "b", "c", "d"), 3) == [("b", 0.5), ("a", 0.2), ("c", 0.2)]
    assert len(top_labels(shares, ("a", "b", "c", "d"), 9)) == 4
    many = tuple(map(str, range(60)))
    assert [label for label, _ in top_labels(np.tile([0.01, 0.02], 30), many, 60)] == [*many[1::2], *many[::2]]


def test_a_video_gets_its_label_and_its_times(write_video: WriteVideo, colour_model: Path) -> None:
    path = write_video(coloured((60, 10, 240)))
    with open_runner(colour_model) as runner:
        answer = label_video(runner, path, Question(top_k=2))
    assert [label for label, _ in answer.predictions] == ["blue", "red"]
    assert answer.predictions[0][1] > 0.99
    assert tuple(answer.spent_ms) == PARTS
    assert all(spent_ms > 0 for spent_ms in answer.spent_ms.values())
    assert answer.total_ms == pytest.approx(answer.decode_ms + answer.spent_ms["infer"] + answer.spent_ms["post"])


@pytest.mark.parametrize("explain", [False, True])
def test_what_is_printed_of_an_answer_holds_what_there_is(
    write_video: WriteVideo, colour_model: Path, tmp_path: Path, explain: bool
) -> None:
    path = write_video(coloured((60, 10, 240)))
    always = {"video", "engine", "runtime", "provider", "predictions", "latency_ms"}
    more = {"explain_ms"} if explain else set()
    with open_runner(colour_model) as runner:
        good, bad = (try_label_video(runner, video).to_dict(runner, explain) for video in (path, tmp_path / "none.mp4"))
    assert good.keys() == always | more
    assert bad.keys() == always | more | {"error"}
    assert bad["latency_ms"] == {"decode": 0, "infer": 0, "total": 0}


@pytest.mark.parametrize(("part_s", "reader"), [(None, "read_windows"), (1.0, "read_parts")])
def test_the_decoder_that_was_asked_for_decodes(
    part_s: float | None, reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labelling, reader, lambda *given: given[-1:] * 2)
    question = Question(part_s=part_s, decoder="nvdec")
    assert "nvdec" in look_at(Path("clip.mp4"), ClipSpec(), question).clips


def test_of_videos_shown_together_each_has_its_clips_and_its_share_of_the_time(
    write_video: WriteVideo, colour_model: Path
) -> None:
    with open_runner(colour_model) as runner:
        seen = [
            look_at(write_video(coloured(colour), name=f"{views}.avi"), runner.manifest.clip, Question(views=views))
            for views, colour in ((1, (240, 0, 0)), (3, (0, 240, 0)), (2, (0, 0, 240)))
        ]
        answers = list(label_together(runner, seen, Question(top_k=1)))
    assert [answer.predictions[0][0] for answer in answers] == ["red", "green", "blue"]
    infer_ms = [answer.spent_ms["infer"] for answer in answers]
    assert infer_ms == pytest.approx([infer_ms[0], 3 * infer_ms[0], 2 * infer_ms[0]])


def test_views_are_averaged(write_video: WriteVideo, tmp_path: Path, write_model: WriteModel) -> None:
    model = write_model(tmp_path / "sharp.onnx", scale=1000.0)
    path = write_video(coloured((240, 0, 0), (240, 0, 0), (0, 0, 240)))
    with open_runner(model) as runner:
        answer = label_video(runner, path, Question(views=3))
    assert answer.predictions[0] == ("red", pytest.approx(2 / 3, abs=1e-3))
    assert answer.predictions[1] == ("blue", pytest.approx(1 / 3, abs=1e-3))


def test_a_timeline_ends_with_the_frames(write_video: WriteVideo, colour_model: Path) -> None:
    path = write_video(coloured((240, 0, 0), (0, 240, 0), (0, 0, 240), (0, 0, 240), count=100), "mjpeg", "cut.mkv")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])  # its header still says how long it was
    with open_runner(colour_model) as runner:
        timeline = label_video(runner, path, Question(part_s=1.0)).timeline
    kept_s = len(probe(path).times_s) / 25
    assert 1 < kept_s < 3.5
    assert timeline[-1].end_s == pytest.approx(kept_s, abs=0.05)


def test_a_timeline_labels_each_part(write_video: WriteVideo, colour_model: Path) -> None:
    path = write_video(coloured((240, 0, 0), (0, 240, 0), (0, 0, 240), (0, 0, 240), count=100), "libx264")
    with open_runner(colour_model) as runner:
        answer = label_video(runner, path, Question(part_s=1.0))
        long = label_video(runner, path, Question(part_s=100.0))
        short = label_video(runner, path, Question(part_s=0.001))
    assert [part.label for part in answer.timeline] == ["red", "green", "blue", "blue"]
    assert [part.start_s for part in answer.timeline] == [0.0, 1.0, 2.0, 3.0]
    assert answer.timeline[-1].end_s == pytest.approx(4.0)
    assert answer.predictions[0][0] == "blue"
    assert answer.to_dict(runner)["timeline"][1]["label"] == "green"
    assert len(long.timeline) == 1
    assert len(short.timeline) == MAX_PARTS


def test_one_model_error_is_in_the_answer_of_each_video_shown_with_it(
    write_video: WriteVideo, colour_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_runner(colour_model) as runner:
        seen = [look_at(write_video(coloured((60, 10, 240)), name=f"{n}.avi"), runner.manifest.clip) for n in range(3)]
        logits = runner.predict(np.concatenate([one.clips for one in seen]))
        logits[1] = np.nan
        monkeypatch.setattr(runner, "predict", lambda _: logits)
        first, second, third = label_together(runner, seen, Question(top_k=1))
        assert (first.predictions, first.error) == (third.predictions, third.error)
        assert (second.predictions, "not numbers" in second.error) == ([], True)
        monkeypatch.setattr(runner, "predict", _broken)
        assert [answer.error for answer in label_together(runner, seen, Question())] == ["out of order"] * 3


def _broken(_: np.ndarray) -> np.ndarray:
    raise EngineError("out of order")


def test_a_broken_video_is_an_error(tmp_path: Path, colour_model: Path) -> None:
    with open_runner(colour_model) as runner, pytest.raises(VideoError, match="no such file"):
        label_video(runner, tmp_path / "none.mp4")


@pytest.mark.parametrize("workers", [1, 3])
def test_answers_come_in_order_and_a_bad_video_stops_none(
    write_video: WriteVideo, tmp_path: Path, colour_model: Path, workers: int
) -> None:
    colours = {"red": (240, 0, 0), "green": (0, 240, 0), "blue": (0, 0, 240)}
    labels = ["red", "green", "blue", "blue", "green", "red", "green", "red"] * 2
    videos = {label: write_video(coloured(colour), name=f"{label}.avi") for label, colour in colours.items()}
    paths = [videos[label] for label in labels]
    paths.insert(3, tmp_path / "none.mp4")
    with open_runner(colour_model) as runner:
        answers = list(label_videos(runner, iter(paths), workers, Question(top_k=1)))
    assert [answer.video for answer in answers] == [str(path) for path in paths]
    assert answers[3].error == f"{tmp_path}/none.mp4: no such file"
    assert answers[3].predictions == []
    assert [answer.predictions[0][0] for answer in answers if not answer.error] == labels


def test_an_endless_list_is_not_read_ahead(write_video: WriteVideo, colour_model: Path) -> None:
    path, taken = write_video(coloured((240, 0, 0))), []

    def endless() -> object:
        while True:
            taken.append(path)
            yield path

    with open_runner(colour_model) as runner:
        answers = label_videos(runner, endless(), 2, Question())
        assert next(answers).predictions[0][0] == "red"
        answers.close()
    assert len(taken) <= 5
