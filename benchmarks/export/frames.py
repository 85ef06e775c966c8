"""How often a run's models give one class for DALI's frames of a video and for the server's, and how far these differ.

python benchmarks/export/frames.py runs/motion ../shared/data/robustness

Undamaged 8-bit files that both can read; others are passed over.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import torch

from cpd.dataset import Clip
from cpd.errors import VideoError
from cpd.video import probe, read_clip
from cpd_export.inputs import in_torch, read_checkpoints
from cpd_train.loader import ClipLoader

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command()
@click.argument("run_dir", type=FOLDER)
@click.argument("folder", type=FOLDER)
def main(run_dir: Path, folder: Path) -> None:
    """Prints a line for each file on which a model's two classes differ, then a line for each model."""
    checkpoints = read_checkpoints(run_dir)
    spec = checkpoints["student"].model.clip
    apart: list[float] = []
    same = dict.fromkeys(checkpoints, 0)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            info, served = probe(path), read_clip(path, spec)
        except VideoError:
            continue
        if info.damage or info.bit_depth != 8:
            continue
        clip = Clip(path, "", "test", info.codec, info.height, info.width, info.rotation, info.bit_depth, info.times_s)
        (batch,) = ClipLoader([clip], [""], spec, 1, torch.device("cpu")).evaluate()
        trained = batch.frames.numpy()
        apart.append(float(np.abs(trained.astype(np.int16) - served).mean()))
        if apart[-1] > 1:
            print(f"{path.name}: {apart[-1]:.2f} grey levels apart")
        for role, checkpoint in checkpoints.items():
            predict = in_torch(checkpoint)
            if predict(trained).argmax() == predict(served[None]).argmax():
                same[role] += 1
            else:
                print(f"{role}: {path.name} differs")
    print(f"{len(apart)} files, {np.mean(apart):.2f} grey levels apart in the mean, {np.max(apart):.2f} at most")
    for role, count in same.items():
        print(f"{role}: one class on {count} of {len(apart)} ({count / len(apart):.1%})")


if __name__ == "__main__":
    main()
