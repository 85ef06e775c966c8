"""What a frame of a stream costs: frame by frame with a streaming graph, against a sliding window, in turns.

    python benchmarks/serve/stream_cost.py runs/motion

The run must have a causal student, so that ``student.stream.onnx`` lies beside ``student.onnx``. Both are the same
weights, and both answer after every frame they look at; only the way differs. Measured is all that
``cpd-serve --stream`` does with a decoded frame: choosing, running the model, probabilities and smoothing.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpd.errors import CpdError
from cpd_serve.environment import cpu_name
from cpd_serve.runner import open_runner
from cpd_serve.sources import TimedFrame
from cpd_serve.streaming import Labeller
from cpd_serve.watching import Manner, labeller_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--frames", type=int, default=200, help="of each way in a round")
    parser.add_argument("--threads", type=int, help="of onnxruntime; default: as cpd-serve chooses")
    arguments = parser.parse_args()
    engine = arguments.run_dir / "export/student.onnx"
    with (
        open_runner(engine, "cpu", arguments.threads) as whole,
        open_runner(engine.with_suffix(".stream.onnx"), "cpu", arguments.threads) as stream,
    ):
        clip = whole.manifest.clip
        # A frame a time unit, a window of as many units as the model sees frames: each frame is looked at.
        manner = Manner(window_s=float(clip.frames), stride_s=1.0)
        ways = {"sliding window": labeller_of(whole, manner), "frame by frame": labeller_of(stream, manner)}
        pixels = np.random.default_rng(0).integers(0, 256, (16, *clip.shape[1:]), dtype=np.uint8)
        spent_us = {name: np.empty(arguments.rounds) for name in ways}
        order = np.random.default_rng(0)
        for labeller in ways.values():
            cost_us(labeller, pixels, 2 * clip.frames)
        for round_number in range(arguments.rounds):
            for name in order.permutation(list(ways)):
                spent_us[name][round_number] = cost_us(ways[name], pixels, arguments.frames)
    ratio = spent_us["frame by frame"] / spent_us["sliding window"]
    print(f"{cpu_name()}, {os.cpu_count()} CPUs, clips of {clip.frames} frames of {clip.crop[0]}x{clip.crop[1]}\n")
    print("| way | us a frame (median) | fastest |\n|---|---|---|")
    for name, values in spent_us.items():
        print(f"| {name} | {np.median(values):.0f} | {values.min():.0f} |")
    print(f"\nframe by frame / sliding window, median of rounds: {np.median(ratio):.3f} (1/6 = 0.167)")


def cost_us(labeller: Labeller[Any], pixels: NDArray[np.uint8], frames: int) -> float:
    """Microseconds a frame of a new stream, once its window is full."""
    stream = labeller.add()
    warm = len(pixels)
    for number in range(warm):
        labeller.push([(stream, TimedFrame(float(number), pixels[number % len(pixels)]))])
    start_s, answers = time.perf_counter(), stream.answers
    for number in range(warm, warm + frames):
        labeller.push([(stream, TimedFrame(float(number), pixels[number % len(pixels)]))])
    spent_s = time.perf_counter() - start_s
    if stream.answers - answers != frames:
        raise SystemExit(f"{stream.answers - answers} answers to {frames} frames")
    return spent_s / frames * 1e6


if __name__ == "__main__":
    try:
        main()
    except CpdError as error:
        sys.exit(f"error: {error}")
