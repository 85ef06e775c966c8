"""What ``cpd-serve`` does once its options are read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from cpd.errors import EngineError
from cpd.threads import usable_cpus
from cpd_serve.batch import label_videos
from cpd_serve.cuda_driver import check_decoder
from cpd_serve.inputs import expand
from cpd_serve.labelling import PARTS, Answer, Question
from cpd_serve.options import printable
from cpd_serve.rebuilding import open_engine
from cpd_serve.runner import Runner


def label(
    engine: str,
    sources: Sequence[str],
    provider: str | None,
    rebuild: bool,
    question: Question,
    workers: int | None,
    timeout_s: float | None,
    as_json: bool,
    explain: bool,
) -> int:
    """Prints an answer for every video; errors go to stderr.

    Returns:
        The exit code: 1 where some video has no answer.

    Raises:
        EngineError: the model cannot be loaded, or the decoder is not here.
    """
    check_decoder(question.decoder)
    videos = list(expand(sources))
    asked, workers = workers is not None, min(workers or usable_cpus(), len(videos))
    failed = False
    # Several videos at once share the CPUs between them; one alone may use them all, but where it may be given up.
    threads = 1 if workers > 1 or timeout_s else None
    with open_engine(engine, provider, threads=threads, may_rebuild=rebuild) as runner:
        for answer in answers_of(runner, videos, workers, question, timeout_s, asked):
            failed |= bool(answer.error)
            if answer.error:
                click.echo(f"error: {printable(answer.error)}", err=True)
            if as_json:
                click.echo(json.dumps(answer.to_dict(runner, explain)))
            elif not answer.error:
                click.echo(as_text(answer, runner, explain))
    return int(failed)


def answers_of(
    runner: Runner, videos: Sequence[Path], workers: int, question: Question, timeout_s: float | None = None,
    asked: bool = False,
) -> Iterator[Answer]:  # fmt: skip
    """An answer for every video, in order.

    Args:
        runner: the model.
        videos: to label.
        workers: how many of them at once.
        question: what to ask of each.
        timeout_s: a video that takes longer is given up; None for what is usual.
        asked: whether the user named the workers, and is told where they cannot be processes.

    Raises:
        EngineError: a time limit is asked for where the model cannot run in a process of its own.
    """
    if workers > 1 or timeout_s:
        from cpd_serve.forked import TIMEOUT_S, can_fork, label_videos_forked

        if can_fork(runner):
            return label_videos_forked(runner, videos, workers, question, timeout_s or TIMEOUT_S)
        if timeout_s:
            raise EngineError(
                f"--timeout needs processes of its own, which a model on {runner.provider} cannot have here",
                "leave --timeout out, or use --provider cpu",
            )
        if asked:
            click.echo(
                f"warning: --workers are threads, since a model on {runner.provider} cannot have processes of its own"
                " here: a video that crashes or hangs its decoder stops the others too",
                err=True,
            )
    return label_videos(runner, videos, workers, question)


def as_text(answer: Answer, runner: Runner, explain: bool) -> str:
    """The lines printed for one answer."""
    lines = [printable(answer.video)]
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
