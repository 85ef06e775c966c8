"""The teacher's recipe: cross-entropy on the true labels, or weights as they come."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cpd.config import Pipeline
from cpd_train.common import Setting
from cpd_train.cuda import networks_in
from cpd_train.fit import fit, judge, write_test_logits
from cpd_train.loader import Batch
from cpd_train.models import read_checkpoint, write_checkpoint


def run(config: Pipeline, run_dir: Path) -> str:
    """Writes teacher.safetensors, metrics.jsonl and test_logits.npz into ``teacher/``; returns a one-line summary."""
    setting, section, folder = Setting.of(config, run_dir), config.teacher, run_dir / "teacher"
    model = setting.model(section)
    validation = setting.loader("validation", section.batch_size)
    told = ""
    if section.epochs == 0:
        folder.mkdir(parents=True, exist_ok=True)
        top1 = judge(model, validation).get("validation_top1")
        write_checkpoint(folder / "teacher.safetensors", model, "teacher", setting.labels, setting.data_sha256, 0, top1)
        (folder / "metrics.jsonl").touch()
    else:
        draws = np.random.default_rng(config.seed)

        def step(batch: Batch, _progress: float) -> dict[str, Tensor]:
            frames, labels = mixed(batch, len(setting.labels), section.mixup, draws)
            with networks_in(setting.device, config.precision):
                logits = model(frames)
            return {"cross_entropy": F.cross_entropy(logits.float(), labels, label_smoothing=section.label_smoothing)}

        training = setting.loader("train", section.batch_size)
        outcome = fit(
            model, training, validation, step, section, config.augment,
            seed=config.seed, role="teacher", labels=setting.labels, data_sha256=setting.data_sha256, folder=folder,
        )  # fmt: skip
        told = f", epoch {outcome.epoch} of {section.epochs}, {outcome.data_wait:.1%} of it waiting for data"
    best = read_checkpoint(folder / "teacher.safetensors")
    test = setting.loader("test", section.batch_size)
    top1 = write_test_logits(best.model.to(setting.device), test, folder / "test_logits.npz")
    return f"{section.model} with {best.parameters:,} parameters, top-1 {top1:.1%}{told}"


def mixed(batch: Batch, labels: int, mixup: float, draws: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Each clip of a batch blended with the next one (mixup, arXiv 1710.09412), both shares drawn once a batch.

    Args:
        batch: of clips.
        labels: how many classes there are.
        mixup: the share is drawn from Beta(mixup, mixup); 0 leaves clips as they are.
        draws: where shares come from.

    Returns:
        frames as in the batch, uint8, and the probability of each class, (batch, labels) float.
    """
    truth = F.one_hot(batch.labels, labels).float()
    if not mixup:
        return batch.frames, truth
    share = float(draws.beta(mixup, mixup))
    frames = share * batch.frames + (1 - share) * batch.frames.roll(1, 0)
    return frames.round().to(torch.uint8), share * truth + (1 - share) * truth.roll(1, 0)
