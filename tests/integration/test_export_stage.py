"""The export stage on a tiny run: real videos, real checkpoints, real onnxruntime, a real TensorRT-RTX build."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from cpd.clip import ClipSpec
from cpd.config import Pipeline
from cpd.dataset import Clip, file_sha256, read_clips, write_clips
from cpd.errors import ExportError
from cpd.manifest import METADATA_KEY, Manifest
from cpd.video import read_clip
from cpd_export import stage
from cpd_train.models import ModelSpec, build_model, read_checkpoint, write_checkpoint

SPEC = ClipSpec(frames=4, resize=16, crop=(16, 16))
LABELS = ("left", "right", "still")


def config(**export: object) -> Pipeline:
    return Pipeline.model_validate({
        "name": "tiny",
        "data": {"rendered": {}},
        "clip": {"frames": 4, "resize": 16, "crop": [16, 16]},
        "teacher": {"model": "tsm-tiny"},
        "student": {"model": "tsm-tiny"},
        "export": export,
    })  # fmt: skip


def write_video(path: Path, seed: int) -> None:
    """Six frames of a bright square that moves over noise."""
    random = np.random.default_rng(seed)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=10, options={"q:v": "2"})
        stream.width, stream.height, stream.pix_fmt = 24, 16, "yuvj420p"
        for index in range(6):
            pixels = random.integers(0, 120, (16, 24, 3), dtype=np.uint8)
            at = (seed + (index if seed % 3 == 1 else -index if seed % 3 == 0 else 0)) * 3 % 20
            pixels[4:12, at : at + 5] = 250
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def make_run(run_dir: Path) -> Path:
    """A run folder as the distill stage leaves it."""
    for part in ("data", "teacher", "student"):
        (run_dir / part).mkdir(parents=True)
    clips = []
    for split, count in (("train", 6), ("validation", 6), ("test", 6)):
        for index in range(count):
            path = run_dir / f"data/{split}{index}.avi"
            write_video(path, seed=index)
            clips.append(Clip(path, LABELS[index % 3], split, "mjpeg", 16, 24, 0, 8, np.arange(6.0)))  # type: ignore[arg-type]
    write_clips(run_dir / "data/clips.csv", clips, [False] * len(clips))
    torch.manual_seed(0)
    for role, width in (("teacher", 8), ("student", 4)):
        model = build_model(ModelSpec("tsm-tiny", width=width, blocks=1, shift_fraction=0.5), len(LABELS), SPEC)
        data_sha256 = file_sha256(run_dir / "data/clips.csv")
        write_checkpoint(run_dir / f"{role}/{role}.safetensors", model, role, LABELS, data_sha256, epoch=1, top1=0.5)
    return run_dir


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = make_run(tmp_path_factory.mktemp("run"))
    stage.run(config(), run_dir)
    return run_dir


def test_everything_is_built_and_proven(exported: Path) -> None:
    files = json.loads((exported / "export/export.json").read_text())["files"]
    assert {"export/teacher.onnx", "export/student.onnx", "export/student.trt"} <= {file["path"] for file in files}
    for file in files:
        assert file["status"] == "built", file["reason"]
        assert file["size_bytes"] == (exported / file["path"]).stat().st_size
        assert all(proof["status"] == "pass" for proof in file["proofs"])
        assert file["proofs"] or file["runtime"].startswith("tensorrt")
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


def test_the_manifest_travels_in_the_file(exported: Path) -> None:
    proto = onnx.load(exported / "export/student.onnx", load_external_data=False)
    (text,) = (entry.value for entry in proto.metadata_props if entry.key == METADATA_KEY)
    manifest = Manifest.from_json(text, "student.onnx")
    assert (manifest.labels, manifest.clip, manifest.precision, manifest.opset) == (LABELS, SPEC, "fp32", 18)
    assert manifest.checkpoint_sha256 == file_sha256(exported / "student/student.safetensors")
    assert manifest.data_sha256 == file_sha256(exported / "data/clips.csv")
    assert str(Path.cwd()).encode() not in proto.SerializeToString(), "a path of this machine is in the file"


def test_a_graph_that_differs_replaces_nothing(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = make_run(tmp_path / "run")
    (run_dir / "export").mkdir()
    (run_dir / "export/student.onnx").write_bytes(b"the last good one")
    monkeypatch.setattr(stage, "LOGIT_LIMIT", -1.0)
    with pytest.raises(ExportError, match="torch = onnxruntime"):
        stage.run(config(), run_dir)
    assert [path.read_bytes() for path in (run_dir / "export").iterdir()] == [b"the last good one"]
