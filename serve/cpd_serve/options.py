"""What the commands' options may be, and how their errors are told."""

from __future__ import annotations

import math
import signal
import sys
from collections.abc import Sequence
from typing import Any

import click
from click.core import ParameterSource

from cpd.errors import CpdError, reason_of
from cpd.interruption import interruptible

MOST = 1e6
"""Of any number of seconds or megabytes: what waits for longer overflows the clocks it waits by."""


class Command(click.Command):
    """A command whose foreseen errors end in one line and an exit code; a bug keeps its traceback."""

    interrupted = "interrupted"
    """What Ctrl-C is answered with."""
    signals: Sequence[signal.Signals] = (signal.SIGINT,)
    """What interrupts it. SIGTERM, left alone, ends a process even where a decoder hangs."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with interruptible(self.signals):
                return super().invoke(ctx)
        except CpdError as error:
            click.echo(f"error: {printable(str(error))}", err=True)
            sys.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo(f"\n{self.interrupted}", err=True)
            sys.exit(130)
        except BrokenPipeError:
            raise
        except OSError as error:
            # a file that is written to by its number alone has no name here
            where = error.filename or "the answers cannot be written"
            click.echo(f"error: {printable(str(where))}: {reason_of(error)}", err=True)
            sys.exit(1)


class Amount(click.FloatRange):
    """A finite number in a range; click's own lets ``nan`` through."""

    def __init__(self, min: float = 0.0, min_open: bool = False) -> None:  # as click names it
        super().__init__(min=min, max=MOST, min_open=min_open)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value} is not a number", param, ctx)
        return number


POSITIVE = Amount(min_open=True)


def refuse_idle(ctx: click.Context, where: str, *names: str) -> None:
    """Refuses options that would do nothing, which a default does not.

    Args:
        ctx: of the command line.
        where: what they do nothing with or without.
        names: the parameters of the command's function.

    Raises:
        click.UsageError: some of them were given.
    """
    given = [
        param.opts[0]
        for param in ctx.command.params
        if param.name in names and ctx.get_parameter_source(param.name) is ParameterSource.COMMANDLINE
    ]
    if given:
        raise click.UsageError(f"{', '.join(given)} would do nothing {where}")


def check_engine(engine: str, provider: str | None) -> None:
    """
    Raises:
        click.UsageError: an empty name, as an unset variable leaves it.
    """
    if not engine:
        raise click.UsageError("--engine is empty")
    if provider == "":
        raise click.UsageError("--provider is empty")


def check_sources(sources: tuple[str, ...], stream: bool) -> None:
    """Refuses what a command line cannot mean.

    Raises:
        click.UsageError: none, an empty name, or a stream's address without --stream.
    """
    if not sources:
        raise click.UsageError("name a video: --video FILE")
    if not all(sources):
        raise click.UsageError("the name of a video is empty")
    if not stream and any("://" in source for source in sources):
        raise click.UsageError("the address of a stream needs --stream")


def printable(text: str) -> str:
    """In one line of any terminal: what is not printable, as a file's name may hold, is written as Python escapes."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
