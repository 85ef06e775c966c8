"""benchmarks/latency/engines.py writes the reference workload where cpd-bench looks for it."""

from __future__ import annotations

import runpy
from pathlib import Path

import onnx
import pytest

from cpd.onnx_file import read_onnx_manifest
from cpd_serve.bench.baseline import REFERENCE

SCRIPT = Path(__file__).parents[3] / "benchmarks/latency/engines.py"


def test_the_reference_workload_is_written_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[Path, str]] = []
    monkeypatch.setattr(onnx, "save", lambda model, path: written.append((path, model.metadata_props[0].value)))
    runpy.run_path(str(SCRIPT), run_name="__main__")
    ((path, manifest),) = written
    assert path == REFERENCE
    assert manifest == read_onnx_manifest(REFERENCE).to_json()
