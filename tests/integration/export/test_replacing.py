"""A second export takes the place of the first: what it did not make again is gone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from cpd.config import Pipeline
from cpd.dataset import file_sha256
from cpd.manifest import Manifest, engine_manifest_path
from cpd_export import stage

MakeConfig = Callable[..., Pipeline]


def test_an_engine_that_cannot_be_built_leaves_no_old_one(
    exported: Path, make_config: MakeConfig, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(exported, run_dir)
    before = file_sha256(run_dir / "export/student.onnx")
    assert (run_dir / "export/student.trt").is_file()
    stage.run(make_config(precisions=["fp32"], compute_capabilities=["9.0"]), run_dir)
    assert file_sha256(run_dir / "export/student.onnx") != before, "the manifest holds what was measured this time"
    names = {path.name for path in (run_dir / "export").iterdir()}
    assert names == {"teacher.onnx", "student.onnx", "student.stream.onnx", "export.json"}
    files = json.loads((run_dir / "export/export.json").read_text())["files"]
    failed = {file["path"]: file["reason"] for file in files if file["status"] == "failed"}
    assert set(failed) == {"export/teacher.trt", "export/student.trt"}
    assert all("compute capability 9.0" in reason for reason in failed.values())


def test_an_engine_is_of_the_model_beside_it(exported: Path, make_config: MakeConfig, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(exported, run_dir)
    stage.run(make_config(precisions=["fp32"], max_batch=3), run_dir)
    engine_path = run_dir / "export/student.trt"
    engine = Manifest.from_json(engine_manifest_path(engine_path).read_text(), "it").engine
    assert engine is not None
    assert engine.onnx_sha256 == file_sha256(run_dir / "export/student.onnx")
    assert engine.engine_sha256 == file_sha256(engine_path)
    assert engine.options["max_batch"] == 3
