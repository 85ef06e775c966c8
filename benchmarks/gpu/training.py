"""The real training loop on 720p H.264: clips a second, share of time waiting for data, memory, utilisation."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import torch
from inputs import LABELS, clip_of, network, written
from rows import Rows, Setup, Values, significant
from steps import LOSSES

from cpd.config import Augment, Distill, Model
from cpd.dataset import Clip
from cpd_train.common import on_device
from cpd_train.distill import Collaboration
from cpd_train.fit import fit
from cpd_train.loader import ClipLoader

NAMES = {f"{loss}, 720p H.264, NVDEC": (loss, True) for loss in LOSSES} | {
    "method, 720p H.264, PyAV": ("method", False)
}
EPOCHS = 3
"""The first warms up, and is not counted."""


def names(_setup: Setup) -> list[str]:
    return list(NAMES)


def run(setup: Setup, rows: Rows) -> None:
    (height, width), files, frames, repeats = ((90, 160), 4, 12, 1) if setup.quick else ((720, 1280), 16, 60, 12)
    clips = written(setup.folder / "training", ["h264"], height, width, frames, files) * repeats
    for name, (loss, nvdec) in NAMES.items():
        rows.measure(name, partial(measure, loss, nvdec, clips, setup))


def measure(loss: str, nvdec: bool, clips: list[Clip], setup: Setup) -> Values:
    """One training of a student; what its metrics say of the epochs after the first."""
    torch.manual_seed(0)
    device, batch = torch.device(setup.device), 2 if setup.quick else 16
    section = Model(epochs=2 if setup.quick else EPOCHS, batch_size=batch, learning_rate=1e-4)
    loader = partial(ClipLoader, labels=LABELS, spec=clip_of(setup.quick), batch_size=batch, device=device)
    training, validation = loader(clips), loader(clips[:batch])
    if not nvdec:
        training.readable = {}  # as on a GPU that decodes no video
    teacher, student = (on_device(network(role, setup.quick), device) for role in ("teacher", "student"))
    step = Collaboration(student, teacher, Distill.model_validate(LOSSES[loss] | {"cache_gb": 0}), seed=0)
    folder = setup.folder / f"{loss}-{nvdec}"
    fit(student, training, validation, step, section, Augment(), seed=0, role="student", labels=LABELS,
        data_sha256="", folder=folder)  # fmt: skip
    decoded = sum(training.reads(row) for row in range(len(clips))) / len(clips)
    return {"decoded by DALI, fraction": decoded, **summary(folder / "metrics.jsonl")}


def summary(metrics: Path) -> dict[str, float | str]:
    """Means over the epochs but the first."""
    rows = [json.loads(line) for line in metrics.read_text().splitlines()][1:]
    wanted = {
        "clips_per_second": "clips/s",
        "data_wait": "data-wait, fraction",
        "gpu_utilisation": "GPU utilisation, fraction",
        "gpu_memory_peak_gb": "peak memory GB",
    }
    return {
        name: significant(sum(row[key] for row in rows) / len(rows))
        for key, name in wanted.items()
        if all(key in row for row in rows)
    }
