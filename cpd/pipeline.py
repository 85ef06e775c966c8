"""Runs stages in order: skips one whose lock entry still holds and says so, runs one that is stale and says why."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

import cpd
from cpd.errors import CpdError
from cpd.interruption import check
from cpd.lock import OTHER_FOLDER, Cause, Digest, Lock, hold, stat_digest
from cpd.versions import installed

if TYPE_CHECKING:
    from cpd.config import Pipeline

INDIFFERENT = ("data.cache_gb", "distill.cache_gb")
"""Settings that change how fast a result is reached, never the result."""

SHOWN_REASONS = 3


@dataclass(frozen=True, slots=True)
class Stage:
    """One step from video to verdict, and everything that its result depends on."""

    name: str
    run: Callable[[Pipeline, Path], str]
    """Does the work in the run folder and sums it up in one line."""
    config: tuple[str, ...]
    """Dotted keys of pipeline.yaml; a section stands for all in it."""
    inputs: Callable[[Pipeline, Path], Iterable[str]]
    """Files and folders it reads: relative to the run folder inside it, absolute elsewhere."""
    outputs: Callable[[Pipeline, Path], Iterable[str]]
    """Files and folders it has written, relative to the run folder; asked after it ran."""
    packages: tuple[str, ...] = ()
    """Distributions whose version may change the result."""
    sources: Callable[[Pipeline], Iterable[Path]] = lambda _: ()
    """Files it reads that are too large to hash; their size and modification time stand for them."""
    machine: Callable[[Pipeline], Mapping[str, str]] = lambda _: {}
    """Hardware that the result is a measurement of."""


@dataclass(frozen=True, slots=True)
class Status:
    """Where one stage stands."""

    name: str
    state: Literal["done", "stale", "missing"]
    detail: str
    """What it made, or why it has to run."""


def run_stages(
    stages: Sequence[Stage], config: Pipeline, until: str | None = None, force: Collection[str] = ()
) -> None:
    """Brings the run folder up to date.

    Args:
        stages: in the order of their dependencies.
        config: the run.
        until: name of the last stage to look at; default all.
        force: names of stages to run even if what they made is still good.

    Raises:
        CpdError: a stage failed, the folder is in use, or the disk is full.
    """
    run_dir = config.run_dir
    with _explained(run_dir), hold(run_dir):
        lock = _lock_of(run_dir)
        for stage in stages:
            cause = _cause(stage, config, lock)
            reasons = lock.staleness(stage.name, cause)
            if reasons or stage.name in force:
                _line(stage.name, "running", _joined(reasons or ["forced"]), err=True)
                _run_stage(stage, config, cause, lock)
            else:
                made = datetime.fromisoformat(lock.entries[stage.name].finished).astimezone()
                why = f"still good: settings, inputs and versions are those of {made:%Y-%m-%d %H:%M}"
                _line(stage.name, "skipped", why)
            if stage.name == until:
                break


def status_of(stages: Sequence[Stage], config: Pipeline) -> list[Status]:
    """Where each stage stands, without changing anything."""
    lock = _lock_of(config.run_dir)
    found: list[Status] = []
    unsettled: set[str] = set()
    for stage in stages:
        entry = lock.entries.get(stage.name)
        cause = _cause(stage, config, lock)
        reasons = lock.staleness(stage.name, cause)
        waits_for = sorted(unsettled & set(cause.files))
        if entry is None:
            found.append(Status(stage.name, "missing", ""))
        elif reasons:
            found.append(Status(stage.name, "stale", _joined(reasons)))
        elif waits_for:
            found.append(Status(stage.name, "stale", f"{waits_for[0]} is about to be made again"))
        else:
            found.append(Status(stage.name, "done", f"{entry.summary} ({_duration(entry.duration_s)})"))
        if entry is not None and found[-1].state == "stale":
            unsettled |= set(entry.outputs)
    return found


def _lock_of(run_dir: Path) -> Lock:
    lock = Lock(run_dir)
    if lock.damage:
        click.echo(f"warning: {lock.damage}; every stage runs again", err=True)
    return lock


def _run_stage(stage: Stage, config: Pipeline, cause: Cause, lock: Lock) -> None:
    started_s = time.monotonic()
    summary = stage.run(config, lock.run_dir)
    check()
    duration_s = time.monotonic() - started_s
    lock.finish(stage.name, cause, stage.outputs(config, lock.run_dir), summary, duration_s)
    _line(stage.name, "done", f"{summary} ({_duration(duration_s)})")


def _cause(stage: Stage, config: Pipeline, lock: Lock) -> Cause:
    settings = {
        key: value
        for key, value in _flat(config.model_dump(mode="json", by_alias=True))
        if key not in INDIFFERENT and any(key == part or key.startswith(f"{part}.") for part in stage.config)
    }
    files = {name: _digest(name, lock) for name in stage.inputs(config, lock.run_dir)}
    sources = list(stage.sources(config))
    if sources:
        files["the source clips"] = stat_digest(sources)
    versions = {"cpd": cpd.__version__, **dict.fromkeys(stage.packages, "not installed"), **installed(stage.packages)}
    return Cause(settings, versions, dict(stage.machine(config)), files)


def _digest(name: str, lock: Lock) -> Digest:
    """An input that is not there is a content of its own: the stage that misses it says what to do."""
    try:
        return lock.digest(name)
    except FileNotFoundError:
        return Digest("absent", "")


def _flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and their values."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


@contextmanager
def _explained(run_dir: Path) -> Iterator[None]:
    """Turns what a full disk does to any library, and a limit on the size of a file, into one line."""
    try:
        yield
    except CpdError:
        raise
    except Exception as error:
        code = error.errno if isinstance(error, OSError) else None
        # safetensors, torch and FFmpeg raise errors of their own, with the system's text in them.
        if code in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error):
            remedy = "free some space and run again: finished stages are kept"
            raise CpdError(f"the disk of {run_dir} is full", remedy) from error
        if code == errno.EFBIG:
            remedy = f"raise ulimit -f, or {OTHER_FOLDER}"
            raise CpdError(f"a file of {run_dir} would be larger than one may be here", remedy) from error
        raise


def _joined(reasons: Sequence[str]) -> str:
    more = len(reasons) - SHOWN_REASONS
    return "; ".join(reasons[:SHOWN_REASONS]) + (f"; and {more} more" if more > 0 else "")


def _duration(duration_s: float) -> str:
    minutes, seconds = divmod(round(duration_s), 60)
    return f"{minutes} min {seconds} s" if minutes else f"{duration_s:.1f} s"


def _line(name: str, state: str, text: str, err: bool = False) -> None:
    click.echo(f"{name:<10}{state:<9}{text}", err=err)
