"""The onnxruntime adapter."""

from __future__ import annotations

import contextlib
import ctypes
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from cpd.errors import EngineError, install
from cpd.manifest import NEXT, Manifest
from cpd.onnx_file import manifest_of, read_onnx
from cpd.threads import threads_for, usable_cpus
from cpd_serve.cuda_driver import driver_present
from cpd_serve.runner import Frames, Logits, check_frames
from cpd_serve.runtimes.placement import RECORD, check_placement

SHORT_NAMES = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
ON_CUDA = (SHORT_NAMES["cuda"], SHORT_NAMES["tensorrt"])
FP32 = {"use_tf32": "0"}
"""For CUDA's provider: a graph that says fp32 shall be fp32, as in the engines of TensorRT."""
BATCH_MAX = 16
"""Clips, or frames of as many streams, that go to a GPU at once; more go one batch after the other."""
FATAL_ONLY = 4
"""onnxruntime prints errors to stderr besides raising them; what is raised is enough."""


def load(path: Path, provider: str | None = None, threads: int | None = None) -> OnnxRunner:
    """Loads an ONNX file; see ``cpd_serve.runner.open_runner``."""
    provider = choose_provider(provider)
    data = read_onnx(path)
    manifest = manifest_of(data, str(path))
    if provider in ON_CUDA and not manifest.streaming:
        from cpd_serve.runtimes.onnx_cuda import load_on_device

        return load_on_device(path, data, manifest, provider, threads)
    threads = threads or threads_for(manifest.flops // (manifest.clip.frames if manifest.streaming else 1))
    if provider == SHORT_NAMES["tensorrt"]:
        from cpd_serve.runtimes.onnx_tensorrt import open_tensorrt

        inputs = open_session(path, data, threads, {SHORT_NAMES["cpu"]: {}}).get_inputs()
        session = open_tensorrt(path, data, threads, {node.name: tuple(node.shape[1:]) for node in inputs})
    else:
        providers = {provider: FP32 if provider == SHORT_NAMES["cuda"] else {}}
        if provider in SHORT_NAMES.values():
            providers.setdefault(SHORT_NAMES["cpu"], {})
        session = open_session(path, data, threads, providers)
    if not manifest.streaming:
        return OnnxRunner(path, manifest, session, provider)
    from cpd_serve.runtimes.onnx_stream import OnnxStreamRunner

    return OnnxStreamRunner(path, manifest, session, provider)


def open_session(
    path: Path, data: bytes, threads: int | None, providers: Mapping[str, Mapping[str, str]]
) -> onnxruntime.InferenceSession:
    """A session that uses the first provider, from memory: what is loaded is what was checked.

    Args:
        path: of the file, for messages.
        data: its content.
        threads: see ``session_options``.
        providers: each with its options; what one leaves goes to the next. Without the CPU's, none may leave anything.

    Raises:
        EngineError: onnxruntime refuses the file, or the provider cannot be used on this machine or runs none of it.
    """
    provider = next(iter(providers))
    missing = preload() if provider in ON_CUDA else ""
    options, remedy = session_options(threads), "export it again"
    if provider in ON_CUDA:
        remedy = "see nvidia-smi, or use --provider cpu"
    if SHORT_NAMES["cpu"] not in providers:  # one that is listed may yet leave all of a graph to the CPU, unsaid
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        remedy = "use --provider cpu"
    if provider != SHORT_NAMES["cpu"]:
        options.add_session_config_entry(RECORD, "1")
    listed = [(name, dict(settings)) for name, settings in providers.items()]
    try:  # where a provider cannot start, onnxruntime would print that and go on without it
        session = onnxruntime.InferenceSession(data, options, providers=listed, enable_fallback=0)
    except Exception as error:  # onnxruntime's exceptions share no parent of their own
        if why := unloaded(provider):
            raise not_started(path, provider, why) from error
        raise EngineError(f"{path}: cannot be loaded: {reason(error)}", remedy) from error
    if provider not in session.get_providers():
        raise not_started(path, provider, missing or unloaded(provider))
    if provider != SHORT_NAMES["cpu"]:
        check_placement(path, session, provider)
    return session


def preload() -> str:
    """Loads the CUDA libraries that pip installed, where onnxruntime does not look by itself; says what is missing."""
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        onnxruntime.preload_dlls()
    return told.getvalue().partition("\n")[0]


def unloaded(provider: str) -> str:
    """What the system's loader says of a provider's library, which onnxruntime only prints; empty if it loads."""
    name = provider.removesuffix("ExecutionProvider").lower()
    try:
        for library in Path(onnxruntime.__file__).parent.glob(f"capi/libonnxruntime_providers_{name}.so"):
            ctypes.CDLL(str(library))
    except OSError as error:
        return str(error)
    return ""


def not_started(path: Path, provider: str, why: str) -> EngineError:
    """The error for a provider that is installed and is not in use."""
    remedy = "pip install 'onnxruntime-gpu[cuda,cudnn]'" if provider in ON_CUDA else "mend its set-up"
    if of_tensorrt := re.match(r"libnvinfer\.so\.(\d+)", why):
        remedy = f"pip install 'tensorrt=={of_tensorrt[1]}.*', which this onnxruntime was built for"
    told = f": {why}" if why else ""
    return EngineError(
        f"{path}: {provider} could not be started on this machine{told}", f"{remedy}, or use --provider cpu"
    )


class OnnxRunner:
    """A graph that takes whole clips, in onnxruntime."""

    runtime = "onnxruntime"

    def __init__(self, path: Path, manifest: Manifest, session: onnxruntime.InferenceSession, provider: str) -> None:
        """
        Raises:
            EngineError: the graph does not take and give what its manifest says.
        """
        self.path, self.manifest, self.provider, self._session = path, manifest, provider, session
        self._check("frames", manifest.clip.shape)

    def predict(self, frames: Frames) -> Logits:
        check_frames(frames, self.manifest)
        (logits,) = self._run({"frames": frames})
        return logits

    def close(self) -> None:
        self._session = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _opened(self) -> onnxruntime.InferenceSession:
        """Raises EngineError after ``close``."""
        if self._session is None:
            raise EngineError(f"{self.path}: was closed")
        return self._session

    def _run(self, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[np.float32]]:
        session = self._opened()
        try:
            return session.run(None, inputs)  # type: ignore[no-any-return]  # onnxruntime is not typed
        except Exception as error:
            raise EngineError(f"{self.path}: failed on {self.provider}: {reason(error)}") from error

    def _check(self, name: str, shape: tuple[int, ...]) -> None:
        """Compares the first input and output, and pairs the rest, which are caches.

        Raises:
            EngineError: the graph is another than its manifest describes.
        """
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if not inputs or not outputs:
            raise EngineError(f"{self.path}: its graph takes nothing or gives nothing", "export it again")
        (first, *caches), (logits, *kept) = inputs, outputs
        good = (
            (first.name, first.type, fits(first.shape, shape)) == (name, "tensor(uint8)", True)
            and fits(logits.shape, (len(self.manifest.labels),))
            and (logits.name, logits.type) == ("logits", "tensor(float)")
            and [node.name for node in kept] == [NEXT + node.name for node in caches]
            and self.manifest.streaming == bool(caches)
        )
        if not good:
            found = [(node.name, node.type, node.shape) for node in (first, *caches, logits, *kept)]
            raise EngineError(f"{self.path}: its graph does not match its manifest: {found}", "export it again")


def fits(found: Sequence[int | str | None], wanted: tuple[int, ...]) -> bool:
    """Whether a tensor takes a batch of this shape; sizes that are names may be any."""
    return len(found) == len(wanted) + 1 and all(
        size == want or not isinstance(size, int) for size, want in zip(found[1:], wanted, strict=True)
    )


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
        remedy = "use --provider cpu"
        if full in ON_CUDA:  # onnxruntime-gpu is that module, too
            remedy = f"in a virtual environment of its own: {install('serve-cuda')}"
        raise EngineError(f"onnxruntime has no {full} here, only {', '.join(available)}", remedy)
    if full in ON_CUDA and not driver_present():
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


def reason(error: Exception) -> str:
    """onnxruntime's message in one line, without its codes; of an error of CUDA's, without the line of its source."""
    told = " ".join(str(error).rsplit(" : ", 1)[-1].split())
    failure = re.search(r"\w+ failure \d+: .*?(?= ; GPU=)", told)
    return failure[0] if failure else told
