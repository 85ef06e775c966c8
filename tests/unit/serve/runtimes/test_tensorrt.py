"""What an engine's manifest decides, on any machine; running an engine is tested under tests/gpu."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from cpd.clip import ClipSpec
from cpd.errors import EngineError, EngineMismatchError
from cpd.manifest import EngineInfo, Manifest, engine_manifest_path
from cpd_serve.runner import open_runner
from cpd_serve.runtimes import tensorrt as tensorrt_runner


def info(flavour: str = "tensorrt_rtx", version: str = "1.7.1.116", **options: object) -> EngineInfo:
    return EngineInfo(
        flavour, version, "NVIDIA RTX, 8.9", "student.onnx", "0" * 64, hashlib.sha256(b"engine").hexdigest(), options
    )


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    path = tmp_path / "student.trt"
    path.write_bytes(b"engine")
    manifest = Manifest("student", "tsm-tiny", ("a", "b"), ClipSpec(), "fp32", 18, "0" * 64, "0" * 64, engine=info())
    engine_manifest_path(path).write_text(manifest.to_json())
    return path


def test_without_a_driver_the_answer_names_it_and_what_runs_instead(
    engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.with_name("student.onnx").touch()
    monkeypatch.setattr(tensorrt_runner, "driver_present", lambda: False)
    with pytest.raises(EngineError) as raised:
        open_runner(engine)
    assert str(raised.value) == (
        f"{engine}: needs an NVIDIA GPU, and this machine has no CUDA driver (libcuda.so.1) "
        f"({engine.parent}/student.onnx runs here: cpd-serve --engine {engine.parent}/student.onnx)"
    )


def test_without_its_onnx_file_none_is_promised(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_runner, "driver_present", lambda: False)
    with pytest.raises(EngineError, match=r"student\.onnx, which it was built from, would run here"):
        open_runner(engine)


def test_a_missing_manifest_is_named(engine: Path) -> None:
    engine_manifest_path(engine).unlink()
    with pytest.raises(EngineError, match=r"its manifest student\.trt\.json is not beside it"):
        open_runner(engine)


@pytest.mark.parametrize("content", [b"engin", b"engine2", b""])
def test_a_changed_engine_is_refused(engine: Path, content: bytes) -> None:
    engine.write_bytes(content)
    with pytest.raises(EngineError, match=r"is not the file its manifest describes \(SHA-256 differs\)"):
        open_runner(engine)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "its manifest cannot be used"),
        ("[]", "not a JSON object"),
        ('{"schema": 1}', "its manifest cannot be used"),
        ("\xff\xfe", "its manifest cannot be used"),
    ],
)
def test_a_manifest_that_is_none_is_refused(engine: Path, text: str, message: str) -> None:
    engine_manifest_path(engine).write_bytes(text.encode("latin-1"))
    with pytest.raises(EngineError, match=message):
        open_runner(engine)


def test_a_manifest_without_engine_is_refused(engine: Path) -> None:
    beside = engine_manifest_path(engine)
    beside.write_text(replace(Manifest.from_json(beside.read_text(), "it"), engine=None).to_json())
    with pytest.raises(EngineError, match="describes no engine"):
        open_runner(engine)


def test_an_engine_has_no_provider_to_choose(engine: Path) -> None:
    with pytest.raises(EngineError, match="no choice of provider"):
        open_runner(engine, provider="cuda")


@pytest.mark.parametrize(
    ("built", "running", "options", "fits"),
    [
        ("10.3.0.26", "10.3.0.26", {}, True),
        ("10.3.0.26", "10.3.0.31", {}, True),
        ("10.3.0.26", "11.4.0.106", {}, False),
        ("10.3.0", "10.4.0", {}, False),
        ("10.3.0", "10.4.0", {"version_compatible": True}, True),
        ("10.4.0", "10.3.0", {"version_compatible": True}, False),
        ("10.3.0", "11.0.0", {"version_compatible": True}, False),
    ],
)
def test_versions(built: str, running: str, options: dict[str, object], fits: bool) -> None:
    described = info("tensorrt", built, **options)
    if fits:
        tensorrt_runner.check_version(Path("student.trt"), described, running)
        return
    with pytest.raises(EngineMismatchError, match=f"built for tensorrt {built}, running {running}"):
        tensorrt_runner.check_version(Path("student.trt"), described, running)


@pytest.mark.parametrize(
    ("target", "capability", "fits"),
    [
        ("NVIDIA L4, compute capability 8.9", (8, 9), True),
        ("NVIDIA L4, compute capability 8.9", (8, 6), False),
        ("NVIDIA A100 80.0, compute capability 8.0+", (9, 0), True),
        ("compute capability 8.0, 8.6, 8.9, 12.0+", (8, 6), True),
        ("compute capability 8.0, 8.6, 8.9, 12.0+", (9, 0), False),
        ("compute capability 8.0, 8.6, 8.9, 12.0+", (12, 1), True),
        ("compute capability 8.0, 8.6, 8.9, 12.0+", (7, 5), False),
        ("someone's GPU", (7, 5), True),
    ],
)
def test_targets(target: str, capability: tuple[int, int], fits: bool) -> None:
    described = dataclasses.replace(info(), target=target)
    if fits:
        tensorrt_runner.check_gpu(Path("student.trt"), described, "NVIDIA X", capability)
        return
    with pytest.raises(EngineMismatchError, match=f"this is NVIDIA X of {capability[0]}.{capability[1]}"):
        tensorrt_runner.check_gpu(Path("student.trt"), described, "NVIDIA X", capability)


def test_an_unknown_flavour_is_refused() -> None:
    with pytest.raises(EngineError, match="built with torch_tensorrt, which is not a TensorRT known here"):
        tensorrt_runner.installed_flavour(Path("student.trt"), info("torch_tensorrt"))


def test_a_flavour_that_is_not_installed_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_runner.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        EngineError, match=r"needs tensorrt_rtx, which is not installed \(pip install tensorrt_rtx_cu13"
    ):
        tensorrt_runner.installed_flavour(Path("student.trt"), info())


def test_a_compatible_engine_runs_in_the_lean_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        tensorrt_runner.importlib.util, "find_spec", lambda name: object() if name == "tensorrt_lean" else None
    )
    described = info("tensorrt", "10.3.0", version_compatible=True)
    assert tensorrt_runner.installed_flavour(Path("student.trt"), described) == "tensorrt_lean"
    with pytest.raises(EngineError, match="needs tensorrt, which is not installed"):
        tensorrt_runner.installed_flavour(Path("student.trt"), info("tensorrt", "10.3.0"))
