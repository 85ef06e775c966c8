"""What one frame costs in the streaming graph, as a share of a whole clip's time, for students of several sizes.

python benchmarks/export/stream.py

The weights are random: they do not change the work. Both graphs run on one thread, in turns, as the export stage times
them; a frame's caches stay in place, as the server keeps them.
"""

from __future__ import annotations

import numpy as np
import torch

from cpd.clip import ClipSpec
from cpd_export.graph import export_graph
from cpd_export.session import OnnxSession
from cpd_export.stream import export_stream, prove_stream
from cpd_train.models import ModelSpec, build_model

FRAMES, LABELS, REPEATS = 8, 8, 5
STUDENTS = ((5, (32, 32)), (5, (40, 40)), (8, (56, 56)), (16, (56, 56)), (32, (80, 40)), (32, (112, 112)))
"""Width, and (height, width) in pixels; the first is the student of pipeline.yaml."""


def main() -> None:
    """Prints a line for each student: the median of its repeats, and the least and largest of them."""
    print(f"| width | pixels | frame, us | share of a clip of {FRAMES}, in {REPEATS} repeats |\n|---|---|---|---|")
    for width, crop in STUDENTS:
        torch.manual_seed(0)
        clip = ClipSpec(frames=FRAMES, resize=crop, crop=crop)
        model = build_model(ModelSpec("tsm-tiny", width=width, blocks=1, causal=True), LABELS, clip).eval()
        whole = OnnxSession(export_graph(model, 18).SerializeToString(), "whole", threads=1)
        stream = OnnxSession(export_stream(model, 18).proto.SerializeToString(), "stream", threads=1)
        clips = np.random.default_rng(0).integers(0, 256, (2, *clip.shape), dtype=np.uint8)
        shares, frame_us = [], []
        for _ in range(REPEATS):
            proofs, latency_ms = prove_stream(stream, whole, clips)
            if proofs[0].status != "pass":
                raise SystemExit(f"{proofs[0].name}: {proofs[0].value}")
            shares.append(proofs[1].value)
            frame_us.append(latency_ms["p50"] * 1e3)
        pixels = f"{crop[0]}x{crop[1]}"
        spread = f"{np.median(shares):.3f} ({min(shares):.3f} to {max(shares):.3f})"
        print(f"| {width} | {pixels} | {np.median(frame_us):.0f} | {spread} |", flush=True)
    print("The aim is 1/6 = 0.167; by arithmetic a frame is 1/8 = 0.125.")


if __name__ == "__main__":
    main()
