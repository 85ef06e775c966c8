"""That the server's frames lead to the answers the model was trained and judged on: PyAV and swscale against DALI.

The training stages write torch's logits on frames loaded by DALI; here are torch's logits on the same clips as the
server reads them. The weights are the same, so what differs comes from decoders and scalers alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cpd.dataset import Clip, path_in
from cpd.errors import DataError
from cpd.metrics import agreement
from cpd_export.proofs import Logits, Proof, largest, measured, share_at_least

AGREEMENT_MIN = 0.99


def decoder_proofs(trained: Path, clips: Sequence[Clip], served: Logits) -> list[Proof]:
    """Compares torch's logits on both kinds of frames.

    Args:
        trained: the test_logits.npz of a training stage.
        clips: the test clips, in the order of ``served``.
        served: (clips, classes) torch's logits on the server's frames.

    Raises:
        DataError: the file is missing, damaged or of other clips.
    """
    again, run_dir = "run the teacher and distill stages again", trained.parent.parent
    try:
        with np.load(trained, allow_pickle=False) as arrays:
            logits, names = arrays["logits"], arrays["paths"].tolist()
        rows = {path_in(run_dir, name): row for row, name in enumerate(names)}
        order = [rows[clip.path] for clip in clips]
    except (OSError, ValueError) as error:
        raise DataError(f"{trained}: cannot be read: {error}", again) from error
    except KeyError as error:
        raise DataError(f"{trained}: holds no {error}", again) from error
    if logits.shape != (len(rows), served.shape[1]):
        raise DataError(f"{trained}: is of {logits.shape}, not of these clips and labels", again)
    same = agreement(logits[order], served)
    return [
        measured("DALI's frames = server's frames, logits", largest(logits[order], served)),
        share_at_least("DALI's frames = server's frames, same top-1", same, AGREEMENT_MIN),
    ]


def evenly(clips: Sequence[Clip], count: int) -> list[Clip]:
    """Up to ``count`` clips, spread over all."""
    if len(clips) <= count:
        return list(clips)
    return [clips[index] for index in np.linspace(0, len(clips) - 1, count).round().astype(int).tolist()]


def without(clips: Sequence[Clip], others: Sequence[Clip]) -> list[Clip]:
    """The clips that are not among the others."""
    paths = {clip.path for clip in others}
    return [clip for clip in clips if clip.path not in paths]
