"""The training loop of both recipes: one optimiser, one schedule, the best checkpoint, a line of metrics an epoch."""

from __future__ import annotations

import json
import math
import re
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, TextIO

import torch
from torch import Tensor, nn

from cpd.config import Augment, Model
from cpd.errors import TrainingError
from cpd.lock import atomic
from cpd.progress import track
from cpd_train.cuda import LEAST_SCALE, Utilisation, arithmetic, scaler_of
from cpd_train.judging import judge
from cpd_train.loader import Batch, ClipLoader
from cpd_train.models import VideoClassifier, write_checkpoint

NO_ROOM = re.compile(
    r".*out of memory|CU\w+_ALLOC_FAILED|CUDA allocation failed|Can't allocate \d+ bytes on device -?\d+"
)
"""How torch, NVIDIA's libraries and DALI (CUDABadAlloc of its cuda_error.h) say that the GPU's memory is full."""


class Step(ABC):
    """What a recipe adds to the loop: the loss of a batch, as named terms that add up."""

    precision: str = "auto"
    """Arithmetic of its networks, see ``cpd_train.cuda.arithmetic``."""
    learned: Sequence[nn.Parameter] = ()
    """Further parameters to learn (adapters, noise levels), not decayed and not kept."""
    losses: Mapping[str, Tensor] = MappingProxyType({})
    """The latest terms before they were weighed, detached: scalars, or (batch,) where each clip has a value."""

    @abstractmethod
    def __call__(self, batch: Batch, progress: float) -> dict[str, Tensor]:
        """progress: how much of the training is done, 0 to 1. Returns scalars; their sum is minimised."""

    def log(self) -> dict[str, Any]:
        """Further values of each epoch for metrics.jsonl."""
        return {}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What training reached."""

    epoch: int
    """Of the checkpoint that was kept, from 1."""
    data_wait: float
    """Share of the training time spent waiting for data, first epoch left out (it fills the cache)."""


def fit(
    model: VideoClassifier,
    training: ClipLoader,
    validation: ClipLoader,
    step: Step,
    section: Model,
    augment: Augment,
    *,
    seed: int,
    role: str,
    labels: tuple[str, ...],
    data_sha256: str,
    folder: Path,
    views: int = 0,
) -> Outcome:
    """Trains a model and keeps the weights with the best validation top-1 as ``folder/<role>.safetensors``.

    Where there are no validation clips, those of the last epoch are kept.

    Args:
        model: on its device, trained in place.
        training, validation: loaders of the two splits, not one for both, since they work at the same time.
        step: the loss, and what else is learned with it.
        section: epochs, batch size, learning rate and weight decay.
        augment: variations of the training clips.
        seed: of the run; decides views and their order.
        role: teacher or student.
        labels, data_sha256: what the checkpoint says it was trained for.
        folder: receives the checkpoint and metrics.jsonl.
        views: random views of each clip, met again after as many epochs; 0 draws anew every epoch.

    Raises:
        TrainingError: a loss, an answer or a gradient (in fp16, whatever the loss is scaled by) is not finite, or the
            GPU has too little memory; the last good checkpoint is kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    epochs, steps = section.epochs, max(1, len(training.clips) // section.batch_size)
    parameters = [*model.parameters(), *step.learned]
    groups = _groups(model, step.learned, section.weight_decay)
    optimiser = torch.optim.AdamW(groups, lr=section.learning_rate, fused=True)  # small models have many small tensors
    schedule = one_cycle(optimiser, section.learning_rate, epochs * steps)
    scaler = scaler_of(training.device, step.precision)
    best, kept = (-1.0, -math.inf), 0
    waits: list[tuple[float, float]] = []
    loaded = training.train_all(augment, seed, epochs, views, section.mixup)
    with Utilisation(training.device) as busy, room_for(role):
        for epoch in range(epochs):
            model.train()
            sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=training.device))
            began = time.perf_counter()
            batches = Waiting(islice(loaded, steps))
            for index, batch in enumerate(track(batches, f"{role} {epoch + 1}/{epochs}", steps, "batch")):
                terms = step(batch, (epoch * steps + index) / (epochs * steps))
                loss = torch.stack(list(terms.values())).sum()
                optimiser.zero_grad(set_to_none=True)
                scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
                scaler.unscale_(optimiser)
                size = nn.utils.clip_grad_norm_(parameters, 5.0)
                if not torch.isfinite(loss + size) and not _only_overflows(scaler, loss):
                    raise _not_finite(terms, step, role, epoch, index, batch, training, kept)
                scaler.step(optimiser)  # unless a gradient overflows
                scaler.update()
                rate = schedule.get_last_lr()[0]
                schedule.step()  # the last time beyond its end, where it would rise again
                for name, term in step.losses.items():
                    sums[name] += term.mean()
            seconds = time.perf_counter() - began
            on_gpu = busy.take()
            _check_weights(model, role, epoch, kept)
            scores = judge(model, validation)
            waits.append((batches.seconds, seconds))
            row = {
                "epoch": epoch + 1,
                "loss": {name: float(total) / steps for name, total in sums.items()},
                **scores,
                "learning_rate": rate,
                "seconds": round(seconds, 3),
                "data_wait": round(batches.seconds / seconds, 4),
                "clips_per_second": round(steps * section.batch_size / seconds, 1),
                **on_gpu,
                **({"loss_scale": scaler.get_scale()} if scaler.is_enabled() else {}),
                **step.log(),
            }
            quality = (scores["validation_top1"], -scores["validation_loss"]) if scores else (float(epoch), 0.0)
            with _metrics(folder / "metrics.jsonl", epoch) as metrics:
                metrics.write(json.dumps(row) + "\n")
                if quality > best:
                    best, kept = quality, epoch + 1
                    path, top1 = folder / f"{role}.safetensors", scores.get("validation_top1")
                    write_checkpoint(path, model, role, labels, data_sha256, kept, top1)
    counted = waits[1:] or waits
    waited, total = (sum(column) for column in zip(*counted, strict=True))
    return Outcome(kept, waited / total)


@contextmanager
def _metrics(path: Path, epoch: int) -> Iterator[TextIO]:
    """A file for the line of an epoch, from 0.

    The first epoch, which always has a checkpoint, begins the file anew, and only as the block ends well: until then
    what an earlier training left stays whole.
    """
    if epoch:
        with path.open("a") as file:
            yield file
    else:
        with atomic(path) as draft, draft.open("w") as file:
            yield file


def one_cycle(optimiser: torch.optim.Optimizer, peak: float, steps: int) -> torch.optim.lr_scheduler.OneCycleLR:
    """The rate rises for a fifth of the steps and falls to next to nothing (arXiv 1708.07120)."""
    # torch 2.13 divides by the length of the rise less one step
    rise = 0.2 if steps != 5 else 0.3
    return torch.optim.lr_scheduler.OneCycleLR(optimiser, peak, total_steps=steps, pct_start=rise)


class Waiting:
    """Iterates over batches and counts the seconds spent waiting for them."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._batches = batches
        self.seconds = 0.0

    def __iter__(self) -> Iterator[Batch]:
        while True:
            began = time.perf_counter()
            batch = next(self._batches, None)
            self.seconds += time.perf_counter() - began
            if batch is None:
                return
            yield batch


@contextmanager
def room_for(role: str) -> Iterator[None]:
    """Turns what a batch of a wrong size leads to into an error that names the setting to change.

    Raises:
        TrainingError: the GPU has too little memory, or a batch norm sees a single value of each channel.
    """
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise TrainingError(
            f"a batch of the {role} has a single value of each channel, which has no variance",
            f"raise {role}.batch_size",
        ) from error
    except (RuntimeError, MemoryError) as error:  # torch's; DALI's are MemoryErrors outside of its operators
        said = NO_ROOM.search(str(error))
        if said is None:
            raise
        raise TrainingError(
            f"the GPU has too little memory for the {role}: {said[0]}",
            f"lower {role}.batch_size",
        ) from error


def _groups(model: nn.Module, extra: Sequence[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Weights decay; biases, normalisation and whatever the recipe adds do not."""
    decayed = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    free = [parameter for parameter in model.parameters() if parameter.dim() <= 1]
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": [*free, *extra], "weight_decay": 0.0},
    ]


def _only_overflows(scaler: torch.amp.GradScaler, loss: Tensor) -> bool:
    """Whether a gradient that is not finite may be so for the scale of its loss in fp16, which can still be lowered."""
    return scaler.is_enabled() and bool(torch.isfinite(loss)) and scaler.get_scale() > LEAST_SCALE


def _check_weights(model: VideoClassifier, role: str, epoch: int, kept: int) -> None:
    for name, values in model.state_dict().items():
        if not torch.isfinite(values).all():
            raise TrainingError(
                f"{name} of the {role} is not finite after epoch {epoch + 1}{_kept(kept)}",
                f"lower {role}.learning_rate or {role}.weight_decay",
            )


def _not_finite(
    terms: dict[str, Tensor], step: Step, role: str, epoch: int, index: int, batch: Batch, loader: ClipLoader, kept: int
) -> TrainingError:
    """Names the term and the clips that it fails for, or the first of the batch where it is of none alone."""
    name = next((name for name, term in terms.items() if not torch.isfinite(term)), "")
    rows = list(range(len(batch.views)))
    if name and step.losses[name].dim():
        rows = (~torch.isfinite(step.losses[name])).nonzero().flatten().tolist() or rows
    paths = [loader.clips[batch.views[row][0]].path for row in rows]
    clips = ", ".join(f"{path.parent.name}/{path.name}" for path in paths[:4]) + (" …" if len(paths) > 4 else "")
    what = f"the {name} loss" if name else "the gradient of the loss"
    weighed = f" or the weight of the {name} term" if name and role == "student" else ""
    in_fp16 = arithmetic(loader.device, step.precision) == torch.float16
    return TrainingError(
        f"{what} of the {role} is not finite in epoch {epoch + 1}, step {index + 1} (clips {clips}){_kept(kept)}",
        f"lower {role}.learning_rate{weighed}" + (", or use precision: fp32" if in_fp16 else ""),
    )


def _kept(epoch: int) -> str:
    return f"; the checkpoint of epoch {epoch} is kept" if epoch else ""
