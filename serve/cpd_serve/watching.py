"""What ``cpd-serve --stream`` does once its options are read."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import click

from cpd.container import Decoder
from cpd.errors import CpdError
from cpd.interruption import interruptible
from cpd.onnx_file import read_onnx_manifest
from cpd_serve.cuda_driver import check_decoder
from cpd_serve.inputs import expand
from cpd_serve.options import printable
from cpd_serve.rebuilding import open_engine
from cpd_serve.runner import Runner
from cpd_serve.sources import LOCAL, Back, Ended, Lost, Source, TimedFrame, is_live, open_sources
from cpd_serve.streaming import ByFrame, ByWindow, Labelled, Labeller

TWIN = ".stream.onnx"
"""How the export stage names the streaming graph beside ``student.onnx``."""
MOST_STREAMS = 64
"""At once: each has a decoder, a thread and some open files."""


@dataclass(frozen=True, slots=True)
class Manner:
    """How streams are looked at."""

    window_s: float = 2.0
    """Seconds of video that an answer looks at."""
    stride_s: float = 0.5
    """Seconds from one answer to the next of a sliding window."""
    smoothing_s: float = 0.5
    """See ``cpd_serve.streaming.Smoother``."""
    patience_s: float = 300.0
    """How long a network stream that broke off may stay away."""
    decoder: Decoder = "cpu"


@interruptible()  # both ways of stopping end with the summary
def watch(engine: str, names: Sequence[str], provider: str | None, rebuild: bool, manner: Manner) -> int:
    """Labels streams with one model until all have ended or it is interrupted, and prints JSON lines.

    Each stream has a ``start``, a ``label`` for every change, ``lost`` and ``back`` when its connection breaks, and an
    ``end``; ``video`` says which stream.

    Returns:
        The exit code: 1 where a stream could not be opened or broke off.

    Raises:
        CpdError: the model cannot be loaded, or the decoder is not here.
    """
    check_decoder(manner.decoder)
    path = streaming_twin(Path(engine))
    with open_engine(path, provider, may_rebuild=rebuild) as runner:
        labeller = labeller_of(runner, manner)
        with open_sources(played(names), runner.manifest.clip, manner.patience_s, manner.decoder) as sources:
            watched: dict[Source, Watched] = {}
            reason = ""
            try:
                for source in sources.all:
                    watched[source] = Watched(source, labeller)
                    emit("start", video=source.name, engine=str(runner.path), runtime=runner.runtime,
                         provider=runner.provider, by="frame" if runner.manifest.streaming else "window",
                         window_s=manner.window_s, stride_s=manner.stride_s)  # fmt: skip
                for taken in sources.rounds():
                    frames = [(watched[source].stream, item) for source, item in taken if isinstance(item, TimedFrame)]
                    changes = dict(labeller.push(frames))
                    for source, item in taken:
                        watched[source].tell(item, changes)
            except KeyboardInterrupt:
                reason = "interrupted"
            except CpdError as error:  # the model's: no stream can go on
                reason = str(error)
            for one in watched.values():
                if not one.ended:
                    one.end(reason)
    return int(any(one.failed for one in watched.values()))


class Watched:
    """One stream and what is printed of it."""

    def __init__(self, source: Source, labeller: Labeller[Any]) -> None:
        self.stream: Labelled[Any] = labeller.add()
        self.ended = self.failed = False
        self._source, self._labeller = source, labeller
        self._start_s, self._time_s = perf_counter(), 0.0

    def tell(self, item: TimedFrame | Lost | Back | Ended, changes: dict[Labelled[Any], Any]) -> None:
        """Prints what has happened, if anything."""
        if isinstance(item, TimedFrame):
            self._time_s = item.time_s
            if self.stream in changes:
                self._emit("label", **asdict(changes[self.stream]))
        elif isinstance(item, Ended):
            change = self._labeller.finish(self.stream, self._time_s)
            if change:
                self._emit("label", **asdict(change))
            self.end(item.reason)
        else:
            self._emit("lost" if isinstance(item, Lost) else "back", **item._asdict())

    def end(self, reason: str) -> None:
        """Prints the summary, and on stderr what went wrong."""
        self.ended, self.failed = True, reason not in ("", "interrupted")
        if self.failed:
            click.echo(f"error: {printable(reason)}", err=True)
        elapsed_s = perf_counter() - self._start_s
        self._emit("end", reason=reason, frames=self._source.frames, dropped=self._source.dropped,
                   reconnects=self._source.reconnects, answers=self.stream.answers, seconds=elapsed_s,
                   fps=self.stream.frames / elapsed_s, sustainable_fps=self._sustainable_fps())  # fmt: skip

    def _sustainable_fps(self) -> float:
        """What the slower of two threads keeps up with: its decoder, or the model beside all streams that share it."""
        source, stream = self._source, self.stream
        work = (source.frames, source.busy_s), (stream.frames, self._labeller.busy_s)
        return min((frames / busy_s for frames, busy_s in work if busy_s), default=0.0)

    def _emit(self, event: str, **values: object) -> None:
        emit(event, video=self._source.name, **values)


def played(names: Sequence[str]) -> list[str]:
    """The streams that are meant: of a folder or a glob the videos, at once; an address is taken as it is.

    Raises:
        CpdError: more than ``MOST_STREAMS``.
    """
    found = [
        video
        for name in names
        for video in ([name] if is_live(name) or name.startswith(LOCAL) else map(str, expand([name])))
    ]
    if len(found) > MOST_STREAMS:
        raise CpdError(
            f"{len(found)} streams at once are more than {MOST_STREAMS}", "name fewer, or label files without --stream"
        )
    return found


def streaming_twin(path: Path) -> Path:
    """The streaming graph beside a model of whole clips, if it is of the same weights; else the model itself.

    Raises:
        EngineError: the one or the other cannot be read.
    """
    if path.suffix != ".onnx" or path.name.endswith(TWIN):
        return path
    twin = path.with_suffix(TWIN)
    if not all(map(os.path.isfile, (path, twin))):
        return path
    whole, other = read_onnx_manifest(path), read_onnx_manifest(twin)
    same = ("checkpoint_sha256", "precision", "labels", "clip")
    if other.streaming and all(getattr(whole, name) == getattr(other, name) for name in same):
        return twin
    click.echo(f"warning: {twin} was exported from another model than {path}, and is not used", err=True)
    return path


def labeller_of(runner: Runner, manner: Manner) -> Labeller[Any]:
    """Frame by frame where the model was exported for it, else by a sliding window."""
    from cpd_serve.runtimes.onnx_stream import OnnxStreamRunner

    labels = runner.manifest.labels
    if isinstance(runner, OnnxStreamRunner):
        return Labeller(ByFrame(runner, manner.window_s), labels, manner.smoothing_s)
    return Labeller(ByWindow(runner, manner.window_s, manner.stride_s), labels, manner.smoothing_s)


def emit(event: str, **values: object) -> None:
    """Prints one JSON line at once."""
    click.echo(json.dumps({"event": event, **values}))
