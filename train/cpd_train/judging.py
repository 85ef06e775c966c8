"""What a model says of a whole split, and what is kept of it for stages without torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from cpd.dataset import evenly, name_in
from cpd.errors import TrainingError
from cpd.lock import atomic
from cpd.progress import track
from cpd.video import read_clip
from cpd_train.loader import ClipLoader
from cpd_train.models import VideoClassifier

COMPARED_CLIPS = 16
"""Whose frames from DALI are compared with the server's."""


def judge(model: VideoClassifier, validation: ClipLoader) -> dict[str, float]:
    """Top-1 (fraction) and mean cross-entropy on the validation clips; empty where there are none."""
    if not validation.clips:
        return {}
    logits, truth = predict(model, validation, "judging on validation clips")
    return {
        "validation_top1": float((logits.argmax(1) == truth).mean()),
        "validation_loss": float(F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(truth))),
    }


@torch.no_grad()
def predict(
    model: VideoClassifier, loader: ClipLoader, description: str
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Logits (clips, labels) and true class indices (clips,) of a whole split, in order; shown as described.

    Raises:
        TrainingError: a logit is not finite.
    """
    model.eval()
    logits, truth = [], []
    count = -(-len(loader.clips) // loader.batch_size)
    for batch in track(loader.evaluate(), description, count, "batch"):
        logits.append(model(batch.frames).float().cpu().numpy())
        truth.append(batch.labels.argmax(1).cpu().numpy())
    answers = np.concatenate(logits)
    if not np.isfinite(answers).all():
        clip = loader.clips[int(np.isfinite(answers).all(1).argmin())].path
        raise TrainingError(
            f"the {model.spec.model} gives {clip} logits that are not finite",
            "lower its learning_rate or weight_decay, or name another checkpoint",
        )
    return answers, np.concatenate(truth)


def write_test_logits(model: VideoClassifier, loader: ClipLoader, path: Path) -> float:
    """Keeps a model's answers on the test split, in the run folder's ``<role>/test_logits.npz``, for stages without
    torch; returns its top-1 (fraction)."""
    logits, truth = predict(model, loader, "judging on test clips")
    names = np.array([name_in(path.parent.parent, clip.path) for clip in loader.clips])
    grey = grey_levels_apart(loader)
    with atomic(path) as draft:
        np.savez(draft, logits=logits, labels=truth, paths=names, grey_mean=grey.mean(), grey_largest=grey.max())
    return float((logits.argmax(1) == truth).mean())


def grey_levels_apart(loader: ClipLoader) -> NDArray[np.int16]:
    """How far the loader's frames and the server's are apart, of up to COMPARED_CLIPS clips."""
    clips = evenly(loader.clips, COMPARED_CLIPS)
    (batch,) = ClipLoader(clips, loader.labels, loader.spec, len(clips), loader.device).evaluate()
    served = np.stack([read_clip(clip.path, loader.spec) for clip in clips])
    apart: NDArray[np.int16] = np.abs(batch.frames.cpu().numpy().astype(np.int16) - served)
    return apart
