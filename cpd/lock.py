"""What each finished stage was made from and what it made: ``pipeline.lock``; and who holds a run folder.

A stage's key is the hash of everything its result depends on: configuration, files, package versions, machine. An
entry is written when a stage has finished, and holds only while every output is byte for byte what it was then. So
half-written outputs never count, and an attempt stopped before it replaced anything leaves the earlier result good.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import json
import math
import os
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cpd.errors import BusyError, CpdError, reason_of

LOCK_FILE = "pipeline.lock"
HOLDER_FILE = ".running"
SCHEMA = 2
OTHER_FOLDER = "choose another folder with --output"
DRAFT_LIFE_S = 86_400
"""A draft that nobody has written to for so long was left by a process that was killed."""


@dataclass(frozen=True, slots=True)
class Digest:
    """The content of a file or folder."""

    sha256: str
    stamp: str
    """Size and modification time; while these stay, the content is taken to be the same and is not read again."""


@dataclass(frozen=True, slots=True)
class Cause:
    """Everything that a stage's result depends on."""

    config: Mapping[str, Any]
    """Values of pipeline.yaml by dotted key."""
    versions: Mapping[str, str]
    """Package versions."""
    machine: Mapping[str, str]
    """Names of the hardware, where the result is a measurement of it."""
    files: Mapping[str, Digest]
    """By path: relative to the run folder inside it, absolute elsewhere."""

    def key(self, stage: str) -> str:
        """Hex SHA-256 that two runs share only if all of this is the same."""
        parts = {**asdict(self), "files": {name: digest.sha256 for name, digest in self.files.items()}}
        return hashlib.sha256(json.dumps([stage, parts], sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Entry:
    """A finished stage in pipeline.lock."""

    key: str
    cause: Cause
    outputs: dict[str, Digest]
    """By path relative to the run folder."""
    summary: str
    """What the stage said of itself, in one line."""
    duration_s: float
    finished: str
    """UTC time, ISO 8601."""

    def __post_init__(self) -> None:
        datetime.fromisoformat(self.finished)
        if not math.isfinite(self.duration_s):
            raise ValueError(f"duration_s is {self.duration_s}")


class Lock:
    """The entries of one run folder."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.damage = ""
        """Empty, or why an existing pipeline.lock was taken for none."""
        self.entries: dict[str, Entry] = {}
        try:
            self.entries = _entries(json.loads((run_dir / LOCK_FILE).read_text(encoding="utf-8")))
        except FileNotFoundError:
            pass
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            self.damage = f"{run_dir / LOCK_FILE} cannot be used ({type(error).__name__}: {error})"

    def digest(self, name: str) -> Digest:
        """The content of a file or folder, read only if its stamp is not one that is known.

        Raises:
            FileNotFoundError: it does not exist.
        """
        path = self.run_dir / name
        stamp = _stamp(path)
        for entry in self.entries.values():
            for known in (entry.outputs.get(name), entry.cause.files.get(name)):
                if known is not None and known.stamp == stamp:
                    return known
        return Digest(content_sha256(path), stamp)

    def staleness(self, stage: str, cause: Cause) -> list[str]:
        """Why a stage has to run; empty if what it made is still good."""
        entry = self.entries.get(stage)
        if entry is None:
            return ["not run yet"]
        causes = [] if entry.key == cause.key(stage) else [*_changes(entry.cause, cause)] or ["its key does not match"]
        return [*causes, *self._altered(entry.outputs)]

    def finish(self, stage: str, cause: Cause, outputs: Iterable[str], summary: str, duration_s: float) -> None:
        """Enters a finished stage; outputs of its earlier run that are none any more are deleted.

        Raises:
            FileNotFoundError: the stage did not write one of its outputs.
        """
        made = {name: self.digest(name) for name in outputs}
        earlier = self.entries.get(stage)
        for name in earlier.outputs.keys() - made.keys() if earlier else ():
            path = self.run_dir / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self.entries[stage] = Entry(cause.key(stage), cause, made, summary, round(duration_s, 2), now)
        self._write()

    def _altered(self, outputs: Mapping[str, Digest]) -> Iterator[str]:
        for name, digest in outputs.items():
            try:
                if self.digest(name).sha256 != digest.sha256:
                    yield f"{name} changed since"
            except FileNotFoundError:
                yield f"{name} is missing"

    def _write(self) -> None:
        stages = {stage: asdict(entry) for stage, entry in self.entries.items()}
        with atomic(self.run_dir / LOCK_FILE) as path:
            path.write_text(json.dumps({"schema": SCHEMA, "stages": stages}, indent=1) + "\n", encoding="utf-8")


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A neighbour of ``path`` to write into; it takes the place of ``path``, safe on disk, if the block ends well.

    Each writer has a draft of its own, so the last of several wins. Those that killed ones left are taken away.

    Raises:
        OSError: it cannot be written, or is a folder.
    """
    if not path.name:  # as . and / have none: no neighbour of theirs can be named
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    for left in path.parent.glob(f".{glob.escape(path.stem)}.*draft{glob.escape(path.suffix)}"):
        with suppress(FileNotFoundError):  # another writer was first
            if time.time() - left.stat().st_mtime > DRAFT_LIFE_S:
                left.unlink()
    draft = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.draft{path.suffix}")
    try:
        yield draft
        with draft.open("rb+") as file:
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Waits until no other process is in such a block for this folder, as far as its file system has locks."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextmanager
def hold(run_dir: Path) -> Iterator[None]:
    """Keeps other runs out of a run folder, which is made if need be. The kernel lets go if this process dies.

    Raises:
        BusyError: another process holds it.
        CpdError: it cannot be written to.
    """
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        holder_file = (run_dir / HOLDER_FILE).open("a+", encoding="utf-8")
    except OSError as error:
        reason = reason_of(error)
        raise CpdError(f"the run folder {run_dir} cannot be used: {reason}", OTHER_FOLDER) from error
    with holder_file as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise BusyError(f"{run_dir} is in use by {holder}", f"wait for it to end, or {OTHER_FOLDER}") from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {os.uname().nodename}\n")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def stat_digest(paths: Iterable[Path]) -> Digest:
    """One digest for many files too large to read: of their names, sizes and modification times."""
    listing = hashlib.sha256()
    for path in sorted(paths):
        try:
            stamp = _stamp(path)
        except OSError:
            stamp = "unreadable"
        listing.update(f"{path}\0{stamp}\0".encode())
    return Digest(listing.hexdigest(), "")


def _changes(before: Cause, now: Cause) -> Iterator[str]:
    for was, has in ((before.config, now.config), (before.versions, now.versions), (before.machine, now.machine)):
        for name in sorted(was.keys() | has.keys()):
            if was.get(name) != has.get(name) or (name in was) != (name in has):
                yield f"{name} was {_said(was, name)}, is {_said(has, name)}"
    for name in sorted(before.files.keys() | now.files.keys()):
        if name not in now.files:
            yield f"{name} is no longer read"
        elif name not in before.files:
            yield f"{name} is now read"
        elif before.files[name].sha256 != now.files[name].sha256:
            yield f"{name} changed since"


def _said(values: Mapping[str, Any], name: str) -> str:
    if name not in values:
        return "absent"
    return values[name] if isinstance(values[name], str) else json.dumps(values[name])


def _stamp(path: Path) -> str:
    if path.is_dir():
        listing = "\0".join(f"{file.relative_to(path)}\0{_stamp(file)}" for file in _files(path))
        return hashlib.sha256(listing.encode()).hexdigest()
    status = path.stat()
    return f"{status.st_size}:{status.st_mtime_ns}"


def content_sha256(path: Path) -> str:
    """Hex SHA-256 of a file, or of the names and contents of all files in a folder."""
    if path.is_dir():
        listing = "\0".join(f"{file.relative_to(path)}\0{content_sha256(file)}" for file in _files(path))
        return hashlib.sha256(listing.encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _entries(document: Any) -> dict[str, Entry]:
    """The inverse of what ``Lock`` writes."""
    if document["schema"] != SCHEMA:
        raise ValueError(f"schema {document['schema']!r}, this version reads {SCHEMA}")

    def digests(values: Any, inside: bool = False) -> dict[str, Digest]:
        if inside and any(Path(name).is_absolute() or ".." in Path(name).parts for name in values):
            raise ValueError("it names outputs outside the run folder")
        return {name: Digest(**digest) for name, digest in values.items()}

    return {
        stage: Entry(
            **{
                **entry,
                "outputs": digests(entry["outputs"], inside=True),
                "cause": Cause(**{**entry["cause"], "files": digests(entry["cause"]["files"])}),
            }
        )
        for stage, entry in document["stages"].items()
    }
