"""What int8 writes on the way is in the folder for temporary files, whose disk may be another, and full."""

from __future__ import annotations

import resource

import numpy as np
import onnx
import pytest
import torch

from cpd.clip import ClipSpec
from cpd.errors import ExportError
from cpd_export.graph import export_graph
from cpd_export.int8 import Choice, quantise_as, scratch
from cpd_train.models import ModelSpec, build_model

SPEC = ClipSpec(frames=2, resize=16, crop=(16, 16))
REMEDY = r"cpd-int8-\w+ cannot be written: {} \(free some space there, or set TMPDIR"


def test_a_file_that_cannot_be_written_names_the_folder_it_is_in() -> None:
    torch.manual_seed(0)
    graph = export_graph(build_model(ModelSpec("tsm-tiny", width=4, blocks=1), 3, SPEC).eval(), 18)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(ExportError, match=REMEDY.format("file too large")):
            quantise_as(graph, np.zeros((2, *SPEC.shape), np.uint8), Choice("minmax", 8))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_so_does_one_that_onnx_wrote_in_half_and_said_nothing() -> None:
    with pytest.raises(ExportError, match=REMEDY.format("a file in it was cut off")), scratch():
        onnx.load_from_string(b"\x08")
