"""Streaming graphs in onnxruntime: one frame at a time, and what is kept between frames where the next one reads it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from cpd.errors import EngineError
from cpd.manifest import NEXT, Manifest
from cpd_serve.runner import Frames, Logits, check_frames
from cpd_serve.runtimes.onnx import BATCH_MAX, ON_CUDA, SHORT_NAMES, OnnxRunner, reason

Caches = dict[str, NDArray[np.float32]]


class OnnxStreamRunner(OnnxRunner):
    """A graph that takes one frame and what it kept of those before, in onnxruntime."""

    def __init__(self, path: Path, manifest: Manifest, session: onnxruntime.InferenceSession, provider: str) -> None:
        """
        Raises:
            EngineError: the graph does not take and give what its manifest says.
        """
        self.path, self.manifest, self.provider, self._session = path, manifest, provider, session
        self._check("frame", manifest.clip.shape[1:])
        self._cache_shapes = {node.name: node.shape[1:] for node in session.get_inputs()[1:]}

    def predict(self, frames: Frames) -> Logits:
        """Clips from their first frame on; what ``push`` was given does not matter."""
        check_frames(frames, self.manifest)
        caches = self._empty(len(frames))
        for index in range(frames.shape[1]):
            logits, caches = self._step(frames[:, index], caches)
        return logits

    def memory(self) -> StreamMemory:
        """For a stream of its own, of which nothing was seen yet."""
        if self.provider == SHORT_NAMES["cpu"]:
            return StreamMemory(self._opened(), [self._empty(1), self._empty(1)], self.manifest)
        device = "cuda" if self.provider in ON_CUDA else "cpu"
        return DeviceMemory(self._opened(), self._empty(1), self.manifest, device)

    def push(self, memories: Sequence[StreamMemory], pixels: Sequence[NDArray[np.uint8]]) -> Logits:
        """Takes the next frame of each of some streams, all in one batch.

        Args:
            memories: of the streams, which must differ.
            pixels: of each, (height, width, 3) uint8.

        Returns:
            (streams, classes) for each stream up to here.

        Raises:
            ValueError: frames of another shape or type, or not one for each of different memories.
            EngineError: the runtime failed, or the model was closed.
        """
        self._opened()
        shape = self.manifest.clip.shape[1:]
        if not 0 < len(memories) == len(pixels) or len(set(map(id, memories))) < len(memories):
            raise ValueError("push takes one memory or more, each once, and a frame for each")
        if not all(frame.dtype == np.uint8 and frame.shape == shape for frame in pixels):
            raise ValueError(f"a frame must be {shape} uint8")
        if len(memories) == 1:
            try:
                return memories[0].step(pixels[0])
            except Exception as error:
                raise EngineError(f"{self.path}: failed on {self.provider}: {reason(error)}") from error
        before = [memory.caches for memory in memories]
        together = {name: np.concatenate([caches[name] for caches in before]) for name in self._cache_shapes}
        logits, kept = self._step(np.stack(pixels), together)
        for index, caches in enumerate(before):
            for name, values in kept.items():
                caches[name][0] = values[index]
        return logits

    def _step(self, frame: NDArray[np.uint8], caches: Caches) -> tuple[Logits, Caches]:
        given: dict[str, NDArray[Any]] = {"frame": frame, **caches}
        most = len(frame) if self.provider == SHORT_NAMES["cpu"] else BATCH_MAX
        parts = [
            self._run({name: values[start : start + most] for name, values in given.items()})
            for start in range(0, len(frame), most)
        ]
        logits, *kept = parts[0] if len(parts) == 1 else map(np.concatenate, zip(*parts, strict=True))
        return logits, dict(zip(caches, kept, strict=True))

    def _empty(self, batch: int) -> Caches:
        return {name: np.zeros((batch, *shape), np.float32) for name, shape in self._cache_shapes.items()}


class StreamMemory:
    """What a streaming graph keeps of one stream, in place: the graph reads one set of caches and writes the other.

    A frame alone then allocates and copies nothing but itself, a fifth of the time of a small model's step. On the CPU
    alone: for a device, what is bound is copied when it is bound, and not again before each run.
    """

    def __init__(self, session: onnxruntime.InferenceSession, sets: list[Caches], manifest: Manifest) -> None:
        """
        Args:
            session: the streaming graph.
            sets: two, of zeros.
            manifest: of the graph.
        """
        self._session, self._sets, self._current = session, sets, 0
        self._frame = np.empty((1, *manifest.clip.shape[1:]), np.uint8)
        self._logits = np.empty((1, len(manifest.labels)), np.float32)
        self._bindings: list[onnxruntime.IOBinding] = []

    @property
    def caches(self) -> Caches:
        """(1, ...) each, to be given with the next frame; may be written to."""
        return self._sets[self._current]

    def step(self, pixels: NDArray[np.uint8]) -> Logits:
        """(1, classes) after one more (height, width, 3) frame."""
        if not self._bindings:
            self._bindings = [self._bind(*self._sets), self._bind(*reversed(self._sets))]
        self._frame[0] = pixels
        self._session.run_with_iobinding(self._bindings[self._current])
        self._current = 1 - self._current
        return self._logits.copy()

    def clear(self) -> None:
        """Forgets the frames before: the next one begins another stream."""
        for values in self.caches.values():
            values.fill(0)

    def _bind(self, read: Caches, written: Caches) -> onnxruntime.IOBinding:
        binding = self._session.io_binding()
        inputs: dict[str, NDArray[Any]] = {"frame": self._frame, **read}
        outputs = {"logits": self._logits, **{NEXT + name: values for name, values in written.items()}}
        for name, values in inputs.items():
            binding.bind_input(name, "cpu", 0, values.dtype.type, values.shape, values.ctypes.data)
        for name, values in outputs.items():
            binding.bind_output(name, "cpu", 0, values.dtype.type, values.shape, values.ctypes.data)
        return binding


class DeviceMemory(StreamMemory):
    """What a streaming graph keeps of one stream on a device: it stays there while the stream's frames come alone."""

    def __init__(self, session: onnxruntime.InferenceSession, caches: Caches, manifest: Manifest, device: str) -> None:
        """
        Args:
            session: the streaming graph.
            caches: zeros.
            manifest: of the graph.
            device: onnxruntime's name of where they are to stay.
        """
        super().__init__(session, [caches], manifest)
        self._device = device
        self._kept: dict[str, onnxruntime.OrtValue] = {}
        """On the device; empty where the host's are the newer ones."""

    @property
    def caches(self) -> Caches:
        """(1, ...) each, copied from the device, to be given with the next frame; may be written to."""
        for name, value in self._kept.items():
            self._sets[0][name][...] = value.numpy()
        self._kept = {}
        return self._sets[0]

    def step(self, pixels: NDArray[np.uint8]) -> Logits:
        self._frame[0] = pixels
        onto = onnxruntime.OrtValue.ortvalue_from_numpy
        kept = self._kept or {name: onto(values, self._device) for name, values in self._sets[0].items()}
        binding = self._session.io_binding()
        binding.bind_cpu_input("frame", self._frame)
        binding.bind_output("logits", "cpu")
        for name, value in kept.items():
            binding.bind_ortvalue_input(name, value)
            binding.bind_output(NEXT + name, self._device)
        self._session.run_with_iobinding(binding)
        logits, *values = binding.get_outputs()
        self._kept = dict(zip(kept, values, strict=True))
        return np.array(logits.numpy())
