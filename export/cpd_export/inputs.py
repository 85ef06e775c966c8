"""What the export stage finds in a run folder: both trained models, and the clips to prove their exports on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cpd.dataset import Clip, read_clips
from cpd.errors import DataError, ExportError
from cpd.metrics import Logits
from cpd_export.proofs import Frames, Predict
from cpd_train.models import Checkpoint, read_checkpoint

ROLES = ("teacher", "student")


def read_checkpoints(run_dir: Path) -> dict[str, Checkpoint]:
    """Both trained models.

    Raises:
        TrainingError: one cannot be read.
        ExportError: they were trained for different clips or labels.
    """
    checkpoints = {role: read_checkpoint(run_dir / f"{role}/{role}.safetensors") for role in ROLES}
    teacher, student = checkpoints["teacher"], checkpoints["student"]
    if (teacher.model.clip, teacher.labels) != (student.model.clip, student.labels):
        raise ExportError(
            "teacher and student were trained for different clips or labels", "run the teacher and distill stages again"
        )
    return checkpoints


def test_clips(run_dir: Path, checkpoint: Checkpoint) -> list[Clip]:
    """The clips everything is proven on.

    Raises:
        DataError: there is none, or one has a label the models do not know.
    """
    clips = read_clips(run_dir / "data/clips.csv", "test")
    if not clips:
        raise DataError("the test split has no clips", "set data.test_fraction above 0")
    unknown = sorted({clip.label for clip in clips} - set(checkpoint.labels))
    if unknown:
        raise DataError(f"the models do not know the label {unknown[0]}", "run the teacher and distill stages again")
    return clips


def true_labels(clips: list[Clip], checkpoint: Checkpoint) -> NDArray[np.int64]:
    """(clips,) class indices."""
    return np.array([checkpoint.labels.index(clip.label) for clip in clips])


def in_torch(checkpoint: Checkpoint) -> Predict:
    """The trained model itself."""

    def predict(frames: Frames) -> Logits:
        with torch.inference_mode():
            logits: Logits = checkpoint.model(torch.from_numpy(frames)).numpy()
        return logits

    return predict
