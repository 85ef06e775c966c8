"""The teacher's recipe: cross-entropy on the true labels, or weights as they come."""

from __future__ import annotations

from pathlib import Path

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

        def step(batch: Batch, _progress: float) -> dict[str, Tensor]:
            with networks_in(setting.device, config.precision):
                logits = model(batch.frames)
            loss = F.cross_entropy(logits.float(), batch.labels, label_smoothing=section.label_smoothing)
            return {"cross_entropy": loss}

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
