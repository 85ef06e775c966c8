"""What the method does, as SVG: accuracies, learning curves, temporal spectra, kernels' frequencies, learned weights.

Needs the ``plots`` extra.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from methods import METHODS
from results import Result, best_weight, latest

from cpd.clip import ClipSpec
from cpd.dataset import evenly, read_clips
from cpd.video import read_clip
from cpd_train.losses.parameters import energy_shares, kernel_coefficients
from cpd_train.losses.spectrum import attention_maps, temporal_spectrum
from cpd_train.models import VideoClassifier, read_checkpoint
from cpd_train.terms import spatial_kernels

CLIPS = 100
"""Test clips whose spectra are averaged."""
STAGES = 4

mpl.rcParams |= {"svg.hashsalt": "cpd", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}


def of_results(results: Sequence[Result], trials: Sequence[Result], method: str) -> dict[str, Figure]:
    """What needs no run folder."""
    figures = {"accuracies": accuracies(results)}
    if any(trial.kind == "search" for trial in trials):
        figures["learning-curves"] = learning_curves(trials)
    learned = [one.learned_weights for one in latest(results) if one.method == method]
    if learned and all(learned):
        figures["learned-weights"] = learned_weights(learned)
    return figures


def of_networks(checkpoints: Mapping[str, Path], clips: Path, spec: ClipSpec) -> dict[str, Figure]:
    """What the networks themselves say of the test clips of a table of clips."""
    models = {name: read_checkpoint(path).model for name, path in checkpoints.items()}
    some = evenly(read_clips(clips, "test"), CLIPS)
    frames = torch.from_numpy(np.stack([read_clip(clip.path, spec) for clip in some]))
    return {"temporal-spectra": spectra(models, frames), "kernel-frequencies": kernels(models)}


def accuracies(results: Sequence[Result]) -> Figure:
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


def learning_curves(results: Sequence[Result]) -> Figure:
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


def save(figures: Mapping[str, Figure], folder: Path) -> None:
    """Writes ``method-<name>.svg`` files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(folder / f"method-{name}.svg", metadata={"Date": None})
