"""The teacher's recipe: the true labels, and its own predecessors if it is born again; or weights as they come."""

from __future__ import annotations

from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from cpd.config import Distill, Model, Pipeline, Spectrum
from cpd_train.common import Setting, on_device
from cpd_train.cuda import networks_in
from cpd_train.distill import Collaboration, rehearse
from cpd_train.fit import Outcome, Step, fit, room_for
from cpd_train.judging import judge, write_test_logits
from cpd_train.loader import Batch
from cpd_train.models import VideoClassifier, read_checkpoint, write_checkpoint

CHECKPOINT = "teacher.safetensors"

BORN_AGAIN = Distill(spectrum=Spectrum(weight=0.1))
"""How a teacher learns from the one before it: as a student does, but from random kernels, and by attention maps."""


@room_for("teacher")
def run(config: Pipeline, run_dir: Path) -> str:
    """Writes teacher.safetensors, metrics.jsonl and test_logits.npz into ``teacher/``; returns a one-line summary.

    Earlier generations leave theirs in ``teacher/generation-1/`` and so on.
    """
    setting, section, folder = Setting.of(config, run_dir), config.teacher, run_dir / "teacher"
    told = ""
    rehearse(setting)
    if section.epochs == 0:
        _take_as_it_is(setting, section, folder)
    else:
        before: VideoClassifier | None = None
        for place in [*(folder / f"generation-{number}" for number in range(1, section.generations)), folder]:
            outcome = _train(setting, section, place, before)
            before = read_checkpoint(place / CHECKPOINT).model
        told = f", epoch {outcome.epoch} of {section.epochs}, {outcome.data_wait:.1%} of it waiting for data"
    best = read_checkpoint(folder / CHECKPOINT)
    test = setting.loader("test", section.batch_size)
    top1 = write_test_logits(best.model.to(setting.device), test, folder / "test_logits.npz")
    return f"{section.model} with {best.parameters:,} parameters, top-1 {top1:.1%}{told}"


def _take_as_it_is(setting: Setting, section: Model, folder: Path) -> None:
    """Keeps the weights that the section names."""
    folder.mkdir(parents=True, exist_ok=True)
    model = setting.model(section)
    top1 = judge(model, setting.loader("validation", section.batch_size)).get("validation_top1")
    write_checkpoint(folder / CHECKPOINT, model, "teacher", setting.labels, setting.data_sha256, 0, top1)
    (folder / "metrics.jsonl").touch()


def _train(setting: Setting, section: Model, folder: Path, before: VideoClassifier | None) -> Outcome:
    """Trains one generation: the first on the true labels, each later one on the answers of the one before too."""
    config, model = setting.config, setting.model(section)
    step: Step
    if before is None:
        step = FromLabels(model, section, config.precision)
    else:
        step = Collaboration(model, on_device(before, setting.device), BORN_AGAIN, config.seed, config.precision)
    return fit(
        model, setting.loader("train", section.batch_size), setting.loader("validation", section.batch_size), step,
        section, config.augment,
        seed=config.seed, role="teacher", labels=setting.labels, data_sha256=setting.data_sha256, folder=folder,
        views=0 if before is None else BORN_AGAIN.views,
    )  # fmt: skip


class FromLabels(Step):
    """The loss of a first generation: the cross-entropy with the true labels."""

    def __init__(self, model: VideoClassifier, section: Model, precision: str) -> None:
        self._model, self._section, self.precision = model, section, precision

    def __call__(self, batch: Batch, progress: float) -> dict[str, Tensor]:  # noqa: ARG002  # the same throughout
        with networks_in(batch.frames.device, self.precision):
            logits = self._model(batch.frames)
        loss = F.cross_entropy(logits.float(), batch.labels, label_smoothing=self._section.label_smoothing)
        terms = {"cross_entropy": loss}
        self.losses = {name: term.detach() for name, term in terms.items()}
        return terms
