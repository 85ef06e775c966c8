"""The onnxruntime adapter of the export room: runs a graph that is still in memory, as any user's onnxruntime would."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from cpd.errors import ExportError

FATAL_ONLY = 4
"""onnxruntime prints errors to stderr besides raising them; what is raised is enough."""
PROVIDER = "CPUExecutionProvider"


class OnnxSession:
    """A graph on the CPU."""

    def __init__(self, model: bytes, name: str, threads: int = 0, signed: bool = False) -> None:
        """Loads a graph.

        Args:
            model: a serialised ONNX model.
            name: what to call it in an error.
            threads: that compute; 0 for one on each core.
            signed: leaves Q/DQ pairs in int8, which onnxruntime makes uint8 on x86: the same numbers, but from opset
                21 on a pair that it also moves through a reshape or slice is then not loaded.

        Raises:
            ExportError: onnxruntime refuses it.
        """
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = FATAL_ONLY
        # Waiting threads that spin take the CPU from the session measured in turns with this one.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if signed:
            options.add_session_config_entry("session.qdqisint8allowed", "1")
        self._name = name
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=[PROVIDER])
        except Exception as error:  # onnxruntime's exceptions share no parent of their own
            raise ExportError(f"{name}: onnxruntime does not load it: {_reason(error)}") from error

    @property
    def metadata(self) -> dict[str, str]:
        """The model's metadata properties."""
        return dict(self._session.get_modelmeta().custom_metadata_map)

    @property
    def signature(self) -> list[tuple[str, str, list[int | str]]]:
        """(name, type, shape) of each input and then of each output."""
        nodes = (*self._session.get_inputs(), *self._session.get_outputs())
        return [(node.name, node.type, node.shape) for node in nodes]

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Every output, in the graph's order.

        Raises:
            ExportError: onnxruntime fails.
        """
        try:
            return list(self._session.run(None, dict(inputs)))
        except Exception as error:
            raise ExportError(f"{self._name}: fails in onnxruntime: {_reason(error)}") from error

    def in_place(self, inputs: Mapping[str, NDArray[Any]]) -> Callable[[], None]:
        """A run that reads these arrays and writes arrays of its own, each time the same: as a stream is served.

        Args:
            inputs: every input, with a batch of one.
        """
        binding, value = self._session.io_binding(), onnxruntime.OrtValue
        for name, values in inputs.items():
            binding.bind_ortvalue_input(name, value.ortvalue_from_numpy(values))
        for node in self._session.get_outputs():
            binding.bind_ortvalue_output(
                node.name, value.ortvalue_from_shape_and_type([1, *node.shape[1:]], np.float32)
            )
        return partial(self._session.run_with_iobinding, binding)

    def logits(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(batch, frames, height, width, 3) uint8 -> (batch, classes) float32."""
        return self.run({"frames": frames})[0]


def _reason(error: Exception) -> str:
    """onnxruntime's message in one line, without its codes."""
    return " ".join(str(error).rsplit(" : ", 1)[-1].split())
