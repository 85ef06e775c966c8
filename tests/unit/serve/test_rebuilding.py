"""Engines that do not fit, and ``--rebuild``; running what was built is tested under tests/gpu."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cpd.errors import EngineError, EngineMismatchError
from cpd.lock import content_sha256
from cpd.manifest import engine_manifest_path
from cpd_serve import rebuilding, twin
from cpd_serve.rebuilding import open_engine, rebuild
from cpd_serve.runner import Runner, open_runner
from cpd_serve.runtimes import tensorrt as tensorrt_runner
from cpd_serve.runtimes.tensorrt import read_engine_manifest


@pytest.fixture
def stale(colour_model: Path) -> Path:
    """An engine without a manifest, beside the ONNX file it is said to be of."""
    path = colour_model.with_suffix(".trt")
    path.write_bytes(b"of another machine")
    return path


def test_a_refusal_names_the_way_out(stale: Path) -> None:
    with pytest.raises(EngineMismatchError) as raised:
        open_runner(stale)
    assert str(raised.value).endswith(f"cpd-serve --rebuild builds it anew from {stale.with_suffix('.onnx')})")
    stale.with_suffix(".onnx").unlink()
    with pytest.raises(EngineMismatchError, match=r"with colours\.onnx beside it, cpd-serve --rebuild builds it anew"):
        open_runner(stale)


def test_an_engine_is_built_anew_and_then_fits_its_manifest(stale: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="no TensorRT that builds without a GPU")
    info = rebuild(stale)
    manifest, read = read_engine_manifest(stale, stale.read_bytes())
    assert read == info
    assert (info.flavour, info.onnx, manifest.labels) == ("tensorrt_rtx", "colours.onnx", ("red", "green", "blue"))


@pytest.mark.parametrize("scale", [20.0, 21.0])
def test_an_engine_takes_the_place_of_the_old_if_it_answers_as_its_onnx_file(
    stale: Path, write_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scale: float
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="no TensorRT that builds without a GPU")
    stand_in = write_model(tmp_path / "engine.onnx", scale)
    shown: list[str] = []

    def opened(path: Path, provider: str | None = None) -> Runner:
        if path.suffix != ".trt":
            return open_runner(path, provider)
        shown.append(read_engine_manifest(path, path.read_bytes())[1].engine_sha256)
        assert stale.read_bytes() == b"of another machine", "nothing is replaced yet"
        return open_runner(stand_in)

    monkeypatch.setattr(rebuilding, "driver_present", lambda: True)
    monkeypatch.setattr(twin, "open_runner", opened)
    if scale == 20.0:
        assert rebuild(stale).engine_sha256 == content_sha256(stale) == shown[0]
        return
    with pytest.raises(EngineError) as raised:
        rebuild(stale)
    assert raised.value.args[0].startswith("the new colours.trt: its logits are up to 0.5")
    assert raised.value.args[0].endswith("; it is not put in place")
    assert (stale.read_bytes(), engine_manifest_path(stale).exists()) == (b"of another machine", False)


@pytest.mark.parametrize("missing", [False, True])
def test_nothing_is_built_where_it_could_not_run(stale: Path, monkeypatch: pytest.MonkeyPatch, missing: bool) -> None:
    monkeypatch.setattr(tensorrt_runner, "driver_present", lambda: False)
    if missing:
        stale.unlink()
    with pytest.raises(EngineError, match=r"needs an NVIDIA GPU.*colours\.onnx may run here"):
        open_engine(stale, may_rebuild=True)
    assert stale.exists() != missing
    assert not engine_manifest_path(stale).exists()
    stale.with_suffix(".onnx").unlink()
    with pytest.raises(EngineError, match=r"needs an NVIDIA GPU.*\(libcuda\.so\.1\)$"):
        open_engine(stale, may_rebuild=True)


def test_without_the_builder_its_install_is_named(stale: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cpd_export.engine_file", None)
    with pytest.raises(EngineError, match=r"cannot be built anew: .*cpd_export.* is not installed \(pip install"):
        rebuild(stale)


def test_an_onnx_file_needs_no_rebuilding(colour_model: Path) -> None:
    with open_engine(colour_model, may_rebuild=True) as runner:
        assert runner.path == colour_model
