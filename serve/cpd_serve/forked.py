"""Many videos at once, each worker a process: a video that crashes or hangs its decoder costs no answer but its own.

A clip of few frames gives Python's lock away and takes it back some sixty times, so that threads wait for each other
much of the time (figures: benchmarks/serve/RESULTS.md). Forked processes share the model's memory and start at once.
Short clips are shown to the model together, which is faster than one after another.
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
from typing import Any, NamedTuple

from cpd.errors import EngineError, reason_of
from cpd_serve.labelling import BATCH_CLIPS, Answer, Question, Seen, failed, label_together, try_look_at
from cpd_serve.orphans import end_with_parent
from cpd_serve.runner import Runner

CPU = "CPUExecutionProvider"
TOLD = 2
"""Videos a process knows of: the one it labels and the next, so that it does not wait for us in between."""
AT_ONCE_MS = 12.0
"""It knows of more, up to a batch, where it has them done in this time, and decodes for as long before it answers."""
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

    Raises:
        EngineError: the system has no room for so many processes.
    """
    todo = (Task(number, video) for number, video in enumerate(videos))
    again: deque[Task] = deque()  # told to a process that was lost before it came to them
    answers: dict[int, Answer] = {}
    taken = turn = 0
    pool: list[Worker] = []
    try:
        while True:
            while len(pool) < workers:
                try:
                    pool.append(Worker(runner, question, pool))
                except OSError as error:
                    raise EngineError(
                        f"no {len(pool) + 1} worker processes can run: {reason_of(error)}", "name fewer --workers"
                    ) from error
            for worker in pool:
                while len(worker.told) < worker.room and (again or taken - turn < workers * AHEAD):
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
                    found = worker.answers()
                elif worker.left_s(timeout_s) == 0:
                    found = worker.lost(f"took longer than {timeout_s:g} s")
                else:
                    continue
                if worker.stopped:
                    again.extend(worker.told)
                    pool.remove(worker)
                answers |= {task.number: answer for task, answer in found}
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
        self.room = TOLD
        """How many of them there may be."""
        self.stopped = False
        self._began_s = 0.0  # with the first of these
        self._decoded = multiprocessing.get_context("fork").RawValue("i", 0)  # of them, and not answered
        self.connection, theirs = multiprocessing.Pipe()
        # The child must not keep our ends open, or a worker would not notice that we are gone.
        ours = [self.connection, *(other.connection for other in others)]
        self._process = multiprocessing.get_context("fork").Process(
            target=_work, args=(theirs, ours, runner, question, self._decoded), daemon=True
        )
        self._process.start()
        theirs.close()

    def tell(self, task: Task) -> None:
        """Gives it one more video to label."""
        if not self.told:
            self._began_s = time.monotonic()
        self.told.append(task)
        with suppress(ConnectionError):  # it has crashed; asking for its answer will tell
            self.connection.send(task.video)

    def answers(self) -> list[tuple[Task, Answer]]:
        """The first videos that it was told of, with their answers, or with how the process was lost."""
        self._began_s = time.monotonic()
        try:
            found: list[Answer] = self.connection.recv()
        except (EOFError, ConnectionError):
            return self.lost("crashed the decoder")
        spent_ms = sum(one.total_ms or AT_ONCE_MS for one in found)  # what failed may have taken long
        self.room = TOLD + min(BATCH_CLIPS, int(AT_ONCE_MS * len(found) / spent_ms))
        return [(self.told.popleft(), answer) for answer in found]

    def lost(self, why: str) -> list[tuple[Task, Answer]]:
        """Stops it; the video that it was at gets no label."""
        self.stop()
        task = self.told[min(self._decoded.value, len(self.told) - 1)]
        self.told.remove(task)
        return [(task, failed(task.video, f"{task.video}: {why}"))]

    def left_s(self, timeout_s: float) -> float:
        """Seconds it may still take for the first video that it was told of."""
        return max(0.0, self._began_s + timeout_s - time.monotonic())

    def stop(self) -> None:
        """Ends the process, whatever it is at."""
        self.stopped = True
        self.connection.close()
        self._process.kill()
        self._process.join()


def _work(connection: Connection, ours: Sequence[Connection], runner: Runner, question: Question, decoded: Any) -> None:
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends us
    for other in ours:
        other.close()
    with suppress(EOFError, ConnectionError):  # the parent has gone
        while True:
            found: list[Seen | Answer] = []
            until_s = 0.0
            while not found or (len(found) < BATCH_CLIPS and time.monotonic() < until_s and connection.poll()):
                video = connection.recv()
                until_s = until_s or time.monotonic() + AT_ONCE_MS / 1e3
                found.append(try_look_at(video, runner.manifest.clip, question))
                decoded.value = len(found)
            decoded.value = 0  # whatever happens now, the first of them is to blame
            labelled = label_together(runner, [one for one in found if isinstance(one, Seen)], question)
            connection.send([next(labelled) if isinstance(one, Seen) else one for one in found])
