"""What a streaming graph keeps on a device, which is the CPU here: any provider's but the CPU's own is served so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from cpd.onnx_file import manifest_of
from cpd_serve.runner import open_runner
from cpd_serve.runtimes.onnx_stream import DeviceMemory, OnnxStreamRunner


@pytest.fixture
def on_device(stream_model: Path) -> OnnxStreamRunner:
    data = stream_model.read_bytes()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return OnnxStreamRunner(stream_model, manifest_of(data, "it"), session, "SomeExecutionProvider")


def test_streams_on_a_device_answer_as_on_the_cpu_alone_and_together(
    on_device: OnnxStreamRunner, stream_model: Path
) -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (40, 3, 32, 32, 3), dtype=np.uint8)
    sizes = []
    with open_runner(stream_model, "cpu") as plain:
        kept, wanted = ([runner.memory() for _ in range(3)] for runner in (on_device, plain))
        assert all(isinstance(memory, DeviceMemory) for memory in kept)
        for pixels in frames:
            ready = [number for number in range(3) if rng.random() < 0.4]
            sizes.append(len(ready))
            if not ready:  # a stream that begins anew
                kept[0].clear()
                wanted[0].clear()
                continue
            given = list(pixels[: len(ready)])
            np.testing.assert_allclose(
                on_device.push([kept[number] for number in ready], given),
                plain.push([wanted[number] for number in ready], given),
                rtol=1e-6,
            )
    assert {0, 1, 2, 3} == set(sizes), "alone, together and anew, in every order"


def test_what_a_lone_stream_keeps_stays_on_the_device(
    on_device: OnnxStreamRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[int, ...]] = []
    real = onnxruntime.OrtValue.ortvalue_from_numpy
    monkeypatch.setattr(
        onnxruntime.OrtValue,
        "ortvalue_from_numpy",
        lambda values, device: sent.append((values.shape, device)) or real(values, device),
    )
    memory, frame = on_device.memory(), np.full((32, 32, 3), 64, np.uint8)
    answers = [on_device.push([memory], [frame]) for _ in range(3)]
    assert sent == [((1, 3), "cpu")], "zeros, before the first frame"
    assert [answer.tolist() for answer in answers] == [[[value] * 3] for value in (32.0, 48.0, 56.0)]
    np.testing.assert_array_equal(memory.caches["past"], answers[-1])


def test_a_gpu_s_provider_keeps_it_on_the_gpu(on_device: OnnxStreamRunner) -> None:
    for provider in ("CUDAExecutionProvider", "TensorrtExecutionProvider"):
        on_device.provider = provider
        assert on_device.memory()._device == "cuda"
