"""The onnxruntime adapter."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

import onnxruntime

from cpd.errors import EngineError
from cpd.onnx_file import manifest_of
from cpd_serve.cuda_driver import driver_present
from cpd_serve.runner import Frames, Logits, check_frames, usable_cpus

SHORT_NAMES = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
FATAL_ONLY = 4
"""onnxruntime prints errors to stderr besides raising them; what is raised is enough."""


class OnnxRunner:
    """An ONNX file in onnxruntime."""

    runtime = "onnxruntime"

    def __init__(self, path: Path, provider: str | None = None, threads: int | None = None) -> None:
        """Loads the file; see ``cpd_serve.runner.open_runner``."""
        self.path = path
        self.provider = choose_provider(provider)
        wanted = [self.provider] if self.provider == SHORT_NAMES["cpu"] else [self.provider, SHORT_NAMES["cpu"]]
        data = path.read_bytes()
        self.manifest = manifest_of(data, str(path))
        try:  # from memory: what is loaded is what was checked
            self._session = onnxruntime.InferenceSession(data, session_options(threads), providers=wanted)
        except Exception as error:  # onnxruntime's exceptions share no parent of their own
            raise EngineError(f"{path}: cannot be loaded: {_reason(error)}", "export it again") from error
        if self.provider not in self._session.get_providers():
            raise EngineError(
                f"{path}: {self.provider} could not be started on this machine",
                "mend its set-up, or use --provider cpu",
            )
        self._session.disable_fallback()
        self._check_signature()

    def predict(self, frames: Frames) -> Logits:
        check_frames(frames, self.manifest)
        try:
            (logits,) = self._session.run(["logits"], {"frames": frames})
        except Exception as error:
            raise EngineError(f"{self.path}: failed on {self.provider}: {_reason(error)}") from error
        return logits  # type: ignore[no-any-return]  # onnxruntime is not typed

    def close(self) -> None:
        self._session = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_signature(self) -> None:
        """The graph must take and give what its manifest says.

        Raises:
            EngineError: it does not.
        """
        (inputs, outputs) = self._session.get_inputs(), self._session.get_outputs()
        found = [(node.name, node.type, node.shape[1:]) for node in (*inputs, *outputs)]
        want = [
            ("frames", "tensor(uint8)", list(self.manifest.clip.shape)),
            ("logits", "tensor(float)", [len(self.manifest.labels)]),
        ]
        same = len(found) == len(want) and all(
            (name, kind) == (want_name, want_kind)
            and len(sizes) == len(want_sizes)
            and all(
                size == want_size or not isinstance(size, int)
                for size, want_size in zip(sizes, want_sizes, strict=True)
            )
            for (name, kind, sizes), (want_name, want_kind, want_sizes) in zip(found, want, strict=True)
        )
        if not same:
            raise EngineError(f"{self.path}: its graph does not match its manifest: {found}", "export it again")


def choose_provider(name: str | None) -> str:
    """The full name of the provider asked for, or of the best one here.

    Raises:
        EngineError: the installed onnxruntime does not have it, or it needs a driver that is not here.
    """
    available = onnxruntime.get_available_providers()
    cpu, cuda = SHORT_NAMES["cpu"], SHORT_NAMES["cuda"]
    if name is None:
        return cuda if cuda in available and driver_present() else cpu
    full = SHORT_NAMES.get(name.lower(), name)
    if full not in available:
        remedy = "pip install 'cpd[serve-cuda]'" if full in (cuda, SHORT_NAMES["tensorrt"]) else ""
        raise EngineError(f"onnxruntime has no {full} here, only {', '.join(available)}", remedy)
    if full != cpu and full in SHORT_NAMES.values() and not driver_present():
        raise EngineError(f"{full} needs an NVIDIA driver, and there is none on this machine", "use --provider cpu")
    return full


def session_options(threads: int | None) -> onnxruntime.SessionOptions:
    """As many threads as there are CPUs to run on, none of which spins.

    onnxruntime's waiting threads spin by default. With frames coming from a decoder on the same CPUs that doubled the
    CPU time of a prediction (9.7 -> 26 ms on two cores) and made it slower, so they sleep. The number of threads is
    given, since onnxruntime's own default ignores CPU limits and pins its threads to cores.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or usable_cpus()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = FATAL_ONLY
    return options


def _reason(error: Exception) -> str:
    """onnxruntime's message in one line, without its codes."""
    return " ".join(str(error).rsplit(" : ", 1)[-1].split())
