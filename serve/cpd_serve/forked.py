"""Many videos at once, each worker a process: a video that crashes or hangs its decoder costs no answer but its own.

A clip of few frames gives Python's lock away and takes it back some sixty times, so that threads wait for each other
much of the time (figures: benchmarks/serve/RESULTS.md). Forked processes share the model's memory and start at once.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import NamedTuple

from cpd_serve.labelling import PARTS, Answer, Question, try_label_video
from cpd_serve.orphans import end_with_parent
from cpd_serve.runner import Runner

CPU = "CPUExecutionProvider"
TOLD = 2
"""Videos a process knows of: the one it labels and the next, so that it does not wait for us in between."""
TIMEOUT_S = 600.0
"""Far more than any video takes that does not hang: only what lies before a sampled frame is decoded."""
AHEAD = 32
"""Answers each process may be ahead of the slowest video; they wait for their turn."""


class Task(NamedTuple):
    """A video and its place in the order."""

    number: int
    video: Path


def can_fork(runner: Runner) -> bool:
    """Whether forked processes can run the model: not one that lives on a GPU."""
    return runner.provider == CPU and "fork" in multiprocessing.get_all_start_methods()


def label_videos_forked(
    runner: Runner, videos: Iterable[Path], workers: int, question: Question, timeout_s: float = TIMEOUT_S
) -> Iterator[Answer]:
    """Labels videos in forked processes and yields their answers in order; see ``can_fork``.

    Args:
        runner: loaded with ``threads=1``, since threads are not forked; nobody else may use it meanwhile.
        videos: may be endless; only a few are taken ahead.
        workers: how many processes.
        question: what to ask of each video.
        timeout_s: a video that takes longer is given up, and its process ended.
    """
    todo = (Task(number, video) for number, video in enumerate(videos))
    again: deque[Task] = deque()  # told to a process that was lost before it came to them
    answers: dict[int, Answer] = {}
    taken = turn = 0
    pool: list[Worker] = []
    try:
        while True:
            while len(pool) < workers:
                pool.append(Worker(runner, question, pool))
            for worker in pool:
                while len(worker.told) < TOLD and (again or taken - turn < workers * AHEAD):
                    task = again.popleft() if again else next(todo, None)
                    if task is None:
                        break
                    taken = max(taken, task.number + 1)
                    worker.tell(task)
            busy = [worker for worker in pool if worker.told]
            if not busy:
                return
            ready = wait([worker.connection for worker in busy], min(worker.left_s(timeout_s) for worker in busy))
            for worker in busy:
                if worker.connection in ready:
                    task, answer = worker.answer()
                elif worker.left_s(timeout_s) == 0:
                    task, answer = worker.told.popleft(), f"took longer than {timeout_s:g} s"
                else:
                    continue
                if isinstance(answer, str):
                    answer = Answer(str(task.video), [], dict.fromkeys(PARTS, 0.0), error=f"{task.video}: {answer}")
                    again.extend(worker.told)
                    pool.remove(worker)
                    worker.stop()
                answers[task.number] = answer
            while turn in answers:
                yield answers.pop(turn)
                turn += 1
    finally:
        for worker in pool:
            worker.stop()


class Worker:
    """A process that labels what it is told of, in order."""

    def __init__(self, runner: Runner, question: Question, others: Sequence[Worker]) -> None:
        self.told: deque[Task] = deque()
        """What it has not answered yet."""
        self._began_s = 0.0  # with the first of these
        self.connection, theirs = multiprocessing.Pipe()
        # The child must not keep our ends open, or a worker would not notice that we are gone.
        ours = [self.connection, *(other.connection for other in others)]
        self._process = multiprocessing.get_context("fork").Process(
            target=_work, args=(theirs, ours, runner, question), daemon=True
        )
        self._process.start()
        theirs.close()

    def tell(self, task: Task) -> None:
        if not self.told:
            self._began_s = time.monotonic()
        self.told.append(task)
        with suppress(ConnectionError):  # it has crashed; asking for its answer will tell
            self.connection.send(task.video)

    def answer(self) -> tuple[Task, Answer | str]:
        """The first video that it was told of, and its answer, or how the process was lost."""
        task, self._began_s = self.told.popleft(), time.monotonic()
        try:
            answer: Answer = self.connection.recv()
        except (EOFError, ConnectionError):
            return task, "crashed the decoder"
        return task, answer

    def left_s(self, timeout_s: float) -> float:
        """Seconds it may still take for the first video that it was told of."""
        return max(0.0, self._began_s + timeout_s - time.monotonic())

    def stop(self) -> None:
        self.connection.close()
        self._process.kill()
        self._process.join()


def _work(connection: Connection, ours: Sequence[Connection], runner: Runner, question: Question) -> None:
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends us
    for other in ours:
        other.close()
    with suppress(EOFError, ConnectionError):  # the parent has gone
        while True:
            connection.send(try_label_video(runner, connection.recv(), question))
