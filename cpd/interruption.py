"""Ctrl-C and SIGTERM end a command, with its temporary files cleared away and whatever libraries do about it.

One that comes while a library is importing another may be swallowed, or become an error of the library's own: torch's
exporter looks for an exception in a module that is then only half there.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_came = False


@contextmanager
def interruptible(signals: Sequence[signal.Signals] = SIGNALS) -> Iterator[None]:
    """These raise KeyboardInterrupt here, and so does an error that follows one. For the main thread alone."""
    global _came  # a signal is the process's
    _came = False
    before = [signal.signal(number, _interrupt) for number in signals]
    try:
        yield
    except Exception:
        check()
        raise
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


def check() -> None:
    """Raises KeyboardInterrupt where one has come, and was swallowed."""
    if _came:
        raise KeyboardInterrupt


def _interrupt(*_: object) -> None:
    global _came
    _came = True
    raise KeyboardInterrupt
