"""The GPU's runners on a CUDA runtime that is imitated in host memory: what is copied when, and what is captured.

Streams and captures behave as the CUDA documentation says: work runs when the host waits for it, and a captured graph
does the same again from and to the same addresses. onnxruntime is real; TensorRT is an engine that adds up its input.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import importlib.util
import inspect
import json
import sys
from contextlib import nullcontext
from enum import Enum
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import onnxruntime
import pytest

from cpd.clip import ClipSpec
from cpd.errors import EngineError, EngineMismatchError
from cpd.manifest import EngineInfo, Manifest, engine_manifest_path
from cpd.onnx_file import manifest_of
from cpd_serve import commands
from cpd_serve.labelling import Question
from cpd_serve.runner import open_runner
from cpd_serve.runtimes import onnx as onnx_runner
from cpd_serve.runtimes import tensorrt as tensorrt_runner
from cpd_serve.runtimes.onnx import FP32
from cpd_serve.runtimes.placement import check_placement

CLIP = ClipSpec(frames=2, resize=5, crop=(3, 5))


class Error(Enum):
    cudaSuccess = 0  # noqa: N815
    cudaErrorMemoryAllocation = 2  # noqa: N815
    cudaErrorInsufficientDriver = 35  # noqa: N815
    cudaErrorStreamCaptureInvalidated = 901  # noqa: N815


class Kind(Enum):
    cudaMemcpyHostToDevice = 1  # noqa: N815
    cudaMemcpyDeviceToHost = 2  # noqa: N815


class Mode(Enum):
    cudaStreamCaptureModeThreadLocal = 1  # noqa: N815


class Cuda(ModuleType):
    """cuda.bindings.runtime with one stream."""

    cudaError_t, cudaMemcpyKind, cudaStreamCaptureMode, cudaStreamNonBlocking = Error, Kind, Mode, 1  # noqa: N815

    def __init__(self) -> None:
        super().__init__("cuda.bindings.runtime")
        self.memory: dict[int, ctypes.Array] = {}
        self.streams = 0
        self.fail: dict[str, Error] = {}
        self.spared: dict[str, int] = {}
        """Calls that still succeed before they fail."""
        self.waiting: list = []
        self.capture: list | None = None
        self.graphs: list[list] = []
        self.launched: list[int] = []

    def _does(self, work) -> None:
        (self.waiting if self.capture is None else self.capture).append(work)

    def _alloc(self, name: str, size: int):
        if name in self.fail and not self.spared.get(name):
            return self.fail[name], None
        self.spared[name] = self.spared.get(name, 0) - 1
        block = (ctypes.c_uint8 * size)()
        self.memory[ctypes.addressof(block)] = block
        return Error.cudaSuccess, ctypes.addressof(block)

    def cudaMalloc(self, size):  # noqa: N802
        return self._alloc("cudaMalloc", size)

    def cudaMallocHost(self, size):  # noqa: N802
        return self._alloc("cudaMallocHost", size)

    def cudaFree(self, ptr):  # noqa: N802
        del self.memory[ptr]
        return (Error.cudaSuccess,)

    cudaFreeHost = cudaFree  # noqa: N815

    def cudaSetDevice(self, device):  # noqa: N802
        return (self.fail.get("cudaSetDevice", Error.cudaSuccess),)

    def cudaGetDeviceProperties(self, device):  # noqa: N802
        return Error.cudaSuccess, SimpleNamespace(name=b"NVIDIA X", major=8, minor=9)

    def cudaGetErrorString(self, error):  # noqa: N802
        return Error.cudaSuccess, error.name.encode()

    def cudaStreamCreateWithFlags(self, flags):  # noqa: N802
        self.streams += 1
        return Error.cudaSuccess, 7

    def cudaStreamDestroy(self, stream):  # noqa: N802
        assert stream == 7
        self.streams -= 1
        return (Error.cudaSuccess,)

    def cudaMemcpyAsync(self, dst, src, count, kind, stream):  # noqa: N802
        self._does(lambda: ctypes.memmove(dst, src, count))
        return (Error.cudaSuccess,)

    def cudaStreamSynchronize(self, stream):  # noqa: N802
        assert self.capture is None, "a stream that is captured cannot be waited for"
        for work in self.waiting:
            work()
        self.waiting.clear()
        return (Error.cudaSuccess,)

    def cudaStreamBeginCapture(self, stream, mode):  # noqa: N802
        self.capture = []
        return (Error.cudaSuccess,)

    def cudaStreamEndCapture(self, stream):  # noqa: N802
        captured, self.capture = self.capture, None
        if "cudaStreamEndCapture" in self.fail:
            return self.fail["cudaStreamEndCapture"], None
        return Error.cudaSuccess, captured

    def cudaGraphInstantiate(self, graph, flags):  # noqa: N802
        self.graphs.append(graph)
        return Error.cudaSuccess, len(self.graphs) - 1

    def cudaGraphDestroy(self, graph):  # noqa: N802
        return (Error.cudaSuccess,)

    def cudaGraphExecDestroy(self, graphExec):  # noqa: N802, N803
        self.graphs[graphExec] = []
        return (Error.cudaSuccess,)

    def cudaGraphLaunch(self, graphExec, stream):  # noqa: N802, N803
        self.launched.append(graphExec)
        self.waiting += self.graphs[graphExec]
        return (Error.cudaSuccess,)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    """A GPU, as far as cpd_serve sees one."""
    runtime, bindings, package = Cuda(), ModuleType("cuda.bindings"), ModuleType("cuda")
    bindings.runtime = runtime
    package.bindings = bindings
    for module in (package, bindings, runtime):
        module.__spec__ = ModuleSpec(module.__name__, None)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    for name in ("cpd_serve.runtimes.cuda_buffers", "cpd_serve.runtimes.onnx_cuda"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    for module in (tensorrt_runner, onnx_runner):
        monkeypatch.setattr(module, "driver_present", lambda: True)
    yield runtime
    for name in ("cpd_serve.runtimes.cuda_buffers", "cpd_serve.runtimes.onnx_cuda"):
        sys.modules.pop(name, None)


def buffers(cuda: Cuda, input_bytes: int = 8, output_bytes: int = 8):
    return importlib.import_module("cpd_serve.runtimes.cuda_buffers").CudaBuffers(input_bytes, output_bytes)


def test_values_reach_the_device_and_come_back(cuda: Cuda) -> None:
    made = buffers(cuda)
    made.put(np.arange(6, dtype=np.uint8).reshape(2, 3))
    made.upload(6)
    cuda._does(lambda: ctypes.memmove(made.output_address, made.input_address, 4))
    made.download(4)
    assert made.get((1, 1)).tobytes() == bytes([0, 1, 2, 3])
    made.close()
    assert not cuda.memory
    assert cuda.streams == 0


@pytest.mark.parametrize("spared", [0, 1])
@pytest.mark.parametrize("function", ["cudaMalloc", "cudaMallocHost"])
def test_too_little_memory_half_way_leaves_nothing_behind(cuda: Cuda, function: str, spared: int) -> None:
    cuda.fail[function], cuda.spared[function] = Error.cudaErrorMemoryAllocation, spared
    with pytest.raises(EngineError, match=f"{function}: cudaErrorMemoryAllocation"):
        buffers(cuda)
    assert (cuda.memory, cuda.streams) == ({}, 0)


def test_a_graph_reads_what_was_put_since_it_was_captured(cuda: Cuda) -> None:
    made = buffers(cuda)

    def work() -> None:
        made.upload(4)
        cuda._does(lambda: ctypes.memmove(made.output_address, made.input_address, 4))
        made.download(4)

    graph = made.captured(work)
    assert cuda.waiting == [], "capturing runs nothing"
    for value in (1.5, -2.0):
        made.put(np.array([value], np.float32).view(np.uint8))
        made.launch(graph)
        assert made.get((1,)) == value


def test_what_cannot_be_captured_leaves_the_stream_usable(cuda: Cuda) -> None:
    made = buffers(cuda)

    def work() -> None:
        raise EngineError("no")

    with pytest.raises(EngineError, match="no"):
        made.captured(work)
    assert cuda.capture is None
    cuda.fail["cudaStreamEndCapture"] = Error.cudaErrorStreamCaptureInvalidated
    with pytest.raises(EngineError, match="cudaErrorStreamCaptureInvalidated"):
        made.captured(lambda: None)


@pytest.mark.parametrize(
    ("function", "error", "remedy"),
    [
        ("cudaMalloc", Error.cudaErrorMemoryAllocation, "lower export.max_batch"),
        ("cudaSetDevice", Error.cudaErrorInsufficientDriver, "update the NVIDIA driver"),
    ],
)
def test_too_little_memory_and_too_old_a_driver_say_what_to_do(cuda: Cuda, function, error, remedy) -> None:
    cuda.fail[function] = error
    module = importlib.import_module("cpd_serve.runtimes.cuda_buffers")

    def begin() -> None:
        module.first_device()
        module.CudaBuffers(8, 8)

    with pytest.raises(EngineError, match=error.name) as raised:
        begin()
    assert remedy in raised.value.remedy


def test_what_is_called_is_what_cuda_python_has() -> None:
    real = pytest.importorskip("cuda.bindings.runtime")
    for name, method in vars(Cuda).items():
        if inspect.isfunction(method) and name.startswith("cuda"):
            said = getattr(real, name).__doc__.partition(")")[0].partition("(")[2]
            assert len([part for part in said.split(",") if part]) == len(inspect.signature(method).parameters) - 1, (
                name
            )
    for name, enumeration in vars(Cuda).items():
        if isinstance(enumeration, type):
            assert {member.name for member in enumeration} <= set(dir(getattr(real, name)))


# onnxruntime


@pytest.fixture
def on_host(cuda: Cuda, colour_model: Path):
    """The real graph between the imitated buffers, which onnxruntime is told to be memory of the CPU."""
    module = importlib.import_module("cpd_serve.runtimes.onnx_cuda")
    data = colour_model.read_bytes()
    manifest = manifest_of(data, "it")
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    sizes = module.BATCH_MAX * int(np.prod(manifest.clip.shape)), module.BATCH_MAX * len(manifest.labels) * 4
    with module.OnnxDeviceRunner(
        colour_model, manifest, session, "CPUExecutionProvider", buffers(cuda, *sizes), "cpu"
    ) as runner:
        yield runner
    assert not cuda.memory


@pytest.mark.parametrize("clips", [1, 3, 16, 17, 35])
def test_onnxruntime_answers_from_bound_memory_as_from_arrays(on_host, colour_model: Path, clips: int) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (clips, *on_host.manifest.clip.shape), dtype=np.uint8)
    with open_runner(colour_model, "cpu") as plain:
        for given in (frames, frames[::-1]):  # the second is not contiguous, and finds the memory used
            np.testing.assert_array_equal(on_host.predict(given), plain.predict(np.ascontiguousarray(given)))


@pytest.mark.parametrize(
    ("workers", "videos", "warned"), [(2, 2, True), (2, 1, False), (1, 2, False), (None, 2, False)]
)
def test_workers_that_cannot_be_processes_say_so(
    on_host, write_video, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    workers: int | None, videos: int, warned: bool,
) -> None:  # fmt: skip
    red = np.full((5, 32, 48, 3), (240, 0, 0), np.uint8)
    names = [str(write_video(red, name=f"{number}.avi")) for number in range(videos)]
    on_host.provider = "CUDAExecutionProvider"
    monkeypatch.setattr(commands, "usable_cpus", lambda: 2)
    monkeypatch.setattr(commands, "open_engine", lambda *_, **__: nullcontext(on_host))
    assert commands.label("it.onnx", names, "cuda", False, Question(top_k=1), workers, None, True, False) == 0
    said = capsys.readouterr()
    assert [json.loads(line)["predictions"][0]["label"] for line in said.out.splitlines()] == ["red"] * videos
    line = (
        "warning: --workers are threads, since a model on CUDAExecutionProvider cannot have processes of its own here: "
        "a video that crashes or hangs its decoder stops the others too\n"
    )
    assert said.err == (line if warned else "")


def test_a_closed_graph_predicts_nothing(on_host) -> None:
    frames = np.zeros((1, *on_host.manifest.clip.shape), np.uint8)
    on_host.predict(frames)
    on_host.close()
    with pytest.raises(EngineError, match="was closed"):
        on_host.predict(frames)


def providers_asked(
    monkeypatch: pytest.MonkeyPatch, provider: str, refuse: str = "", placed: dict[str, int] | None = None
) -> list:
    """What onnxruntime is asked for; it then runs on the CPU, and says that it does not.

    ``placed`` is how many operators it says are on which provider; by default all three on the one asked for.
    """
    asked: list = []
    real = onnxruntime.InferenceSession

    def session(data, options, providers, enable_fallback):
        assert not enable_fallback
        asked.append(providers)
        if refuse and "enable_cuda_graph" in providers[0][1]:
            raise RuntimeError(refuse)
        made = real(data, options, providers=["CPUExecutionProvider"])
        if providers[0][0] == "CPUExecutionProvider":
            return made
        monkeypatch.setattr(made, "get_providers", lambda: [name for name, _ in providers])
        told = made.get_provider_graph_assignment_info()  # which is an error where it was not asked to be recorded
        counts = placed or {provider: len(told)}
        parts = [
            SimpleNamespace(ep_name=name, get_nodes=lambda count=count: [None] * count)
            for name, count in counts.items()
        ]
        monkeypatch.setattr(made, "get_provider_graph_assignment_info", lambda: parts)
        return made

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [provider, "CPUExecutionProvider"])
    return asked


def test_cuda_is_asked_for_graphs(cuda: Cuda, colour_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = providers_asked(monkeypatch, "CUDAExecutionProvider")
    with open_runner(colour_model, "cuda") as runner:
        assert runner.provider == "CUDAExecutionProvider"
    assert asked == [[("CUDAExecutionProvider", {"enable_cuda_graph": "1", **FP32}), ("CPUExecutionProvider", {})]]


def test_a_provider_that_runs_nothing_is_an_error(
    cuda: Cuda, colour_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    providers_asked(monkeypatch, "CUDAExecutionProvider", placed={"CPUExecutionProvider": 3})
    with pytest.raises(EngineError, match=r"CUDAExecutionProvider runs none of its operators \(3 on CPU") as raised:
        open_runner(colour_model, "cuda")
    assert raised.value.remedy == "use --provider cpu"
    assert (cuda.memory, cuda.streams) == ({}, 0)


@pytest.mark.parametrize(("here", "warned"), [(1, True), (2, False)])
def test_a_graph_that_mostly_runs_elsewhere_says_so(
    cuda: Cuda, colour_model: Path, monkeypatch: pytest.MonkeyPatch, here: int, warned: bool
) -> None:
    placed = {"CUDAExecutionProvider": here, "CPUExecutionProvider": 3 - here}
    providers_asked(monkeypatch, "CUDAExecutionProvider", placed=placed)
    told = "CUDAExecutionProvider runs 1 of its operators, and 2 on CPUExecutionProvider"
    with pytest.warns(UserWarning, match=told) if warned else nullcontext():
        open_runner(colour_model, "cuda").close()


FULL = (
    "/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_call.cc:129 std::conditional_t<THRW, void, Status> "
    "onnxruntime::CudaCall(ERRTYPE, const char *) [with ERRTYPE = cudaError] CUDA failure 2: out of memory ; GPU=0 ; "
    "hostname=a ; file=/onnxruntime_src/cuda_execution_provider.cc ; line=280 ; expr=cudaMalloc(&p, size); "
)


def test_a_provider_that_cannot_start_is_an_error_and_the_cpu_does_not_take_its_place(
    cuda: Cuda, stream_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real, make = onnxruntime.InferenceSession, onnxruntime.InferenceSession._create_inference_session

    def create(session, providers, *others) -> None:
        if providers != ["CPUExecutionProvider"]:
            session._fallback_providers = ["CPUExecutionProvider"]
            raise RuntimeError(FULL)
        make(session, providers, *others)

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(real, "_create_inference_session", create)
    with pytest.raises(EngineError, match=r"cannot be loaded: CUDA failure 2: out of memory \(see nvidia-smi"):
        open_runner(stream_model, "cuda")
    assert capsys.readouterr().out == "", "where the answers go"


def test_a_real_provider_that_takes_nothing_is_found_out(colour_model: Path) -> None:
    name = "AzureExecutionProvider"
    if name not in onnxruntime.get_available_providers():
        pytest.skip(f"this onnxruntime has no {name}")
    with pytest.raises(EngineError, match=f"{name} runs none of its operators"):
        onnx_runner.open_session(colour_model, colour_model.read_bytes(), 1, {name: {}, "CPUExecutionProvider": {}})


def test_an_onnxruntime_that_cannot_tell_is_believed(colour_model: Path) -> None:
    check_placement(colour_model, object(), "CUDAExecutionProvider")


def test_a_model_that_cannot_be_captured_runs_without_and_says_so(
    cuda: Cuda, colour_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusal = "This session cannot use the graph capture feature as requested by the user as nodes are elsewhere"
    asked = providers_asked(monkeypatch, "CUDAExecutionProvider", refuse=refusal)
    with pytest.warns(UserWarning, match="runs without CUDA graphs: .*nodes are elsewhere"):
        open_runner(colour_model, "cuda").close()
    assert [providers[0][1] for providers in asked] == [{"enable_cuda_graph": "1", **FP32}, FP32]


def test_libraries_that_are_missing_are_named(cuda: Cuda, colour_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: print("Failed to load libcublas.so.13\nand more"))
    with pytest.warns(UserWarning, match="CUDAExecutionProvider"), pytest.raises(EngineError) as raised:
        open_runner(colour_model, "cuda")
    assert "could not be started on this machine: Failed to load libcublas.so.13" in raised.value.args[0]
    assert "onnxruntime-gpu[cuda,cudnn]" in raised.value.remedy


@pytest.mark.parametrize("refuse", ["", "Please install TensorRT libraries as mentioned in the GPU requirements page"])
def test_another_tensorrt_than_onnxruntime_was_built_for_is_named(
    in_tensorrt: list, colour_model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, refuse: str
) -> None:
    library = tmp_path / "capi/libonnxruntime_providers_tensorrt.so"
    library.parent.mkdir()
    library.touch()
    lacks, load = "libnvinfer.so.10: cannot open shared object file: No such file or directory", ctypes.CDLL
    working = onnxruntime.InferenceSession

    def loaded(name: str, *others):
        if name == str(library):
            raise OSError(lacks)
        return load(name, *others)

    def session(data, options, providers, enable_fallback):
        if refuse:
            raise RuntimeError(refuse)
        made = working(data, options, providers, enable_fallback)
        monkeypatch.setattr(made, "get_providers", lambda: ["CPUExecutionProvider"])
        return made

    monkeypatch.setattr(ctypes, "CDLL", loaded)
    monkeypatch.setattr(onnxruntime, "__file__", str(tmp_path / "__init__.py"))
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    with pytest.raises(EngineError) as raised:
        open_runner(colour_model, "tensorrt")
    assert raised.value.args[0].endswith(f"TensorrtExecutionProvider could not be started on this machine: {lacks}")
    assert raised.value.remedy.startswith("pip install 'tensorrt==10.*', which this onnxruntime was built for")


def test_any_other_refusal_is_an_error(cuda: Cuda, colour_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    providers_asked(monkeypatch, "CUDAExecutionProvider", refuse="no kernel image for this GPU")
    with pytest.raises(EngineError, match="cannot be loaded: no kernel image for this GPU"):
        open_runner(colour_model, "cuda")


def test_a_graph_that_is_not_what_its_manifest_says_leaves_nothing_on_the_gpu(
    cuda: Cuda, write_model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_model(tmp_path / "two.onnx", labels=("red", "blue"))  # its graph has three
    providers_asked(monkeypatch, "CUDAExecutionProvider")
    with pytest.raises(EngineError, match="logits"):
        open_runner(model, "cuda")
    assert (cuda.memory, cuda.streams) == ({}, 0)


@pytest.fixture
def in_tensorrt(cuda: Cuda, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list:
    """What onnxruntime is asked for, with TensorRT 10.3.0 and a folder for caches."""
    package = ModuleType("tensorrt")
    package.__spec__, package.__version__ = ModuleSpec("tensorrt", None), "10.3.0"
    monkeypatch.setitem(sys.modules, "tensorrt", package)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    return providers_asked(monkeypatch, "TensorrtExecutionProvider")


def cached_under(tmp_path: Path, model: Path) -> Path:
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    name = f"{digest}-onnxruntime{onnxruntime.__version__}-tensorrt10.3.0"
    return tmp_path / "caches" / "cpd" / "tensorrt" / name


def test_tensorrt_in_onnxruntime_builds_one_engine_for_all_batches_and_keeps_it(
    in_tensorrt: list, colour_model: Path, tmp_path: Path
) -> None:
    with open_runner(colour_model, "tensorrt") as runner:
        shape = "x".join(map(str, runner.manifest.clip.shape))
    folder = cached_under(tmp_path, colour_model)
    assert folder.stat().st_mode & 0o777 == 0o700, "engines are code, which others must not put there"
    assert in_tensorrt == [
        [
            (
                "TensorrtExecutionProvider",
                {f"trt_profile_{name}_shapes": f"frames:{batch}x{shape}"
                 for name, batch in (("min", 1), ("opt", 1), ("max", 16))}
                | {f"trt_{kind}_cache_enable": "1" for kind in ("engine", "timing")}
                | {f"trt_{kind}_cache_path": str(folder) for kind in ("engine", "timing")},
            ),
            ("CUDAExecutionProvider", FP32),
            ("CPUExecutionProvider", {}),
        ]
    ]  # fmt: skip


def test_a_streaming_graph_in_tensorrt_has_a_range_for_every_input(in_tensorrt: list, stream_model: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (35, 32, 32, 3), dtype=np.uint8)
    with open_runner(stream_model, "tensorrt") as runner, open_runner(stream_model, "cpu") as plain:
        assert runner.provider == "TensorrtExecutionProvider"
        pair = [[one.memory() for _ in frames] for one in (runner, plain)]
        for _ in range(2):
            given, wanted = runner.push(pair[0], list(frames)), plain.push(pair[1], list(frames))
            np.testing.assert_allclose(given, wanted, rtol=1e-6)
    providers = dict(in_tensorrt[1])
    assert list(providers) == ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    assert providers["CUDAExecutionProvider"] == FP32
    options = providers["TensorrtExecutionProvider"]
    for name, batch in (("min", 1), ("opt", 1), ("max", 16)):
        assert options[f"trt_profile_{name}_shapes"] == f"frame:{batch}x32x32x3,past:{batch}x3"


def test_no_batch_is_larger_than_the_range(
    in_tensorrt: list, stream_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_runner(stream_model, "tensorrt") as runner:
        batches, real = [], runner._session.run
        monkeypatch.setattr(
            runner._session, "run", lambda names, given: batches.append(len(given["frame"])) or real(names, given)
        )
        runner.push([runner.memory() for _ in range(35)], [np.zeros((32, 32, 3), np.uint8)] * 35)
    assert batches == [16, 16, 3]


@pytest.mark.parametrize("obstacle", ["a file", "no version", "no home", "read-only"])
def test_where_nothing_can_be_kept_the_engine_is_built_all_the_same(
    in_tensorrt: list, colour_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, obstacle: str
) -> None:
    if obstacle == "a file":
        (tmp_path / "caches").write_text("")
    elif obstacle == "no version":  # TensorRT of the system, without its Python module
        monkeypatch.delitem(sys.modules, "tensorrt")
        if importlib.util.find_spec("tensorrt"):
            pytest.skip("TensorRT is installed")
    elif obstacle == "no home":
        monkeypatch.delenv("XDG_CACHE_HOME")

        def homeless() -> Path:
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr(Path, "home", homeless)
    else:
        monkeypatch.setattr("os.access", lambda path, mode: False)
    open_runner(colour_model, "tensorrt").close()
    ((_, options), *_) = in_tensorrt[0]
    assert [name for name in options if "cache" in name] == []


def test_a_cache_that_is_named_by_a_relative_path_is_not_believed(
    in_tensorrt: list, colour_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "caches")  # which the XDG specification has ignored
    open_runner(colour_model, "tensorrt").close()
    ((_, options), *_) = in_tensorrt[0]
    assert Path(options["trt_engine_cache_path"]).parent == tmp_path / ".cache" / "cpd" / "tensorrt"


def test_an_engine_that_was_kept_and_cannot_be_read_is_built_again(
    in_tensorrt: list, colour_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, working = cached_under(tmp_path, colour_model), onnxruntime.InferenceSession

    def session(data, options, providers, enable_fallback):
        if any(folder.iterdir()):
            raise RuntimeError("TensorRT EP could not deserialize engine from cache")
        return working(data, options, providers, enable_fallback)

    folder.mkdir(parents=True)
    (folder / "half.engine").write_bytes(b"half")
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    open_runner(colour_model, "tensorrt").close()
    assert (len(in_tensorrt), list(folder.iterdir())) == (1, [])


def test_what_fails_without_anything_kept_is_tried_once(
    in_tensorrt: list, colour_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []

    def session(data, options, providers, enable_fallback):
        tries.append(providers)
        raise RuntimeError("no kernel image for this GPU")

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    with pytest.raises(EngineError, match="cannot be loaded: no kernel image for this GPU"):
        open_runner(colour_model, "tensorrt")
    assert len(tries) == 1


def test_without_cuda_python_it_is_asked_for(colour_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    providers_asked(monkeypatch, "CUDAExecutionProvider")
    monkeypatch.setattr(onnx_runner, "driver_present", lambda: True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EngineError, match=r"needs cuda-python, which is not installed \(pip install cuda-python\)"):
        open_runner(colour_model, "cuda")


# TensorRT


class Context:
    """Of an engine whose logits are the sum of a clip, and that times two."""

    def __init__(self, cuda: Cuda, config: object = None) -> None:
        self.cuda, self.config, self.addresses, self.shapes, self.fails = cuda, config, {}, [], False

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes.append(shape)
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == 7
        batch, size = self.shapes[-1][0], int(np.prod(self.shapes[-1][1:]))
        frames, logits = self.addresses["frames"], self.addresses["logits"]

        def work() -> None:
            given = np.ctypeslib.as_array((ctypes.c_uint8 * (batch * size)).from_address(frames)).reshape(batch, size)
            answer = np.ctypeslib.as_array((ctypes.c_float * (batch * 2)).from_address(logits)).reshape(batch, 2)
            answer[...] = given.sum(1, dtype=np.float32)[:, None] * [1, 2]

        self.cuda._does(work)
        return True


@pytest.fixture
def trt(cuda: Cuda, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """tensorrt, with engines for up to 4 clips; ``contexts`` are those that were made."""
    module = ModuleType("tensorrt")
    module.__spec__, module.__version__, module.contexts = ModuleSpec("tensorrt", None), "10.3.0", []

    def context(config: object = None) -> Context:
        module.contexts.append(Context(cuda, config))
        return module.contexts[-1]

    tensors = {"frames": ("INPUT", "UINT8", (-1, *CLIP.shape)), "logits": ("OUTPUT", "FLOAT", (-1, 2))}
    engine = SimpleNamespace(
        create_execution_context=context,
        create_runtime_config=SimpleNamespace,
        get_tensor_profile_shape=lambda name, index: [(1,), (1,), (4,)],
        tensors=tensors,
        num_io_tensors=2,
        get_tensor_name=lambda index: list(tensors)[index],
        get_tensor_mode=lambda name: SimpleNamespace(name=tensors[name][0]),
        get_tensor_dtype=lambda name: SimpleNamespace(name=tensors[name][1]),
        get_tensor_shape=lambda name: tensors[name][2],
    )
    module.ILogger = type("ILogger", (), {"Severity": SimpleNamespace(ERROR=1, INTERNAL_ERROR=0)})
    module.Runtime = lambda log: SimpleNamespace(deserialize_cuda_engine=lambda data: engine)
    module.built = engine
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    return module


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    path = tmp_path / "student.trt"
    path.write_bytes(b"engine")
    sha256 = hashlib.sha256(b"engine").hexdigest()
    info = EngineInfo("tensorrt", "10.3.0", "NVIDIA X, compute capability 8.9", "student.onnx", "0" * 64, sha256, {})
    manifest = Manifest("student", "tsm-tiny", ("a", "b"), CLIP, "fp32", 18, "0" * 64, "0" * 64, engine=info)
    engine_manifest_path(path).write_text(manifest.to_json())
    return path


def frames_of(clips: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (clips, *CLIP.shape), dtype=np.uint8)


def sums(frames: np.ndarray) -> np.ndarray:
    return frames.sum((1, 2, 3, 4), dtype=np.float32)[:, None] * np.array([1, 2], np.float32)


@pytest.mark.parametrize(("clips", "graphs"), [(1, 1), (2, 0), (4, 1), (5, 2), (11, 2)])
def test_batches_of_one_and_the_most_are_one_launch(cuda, trt, engine: Path, clips: int, graphs: int) -> None:
    with open_runner(engine) as runner:
        for seed in (0, 1):
            cuda.launched.clear()
            frames = frames_of(clips, seed)
            np.testing.assert_array_equal(runner.predict(frames), sums(frames))
            assert len(cuda.launched) == graphs
    assert not cuda.memory
    assert cuda.graphs == [[], []], "both are freed"


def test_a_context_that_was_captured_does_nothing_else(cuda, trt, engine: Path) -> None:
    with open_runner(engine) as runner:
        for clips in (1, 2, 3, 4):
            runner.predict(frames_of(clips))
    batches = [{shape[0] for shape in context.shapes} for context in trt.contexts]
    assert sorted(batches, key=len) == [{1}, {4}, {2, 3}] or sorted(batches, key=len) == [{4}, {1}, {2, 3}]


def test_an_engine_that_cannot_be_captured_runs_without_and_says_so(cuda, trt, engine: Path) -> None:
    cuda.fail["cudaStreamEndCapture"] = Error.cudaErrorStreamCaptureInvalidated
    with pytest.warns(UserWarning, match="batches of . without a CUDA graph: .*Invalidated"):
        runner = open_runner(engine)
    np.testing.assert_array_equal(runner.predict(frames_of(5)), sums(frames_of(5)))
    assert cuda.launched == []


def test_an_engine_that_fails_half_way_leaves_nothing_on_the_gpu(
    cuda, trt, engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Context, "execute_async_v3", lambda self, stream: self.shapes[-1][0] == 1)  # the second fails
    with pytest.raises(EngineError, match="failed on NVIDIA X"):
        open_runner(engine)
    assert (cuda.memory, cuda.streams) == ({}, 0)
    assert cuda.graphs == [[]], "the first batch's is freed"


def test_an_engine_without_memory_for_a_context_is_one_error(cuda, trt, engine: Path) -> None:
    trt.built.create_execution_context = lambda: None
    with pytest.raises(EngineError, match="cannot be run on NVIDIA X") as raised:
        open_runner(engine)
    assert "free memory" in raised.value.remedy
    assert (cuda.memory, cuda.streams) == ({}, 0)


def test_an_engine_is_read_once_and_proven_before_it_is_deserialised(
    cuda, trt, engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = []
    monkeypatch.setattr(trt, "Runtime", lambda log: SimpleNamespace(deserialize_cuda_engine=loads.append))
    real, reads = Path.read_bytes, []

    def swapped_after_reading(path: Path) -> bytes:
        reads.append(path)
        data = real(path)
        path.write_bytes(b"another")
        return data

    monkeypatch.setattr(Path, "read_bytes", swapped_after_reading)
    with pytest.raises(EngineError, match="cannot be loaded"):
        open_runner(engine)
    assert (loads, reads) == ([b"engine"], [engine]), "what was proven is what is loaded"
    with pytest.raises(EngineError, match="SHA-256 differs"):
        open_runner(engine)
    assert loads == [b"engine"]


@pytest.mark.parametrize(
    "others",
    [
        {"logits": ("OUTPUT", "FLOAT", (-1, 3))},  # would write beyond the memory for two labels
        {"logits": ("OUTPUT", "HALF", (-1, 2))},
        {"logits": ("OUTPUT", "FLOAT", (8, 2))},
        {"frames": ("INPUT", "UINT8", (-1, 8, *CLIP.shape[1:]))},
        {"frames": ("INPUT", "FLOAT", (-1, *CLIP.shape))},
        {"frames": ("OUTPUT", "UINT8", (-1, *CLIP.shape))},
        {"features": ("OUTPUT", "FLOAT", (-1, 64))},
    ],
)
def test_an_engine_that_is_not_what_its_manifest_says_gets_no_memory(cuda, trt, engine: Path, others) -> None:
    trt.built.tensors.update(others)
    trt.built.num_io_tensors = len(trt.built.tensors)
    with pytest.raises(EngineMismatchError, match=r"does not match its manifest: has .*says .*FLOAT"):
        open_runner(engine)
    assert (cuda.memory, cuda.streams, trt.contexts) == ({}, 0, [])


def test_an_engine_for_batches_of_one_size_fits(cuda, trt, engine: Path) -> None:
    trt.built.tensors.update(frames=("INPUT", "UINT8", (4, *CLIP.shape)), logits=("OUTPUT", "FLOAT", (4, 2)))
    with open_runner(engine) as runner:
        np.testing.assert_array_equal(runner.predict(frames_of(4)), sums(frames_of(4)))


def test_what_is_asked_of_an_engine_is_what_tensorrt_answers(trt) -> None:
    real = pytest.importorskip("tensorrt_rtx")
    for name in vars(trt.built).keys() - {"tensors"}:
        assert hasattr(real.ICudaEngine, name)
    for mode, kind, _ in trt.built.tensors.values():
        assert getattr(real.TensorIOMode, mode).name == mode
        assert getattr(real.DataType, kind).name == kind


def test_a_batch_that_tensorrt_refuses_is_an_error(cuda, trt, engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_runner(engine) as runner:
        monkeypatch.setattr(Context, "set_input_shape", lambda self, name, shape: self.shapes.append(shape) is not None)
        with pytest.raises(EngineError, match="failed on NVIDIA X"):
            runner.predict(frames_of(2))


def test_a_closed_engine_predicts_nothing(cuda, trt, engine: Path) -> None:
    runner = open_runner(engine)
    runner.close()
    runner.close()
    for clips in (1, 2):
        with pytest.raises(EngineError, match=r"student\.trt: was closed"):
            runner.predict(frames_of(clips))
    assert not cuda.memory


def test_tensorrt_for_rtx_captures_by_itself(cuda, trt, engine: Path) -> None:
    trt.CudaGraphStrategy = SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole")
    with open_runner(engine) as runner:
        np.testing.assert_array_equal(runner.predict(frames_of(1)), sums(frames_of(1)))
    (context,) = trt.contexts
    assert context.config.cuda_graph_strategy == "whole"
    assert cuda.graphs == []
