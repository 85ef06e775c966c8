"""Worker processes end with the process that started them, also in the middle of a decoder that hangs."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """Asks Linux to kill this process when its parent has gone, however that went; elsewhere nothing is asked.

    Without it a worker would notice only when it next looks for something to do.
    """
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it went in between
            os._exit(1)
