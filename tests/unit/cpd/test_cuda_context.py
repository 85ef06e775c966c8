"""One CUDA context for all videos, on a driver that is imitated; that NVDEC decodes in it is tested under tests/gpu."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cpd import container, cuda_context
from cpd.errors import VideoError

CONTEXT = 0x7F00_1234_5678
"""A pointer that does not fit into the int which ctypes takes arguments for."""


class Driver:
    """libcuda, as far as it is called; ``current`` are the threads' contexts, ``modes`` how they mind captures."""

    def __init__(self) -> None:
        self.retained, self.fails = 0, ""
        self.current: dict[int, int | None] = {}
        self.modes: dict[int, int] = {}

    def _said(self, name: str) -> int:
        return 999 if name == self.fails else 0

    def cuInit(self, flags: int) -> int:  # noqa: N802
        return self._said("cuInit")

    def cuDeviceGet(self, device: Any, ordinal: int) -> int:  # noqa: N802
        return self._said("cuDeviceGet")

    def cuDevicePrimaryCtxRetain(self, context: Any, device: ctypes.c_int) -> int:  # noqa: N802
        self.retained += 1
        context._obj.value = CONTEXT
        return self._said("cuDevicePrimaryCtxRetain")

    def cuCtxSetCurrent(self, context: ctypes.c_void_p) -> int:  # noqa: N802
        self.current[threading.get_ident()] = context.value
        return self._said("cuCtxSetCurrent")

    def cuThreadExchangeStreamCaptureMode(self, mode: Any) -> int:  # noqa: N802
        self.modes[threading.get_ident()] = mode._obj.value
        return self._said("cuThreadExchangeStreamCaptureMode")


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Driver]:
    made = Driver()
    monkeypatch.setattr(cuda_context.ctypes, "CDLL", lambda name: made)
    cuda_context._retained.cache_clear()
    yield made
    cuda_context._retained.cache_clear()


def test_every_thread_that_opens_a_video_is_in_the_one_primary_context(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "it.mp4").write_bytes(b"x")
    seen = []

    def opened(name: str, hwaccel: Any, **_: Any) -> None:
        seen.append((driver.current[threading.get_ident()], hwaccel.options))
        raise ValueError("enough")

    def read() -> None:
        with pytest.raises(VideoError, match="with NVDEC: enough"), container.open_file(tmp_path / "it.mp4", "nvdec"):
            pass

    monkeypatch.setattr(container.av, "open", opened)
    read()
    other = threading.Thread(target=read)
    other.start()
    other.join()
    assert seen == [(CONTEXT, {"current_ctx": "1"})] * 2
    assert driver.retained == 1
    assert list(driver.modes.values()) == [1, 1], "neither minds the other's, or the model's, captures"


@pytest.mark.parametrize(
    "function",
    ["cuInit", "cuDeviceGet", "cuDevicePrimaryCtxRetain", "cuCtxSetCurrent", "cuThreadExchangeStreamCaptureMode"],
)
def test_what_the_driver_refuses_is_said(driver: Driver, tmp_path: Path, function: str) -> None:
    driver.fails = function
    (tmp_path / "it.mp4").write_bytes(b"x")
    message = f"with NVDEC: {function}: CUDA error 999, see nvidia-smi"
    with pytest.raises(VideoError, match=message), container.open_file(tmp_path / "it.mp4", "nvdec"):
        pass
