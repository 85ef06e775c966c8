"""A second export takes the place of the first: what it did not make again is gone."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cpd.config import Pipeline
from cpd.lock import content_sha256
from cpd.manifest import Manifest, engine_manifest_path
from cpd_export import stage

MakeConfig = Callable[..., Pipeline]


def test_an_engine_that_cannot_be_built_leaves_no_old_one(
    exported: Path, make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(exported, run_dir)
    before = content_sha256(run_dir / "export/student.onnx")
    assert (run_dir / "export/student.trt").is_file()
    said = stage.run(make_config(precisions=["fp32"], compute_capabilities=["9.0"]), run_dir)
    assert re.search(r"; failed: teacher\.trt, failed: student\.trt: .*compute capability 9\.0", said)
    assert "warning: there will be no engines: " in capsys.readouterr().err
    assert content_sha256(run_dir / "export/student.onnx") != before, "the manifest holds what was measured this time"
    names = {path.name for path in (run_dir / "export").iterdir()}
    assert names == {"teacher.onnx", "student.onnx", "student.stream.onnx", "export.json"}
    files = json.loads((run_dir / "export/export.json").read_text())["files"]
    failed = {file["path"]: file["reason"] for file in files if file["status"] == "failed"}
    assert set(failed) == {"export/teacher.trt", "export/student.trt"}
    assert all("compute capability 9.0" in reason for reason in failed.values())


def test_another_opset_and_batch_are_those_of_every_file_and_a_target_that_does_not_read_it_is_named(
    exported: Path, make_config: MakeConfig, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(exported, run_dir)
    said = stage.run(make_config(precisions=["fp32", "int8"], opset=21, max_batch=3), run_dir)
    reason = "obstacles to TensorRT 10: opset 21, it reads up to 20"
    assert re.search(f"; teacher.onnx, student.onnx, student.int8.onnx.*: .*{reason}", said)
    table = json.loads((run_dir / "export/export.json").read_text())
    assert {file["reason"] for file in table["files"] if file["runtime"] == "onnxruntime"} == {reason}
    assert reason in table["streams"][0]["reason"], "it may have taken too long for a frame, too"
    assert {file["status"] for file in table["files"]} == {"built"}
    engine_path = run_dir / "export/student.trt"
    engine = Manifest.from_json(engine_manifest_path(engine_path).read_text(), "it").engine
    assert engine is not None
    assert engine.onnx_sha256 == content_sha256(run_dir / "export/student.onnx"), "of the model beside it"
    assert engine.engine_sha256 == content_sha256(engine_path)
    assert engine.options["max_batch"] == 3
