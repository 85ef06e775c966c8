"""The student's recipe: true labels, the teacher's logits, and the three parts of collaborative distillation."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cpd.config import Distill, Pipeline
from cpd.errors import TrainingError
from cpd_train.answers import Memory, Teacher
from cpd_train.common import Setting, on_device
from cpd_train.cuda import networks_in
from cpd_train.fit import Step, fit, room_for
from cpd_train.fitted import clips_to_fit
from cpd_train.judging import write_test_logits
from cpd_train.loader import Batch
from cpd_train.losses import collaboration
from cpd_train.models import VideoClassifier, read_checkpoint
from cpd_train.start import begin, corresponds, told
from cpd_train.terms import TERMS, Fixed, Scene


@room_for("student")
def run(config: Pipeline, run_dir: Path, memory: Memory | None = None) -> str:
    """Writes student.safetensors, metrics.jsonl and test_logits.npz into ``student/``; returns a one-line summary.

    Args:
        config: the pipeline.
        run_dir: the run folder, with its data and teacher.
        memory: answers of this teacher to the clips of a run of the same seed, to be used and added to.

    Raises:
        TrainingError: teacher and student do not fit each other, or a loss is not finite.
    """
    setting, section, folder = Setting.of(config, run_dir), config.student, run_dir / "student"
    taught = read_checkpoint(run_dir / "teacher" / "teacher.safetensors")
    teacher, student = on_device(taught.model, setting.device), setting.model(section)
    _check_fit(student, teacher, taught.labels, setting.labels)
    training = setting.loader("train", section.batch_size)
    clips = partial(clips_to_fit, training, config.augment, config.seed, config.distill.views)
    loaded = section.checkpoint is not None
    start = begin(config.distill.parameters.start, student, teacher, clips, loaded=loaded)
    validation = setting.loader("validation", section.batch_size)
    loss = aligned(config.distill, start, corresponds(student, teacher))
    step = Collaboration(student, teacher, loss, config.seed, config.precision, memory)
    outcome = fit(
        student, training, validation, step, section, config.augment,
        seed=config.seed, role="student", labels=setting.labels, data_sha256=setting.data_sha256, folder=folder,
        views=config.distill.views,
    )  # fmt: skip
    best = read_checkpoint(folder / "student.safetensors")
    test = setting.loader("test", section.batch_size)
    top1 = write_test_logits(best.model.to(setting.device), test, folder / "test_logits.npz")
    return (
        f"{section.model} with {best.parameters:,} parameters, begun {told(start, loaded=loaded)}, top-1 {top1:.1%}, "
        f"epoch {outcome.epoch} of {section.epochs}, {outcome.data_wait:.1%} of it waiting for data"
    )


def rehearse(setting: Setting) -> None:
    """The loss of two blank clips, with networks that were not trained: what cannot work is found now.

    Asked for before the teacher is trained, which may take days. It draws no random numbers that training would miss.

    Raises:
        TrainingError: teacher and student do not fit each other, or a checkpoint does not fit its network.
    """
    config = setting.config
    device = setting.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []), room_for("student"):
        teacher, student = setting.model(config.teacher), setting.model(config.student)
        clips = min(2, config.student.batch_size)
        frames = torch.zeros((clips, *setting.clip.shape), dtype=torch.uint8, device=device)
        loaded = config.student.checkpoint is not None
        start = begin(config.distill.parameters.start, student, teacher, lambda: frames, loaded=loaded)
        labels = torch.zeros((clips, len(setting.labels)), device=device)
        section = aligned(config.distill, start, corresponds(student, teacher))
        step = Collaboration(student, teacher, section, config.seed, config.precision)
        step(Batch(frames, labels, [(clip, 0) for clip in range(clips)]), progress=0.0)


def aligned(distill: Distill, start: str, correspond: bool) -> Distill:
    """``spectrum.align: auto`` is channels where the student's began as some of the teacher's; attention else.

    Raises:
        TrainingError: channels are asked for, and do not correspond to the teacher's.
    """
    stand_for = correspond and start in ("teacher", "fitted")
    if distill.spectrum.align == "channels" and not stand_for:
        other = "began with its checkpoint" if correspond else "is of another family, wider, or deeper"
        raise TrainingError(
            f"the student's channels do not correspond to the teacher's: it {other}",
            "set distill.spectrum.align: attention",
        )
    if distill.spectrum.align != "auto" or not stand_for:
        return distill
    return distill.model_copy(update={"spectrum": distill.spectrum.model_copy(update={"align": "channels"})})


NOISE_RATE = 10.0
"""How much faster than the network noise is learned: it settles within some dozen steps, and follows the losses."""


class Collaboration(Step):
    """The loss of a distillation step: which terms there are, and how they are weighed against each other."""

    def __init__(
        self,
        student: VideoClassifier,
        teacher: VideoClassifier,
        distill: Distill,
        seed: int,
        precision: str = "auto",
        memory: Memory | None = None,
    ) -> None:
        self.student, self.distill, self.precision = student, distill, precision
        self.weights = {name: weight for name, weight in distill.weights.items() if weight > 0}
        self._now = self.weights
        self.fixed = Fixed(student, teacher, distill, list(self.weights))
        # views that are drawn anew never come again
        memory = memory or Memory(int(distill.cache_gb * 1e9) if distill.views else 0)
        asks = {TERMS[name].asks for name in self.weights} - {""}
        wanted = [self.fixed.spectra if name == "spectra" else name for name in sorted(asks)]
        self.teacher = Teacher(teacher, self.fixed.grids, memory, precision, wanted)
        self.generator = torch.Generator().manual_seed(seed)
        self.log_variances = nn.Parameter(torch.zeros(len(self.weights), device=student.mean.device))
        adapted = [parameter for adapter in self.fixed.adapters for parameter in adapter.parameters()]
        self.learned = [*adapted, self.log_variances] if distill.collaboration == "learned" else adapted

    def __call__(self, batch: Batch, progress: float) -> dict[str, Tensor]:
        """The weighted terms of one batch; their sum is the loss."""
        with networks_in(batch.frames.device, self.precision):
            ours = self.student.with_features(batch.frames)
        scene = Scene(ours, partial(self.teacher, batch), batch.labels, self.fixed)
        terms = {name: TERMS[name].loss(scene) for name in self.weights}
        if self.distill.collaboration == "confidence":
            confidence = collaboration.teacher_confidence(scene.theirs.logits.float(), batch.labels)
            heard = [name for name, term in terms.items() if term.dim() and name != "cross_entropy"]
            terms |= {name: confidence * terms[name] for name in heard}
        self.losses = {name: term.detach() for name, term in terms.items()}
        self._now = dict(self.weights)
        if "parameters" in self._now and self.distill.parameters.decay:
            self._now["parameters"] *= 1 - progress
        return self._collaborate({name: term.mean() for name, term in terms.items()}, self._now)

    def log(self) -> dict[str, Any]:
        """The learned weight w exp(-s) of each term, for metrics.jsonl."""
        if self.distill.collaboration != "learned":
            return {}
        precisions = (-self._noise().detach()).exp().tolist()
        return {"learned_weights": {name: w * p for (name, w), p in zip(self._now.items(), precisions, strict=True)}}

    def _noise(self) -> Tensor:
        """(terms,) s, brought back within its bound: beyond it a clamp would have no gradient to come back by."""
        limit = collaboration.BOUND / NOISE_RATE
        with torch.no_grad():
            self.log_variances.clamp_(-limit, limit)
        return NOISE_RATE * self.log_variances

    def _collaborate(self, terms: dict[str, Tensor], weights: dict[str, float]) -> dict[str, Tensor]:
        if self.distill.collaboration == "learned":
            losses = torch.stack(list(terms.values()))
            # or the host would wait here until the GPU has done the forward pass
            counts = torch.tensor(list(weights.values())).to(losses.device, non_blocking=True)
            return dict(zip(terms, collaboration.learned_noise(losses, counts, self._noise()), strict=True))
        terms = {name: weights[name] * term for name, term in terms.items()}
        if self.distill.collaboration == "sampled":
            drawn = [name for name in terms if name != "cross_entropy"]
            factors = collaboration.drawn_term(torch.ones(len(drawn)), self.generator).tolist()
            return terms | {name: factor * terms[name] for name, factor in zip(drawn, factors, strict=True)}
        return terms


def _check_fit(
    student: VideoClassifier, teacher: VideoClassifier, taught: tuple[str, ...], labels: tuple[str, ...]
) -> None:
    if student.clip.frames != teacher.clip.frames:
        raise TrainingError(f"the student sees {student.clip.frames} frames and the teacher {teacher.clip.frames}")
    if len(taught) != len(labels):
        raise TrainingError(f"the student knows {len(labels)} classes and the teacher {len(taught)}")
    for theirs, ours in zip(taught, labels, strict=True):
        if theirs != ours:
            raise TrainingError(
                f"the teacher was trained for other labels: {theirs} where the data has {ours}",
                "train it again: --force teacher",
            )
