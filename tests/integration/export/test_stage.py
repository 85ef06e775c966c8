"""The export stage on a tiny run: real videos, real checkpoints, real onnxruntime, a real TensorRT-RTX build."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from cpd.clip import ClipSpec
from cpd.config import Pipeline
from cpd.dataset import read_clips
from cpd.errors import DataError, EngineError, ExportError
from cpd.lock import content_sha256
from cpd.manifest import Manifest
from cpd.onnx_file import read_onnx_manifest
from cpd.video import read_clip
from cpd_export import stage
from cpd_export.files import STREAM, ExportedFile
from cpd_export.graph import export_graph
from cpd_export.proofs import at_most, failures
from cpd_export.stage import summary
from cpd_export.stream import export_stream
from cpd_train.models import ModelSpec, VideoClassifier, build_model, read_checkpoint, write_checkpoint

SPEC = ClipSpec(frames=4, resize=16, crop=(16, 16))
LABELS = ("left", "right", "still")

MakeRun = Callable[..., Path]
MakeConfig = Callable[..., Pipeline]


def test_everything_is_built_and_proven(exported: Path) -> None:
    files = json.loads((exported / "export/export.json").read_text())["files"]
    names = ("teacher", "student", "student.fp16", "student.int8")
    assert {file["path"] for file in files} == {f"export/{name}.{kind}" for name in names for kind in ("onnx", "trt")}
    for file in files:
        assert file["status"] == "built", file["reason"]
        assert file["size_bytes"] == (exported / file["path"]).stat().st_size
        failed = [proof for proof in file["proofs"] if proof["status"] == "fail"]
        assert not failed
        assert file["proofs"] or file["runtime"].startswith("tensorrt")
    assert [file["role"] for file in files if file["recommended"]] == ["student"]
    assert not list((exported / "export").glob("*.part"))
    assert not list((exported / "export").glob("*.data"))


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_plain_onnxruntime_agrees_with_torch(exported: Path, role: str) -> None:
    checkpoint = read_checkpoint(exported / f"{role}/{role}.safetensors")
    clips = read_clips(exported / "data/clips.csv", "test")
    frames = np.stack([read_clip(clip.path, SPEC) for clip in clips])
    session = onnxruntime.InferenceSession(exported / f"export/{role}.onnx", providers=["CPUExecutionProvider"])
    for batch in (frames, frames[:1], frames[:, ::-1].copy()):
        with torch.inference_mode():
            want = checkpoint.model(torch.from_numpy(batch)).numpy()
        (logits,) = session.run(["logits"], {"frames": batch})
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, want, atol=1e-4)
    forwards, backwards = (session.run(None, {"frames": part})[0] for part in (frames, frames[:, ::-1].copy()))
    assert np.abs(forwards - backwards).max() > 1e-3, "the temporal shift is lost"


@pytest.mark.parametrize(("precision", "logit_difference"), [("fp16", 5e-3), ("int8", 0.1)])
def test_plain_onnxruntime_runs_reduced_precisions(exported: Path, precision: str, logit_difference: float) -> None:
    clips = read_clips(exported / "data/clips.csv", "test")
    frames = np.stack([read_clip(clip.path, SPEC) for clip in clips])
    answers = []
    for name in ("student.onnx", f"student.{precision}.onnx"):
        session = onnxruntime.InferenceSession(exported / "export" / name, providers=["CPUExecutionProvider"])
        answers.append(session.run(None, {"frames": frames})[0])
        assert answers[-1].dtype == np.float32
    assert np.abs(answers[0] - answers[1]).max() < logit_difference
    assert (answers[0] != answers[1]).any(), "this is the fp32 graph again"


def test_typed_graphs_hold_what_they_are_called(exported: Path) -> None:
    half, int8 = (onnx.load(exported / f"export/student.{name}.onnx") for name in ("fp16", "int8"))
    kinds = {tensor.data_type for tensor in half.graph.initializer if len(tensor.dims) == 4 and tensor.dims[2] == 3}
    assert kinds == {onnx.TensorProto.FLOAT16}, "convolutions have half-precision weights"
    operators = [node.op_type for node in int8.graph.node]
    weights = [tensor for tensor in int8.graph.initializer if len(tensor.dims) == 4 and tensor.dims[2] == 3]
    assert {tensor.data_type for tensor in weights} == {onnx.TensorProto.INT8}
    assert "QuantizeLinear" in operators
    assert "DequantizeLinear" in operators
    assert {entry.domain for entry in int8.opset_import} <= {"", "ai.onnx"}, "standard operators alone"
    zero_points = [tensor for tensor in int8.graph.initializer if tensor.name.endswith("_zero_point")]
    assert all(not onnx.numpy_helper.to_array(tensor).any() for tensor in zero_points), "TensorRT wants symmetric ones"


def test_the_search_for_int8_is_reported(exported: Path) -> None:
    files = json.loads((exported / "export/export.json").read_text())["files"]
    (search,) = (file["quantisation"] for file in files if "quantisation" in file)
    tried = {(trial["calibrator"], trial["weight_bits"]) for trial in search["trials"] if not trial["float_layers"]}
    assert tried == {(name, bits) for name in ("minmax", "percentile", "entropy") for bits in (7, 8)}
    assert search["chosen"] in search["trials"]
    damages = [layer["divergence_nats"] for layer in search["layers"]]
    assert damages == sorted(damages, reverse=True)
    assert {"backbone.conv1", "backbone.fc"} <= {layer["layer"] for layer in search["layers"]}


def test_decoders_and_targets_are_proven_too(exported: Path) -> None:
    files = {file["path"]: file for file in json.loads((exported / "export/export.json").read_text())["files"]}
    proofs = {proof["name"]: proof for proof in files["export/student.onnx"]["proofs"]}
    assert proofs["DALI's frames = server's frames, same top-1"]["value"] == 1.0
    mean, largest = (
        proofs[f"DALI's frames = server's frames, {what}"] for what in ("mean grey levels", "largest grey level")
    )
    assert (mean["value"], mean["limit"], largest["value"], largest["limit"]) == (0.25, 1.0, 9.0, None)
    for file in files.values():
        if file["runtime"] == "onnxruntime":
            named = {proof["name"] for proof in file["proofs"]}
            assert {"faults found by onnx.checker", "obstacles to TensorRT 10", "obstacles to TensorRT 11"} <= named
            assert file["latency_ms"]["p50"] > 0


def test_the_manifest_travels_in_the_file(exported: Path) -> None:
    for name, precision in (("student", "fp32"), ("student.fp16", "fp16"), ("student.int8", "int8")):
        path = exported / f"export/{name}.onnx"
        manifest = read_onnx_manifest(path)
        assert (manifest.labels, manifest.clip, manifest.precision, manifest.opset) == (LABELS, SPEC, precision, 18)
        assert manifest.checkpoint_sha256 == content_sha256(exported / "student/student.safetensors")
        assert manifest.data_sha256 == content_sha256(exported / "data/clips.csv")
        assert manifest.graph_sha256
        assert set(manifest.accuracy) == {"top1", "top5"}
        assert manifest.latency_ms["p50"] > 0
        assert str(Path.cwd()).encode() not in path.read_bytes(), "a path of this machine is in the file"
        engine = Manifest.from_json(path.with_suffix(".trt.json").read_text(), "it").engine
        assert engine is not None
        assert engine.onnx_sha256 == content_sha256(path)


def test_a_changed_weight_is_noticed(exported: Path, tmp_path: Path) -> None:
    proto = onnx.load(exported / "export/student.onnx")
    weight = next(tensor for tensor in proto.graph.initializer if len(tensor.dims) == 4)
    weight.raw_data = bytes(4) + weight.raw_data[4:]
    onnx.save(proto, tmp_path / "student.onnx")
    with pytest.raises(EngineError, match="was changed since it was exported"):
        read_onnx_manifest(tmp_path / "student.onnx")


def test_a_graph_that_differs_replaces_nothing(
    exported: Path, make_run: MakeRun, make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exporter_with_a_fault(model: VideoClassifier, opset: int) -> onnx.ModelProto:
        role = "student" if model.spec.causal else "teacher"
        proto = onnx.load(exported / f"export/{role}.onnx")
        if role == "student":
            bias = next(tensor for tensor in proto.graph.initializer if tensor.name.endswith("fc.bias"))
            bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + 2e-4, bias.name))
        return proto

    run_dir = make_run(tmp_path / "run")
    (run_dir / "export").mkdir()
    for name in ("teacher.onnx", "student.onnx", "export.json"):
        (run_dir / "export" / name).write_bytes(b"the last good one")
    monkeypatch.setattr(stage, "export_graph", exporter_with_a_fault)
    with pytest.raises(ExportError, match=r"export/student\.onnx: torch = onnxruntime: 0\.0002, limit 0\.0001"):
        stage.run(make_config(precisions=["fp32"]), run_dir)
    assert {path.read_bytes() for path in (run_dir / "export").iterdir()} == {b"the last good one"}


def test_a_student_that_went_astray_says_what_to_lower(
    make_run: MakeRun, make_config: MakeConfig, tmp_path: Path
) -> None:
    run_dir = make_run(tmp_path)
    path = run_dir / "student/student.safetensors"
    student = read_checkpoint(path)
    with torch.no_grad():
        student.model.backbone.get_parameter("fc.weight").mul_(1e6)
    write_checkpoint(path, student.model, "student", LABELS, student.data_sha256, epoch=1, top1=0.5)
    with pytest.raises(ExportError, match=r"its logits reach .*e\+0\d.*lower student\.learning_rate"):
        stage.run(make_config(precisions=["fp32"]), run_dir)


def test_a_causal_student_runs_frame_by_frame(exported: Path) -> None:
    (file,) = json.loads((exported / "export/export.json").read_text())["streams"]
    assert [proof["status"] for proof in file["proofs"] if "frame by frame" in proof["name"]] == ["pass"]
    clips = read_clips(exported / "data/clips.csv", "test")
    frames = np.stack([read_clip(clip.path, SPEC) for clip in clips])
    whole, stream = (
        onnxruntime.InferenceSession(exported / f"export/{name}.onnx", providers=["CPUExecutionProvider"])
        for name in ("student", "student.stream")
    )
    names = [entry.name for entry in stream.get_inputs()][1:]
    state = {e.name: np.zeros((len(frames), *e.shape[1:]), np.float32) for e in stream.get_inputs()[1:]}
    assert any(name.startswith("cache_") for name in names), "the shift keeps nothing"
    for index in range(SPEC.frames):
        logits, *kept = stream.run(
            ["logits", *(f"next_{name}" for name in names)], {"frame": frames[:, index], **state}
        )
        state = dict(zip(names, kept, strict=True))
    np.testing.assert_allclose(logits, whole.run(None, {"frames": frames})[0], atol=1e-4)
    assert read_onnx_manifest(exported / file["path"]).streaming


def test_a_frame_that_takes_too_long_is_said() -> None:
    served = ExportedFile(
        "export/student.onnx", "student", "onnxruntime", "fp32", "built",
        latency_ms={"p50": 1.0}, recommended=True, proofs=[at_most("torch = onnxruntime", 0, 1e-4)],
    )  # fmt: skip
    slow = [at_most("time of a frame / time of a clip", 0.5, 1 / 3)]
    stream = ExportedFile(STREAM, "student", "onnxruntime", "fp32", "built", proofs=slow, reason=failures(slow))
    assert "; student.stream.onnx: time of a frame / time of a clip: 0.5, limit 0.333; " in summary([served, stream])


def test_a_model_that_looks_ahead_has_no_streaming_graph(exported: Path) -> None:
    checkpoint = read_checkpoint(exported / "teacher/teacher.safetensors")
    with pytest.raises(ExportError, match="looks ahead and cannot run frame by frame"):
        export_stream(checkpoint.model, 18)


@pytest.mark.parametrize("opset", [17, 99])
def test_an_opset_nobody_knows_is_named(exported: Path, opset: int) -> None:
    checkpoint = read_checkpoint(exported / "student/student.safetensors")
    with pytest.raises(ExportError, match=f"opset {opset}"):
        export_graph(checkpoint.model, opset)


def test_a_run_that_does_not_fit_together_is_refused(
    make_run: MakeRun, make_config: MakeConfig, tmp_path: Path
) -> None:
    run_dir = make_run(tmp_path / "run")
    table = run_dir / "data/clips.csv"
    text = table.read_text()
    table.write_text(text.replace("left", "leftwards"))
    with pytest.raises(DataError, match="do not know the label leftwards"):
        stage.run(make_config(), run_dir)
    table.write_text("".join(line for line in text.splitlines(keepends=True) if ",test," not in line))
    with pytest.raises(DataError, match="the test split has no clips"):
        stage.run(make_config(), run_dir)
    table.write_text(text)
    model = build_model(ModelSpec("tsm-tiny", width=4), 2, SPEC)
    write_checkpoint(run_dir / "teacher/teacher.safetensors", model, "teacher", LABELS[:2], "", epoch=1, top1=0.5)
    with pytest.raises(ExportError, match="different clips or labels"):
        stage.run(make_config(), run_dir)


def test_a_run_that_is_ended_while_it_calibrates_leaves_nothing_behind(exported: Path, tmp_path: Path) -> None:
    code = (
        "import click, numpy, onnx, signal, sys\n"
        "from cpd.cli import Commands\n"
        "from cpd_export.int8 import Choice, quantise_as\n"
        "class Frames(numpy.ndarray):\n"
        "    def __getitem__(self, key):\n"
        "        signal.raise_signal(signal.SIGTERM)\n"
        "@click.group(cls=Commands)\n"
        "def main(): ...\n"
        "@main.command()\n"
        "def export():\n"
        "    frames = numpy.zeros((2, 4, 16, 16, 3), numpy.uint8).view(Frames)\n"
        "    quantise_as(onnx.load(sys.argv[1]), frames, Choice('minmax', 8))\n"
        "main(['export'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(exported / "export/student.onnx")],
        capture_output=True, text=True, check=False, env=os.environ | {"TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert (done.returncode, "interrupted" in done.stderr) == (130, True), done.stderr
    assert not list(tmp_path.glob("cpd-*"))
