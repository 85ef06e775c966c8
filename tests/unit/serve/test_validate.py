"""Torch's answers, as the validate stage reads them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from cpd.errors import DataError
from cpd_serve.validate import read_reference


@pytest.mark.parametrize("kept", [0, 0.5, 0.99])
def test_answers_that_were_cut_off_are_one_clear_line(tmp_path: Path, kept: float) -> None:
    path = tmp_path / "teacher" / "test_logits.npz"
    path.parent.mkdir()
    np.savez(path, logits=np.zeros((3, 2), np.float32), labels=np.zeros(3, np.int64), paths=np.array(["a", "b", "c"]))
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(DataError, match=re.escape(f"{path}: cannot be read: ")):
        read_reference(path, [])
