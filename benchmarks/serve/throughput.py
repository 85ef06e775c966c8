"""Clips a second on many files: cpd-serve's loop, decoding alone, and a torch loop, in turns.

    python benchmarks/serve/throughput.py runs/motion --videos '../shared/data/handwash/*/*.mp4'

"Decoding alone" is the same reader with the same number of workers and nothing after it: in threads, as a script would
have it, and in processes, as cpd-serve works on a CPU. "PyAV, every frame" decodes all frames in as many threads and
looks at none. The torch loop has one thread of Python, and torch's own. Each is measured in every round, in random
order.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import av
import numpy as np

from cpd.clip import ClipSpec
from cpd.dataset import read_clips
from cpd.errors import CpdError
from cpd.threads import usable_cpus
from cpd.video import read_clip
from cpd_serve.environment import cpu_name
from cpd_serve.forked import label_videos_forked
from cpd_serve.inputs import expand
from cpd_serve.labelling import Question
from cpd_serve.runner import open_runner


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--videos", nargs="*", help="files, folders, globs; default: the test clips of the run")
    parser.add_argument("--clips", type=int, default=100, help="at most so many")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    table = arguments.run_dir / "data/clips.csv"
    videos = list(expand(arguments.videos)) if arguments.videos else [clip.path for clip in read_clips(table, "test")]
    videos = videos[:: max(1, len(videos) // arguments.clips)][: arguments.clips]
    workers = usable_cpus()
    with open_runner(arguments.run_dir / "export/student.onnx", threads=1) as runner:
        spec = runner.manifest.clip
        loops: dict[str, Callable[[], object]] = {
            "decoding alone, threads": lambda: in_threads(lambda video: read_clip(video, spec), videos, workers),
            "decoding alone, processes": lambda: in_processes(spec, videos, workers),
            "PyAV, every frame": lambda: in_threads(decode_all, videos, workers),
            "cpd-serve": lambda: list(label_videos_forked(runner, videos, workers, Question(top_k=1))),
            "torch, one thread of Python": torch_loop(arguments.run_dir, videos),
        }
        for loop in loops.values():
            loop()
        rates = {name: np.empty(arguments.rounds) for name in loops}
        order = np.random.default_rng(0)
        for round_number in range(arguments.rounds):
            for name in order.permutation(list(loops)):
                start_s = time.perf_counter()
                loops[name]()
                rates[name][round_number] = len(videos) / (time.perf_counter() - start_s)
    print(f"{cpu_name()}, {os.cpu_count()} CPUs, {len(videos)} clips, {arguments.rounds} rounds, {workers} workers\n")
    print("| loop | clips/s (median) | cpd-serve over it (median of rounds) |\n|---|---|---|")
    for name, values in rates.items():
        print(f"| {name} | {np.median(values):.0f} | {np.median(rates['cpd-serve'] / values):.2f} |")


def in_threads(work: Callable[[Path], object], videos: Iterable[Path], workers: int) -> None:
    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(work, videos):
            pass


def in_processes(spec: ClipSpec, videos: Sequence[Path], workers: int) -> None:
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        for _ in pool.imap(partial(read_and_drop, spec=spec), videos, chunksize=4):
            pass


def read_and_drop(video: Path, spec: ClipSpec) -> None:
    read_clip(video, spec)


def decode_all(video: Path) -> None:
    with av.open(str(video)) as container:
        for _ in container.decode(video=0):
            pass


def torch_loop(run_dir: Path, videos: list[Path]) -> Callable[[], None]:
    """As a script would do it: every frame of a video through PyAV to RGB, the sampled ones resized in torch."""
    import torch
    from torch.nn import functional

    from cpd_train.models import read_checkpoint

    model = read_checkpoint(run_dir / "student/student.safetensors").model.eval()
    spec = model.clip

    def loop() -> None:
        for video in videos:
            with av.open(str(video)) as container:
                frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
            chosen = np.stack([frames[int((index + 0.5) / spec.frames * len(frames))] for index in range(spec.frames)])
            pixels = torch.from_numpy(chosen).permute(0, 3, 1, 2).float()
            size = spec.resized_size(*chosen.shape[1:3])
            resized = functional.interpolate(pixels, size, mode="bilinear", antialias=True)
            top, left = spec.crop_corner(*size)
            crop = resized[:, :, top : top + spec.crop[0], left : left + spec.crop[1]]
            with torch.inference_mode():
                model(crop.permute(0, 2, 3, 1).round().to(torch.uint8)[None]).argmax().item()

    return loop


if __name__ == "__main__":
    try:
        main()
    except CpdError as error:
        sys.exit(f"error: {error}")
