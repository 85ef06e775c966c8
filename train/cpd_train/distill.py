"""The student's recipe: true labels, the teacher's logits, and the three parts of collaborative distillation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cpd.config import Distill, Pipeline
from cpd.errors import TrainingError
from cpd_train import losses
from cpd_train.common import Setting
from cpd_train.fit import fit, write_test_logits
from cpd_train.loader import Batch
from cpd_train.models import Features, VideoClassifier, read_checkpoint


def run(config: Pipeline, run_dir: Path) -> str:
    """Writes student.safetensors, metrics.jsonl and test_logits.npz into ``student/``; returns a one-line summary.

    Raises:
        TrainingError: teacher and student do not fit each other, or a loss is not finite.
    """
    setting, section, folder = Setting.of(config, run_dir), config.student, run_dir / "student"
    teacher = read_checkpoint(run_dir / "teacher" / "teacher.safetensors").model.to(setting.device)
    student = setting.model(section)
    training = setting.loader("train", section.batch_size)
    validation = setting.loader("validation", section.batch_size)
    step = Collaboration(student, teacher, config.distill, section.label_smoothing, config.seed)
    outcome = fit(
        student, training, validation, step, section, config.augment,
        seed=config.seed, role="student", labels=setting.labels, data_sha256=setting.data_sha256, folder=folder,
        extra=step.learned, log=step.log,
    )  # fmt: skip
    best = read_checkpoint(folder / "student.safetensors")
    test = setting.loader("test", section.batch_size)
    top1 = write_test_logits(best.model.to(setting.device), test, folder / "test_logits.npz")
    return (
        f"{section.model} with {best.parameters:,} parameters, top-1 {top1:.1%}, best of {section.epochs} epochs: "
        f"{outcome.epoch}, {outcome.data_wait:.1%} of it waiting for data"
    )


class Collaboration:
    """The loss of a distillation step: which terms there are, and how they are weighed against each other."""

    def __init__(
        self, student: VideoClassifier, teacher: VideoClassifier, distill: Distill, label_smoothing: float, seed: int
    ) -> None:
        if student.clip.frames != teacher.clip.frames:
            raise TrainingError(f"the student sees {student.clip.frames} frames and the teacher {teacher.clip.frames}")
        if student.labels != teacher.labels:
            raise TrainingError(f"the student knows {student.labels} classes and the teacher {teacher.labels}")
        self.student, self.teacher, self.distill = student, teacher.requires_grad_(False), distill
        self.label_smoothing = label_smoothing
        self.weights = {
            name: weight
            for name, weight in (
                ("cross_entropy", distill.cross_entropy),
                ("logits", distill.logits),
                ("spectrum", distill.spectrum.weight),
                ("parameters", distill.parameters.weight),
            )
            if weight > 0
        }
        self.generator = torch.Generator().manual_seed(seed)
        device = student.mean.device
        self.log_variances = torch.zeros(len(self.weights), device=device)
        self.learned: list[nn.Parameter] = []
        if distill.collaboration == "learned":
            self.log_variances = nn.Parameter(self.log_variances)
            self.learned.append(self.log_variances)
        self.adapters: list[nn.Conv2d] = []
        if "spectrum" in self.weights and distill.spectrum.align == "adapter":
            self.adapters = adapters(student, teacher)
            self.learned += [parameter for adapter in self.adapters for parameter in adapter.parameters()]
        if "parameters" in self.weights:
            self.teacher_kernels = spatial_kernels(teacher)

    def __call__(self, batch: Batch, progress: float) -> dict[str, Tensor]:
        """The weighted terms of one batch; their sum is the loss."""
        needs_stages = "spectrum" in self.weights
        with torch.no_grad():
            theirs = self.teacher.eval().with_features(batch.frames)
        ours = self.student.with_features(batch.frames)
        raw = self._raw_terms(ours, theirs, batch.labels, needs_stages)
        weights = dict(self.weights)
        if "parameters" in weights and self.distill.parameters.decay:
            weights["parameters"] *= 1 - progress
        weighted = {name: weights[name] * term for name, term in raw.items()}
        return self._collaborate(weighted)

    def log(self) -> dict[str, Any]:
        """The learned weight exp(-s) of each term, for metrics.jsonl."""
        if self.distill.collaboration != "learned":
            return {}
        return {"learned_weights": dict(zip(self.weights, (-self.log_variances.detach()).exp().tolist(), strict=True))}

    def _raw_terms(self, ours: Features, theirs: Features, labels: Tensor, needs_stages: bool) -> dict[str, Tensor]:
        confidence = torch.ones_like(labels, dtype=torch.float32)
        if self.distill.collaboration == "confidence":
            confidence = losses.teacher_confidence(theirs.logits.float(), labels)
        terms = {}
        if "cross_entropy" in self.weights:
            terms["cross_entropy"] = F.cross_entropy(ours.logits.float(), labels, label_smoothing=self.label_smoothing)
        if "logits" in self.weights:
            per_clip = losses.logit_distillation(ours.logits.float(), theirs.logits.float(), self.distill.temperature)
            terms["logits"] = (confidence * per_clip).mean()
        if needs_stages:
            spectrum = self.distill.spectrum
            per_clip = losses.spectrum_distillation(*self._aligned(ours, theirs), spectrum.form, spectrum.dc)
            terms["spectrum"] = (confidence * per_clip).mean()
        if "parameters" in self.weights:
            terms["parameters"] = losses.parameter_distillation(
                spatial_kernels(self.student), self.teacher_kernels, self.distill.parameters.form
            )
        return terms

    def _aligned(self, ours: Features, theirs: Features) -> tuple[list[Tensor], list[Tensor]]:
        if self.distill.spectrum.align == "attention":
            return [losses.attention_maps(x) for x in ours.stages], [losses.attention_maps(x) for x in theirs.stages]
        adapted = [
            adapter(x.flatten(0, 1)).unflatten(0, x.shape[:2])
            for adapter, x in zip(self.adapters, ours.stages, strict=True)
        ]
        return adapted, theirs.stages

    def _collaborate(self, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.distill.collaboration == "learned":
            stacked = torch.stack(list(terms.values()))
            return {"collaborative": losses.learned_noise(stacked, self.log_variances)}
        if self.distill.collaboration == "sampled":
            drawn = [name for name in terms if name != "cross_entropy"]
            factors = losses.drawn_term(torch.ones(len(drawn)), self.generator)
            return terms | {name: factor * terms[name] for name, factor in zip(drawn, factors.tolist(), strict=True)}
        return terms


def spatial_kernels(model: VideoClassifier) -> list[list[Tensor]]:
    """For each stage the weights of its convolutions that look at more than one pixel."""
    return [
        [module.weight for module in stage.modules() if isinstance(module, nn.Conv2d) and module.kernel_size[0] > 1]
        for stage in model.backbone.stage_modules
    ]


def adapters(student: VideoClassifier, teacher: VideoClassifier) -> list[nn.Conv2d]:
    """1x1 convolutions that bring the student's channels to the teacher's, stage by stage; thrown away afterwards."""
    probe = torch.zeros((1, *student.clip.shape), dtype=torch.uint8, device=student.mean.device)
    with torch.no_grad():
        ours = student.eval().with_features(probe).stages
        theirs = teacher.eval().with_features(probe).stages
    return [
        nn.Conv2d(our.shape[2], their.shape[2], 1).to(probe.device) for our, their in zip(ours, theirs, strict=True)
    ]
