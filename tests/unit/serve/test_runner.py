from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from cpd.clip import ClipSpec
from cpd.errors import EngineError
from cpd.manifest import METADATA_KEY, Manifest
from cpd.onnx_file import graph_sha256
from cpd.threads import usable_cpus
from cpd_serve.runner import open_runner
from cpd_serve.runtimes import onnx as onnx_runner

WriteModel = Callable[..., Path]


def clips(*colours: tuple[int, int, int]) -> np.ndarray:
    """(len(colours), 4, 32, 32, 3) uint8, each of one colour."""
    return np.broadcast_to(np.array(colours, np.uint8)[:, None, None, None], (len(colours), 4, 32, 32, 3)).copy()


def test_a_model_tells_what_it_is_and_where_it_runs(colour_model: Path) -> None:
    with open_runner(str(colour_model)) as runner:
        assert runner.path == colour_model
        assert runner.runtime == "onnxruntime"
        assert runner.provider == "CPUExecutionProvider"
        assert runner.manifest.labels == ("red", "green", "blue")
        assert runner.manifest.clip == ClipSpec(frames=4, resize=32, crop=(32, 32))


def test_logits_are_those_of_the_graph(colour_model: Path) -> None:
    with open_runner(colour_model, provider="cpu") as runner:
        logits = runner.predict(clips((255, 0, 51), (0, 102, 255)))
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, [[20, 0, 4], [0, 8, 20]], rtol=1e-6)


def test_threads_may_share_a_runner(colour_model: Path) -> None:
    with open_runner(colour_model) as runner:
        results = {}
        threads = [
            threading.Thread(target=lambda red=red: results.update({red: runner.predict(clips((red, 0, 0)))[0, 0]}))
            for red in range(0, 256, 51)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert {red: round(float(logit), 4) for red, logit in results.items()} == {red: red / 12.75 for red in results}
    assert len(results) == 6


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((1, 4, 32, 32, 3), np.float32),
        np.zeros((4, 32, 32, 3), np.uint8),
        np.zeros((1, 5, 32, 32, 3), np.uint8),
        np.zeros((0, 4, 32, 32, 3), np.uint8),
    ],
)
def test_frames_of_another_form_are_refused(colour_model: Path, frames: np.ndarray) -> None:
    with (
        open_runner(colour_model) as runner,
        pytest.raises(ValueError, match=r"frames must be \(batch, 4, 32, 32, 3\)"),
    ):
        runner.predict(frames)


def test_what_is_no_array_is_refused_and_a_closed_runner_says_so(colour_model: Path) -> None:
    with open_runner(colour_model) as runner:
        for nothing in ([1, 2], None):
            with pytest.raises(ValueError, match=r"frames must be \(batch, 4, 32, 32, 3\) uint8, got \(\) "):
                runner.predict(nothing)  # type: ignore[arg-type]
    with pytest.raises(EngineError, match="was closed"):
        runner.predict(np.zeros((1, 4, 32, 32, 3), np.uint8))


@pytest.mark.parametrize("name", ["cuda", "CUDAExecutionProvider", "tensorrt", "NoSuchProvider"])
def test_a_provider_that_is_not_here_is_an_error(colour_model: Path, name: str) -> None:
    with pytest.raises(EngineError, match=r"onnxruntime has no .*Provider here, only .*CPUExecutionProvider"):
        open_runner(colour_model, provider=name)


def test_a_provider_that_leaves_the_work_to_the_cpu_is_an_error(colour_model: Path) -> None:
    name = "AzureExecutionProvider"
    if name not in onnxruntime.get_available_providers():
        pytest.skip(f"this onnxruntime has no {name}")
    with pytest.raises(EngineError, match=r"nodes that are assigned to the default CPU EP.*use --provider cpu"):
        open_runner(colour_model, provider=name)


def test_a_provider_without_its_driver_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_runner, "driver_present", lambda: False)
    monkeypatch.setattr(
        onnx_runner.onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    assert onnx_runner.choose_provider(None) == "CPUExecutionProvider"
    with pytest.raises(EngineError, match="needs an NVIDIA driver"):
        onnx_runner.choose_provider("cuda")


def test_threads_do_not_spin_and_are_as_many_as_the_cpus() -> None:
    options = onnx_runner.session_options(None)
    assert options.intra_op_num_threads == usable_cpus() >= 1
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert onnx_runner.session_options(1).intra_op_num_threads == 1


@pytest.mark.parametrize(("flops", "threads"), [(0, usable_cpus()), (1_000_000, 1), (1_000_000_000, usable_cpus())])
def test_a_small_model_runs_on_one_thread(tmp_path: Path, write_model: WriteModel, flops: int, threads: int) -> None:
    with onnx_runner.load(write_model(tmp_path / "colours.onnx", flops=flops)) as runner:
        assert runner._session.get_session_options().intra_op_num_threads == threads


@pytest.mark.parametrize("threads", [10_000, usable_cpus() + 1, 0, -1])
def test_threads_that_the_machine_does_not_have_are_refused(colour_model: Path, threads: int) -> None:
    with pytest.raises(EngineError, match=rf"^{threads} threads cannot run on .*name 1 to {usable_cpus()}"):
        open_runner(colour_model, threads=threads)


def foreign(path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "foreign",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)


def test_a_model_of_someone_else_is_named_so(tmp_path: Path) -> None:
    foreign(tmp_path / "foreign.onnx")
    with pytest.raises(EngineError, match=r"foreign\.onnx: has no cpd\.manifest in its metadata"):
        open_runner(tmp_path / "foreign.onnx")


def test_a_graph_that_the_runtime_refuses_gives_one_line(tmp_path: Path, write_model: WriteModel) -> None:
    path = write_model(tmp_path / "odd.onnx")
    model = onnx.load(path)
    model.graph.node[0].op_type = "NoSuchOperator"
    save_resealed(model, path)
    with pytest.raises(EngineError, match=r"odd\.onnx: cannot be loaded: ") as raised:
        open_runner(path)
    assert "\n" not in str(raised.value)


def test_a_graph_that_gives_nothing_is_refused(tmp_path: Path, write_model: WriteModel) -> None:
    path = write_model(tmp_path / "odd.onnx")
    model = onnx.load(path)
    del model.graph.output[:]
    save_resealed(model, path)
    with pytest.raises(EngineError, match=r"odd\.onnx: .*(gives nothing|cannot be loaded)"):
        open_runner(path)


def save_resealed(model: onnx.ModelProto, path: Path) -> None:
    """Saves a changed graph with a manifest that knows the change."""
    said = Manifest.from_json(model.metadata_props[0].value, "it")
    del model.metadata_props[:]
    digest = graph_sha256(model.SerializeToString())
    helper.set_model_props(model, {METADATA_KEY: replace(said, graph_sha256=digest).to_json()})
    onnx.save(model, path)


def test_a_manifest_of_another_graph_is_refused(tmp_path: Path, write_model: WriteModel) -> None:
    path = write_model(tmp_path / "two.onnx", labels=("one", "two"))
    with pytest.raises(EngineError, match="its graph does not match its manifest"):
        open_runner(path)


def test_a_newer_manifest_is_refused(tmp_path: Path, write_model: WriteModel) -> None:
    path = write_model(tmp_path / "newer.onnx", schema=99)
    with pytest.raises(EngineError, match="schema 99, this version reads 1"):
        open_runner(path)


@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_a_truncated_model_gives_one_line(colour_model: Path, keep: int) -> None:
    colour_model.write_bytes(colour_model.read_bytes()[:keep])
    with pytest.raises(EngineError, match=r"colours\.onnx: not an ONNX file, or a damaged one") as raised:
        open_runner(colour_model)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "message"), [("absent.onnx", "no such file"), ("model.pth", "not a model that can be served")]
)
def test_what_is_no_model_gives_one_line(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        open_runner(tmp_path / name)
