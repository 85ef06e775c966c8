"""Many videos at once: as many as there are workers, with the answers in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path

from cpd_serve.labelling import Answer, Question, try_label_video
from cpd_serve.runner import Runner


def label_videos(runner: Runner, videos: Iterable[Path], workers: int, question: Question) -> Iterator[Answer]:
    """Labels videos and yields their answers in order.

    Decoding and inference both leave Python's lock, so threads are enough. At most two videos a worker wait for
    their turn, so an endless list takes no more memory than a short one.
    """
    if workers == 1:
        yield from (try_label_video(runner, video, question) for video in videos)
        return
    from concurrent.futures import Future, ThreadPoolExecutor

    waiting: deque[Future[Answer]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for video in videos:
            waiting.append(pool.submit(try_label_video, runner, video, question))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
