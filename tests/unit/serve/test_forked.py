from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import repeat
from multiprocessing import active_children
from multiprocessing.sharedctypes import RawArray
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cpd_serve import forked
from cpd_serve.forked import AHEAD, TOLD, can_fork, label_videos_forked
from cpd_serve.labelling import BATCH_CLIPS, PARTS, Answer, Question, Seen, label_together, label_video, try_look_at
from cpd_serve.runner import Runner, open_runner

WriteVideo = Callable[..., Path]
COLOURS = {"red": (240, 0, 0), "green": (0, 240, 0), "blue": (0, 0, 240)}


@pytest.fixture
def videos(write_video: WriteVideo) -> list[Path]:
    return [
        write_video(np.full((10, 32, 48, 3), colour, np.uint8), name=f"{name}.avi") for name, colour in COLOURS.items()
    ]


@pytest.mark.parametrize("workers", [1, 3])
def test_answers_come_in_order_and_a_bad_video_is_one_of_them(
    colour_model: Path, videos: list[Path], workers: int
) -> None:
    asked = [*videos, Path("none.mp4"), *reversed(videos)] * 3
    with open_runner(colour_model, threads=1) as runner:
        assert can_fork(runner)
        answers = list(label_videos_forked(runner, asked, workers, Question(top_k=1)))
    assert [answer.video for answer in answers] == list(map(str, asked))
    labels = [answer.predictions[0][0] if answer.predictions else answer.error for answer in answers]
    assert labels == ["red", "green", "blue", "none.mp4: no such file", "blue", "green", "red"] * 3
    assert not active_children()


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("fate", "told"), [(signal.SIGKILL, "crashed the decoder"), (signal.SIGSTOP, "took longer than 3 s")],
    ids=["crashes", "hangs"],
)  # fmt: skip
def test_a_lost_process_costs_its_video_alone(
    colour_model: Path, videos: list[Path], fate: signal.Signals, told: str, workers: int
) -> None:
    def asked() -> Iterator[Path]:
        for number in range(40):
            if number == 20:  # as a decoder that crashes or hangs
                os.kill(next(iter(active_children())).pid or 0, fate)
            yield videos[number % 3]

    with open_runner(colour_model, threads=1) as runner:
        answers = list(label_videos_forked(runner, asked(), workers, Question(top_k=1), timeout_s=3))
    assert [Path(answer.video).stem for answer in answers] == [[*COLOURS][number % 3] for number in range(40)]
    lost = [answer for answer in answers if answer.error]
    assert [answer.error for answer in lost] == [f"{lost[0].video}: {told}"]
    assert all(answer.predictions[0][0] == Path(answer.video).stem for answer in answers if not answer.error)
    assert not active_children()


def test_the_video_that_crashes_is_the_one_that_gets_no_label(
    colour_model: Path, videos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(video: Path, *rest: Any) -> Seen | Answer:
        if video.name == "crash.avi":
            os._exit(1)
        return try_look_at(video, *rest)

    monkeypatch.setattr(forked, "try_look_at", crash)
    asked = [Path("crash.avi") if number % 10 == 7 else videos[number % 3] for number in range(60)]
    with open_runner(colour_model, threads=1) as runner:
        answers = list(label_videos_forked(runner, asked, 2, Question(top_k=1)))
    assert [answer.video for answer in answers] == list(map(str, asked))
    assert [answer.error for answer in answers if answer.error] == ["crash.avi: crashed the decoder"] * 6
    assert all(answer.predictions[0][0] == Path(answer.video).stem for answer in answers if not answer.error)


def test_the_first_of_those_shown_together_is_blamed_for_a_crash_of_the_model(
    colour_model: Path, videos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(runner: Runner, seen: Sequence[Seen], question: Question) -> Iterator[Answer]:
        if seen[0].video == videos[0]:
            os._exit(1)
        return label_together(runner, seen, question)

    monkeypatch.setattr(forked, "label_together", crash)
    with open_runner(colour_model, threads=1) as runner:
        answers = list(label_videos_forked(runner, [videos[0], *videos[1:] * 10], 1, Question(top_k=1)))
    assert [bool(answer.error) for answer in answers] == [True] + [False] * 20


def test_short_clips_are_shown_together_and_no_answer_differs(
    colour_model: Path, videos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    together = RawArray("i", BATCH_CLIPS + 1)

    def count(runner: Runner, seen: Sequence[Seen], question: Question) -> Iterator[Answer]:
        together[len(seen)] += 1
        return label_together(runner, seen, question)

    monkeypatch.setattr(forked, "label_together", count)
    with open_runner(colour_model, threads=1) as runner:
        answers = list(label_videos_forked(runner, videos * 30, 1, Question(top_k=3)))
        alone = [label_video(runner, video, Question(top_k=3)) for video in videos]
    assert sum(size * times for size, times in enumerate(together)) == 90
    assert any(together[2:])
    for answer, wanted in zip(answers, alone * 30, strict=True):
        assert [label for label, _ in answer.predictions] == [label for label, _ in wanted.predictions]
        assert [p for _, p in answer.predictions] == pytest.approx([p for _, p in wanted.predictions], abs=1e-6)
        assert all(answer.spent_ms[part] > 0 for part in PARTS)


def test_no_more_is_taken_than_may_wait_and_whoever_stops_listening_leaves_no_process(
    colour_model: Path, videos: list[Path]
) -> None:
    taken = 0

    def endless() -> Iterator[Path]:
        nonlocal taken
        for video in repeat(videos[0]):
            taken += 1
            yield video

    with open_runner(colour_model, threads=1) as runner:
        answers = label_videos_forked(runner, endless(), 2, Question())
        for _ in range(10):
            next(answers)
        time.sleep(0.1)
        assert taken <= 10 + 2 * (AHEAD + TOLD)
        answers.close()
    assert not active_children()
