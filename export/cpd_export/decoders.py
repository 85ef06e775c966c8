"""That the server's frames are those the model was trained and judged on, and lead to the same answers: PyAV and
swscale against DALI.

The training stages write torch's logits on frames loaded by DALI, and what these differ by from the server's; here are
torch's logits on the same clips as the server reads them. The weights are the same, so what differs comes from decoders
and scalers alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from cpd.dataset import Clip, path_in
from cpd.errors import DataError
from cpd.metrics import Logits, agreement
from cpd_export.proofs import Proof, at_most, largest, measured, share_at_least

AGREEMENT_MIN = 0.99
GREY_LEVELS_MAX = 1.0
"""Mean difference of two decoders and scalers, of 255: they round differently, and no more."""


def decoder_proofs(trained: Path, clips: Sequence[Clip], served: Logits) -> list[Proof]:
    """Compares both kinds of frames, as training has, and torch's logits on them.

    Args:
        trained: the test_logits.npz of a training stage.
        clips: the test clips, in the order of ``served``.
        served: (clips, classes) torch's logits on the server's frames.

    Raises:
        DataError: the file is missing, damaged or of other clips.
    """
    again, run_dir = "run the teacher and distill stages again", trained.parent.parent
    try:
        with trained.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            logits, names = arrays["logits"], arrays["paths"].tolist()
            grey_mean, grey_largest = float(arrays["grey_mean"]), float(arrays["grey_largest"])
        rows = {path_in(run_dir, name): row for row, name in enumerate(names)}
        order = [rows[clip.path] for clip in clips]
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise DataError(f"{trained}: cannot be read: {error}", again) from error
    except KeyError as error:
        raise DataError(f"{trained}: holds no {error.args[0]}", again) from error
    if logits.shape != (len(rows), served.shape[1]):
        raise DataError(f"{trained}: is of {logits.shape}, not of these clips and labels", again)
    same = agreement(logits[order], served)
    return [
        at_most("DALI's frames = server's frames, mean grey levels", grey_mean, GREY_LEVELS_MAX),
        measured("DALI's frames = server's frames, largest grey level", grey_largest),
        measured("DALI's frames = server's frames, logits", largest(logits[order], served)),
        share_at_least("DALI's frames = server's frames, same top-1", same, AGREEMENT_MIN),
    ]
