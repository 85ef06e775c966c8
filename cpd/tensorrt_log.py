"""What building and running engines share: TensorRT's complaints, kept for an error message."""

from __future__ import annotations

from typing import Any


def keep_errors(trt: Any) -> Any:
    """A TensorRT logger that keeps its last error as ``last``, for the exception, instead of printing.

    Args:
        trt: tensorrt, tensorrt_lean or tensorrt_rtx, imported by the caller.
    """

    class Log(trt.ILogger):  # type: ignore[misc]  # TensorRT is not typed
        def __init__(self) -> None:
            super().__init__()
            self.last = ""

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.last = " ".join(message.split())

    return Log()
