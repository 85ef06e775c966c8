"""What the method does, drawn: learning curves, temporal spectra, kernels' frequencies, learned weights.

    python benchmarks/distillation/plots.py benchmarks/distillation/miracl-ten.yaml --searched distillation-miracl

writes SVG files into docs/images. Needs the ``plots`` extra, and the run folder with the students of seed 0.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import click
import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from methods import METHODS
from results import Result, best_weight, latest, read
from run import all_of, leave_option, recorded, runs_of, set_option, with_option

from cpd.dataset import evenly, read_clips
from cpd.video import read_clip
from cpd_train.losses.parameters import energy_shares, kernel_coefficients
from cpd_train.losses.spectrum import attention_maps, temporal_spectrum
from cpd_train.models import VideoClassifier, read_checkpoint
from cpd_train.terms import spatial_kernels

IMAGES = Path(__file__).parents[2] / "docs" / "images"
CLIPS = 100
"""Test clips whose spectra are averaged."""
STAGES = 4


@click.command()
@click.argument("pipeline", type=click.Path(exists=True, path_type=Path))
@click.option("--method", type=click.Choice(list(METHODS)), default="method", help="Whose student is shown.")
@click.option("--searched", help="Name of the pipeline whose search gave the learning curves; default: this one's.")
@with_option
@leave_option
@set_option
@click.option("--recorded", "recorded_only", is_flag=True, help="Draw what needs no run folder alone.")
def main(
    pipeline: Path,
    method: str,
    searched: str | None,
    others: tuple[str, ...],
    leave_out: int | None,
    overrides: tuple[str, ...],
    recorded_only: bool,
) -> None:
    """Draws what is recorded of a pipeline; of folds, the networks are those of the first."""
    mpl.rcParams |= {"svg.hashsalt": "cpd", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    runs = runs_of(pipeline, overrides, leave_out)
    results = all_of(runs.config.name, others)
    trials = read(recorded(searched or runs.config.name))
    if any(trial.kind == "search" for trial in trials):
        save(learning_curves(trials), "learning-curves")
    save(accuracies(results), "accuracies")
    finals = latest(results)
    learned = [one.learned_weights for one in finals if one.method == method]
    if learned and all(learned):
        save(learned_weights(learned), "learned-weights")
    if recorded_only:
        return
    config = runs.of(0)
    models = {"teacher": read_checkpoint(config.run_dir / "teacher/teacher.safetensors").model}
    for name, chosen in (("student alone", "ce"), ("student with the method", method)):
        weight = next(one.weight for one in finals if one.method == chosen)
        models[name] = read_checkpoint(runs.place("final", chosen, weight, 0) / "student/student.safetensors").model
    clips = read_clips(config.run_dir / "data/clips.csv", "test")
    some = evenly(clips, CLIPS)
    frames = torch.from_numpy(np.stack([read_clip(clip.path, config.clip.spec()) for clip in some]))
    save(spectra(models, frames), "temporal-spectra")
    save(kernels(models), "kernel-frequencies")


def accuracies(results: list[Result]) -> Figure:
    """Test top-1 of each method: a dot for each seed, a bar for the mean; the teacher's as a line."""
    tops = defaultdict(list)
    for result in latest(results):
        tops[result.method].append(100 * result.right.mean())
    names = sorted(tops, key=lambda name: float(np.mean(tops[name])))
    figure, axes = plt.subplots(figsize=(7, 0.32 * len(names) + 0.8), layout="constrained")
    for row, name in enumerate(names):
        colour = "C1" if name == "method" else "C0"
        axes.plot(tops[name], [row] * len(tops[name]), "o", color=colour, markersize=4, alpha=0.5)
        axes.plot([np.mean(tops[name])], [row], "|", color=colour, markersize=15, markeredgewidth=2.5)
    for result in results:
        if result.kind == "teacher":
            axes.axvline(100 * result.right.mean(), color="0.4", linestyle="--", linewidth=1)
    axes.set(xlabel="top-1 on the test clips, % (dashed: teachers)", yticks=range(len(names)), yticklabels=names)
    return figure


def learning_curves(results: list[Result]) -> Figure:
    """Validation top-1 after each epoch of the search, mean over its seeds, with each method's best weight."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    curves = defaultdict(list)
    for result in results:
        if result.kind == "search" and result.weight == best_weight(results, result.method):
            curves[result.method].append(result.validation)
    for method in [name for name in METHODS if name in curves]:
        mean = 100 * np.mean(curves[method], axis=0)
        axes.plot(np.arange(1, len(mean) + 1), mean, label=f"{method} ({len(curves[method])})", linewidth=1.2)
    axes.set(xlabel="epoch", ylabel="top-1 on the validation clips, %")
    axes.legend(ncols=2, frameon=False, fontsize=8)
    return figure


def learned_weights(learned: list[list[dict[str, float]]]) -> Figure:
    """The weight w exp(-s) of each term after each epoch, mean over seeds."""
    figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
    for name in learned[0][0]:
        mean = np.mean([[epoch[name] for epoch in seed] for seed in learned], axis=0)
        axes.plot(np.arange(1, len(mean) + 1), mean, label=name)
    axes.set(xlabel="epoch", ylabel="learned weight w exp(-s)", yscale="log")
    axes.legend(frameon=False)
    return figure


@torch.no_grad()
def spectra(models: dict[str, VideoClassifier], frames: torch.Tensor) -> Figure:
    """Share of the amplitude at each temporal frequency, mean over places and clips, for each stage."""
    figure, panels = plt.subplots(1, STAGES, figsize=(9, 3.1), sharey=True, layout="constrained")
    for name, model in models.items():
        for panel, stage in zip(panels, model.eval().with_features(frames).stages, strict=True):
            amplitude = temporal_spectrum(attention_maps(stage)).flatten(2).mean(2)
            panel.plot((amplitude / amplitude.sum(1, keepdim=True)).mean(0), marker="o", markersize=3, label=name)
    for number, panel in enumerate(panels, 1):
        panel.set(title=f"stage {number}", xlabel="cycles a clip", yscale="log")
    panels[0].set_ylabel("share of the amplitude")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


@torch.no_grad()
def kernels(models: dict[str, VideoClassifier]) -> Figure:
    """Share of the kernels' energy at each two-dimensional frequency of the DCT, for each stage."""
    figure, panels = plt.subplots(1, STAGES, figsize=(9, 3.1), sharey=True, layout="constrained")
    width = 0.8 / len(models)
    for index, (name, model) in enumerate(models.items()):
        for panel, stage in zip(panels, spatial_kernels(model), strict=True):
            shares = energy_shares(kernel_coefficients(stage)).numpy()
            panel.bar(np.arange(len(shares)) + (index - 1) * width, 100 * shares, width, label=name)
    for number, panel in enumerate(panels, 1):
        panel.set(title=f"stage {number}", xlabel="frequency, row-major")
    panels[0].set_ylabel("share of the energy, %")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def save(figure: Figure, name: str) -> None:
    path = IMAGES / f"method-{name}.svg"
    figure.savefig(path, metadata={"Date": None})
    click.echo(path)


if __name__ == "__main__":
    main()
