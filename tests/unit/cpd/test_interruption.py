"""What comes after an interruption."""

import contextlib
import os
import signal

import pytest

from cpd.interruption import check, interruptible


def test_an_interruption_that_was_swallowed_is_found_and_ends_with_its_command():
    with interruptible():
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            check()
    with interruptible():
        check()
