"""Methods x weights x seeds on one data set, resumed where it stopped, and the table they make.

    cpd-pipeline run benchmarks/distillation/miracl.yaml --until teacher
    python benchmarks/distillation/run.py search benchmarks/distillation/miracl.yaml
    python benchmarks/distillation/run.py final  benchmarks/distillation/miracl.yaml
    python benchmarks/distillation/run.py table  benchmarks/distillation/miracl.yaml

``search`` tries every weight of every method and never looks at a test clip; ``final`` trains with the weight that was
best on the validation split. Every training is a line of ``results/<name of the pipeline>.jsonl``; what stands there is
not trained again. ``--seed`` divides the work between processes; methods of one seed share the teacher's answers.
"""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from methods import METHODS
from results import Result, append, best_weight, packed, read, search_table, table

HERE = Path(__file__).parent
SEARCH_SEED = 100
"""First of the seeds of trials, which the table's seeds have nothing in common with."""

pipeline_argument = click.argument("pipeline", type=click.Path(exists=True, path_type=Path))
method_option = click.option(
    "--method", "methods", multiple=True, type=click.Choice(list(METHODS)), help="Default: all."
)
seed_option = click.option("--seed", "seeds", multiple=True, type=int)
set_option = click.option("--set", "overrides", multiple=True, help="As cpd-pipeline's --set.")


@click.group()
def main() -> None:
    """Compares ways to distil."""


@main.command()
@pipeline_argument
@method_option
@seed_option
@set_option
def search(pipeline: Path, methods: tuple[str, ...], seeds: tuple[int, ...], overrides: tuple[str, ...]) -> None:
    """Try every weight of every method; default: with one seed."""
    runs = Runs(pipeline, overrides)
    for seed in seeds or (SEARCH_SEED,):
        for method in methods or METHODS:
            for weight in METHODS[method].weights:
                runs.bring("search", method, weight, seed)
    click.echo(search_table(read(runs.path), list(METHODS)))


@main.command()
@pipeline_argument
@method_option
@seed_option
@set_option
def final(pipeline: Path, methods: tuple[str, ...], seeds: tuple[int, ...], overrides: tuple[str, ...]) -> None:
    """Train every method with its best weight; default: seeds 0 to 4, one seed of all methods at a time."""
    runs = Runs(pipeline, overrides)
    runs.bring_teacher()
    for seed in seeds or range(5):
        for method in methods or METHODS:
            weight = best_weight(read(runs.path), method)
            if weight is None:
                raise click.ClickException(f"{method} has no weight yet: search first")
            runs.bring("final", method, weight, seed)
    click.echo(table(read(runs.path), list(METHODS)))


@main.command("table")
@pipeline_argument
@set_option
def show(pipeline: Path, overrides: tuple[str, ...]) -> None:
    """Print what is recorded; train nothing."""
    results = read(Runs(pipeline, overrides).path)
    click.echo(f"{search_table(results, list(METHODS))}\n\n{table(results, list(METHODS))}")


class Runs:
    """The trainings of one pipeline, done and to be done."""

    def __init__(self, pipeline: Path, overrides: tuple[str, ...]) -> None:
        from cpd.config_file import load_config

        self.config = load_config(pipeline, overrides)
        self.path = HERE / "results" / f"{self.config.name}.jsonl"
        self.made = made_by()
        self.memory: tuple[int, Any] = (-1, None)

    def bring(self, kind: str, method: str, weight: float, seed: int) -> None:
        """Trains a student, unless that is done."""
        done = {(one.kind, one.method, one.weight, one.seed) for one in read(self.path)}
        if (kind, method, weight, seed) in done:
            return
        from cpd.config import Distill
        from cpd_train import distill
        from cpd_train.answers import Memory

        config, run_dir = self.config, self.place(kind, method, weight, seed)
        section = config.distill.model_dump() | METHODS[method].section(weight)
        config = config.model_copy(update={"seed": seed, "distill": Distill.model_validate(section)})
        if self.memory[0] != seed:
            self.memory = seed, Memory(int(config.distill.cache_gb * 1e9))
        began = time.perf_counter()
        distill.run(config, run_dir, self.memory[1])
        rows = [json.loads(line) for line in (run_dir / "student/metrics.jsonl").read_text().splitlines()]
        result = Result(
            kind, method, weight, seed,
            validation=[row["validation_top1"] for row in rows],
            learned_weights=[row["learned_weights"] for row in rows if "learned_weights" in row],
            seconds=round(time.perf_counter() - began, 1),
            made=self.made,
            **(tested(run_dir / "student/test_logits.npz") if kind == "final" else {"test_right": "", "test_clips": 0}),
        )  # fmt: skip
        append(self.path, result)
        told = f", test {result.right.mean():.1%}" if kind == "final" else ""
        click.echo(
            f"{kind} {method} {weight:g} seed {seed}: validation {result.validation_score:.1%}{told} "
            f"({result.seconds:.0f} s)"
        )

    def bring_teacher(self) -> None:
        """Records what the teacher reaches, unless that is done."""
        if any(one.kind == "teacher" for one in read(self.path)):
            return
        folder = self.config.run_dir / "teacher"
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        result = Result(
            "teacher", "", 0, self.config.seed,
            validation=[row["validation_top1"] for row in rows],
            learned_weights=[],
            seconds=round(sum(row["seconds"] for row in rows), 1),
            made=self.made,
            **tested(folder / "test_logits.npz"),
        )  # fmt: skip
        append(self.path, result)

    def place(self, kind: str, method: str, weight: float, seed: int) -> Path:
        """The run folder of a student, with the data and the teacher of the pipeline."""
        run_dir = (
            self.config.run_dir
            / "distillation"
            / f"{kind}-{method.replace(', ', '-').replace(' ', '-')}-{weight:g}-{seed}"
        )
        run_dir.mkdir(parents=True, exist_ok=True)
        for name in ("data", "teacher"):
            if not (run_dir / name).exists():
                (run_dir / name).symlink_to((self.config.run_dir / name).absolute())
        return run_dir


def tested(logits: Path) -> dict[str, Any]:
    with np.load(logits) as kept:
        right = kept["logits"].argmax(1) == kept["labels"]
    return {"test_right": packed(right), "test_clips": len(right)}


def made_by() -> dict[str, str]:
    """Commit, date and machine."""
    import torch

    from cpd_serve.environment import cpu_name

    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=HERE, capture_output=True, text=True, check=False
    )
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else cpu_name()
    return {"commit": commit.stdout.strip() or "unknown", "date": time.strftime("%Y-%m-%d"), "machine": device}


if __name__ == "__main__":
    main()
