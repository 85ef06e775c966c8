"""A Triton model repository is what Triton's documentation describes, and is never half-replaced."""

from __future__ import annotations

import errno
import importlib.util
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cpd.errors import CpdError, DataError, EngineError, ExportError
from cpd.lock import content_sha256
from cpd.manifest import EngineInfo, engine_manifest_path
from cpd.onnx_file import read_onnx_manifest
from cpd_export.engine_file import make_engine
from cpd_export.flavours import BuildOptions
from cpd_export.triton import export_triton, write_repository


def test_layout_and_configuration(colour_model: Path, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    assert write_repository([colour_model], repository, max_batch=8) == ["colours"]
    files = sorted(str(path.relative_to(repository)) for path in repository.rglob("*") if path.is_file())
    assert files == ["colours/1/model.onnx", "colours/config.pbtxt", "colours/labels.txt"]
    assert (repository / "colours/1/model.onnx").read_bytes() == colour_model.read_bytes()
    assert (repository / "colours/labels.txt").read_text() == "red\ngreen\nblue\n"
    config = (repository / "colours/config.pbtxt").read_text()
    for part in (
        'name: "colours"', 'backend: "onnxruntime"', "max_batch_size: 8", "data_type: TYPE_UINT8",
        "dims: [ 4, 32, 32, 3 ]", "data_type: TYPE_FP32", "dims: [ 3 ]", 'label_filename: "labels.txt"',
        "dynamic_batching {",
    ):  # fmt: skip
        assert part in config


def test_the_configuration_fits_tritons_schema(colour_model: Path, tmp_path: Path) -> None:
    spec = importlib.util.find_spec("tritonclient")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("tritonclient, which holds Triton's model_config schema, is not installed")
    text_format = pytest.importorskip("google.protobuf.text_format")
    schema = Path(spec.submodule_search_locations[0]) / "grpc/model_config_pb2.py"
    loaded = importlib.util.spec_from_file_location(
        "model_config_pb2", schema
    )  # its package needs grpc, the schema not
    assert loaded is not None
    assert loaded.loader is not None
    module = importlib.util.module_from_spec(loaded)
    loaded.loader.exec_module(module)
    write_repository([colour_model], tmp_path / "repository", max_batch=8)
    config = text_format.Parse((tmp_path / "repository/colours/config.pbtxt").read_text(), module.ModelConfig())
    assert (config.name, config.backend, config.max_batch_size) == ("colours", "onnxruntime", 8)
    assert (list(config.input[0].dims), config.input[0].data_type) == ([4, 32, 32, 3], module.TYPE_UINT8)
    assert (list(config.output[0].dims), config.output[0].data_type) == ([3], module.TYPE_FP32)
    assert config.dynamic_batching.max_queue_delay_microseconds > 0


def test_exporting_again_adds_a_version(colour_model: Path, write_model: Callable[..., Path], tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    for _ in range(2):
        write_repository([colour_model], repository, max_batch=8)
    assert [path.name for path in (repository / "colours").glob("[0-9]*")] == ["1"], "the same again is no version"
    newer = write_model(colour_model, scale=30.0).read_bytes()
    write_repository([colour_model], repository, max_batch=8)
    assert sorted(path.name for path in (repository / "colours").iterdir()) == ["1", "2", "config.pbtxt", "labels.txt"]
    assert (repository / "colours/2/model.onnx").read_bytes() == newer
    assert (repository / "colours/1/model.onnx").read_bytes() != newer


def test_another_model_of_the_same_name_is_not_replaced(
    colour_model: Path, write_model: Callable[..., Path], tmp_path: Path
) -> None:
    repository = tmp_path / "repository"
    write_repository([colour_model], repository, max_batch=8)
    write_model(colour_model, labels=("red", "green", "azure"))
    other = write_model(tmp_path / "other.onnx")
    with pytest.raises(ExportError, match=r"labels\.txt: belongs to a model of other inputs or labels"):
        write_repository([other, colour_model], repository, max_batch=8)
    assert [path.name for path in repository.iterdir()] == ["colours"], "nothing is written unless all can be"


@pytest.mark.parametrize("label", ["", "two\nlines", "a\r", "a\x85b"])
def test_a_label_that_is_no_line_is_named(write_model: Callable[..., Path], tmp_path: Path, label: str) -> None:
    path = write_model(tmp_path / "student.onnx", labels=("red", label, "blue"))
    with pytest.raises(ExportError, match=re.escape(f"the label {label!r} does not fit on a line")):
        write_repository([path], tmp_path / "repository", max_batch=8)


def test_an_engine_triton_cannot_run_is_refused(colour_model: Path, tmp_path: Path) -> None:
    engine = colour_model.with_suffix(".trt")
    make_engine(colour_model, engine, BuildOptions())
    with pytest.raises(ExportError, match=r"built by tensorrt_rtx, which Triton does not run \(serve colours\.onnx"):
        write_repository([engine], tmp_path / "repository", max_batch=8)
    engine.write_bytes(b"another")
    with pytest.raises(EngineError, match="is not the file its manifest describes"):
        write_repository([engine], tmp_path / "repository", max_batch=8)
    with pytest.raises(CpdError, match="not a model that Triton serves"):
        write_repository([tmp_path / "student.pt"], tmp_path / "repository", max_batch=8)


def test_a_runs_students_are_found(colour_model: Path, write_model: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="run the export stage first"):
        export_triton(tmp_path, tmp_path / "repository", 8)
    (tmp_path / "export").mkdir()
    write_model(tmp_path / "export/student.int8.onnx", precision="int8")
    entry = {"role": "student", "status": "built", "runtime": "onnxruntime", "precision": "int8"}
    files = [
        entry | {"path": "export/student.int8.onnx"},
        entry | {"path": "export/student.fp16.onnx", "status": "failed"},
        entry | {"path": "export/student.trt", "runtime": "tensorrt_rtx"},
        entry | {"path": "export/teacher.onnx", "role": "teacher"},
    ]
    (tmp_path / "export/export.json").write_text(json.dumps({"files": files}))
    assert export_triton(tmp_path, tmp_path / "repository", 8) == ["student-int8"]
    for changes, said in (
        ({"precision": "fp16"}, "is the student in fp16, not the student in int8"),
        ({"precision": "int8", "role": "teacher"}, "is the teacher in int8, not the student in int8"),
    ):
        write_model(tmp_path / "export/student.int8.onnx", **changes)
        with pytest.raises(EngineError, match=said):
            export_triton(tmp_path, tmp_path / "repository", 8)


def spoil(run_dir: Path, repository: Path, how: str) -> None:
    config = repository / "colours/config.pbtxt"
    if how == "target is a file":
        repository.write_text("")
    elif how == "configuration is a folder":
        config.mkdir(parents=True)
    elif how == "configuration is no text":
        config.parent.mkdir(parents=True)
        config.write_bytes(b"\xff\xfe")
    else:
        table = {"damaged table": '{"files": [', "table of nothing": "[]", "no files": '{"files": []}'}[how]
        (run_dir / "export/export.json").write_text(table)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("target is a file", "file exists"),
        ("configuration is a folder", "is a directory"),
        ("configuration is no text", "belongs to a model of other inputs"),
        ("damaged table", "cannot be read"),
        ("table of nothing", "cannot be read"),
        ("no files", "names no student that Triton serves"),
    ],
)
def test_whatever_is_wrong_is_said_in_a_line(
    write_model: Callable[..., Path], tmp_path: Path, how: str, message: str
) -> None:
    (tmp_path / "export").mkdir()
    write_model(tmp_path / "export/colours.onnx")
    entry = {"role": "student", "status": "built", "runtime": "onnxruntime", "precision": "fp32"}
    (tmp_path / "export/export.json").write_text(json.dumps({"files": [entry | {"path": "export/colours.onnx"}]}))
    spoil(tmp_path, tmp_path / "repository", how)
    with pytest.raises(CpdError, match=message):
        export_triton(tmp_path, tmp_path / "repository", 8)


def test_a_full_disk_leaves_nothing(colour_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ExportError, match="no space left on device"):
        write_repository([colour_model], tmp_path / "repository", max_batch=8)
    assert not (tmp_path / "repository").exists()


def test_what_triton_could_not_serve_so_is_refused(
    colour_model: Path, write_model: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=r"takes a frame at a time"):
        write_repository([write_model(tmp_path / "s.onnx", streaming=True)], tmp_path / "repository", max_batch=8)
    write_repository([colour_model], tmp_path / "repository", max_batch=8)
    with pytest.raises(ExportError, match=r"config\.pbtxt: has another max_batch_size than export\.max_batch"):
        write_repository([colour_model], tmp_path / "repository", max_batch=4)


def test_batches_larger_than_the_engines_are_refused(colour_model: Path, tmp_path: Path) -> None:
    engine = colour_model.with_suffix(".trt")
    engine.write_bytes(b"an engine")
    options = {"max_batch": 4}
    info = EngineInfo("tensorrt", "10.9", "a GPU", "colours.onnx", "0" * 64, content_sha256(engine), options)
    manifest = replace(read_onnx_manifest(colour_model), engine=info)
    engine_manifest_path(engine).write_text(manifest.to_json())
    with pytest.raises(ExportError, match="was built for batches of up to 4, not 8"):
        write_repository([engine], tmp_path / "repository", max_batch=8)
    assert write_repository([engine], tmp_path / "repository", max_batch=4) == ["colours-trt"]
