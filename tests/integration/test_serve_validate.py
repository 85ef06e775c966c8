"""The validate stage on a small real run: real videos, real ONNX files, torch's answers written by hand."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cpd.clip import ClipSpec
from cpd.config import Data, Gates, Model, Pipeline, Rendered, Validate
from cpd.dataset import Clip, write_clips
from cpd.errors import DataError, EngineError
from cpd.manifest import EngineInfo, Manifest, engine_manifest_path
from cpd_serve import measuring, validate
from cpd_serve.runner import open_runner

LABELS = ("red", "green", "blue")
CLIPS = 36
EXACT = ClipSpec(frames=4, resize=(32, 48), crop=(32, 48))
WriteVideo = Callable[..., Path]
WriteModel = Callable[..., Path]


@pytest.fixture
def run_dir(tmp_path: Path, write_video: WriteVideo, write_model: WriteModel) -> Path:
    """A run folder as the stages before leave it: the student agrees with the teacher, both miss clips 0 and 1."""
    folder = tmp_path / "run"
    for name in ("data", "teacher", "student", "export"):
        (folder / name).mkdir(parents=True)
    classes = np.arange(CLIPS) % 3
    clips, colours = [], np.eye(3, dtype=np.uint8)[classes] * 200
    for number, colour in enumerate(colours):
        path = write_video(np.broadcast_to(colour, (6, 32, 48, 3)), name=f"{number}.avi")
        clips.append(Clip(path, LABELS[classes[number]], "test", "mjpeg", 32, 48, 0, 8, np.arange(6) / 25))
    write_clips(folder / "data/clips.csv", clips, [False] * CLIPS)
    write_json(folder / "data/data.json", {"labels": LABELS, "splits": {"test": CLIPS}, "broken": [], "sha256": ""})
    truth = classes.copy()
    truth[:2] = (classes[:2] + 1) % 3
    paths = np.array([str(clip.path) for clip in clips])
    for role, scale in (("teacher", 20.0), ("student", 10.0)):
        logits = (scale / 255 * colours).astype(np.float32)
        np.savez(folder / role / "test_logits.npz", logits=logits[::-1], labels=truth[::-1], paths=paths[::-1])
        write_model(folder / f"export/{role}.onnx", scale, role=role, clip=EXACT, parameters=9)
    proofs = [
        {"name": "torch = onnxruntime", "value": 2e-6, "limit": 1e-4, "status": "pass"},
        {"name": "torch = onnxruntime, clips one by one", "value": 3e-6, "limit": 1e-4, "status": "pass"},
        {"name": "same top-1 as torch", "value": 1.0, "limit": 1.0, "status": "pass"},
    ]
    files = [entry("teacher.onnx", "teacher", proofs=proofs), entry("student.onnx", "student", proofs=proofs)]
    write_json(folder / "export/export.json", {"files": files})
    return folder


def entry(name: str, role: str, runtime: str = "onnxruntime", precision: str = "fp32", **values: Any) -> dict[str, Any]:
    return {
        "path": f"export/{name}", "role": role, "runtime": runtime, "precision": precision, "status": "built",
        "reason": "", "size_bytes": 0, "proofs": [],
    } | values  # fmt: skip


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value))


def add_file(run_dir: Path, file: dict[str, Any]) -> None:
    files = json.loads((run_dir / "export/export.json").read_text())["files"]
    write_json(run_dir / "export/export.json", {"files": [*files, file]})


def config(**gates: float | None) -> Pipeline:
    return Pipeline(
        name="test",
        data=Data(rendered=Rendered()),
        teacher=Model(),
        student=Model(),
        validate=Validate(latency_runs=24, gates=Gates(**gates)),
    )


def validated(run_dir: Path, **gates: float | None) -> dict[str, Any]:
    validate.run(config(**gates), run_dir)
    result: dict[str, Any] = json.loads((run_dir / "validate/validation.json").read_text())
    return result


def test_a_run_is_measured_as_the_contract_says(run_dir: Path) -> None:
    result = validated(run_dir, top1_min=0.9)
    assert result["verdict"] == "pass"
    for role in ("teacher", "student"):
        assert result[role]["model"] == "colour"
        assert result[role]["parameters"] == 9
        assert result[role]["flops"] == 1000
        assert result[role]["top1"] == pytest.approx(34 / 36)
        assert result[role]["top5"] == 1.0
    student = result["engines"][1]
    assert student["path"] == "export/student.onnx"
    assert (student["runtime"], student["provider"]) == ("onnxruntime", "CPUExecutionProvider")
    assert (student["precision"], student["status"], student["reason"]) == ("fp32", "validated", "")
    assert student["top1"] == pytest.approx(34 / 36)
    assert student["agreement_with_teacher"] == 1.0
    assert 0 < student["kl_from_teacher"] < 5
    assert student["max_abs_graph_difference"] == 3e-6
    assert 0 < student["max_abs_logit_difference"] < 0.2  # MJPEG moves a colour by a few grey levels
    assert set(student["latency_ms"]) == {"p50", "p90", "p99", "runs"}
    assert 0 < student["latency_ms"]["p50"] <= student["latency_ms"]["p99"]
    assert student["latency_ms"]["runs"] == 24
    assert 0.2 < student["speedup_over_teacher"] < 5  # the same graph
    assert student["size_bytes"] == (run_dir / "export/student.onnx").stat().st_size
    assert result["environment"]["cpu"]
    assert "numpy" in result["environment"]["packages"]


def test_every_gate_of_the_configuration_is_decided(run_dir: Path) -> None:
    limits = dict.fromkeys(Gates.model_fields, 0.0) | {
        "top1_min": 0.9, "top1_retained_min": 1.0, "agreement_min": 0.9, "logit_difference_max": 1e-5,
        "speedup_min": 0.01, "latency_p50_ms_max": 1e4, "latency_p99_ms_max": 1e4,
    }  # fmt: skip
    gates = validated(run_dir, **limits)["gates"]
    assert {gate["name"]: gate["limit"] for gate in gates} == limits
    assert [gate["status"] for gate in gates] == ["pass"] * len(limits)
    for gate in gates:
        assert gate["interval"][0] <= gate["value"] <= gate["interval"][1]


@pytest.mark.parametrize(
    ("gates", "verdict"),
    [
        ({"top1_min": 0.99}, "fail"),
        ({"top1_retained_min": 1.01}, "fail"),
        ({"logit_difference_max": 1e-6}, "fail"),
        ({"speedup_min": 1000.0}, "fail"),
        ({"latency_p50_ms_max": 1e-6}, "fail"),
        ({"logit_difference_max": None}, "pass"),
    ],
)
def test_gates_decide_the_verdict(run_dir: Path, gates: dict[str, float | None], verdict: str) -> None:
    assert validated(run_dir, **gates)["verdict"] == verdict


def test_the_summary_tells_it_in_one_line(run_dir: Path) -> None:
    line = validate.run(config(top1_min=0.99), run_dir)
    assert line.startswith("student.onnx 94.4% top-1 (teacher 94.4%), ")
    assert line.endswith(("x faster: fail", "x slower: fail"))
    assert "\n" not in line


def test_an_engine_that_cannot_run_here_says_so(run_dir: Path) -> None:
    path = run_dir / "export/student.trt"
    path.write_bytes(b"engine")
    info = EngineInfo("tensorrt", "0.0.1", "none", "student.onnx", "", hashlib.sha256(b"engine").hexdigest())
    manifest = Manifest("student", "colour", LABELS, EXACT, "fp32", 18, "", "", engine=info)
    engine_manifest_path(path).write_text(manifest.to_json())
    add_file(run_dir, entry("student.trt", "student", "tensorrt"))
    result = validated(run_dir, top1_min=0.9)
    engine = result["engines"][2]
    assert engine["status"] == "built, not run"
    assert "student.trt" in engine["reason"]
    assert engine["top1"] is engine["latency_ms"] is None
    assert engine["size_bytes"] == 6
    assert result["verdict"] == "pass"


@pytest.mark.parametrize(("scale", "status"), [(10.0, "validated"), (10.5, "failed")])
def test_an_engine_that_answers_otherwise_than_its_onnx_file_fails(
    run_dir: Path, write_model: WriteModel, monkeypatch: pytest.MonkeyPatch, scale: float, status: str
) -> None:
    stand_in = write_model(run_dir / "engine.onnx", scale, clip=EXACT)  # runs where an engine does not
    (run_dir / "export/student.trt").write_bytes(b"engine")
    add_file(run_dir, entry("student.trt", "student", "tensorrt"))
    monkeypatch.setattr(
        measuring,
        "open_runner",
        lambda path, provider: open_runner(*((stand_in, "cpu") if path.suffix == ".trt" else (path, provider))),
    )
    result = validated(run_dir, top1_min=0.9)
    engine = result["engines"][2]
    assert engine["status"] == status
    assert result["verdict"] == "pass", "the gates judge the ONNX file"
    if status == "validated":
        assert (engine["reason"], engine["max_abs_graph_difference"]) == ("", 0.0)
        assert engine["top1"] is not None
    else:  # logits are 200 / 255 * 10, of which a twentieth is 0.392
        assert engine["reason"].startswith(
            "its logits are up to 0.392 from those of its ONNX file, where fp32 may be 0.0"
        )
        assert engine["max_abs_graph_difference"] == pytest.approx(0.39, abs=0.01)
        assert engine["top1"] is engine["latency_ms"] is None


def test_an_engine_that_gives_no_numbers_fails_and_the_rest_goes_on(run_dir: Path, write_model: WriteModel) -> None:
    write_model(run_dir / "export/student.fp16.onnx", float("nan"), clip=EXACT, precision="fp16")
    add_file(run_dir, entry("student.fp16.onnx", "student", precision="fp16"))
    add_file(run_dir, entry("student.int8.onnx", "student", precision="int8", status="failed", reason="no memory"))
    result = validated(run_dir, top1_min=0.9)
    statuses = [(engine["status"], engine["reason"]) for engine in result["engines"][2:]]
    assert statuses == [("failed", "gives logits that are not finite numbers"), ("failed", "export: no memory")]
    assert result["verdict"] == "pass"


def test_without_the_student_there_is_no_verdict(run_dir: Path) -> None:
    (run_dir / "export/student.onnx").write_bytes(b"damaged")
    with pytest.raises(EngineError, match=r"the student cannot be validated: .*student\.onnx: not an ONNX file"):
        validate.run(config(), run_dir)
    assert not (run_dir / "validate/validation.json").exists()


def test_labels_of_another_run_are_refused(run_dir: Path) -> None:
    write_json(run_dir / "data/data.json", {"labels": ["red", "blue", "green"]})
    with pytest.raises(EngineError, match="was made for other labels than this run's"):
        validate.run(config(), run_dir)


def test_what_earlier_stages_left_out_is_named(run_dir: Path) -> None:
    logits = run_dir / "teacher/test_logits.npz"
    content = dict(np.load(logits))
    np.savez(logits, **(content | {"paths": content["paths"][:-1]}))
    with pytest.raises(DataError, match=r"test_logits\.npz: has no row for .*\.avi"):
        validate.run(config(), run_dir)
    logits.unlink()
    with pytest.raises(DataError, match=r"test_logits\.npz: cannot be read"):
        validate.run(config(), run_dir)
    (run_dir / "export/export.json").unlink()
    with pytest.raises(DataError, match=r"export\.json: cannot be read"):
        validate.run(config(), run_dir)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"precision": "fp16"}, "is the student in fp16, and export.json says the student in fp32"),
        ({"role": "teacher"}, "is the teacher in fp32, and export.json says the student in fp32"),
    ],
)
def test_a_file_in_the_place_of_another_is_told(
    run_dir: Path, write_model: WriteModel, changes: dict[str, str], said: str
) -> None:
    write_model(run_dir / "export/student.onnx", 10.0, clip=EXACT, **changes)
    with pytest.raises(EngineError, match=rf"export/student.onnx: {said}"):
        validate.run(config(), run_dir)
