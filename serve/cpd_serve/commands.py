"""What ``cpd-serve`` does once its options are read."""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from time import perf_counter
from typing import TYPE_CHECKING

import click

from cpd.errors import CpdError
from cpd_serve.batch import label_videos
from cpd_serve.inputs import expand
from cpd_serve.labelling import PARTS, Answer, Question
from cpd_serve.runner import Runner, open_runner, usable_cpus

if TYPE_CHECKING:
    from cpd_serve.streaming import Answerer


def label(
    engine: str,
    sources: Sequence[str],
    provider: str | None,
    question: Question,
    workers: int | None,
    as_json: bool,
    explain: bool,
) -> int:
    """Prints an answer for every video; errors go to stderr.

    Returns:
        The exit code: 1 where some video has no answer.

    Raises:
        EngineError: the model cannot be loaded.
    """
    videos = list(expand(sources))
    workers = min(workers or usable_cpus(), len(videos))
    failed = False
    # Several videos at once share the CPUs between them; one alone may use them all.
    with open_runner(engine, provider, threads=1 if workers > 1 else None) as runner:
        for answer in label_videos(runner, videos, workers, question):
            failed |= bool(answer.error)
            if answer.error:
                click.echo(f"error: {answer.error}", err=True)
            if as_json:
                click.echo(json.dumps(answer.to_dict(runner, explain)))
            elif not answer.error:
                click.echo(as_text(answer, runner, explain))
    return int(failed)


def watch(engine: str, source: str, provider: str | None, window_s: float, stride_s: float, smoothing_s: float) -> int:
    """Labels a stream until it ends or is interrupted; prints JSON lines: start, every change of label, end.

    Returns:
        The exit code: 1 where the stream broke off.

    Raises:
        CpdError: the model cannot be loaded, or the stream cannot be opened.
    """
    from cpd_serve.sources import open_source
    from cpd_serve.streaming import Progress, Smoother, label_changes

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # both ways of stopping end with the summary
    with open_runner(engine, provider) as runner, open_source(source, runner.manifest.clip) as frames:
        emit("start", video=source, engine=str(runner.path), runtime=runner.runtime, provider=runner.provider,
             window_s=window_s, stride_s=stride_s)  # fmt: skip
        answerer, labels = answerer_of(runner, window_s, stride_s), runner.manifest.labels
        progress, reason, start_s = Progress(), "", perf_counter()
        try:
            for change in label_changes(answerer, labels, frames, Smoother(smoothing_s), progress):
                emit("label", time_s=change.time_s, label=change.label, probability=change.probability)
        except KeyboardInterrupt:
            reason = "interrupted"
        except CpdError as error:
            reason = str(error)
            click.echo(f"error: {reason}", err=True)
        elapsed_s = perf_counter() - start_s
        emit("end", reason=reason, frames=frames.frames, dropped=frames.dropped, answers=progress.answers,
             seconds=elapsed_s, fps=progress.frames / elapsed_s, sustainable_fps=progress.sustainable_fps)  # fmt: skip
    return int(reason not in ("", "interrupted"))


def answerer_of(runner: Runner, window_s: float, stride_s: float) -> Answerer:
    """Frame by frame where the model was exported for it, else by a sliding window."""
    from cpd_serve.onnx_runner import OnnxStreamRunner
    from cpd_serve.streaming import ByFrame, ByWindow

    if isinstance(runner, OnnxStreamRunner):
        return ByFrame(runner, window_s)
    return ByWindow(runner, window_s, stride_s)


def emit(event: str, **values: object) -> None:
    """Prints one JSON line at once."""
    click.echo(json.dumps({"event": event, **values}))


def as_text(answer: Answer, runner: Runner, explain: bool) -> str:
    """The lines printed for one answer."""
    lines = [answer.video]
    lines += [f"  {probability:6.1%}  {name}" for name, probability in answer.predictions]
    lines += [
        f"  {part.start_s:7.1f} to {part.end_s:.1f} s  {part.probability:6.1%}  {part.label}"
        for part in answer.timeline
    ]
    lines.append(
        f"  {answer.total_ms:.1f} ms (decode {answer.decode_ms:.1f}, infer {answer.spent_ms['infer']:.1f})"
        f" on {runner.runtime} {runner.provider}"
    )
    if explain:
        lines += [f"    {part:7}{answer.spent_ms[part]:8.2f} ms" for part in PARTS]
    return "\n".join(lines)
