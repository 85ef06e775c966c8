"""What a training step costs with each loss, measured in turns: ratios to a plain CE and a plain KD step.

    python benchmarks/distillation/step_cost.py [--rounds 7]

MIRACL's models and clip size with random weights and frames: what a step costs does not depend on what is in them.
"fresh" asks the teacher at every step; "kept" finds its answers remembered, as from the second meeting of a view on.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import click
import torch
from methods import FORMS, METHODS

from cpd.clip import ClipSpec
from cpd.config import Distill
from cpd_train.common import on_device
from cpd_train.cuda import networks_in
from cpd_train.distill import Collaboration, aligned
from cpd_train.fitted import CLIPS
from cpd_train.loader import Batch
from cpd_train.models import ModelSpec, VideoClassifier, build_model
from cpd_train.start import corresponds, fitted_to_teacher

CLIP = ClipSpec(frames=8, resize=(19, 38), crop=(16, 32), normalise="clip", colour="motion")
LABELS, BATCH, CPU = 10, 32, torch.device("cpu")
COMPARED = (
    "ce", "kd", "fitnet", "attention", "method without collaboration", "method",
    "unfitted", "method, energy", "method, quantiles",
)  # fmt: skip
"""The last two are the method unfitted, beside a form of the parameter term."""


@click.command()
@click.option("--rounds", default=7, show_default=True)
@click.option("--precision", default="fastest", show_default=True, help="As in pipeline.yaml.")
def main(rounds: int, precision: str) -> None:
    """Prints milliseconds a step and the ratios, medians over rounds, and how long the fit before them takes."""
    torch.manual_seed(0)
    frames = torch.randint(0, 256, (BATCH, *CLIP.shape), dtype=torch.uint8)
    batch = Batch(frames, torch.eye(LABELS)[torch.arange(BATCH) % LABELS], [(row, 0) for row in range(BATCH)])
    steps = {(name, kept): step_of(name, kept, batch, precision) for name in COMPARED for kept in (False, True)}
    for step in steps.values():
        step()
    seconds: dict[tuple[str, bool], list[float]] = {key: [] for key in steps}
    for _ in range(rounds):
        for key, step in steps.items():
            began = time.perf_counter()
            step()
            seconds[key].append(time.perf_counter() - began)
    click.echo("| loss | teacher | ms | over CE | over KD |\n|---|---|--:|--:|--:|")
    for (name, kept), values in seconds.items():
        over = [
            statistics.median(ours / theirs for ours, theirs in zip(values, seconds[rival, kept], strict=True))
            for rival in ("ce", "kd")
        ]
        label = "kept" if kept else "fresh"
        click.echo(f"| {name} | {label} | {1e3 * statistics.median(values):.0f} | {over[0]:.2f} | {over[1]:.2f} |")
    fit_s, step_s = seconds_of_fit(), statistics.median(seconds["ce", False])
    click.echo(f"\nfitting a student by {CLIPS} clips: {fit_s:.1f} s, once; as long as {fit_s / step_s:.0f} CE steps")


def seconds_of_fit() -> float:
    """What it takes to fit a student to its teacher; the shortest of three, since the first takes memory."""
    frames = torch.randint(0, 256, (CLIPS, *CLIP.shape), dtype=torch.uint8)
    teacher, student = networks()
    taken = []
    for _ in range(3):
        began = time.perf_counter()
        fitted_to_teacher(student, teacher, lambda: frames)
        taken.append(time.perf_counter() - began)
    return min(taken)


def networks() -> list[VideoClassifier]:
    """A teacher and a student."""
    specs = (ModelSpec("tsm-tiny", width=32, blocks=2), ModelSpec("tsm-tiny", width=4, blocks=1))
    return [on_device(build_model(spec, LABELS, CLIP), CPU) for spec in specs]


def step_of(name: str, kept: bool, batch: Batch, precision: str) -> Callable[[], None]:
    """One optimiser step with the loss of a method. A CE step does not need the teacher, so it is never asked."""
    teacher, student = networks()
    methods = METHODS | FORMS
    method = methods[name]
    weight = methods[method.weight_of or name].weights[0]
    settings = Distill.model_validate(method.section(weight) | {"cache_gb": 1.0 if kept else 0.0})
    settings = aligned(settings, settings.parameters.start, corresponds(student, teacher))
    collaboration = Collaboration(student, teacher, settings, seed=0, precision=precision)
    optimiser = torch.optim.AdamW([*student.parameters(), *collaboration.learned])

    def step() -> None:
        student.train()
        if name == "ce":
            with networks_in(CPU, precision):
                logits = student(batch.frames)
            loss = torch.nn.functional.cross_entropy(logits.float(), batch.labels)
        else:
            loss = torch.stack(list(collaboration(batch, 0.0).values())).sum()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()

    return step


if __name__ == "__main__":
    main()
