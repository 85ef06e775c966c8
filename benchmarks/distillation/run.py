"""Methods x seeds on one data set, resumed where it stopped, and the table they make.

    python benchmarks/distillation/run.py pipelines/miracl.yaml --seeds 5
    python benchmarks/distillation/run.py pipelines/miracl.yaml --table

The run folder of the pipeline must hold its data and teacher (``cpd-pipeline run … --until teacher``). Every result is
one line of ``<run folder>/distillation/results.jsonl``; a method and seed that stand there are not run again.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from methods import METHODS
from numpy.typing import NDArray

RESAMPLES = 10_000


@click.command()
@click.argument("pipeline", type=click.Path(exists=True, path_type=Path))
@click.option("--method", "methods", multiple=True, type=click.Choice(list(METHODS)), help="Default: all.")
@click.option("--seeds", default=5, show_default=True, help="Seeds 0 up to this, the same for every method.")
@click.option("--set", "overrides", multiple=True, help="As cpd-pipeline's --set.")
@click.option("--table", is_flag=True, help="Print the table of what is recorded, run nothing.")
def main(pipeline: Path, methods: tuple[str, ...], seeds: int, overrides: tuple[str, ...], table: bool) -> None:
    """Trains a student for each method and seed, one seed of all methods at a time."""
    from cpd.config_file import load_config

    config = load_config(pipeline, overrides)
    folder = config.run_dir / "distillation"
    results = folder / "results.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    if not table:
        for seed in range(seeds):
            for method in methods or METHODS:
                if not any((row["method"], row["seed"]) == (method, seed) for row in recorded(results)):
                    row = train(config, method, seed, folder)
                    with results.open("a") as file:
                        file.write(json.dumps(row) + "\n")
                    click.echo(f"{method} {seed}: test top-1 {row['test_top1']:.1%} ({row['seconds']:.0f} s)")
    click.echo(as_table(recorded(results), folder))


def train(config: Any, method: str, seed: int, folder: Path) -> dict[str, Any]:
    """Distils one student into ``folder/<method>-<seed>/student`` and tells what it reached."""
    from cpd.config import Distill
    from cpd_train import distill

    run_dir = place(folder, method, seed)
    run_dir.mkdir(parents=True, exist_ok=True)
    for name in ("data", "teacher"):
        if not (run_dir / name).exists():
            (run_dir / name).symlink_to((config.run_dir / name).absolute())
    section = Distill.model_validate(METHODS[method])
    began = time.perf_counter()
    distill.run(config.model_copy(update={"seed": seed, "distill": section}), run_dir)
    rows = [json.loads(line) for line in (run_dir / "student" / "metrics.jsonl").read_text().splitlines()]
    return {
        "method": method,
        "seed": seed,
        "test_top1": float(right(run_dir).mean()),
        "validation_top1": max(row["validation_top1"] for row in rows),
        "epochs": len(rows),
        "seconds": round(time.perf_counter() - began, 1),
    }


def place(folder: Path, method: str, seed: int) -> Path:
    return folder / f"{method.replace(', ', '-')}-{seed}"


def right(run_dir: Path) -> NDArray[np.bool_]:
    """(clips,) whether each test clip is labelled right."""
    with np.load(run_dir / "student" / "test_logits.npz") as kept:
        answers: NDArray[np.bool_] = kept["logits"].argmax(1) == kept["labels"]
    return answers


def recorded(results: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []


def as_table(rows: list[dict[str, Any]], folder: Path) -> str:
    """Markdown: mean test top-1, and the paired difference to CE and KD over the seeds that both have."""
    seeds: dict[str, set[int]] = {}
    for row in rows:
        seeds.setdefault(row["method"], set()).add(row["seed"])
    answers = {
        method: {seed: right(place(folder, method, seed)) for seed in sorted(known)} for method, known in seeds.items()
    }
    lines = ["| method | seeds | test top-1 | against ce | against kd |", "|---|---|---|---|---|"]
    for method in sorted(answers, key=list(METHODS).index):
        scores = [float(clips.mean()) for clips in answers[method].values()]
        cells = [difference(answers[method], answers.get(other, {})) for other in ("ce", "kd")]
        spread = f" ± {np.std(scores, ddof=1):.1%}" if len(scores) > 1 else ""
        lines.append(f"| {method} | {len(scores)} | {np.mean(scores):.1%}{spread} | {' | '.join(cells)} |")
    return "\n".join(lines)


def difference(ours: dict[int, NDArray[np.bool_]], theirs: dict[int, NDArray[np.bool_]]) -> str:
    """Mean paired difference in points with its 95 % bootstrap interval, over seeds and test clips both."""
    shared = sorted(set(ours) & set(theirs))
    if not shared:
        return "-"
    gaps = np.stack([ours[seed].astype(float) - theirs[seed] for seed in shared])
    rng = np.random.default_rng(0)
    means = np.empty(RESAMPLES)
    for index in range(RESAMPLES):
        some = rng.integers(len(shared), size=len(shared))
        clips = rng.integers(gaps.shape[1], size=gaps.shape[1])
        means[index] = gaps[some].mean(0)[clips].mean()
    low, high = np.percentile(means, [2.5, 97.5])
    return f"{100 * gaps.mean():+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


if __name__ == "__main__":
    main()
