"""Methods x weights x seeds on one data set, resumed where it stopped, and the table they make.

    python benchmarks/distillation/run.py final mine.yaml other.yaml

trains their teachers, tries every weight of every method, and trains each with the one that was best on the validation
split; ``search`` does the second alone, and never looks at a test clip. ``folds`` is a search on all groups that do not
test, two of them left out at a time. ``table`` prints what is recorded. Every training is a line of ``results/<name of
the pipeline>.jsonl``, beside which ``final`` writes the tables as ``.md``; what stands there is not trained again.
``--seed`` divides the work between processes; methods of one seed share the teacher's answers.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
from methods import FORMS, METHODS
from results import Result, latest, read, search_table, together
from trainings import ALL, SEARCH_SEED, LeaveOut, Runs, recorded, runs_of

from cpd.cli import Commands
from cpd.errors import CpdError, install

pipeline_argument = click.argument("pipeline", type=click.Path(path_type=Path))
pipelines_argument = click.argument("pipelines", type=click.Path(path_type=Path), nargs=-1, required=True)
method_option = click.option(
    "--method", "methods", multiple=True, type=click.Choice([*METHODS, *FORMS]), help="Default: all."
)
seed_option = click.option("--seed", "seeds", multiple=True, type=click.IntRange(0))
set_option = click.option("--set", "overrides", multiple=True, help="As cpd-pipeline's --set.")
searched_option = click.option(
    "--searched", help="Name of the pipeline whose search chose the weights; default: this one's."
)
with_option = click.option(
    "--with", "others", multiple=True, help="Name of another pipeline whose results count too; of other seeds."
)
leave_option = click.option(
    "--leave-out",
    type=click.IntRange(1),
    metavar="N",
    help="Test on N of the list's groups at a time and train on all others, whatever it says of splits. Seeds count "
    "through such folds, and then through them again.",
)


@click.group(cls=Commands)
def main() -> None:
    """Compares ways to distil."""


@main.command()
@pipelines_argument
@method_option
@seed_option
@set_option
def search(
    pipelines: tuple[Path, ...], methods: tuple[str, ...], seeds: tuple[int, ...], overrides: tuple[str, ...]
) -> None:
    """Try every weight of every method; default: with one seed."""
    for pipeline in pipelines:
        runs = Runs(pipeline, overrides)
        for seed in seeds or (SEARCH_SEED,):
            for method in methods or ALL:
                runs.search(method, seed)
        click.echo(search_table(read(runs.path), list(ALL)))


@main.command()
@pipelines_argument
@method_option
@seed_option
@searched_option
@leave_option
@set_option
def final(
    pipelines: tuple[Path, ...],
    methods: tuple[str, ...],
    seeds: tuple[int, ...],
    searched: str | None,
    leave_out: int | None,
    overrides: tuple[str, ...],
) -> None:
    """Train every method with its best weight; default: seeds 0 to 4, one seed of all methods at a time.

    A method whose weights were not searched yet is searched first, unless --searched says where that was done.
    """
    for pipeline in pipelines:
        runs = runs_of(pipeline, overrides, leave_out)
        weights = {method: runs.weight(method, searched) for method in methods or METHODS}
        for seed in seeds or runs.seeds:
            for method, weight in weights.items():
                runs.bring("final", method, weight, seed)
        results = read(runs.path)
        told = runs.table(results)
        runs.path.with_suffix(".md").write_text(f"{search_table(results, list(ALL))}\n\n{told}\n")
        click.echo(told)


@main.command()
@pipeline_argument
@method_option
@seed_option
@click.option("--searched", help="Name of the pipeline whose search chose the weights; default: every one is tried.")
@set_option
def folds(
    pipeline: Path, methods: tuple[str, ...], seeds: tuple[int, ...], searched: str | None, overrides: tuple[str, ...]
) -> None:
    """Train without two of the groups at a time, and test on those; the list's test clips stay unseen.

    A teacher for each fold, and with ``--method`` students of every weight. Seeds count through the folds and then
    through them again, with the same teachers. Settings of a teacher on trial are told apart by ``--set name=...``.
    """
    runs = LeaveOut(pipeline, overrides, size=2, of_teacher="fold teacher", seen=lambda clip: clip.split != "test")
    for method in methods:
        if searched or (not ALL[method].weights and ALL[method].weight_of not in methods):
            runs.weight(method, searched or runs.config.name)  # refused before a teacher is trained
    for seed in seeds or runs.seeds:
        runs.bring_teacher(seed)
        for method in methods:
            trials = () if searched else ALL[method].weights
            for weight in trials or (runs.weight(method, searched or runs.config.name),):
                runs.bring("fold", method, weight, seed)
    tops = {one.seed: float(one.right.mean()) for one in read(runs.path) if one.kind == runs.of_teacher}
    told = ", ".join(f"fold {seed} {top:.1%}" for seed, top in sorted(tops.items()))
    click.echo(f"{search_table(read(runs.path), list(ALL))}\n\nteachers: {np.mean(list(tops.values())):.1%} ({told})")


@main.command("table")
@pipeline_argument
@with_option
@leave_option
@set_option
def show(pipeline: Path, others: tuple[str, ...], leave_out: int | None, overrides: tuple[str, ...]) -> None:
    """Print what is recorded; train nothing."""
    runs = runs_of(pipeline, overrides, leave_out)
    results = all_of(runs.config.name, others)
    if not results:
        raise CpdError(f"{runs.path}: nothing is recorded yet", "train first: run.py final")
    click.echo(f"{search_table(results, list(ALL))}\n\n{runs.table(results)}")


@main.command()
@pipeline_argument
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder for the SVG files.")
@click.option("--method", type=click.Choice([*METHODS, *FORMS]), default="method", help="Whose student is shown.")
@searched_option
@with_option
@leave_option
@set_option
@click.option("--recorded", "recorded_only", is_flag=True, help="Draw what needs no run folder alone.")
def plots(
    pipeline: Path,
    output: Path,
    method: str,
    searched: str | None,
    others: tuple[str, ...],
    leave_out: int | None,
    overrides: tuple[str, ...],
    recorded_only: bool,
) -> None:
    """Draw what is recorded, and what the students of seed 0 do; of folds, that is the first."""
    try:
        from plots import of_networks, of_results, save
    except ModuleNotFoundError as error:
        raise CpdError(f"{error.name} is not installed", install("plots")) from error
    runs = runs_of(pipeline, overrides, leave_out)
    results = all_of(runs.config.name, others)
    save(of_results(results, read(recorded(searched or runs.config.name)), method), output)
    if not recorded_only:
        home = runs.of(0)
        weights = {one.method: one.weight for one in latest(results) if one.seed == 0}
        students = {"student alone": "ce", "student with the method": method}
        missing = [name for name in students.values() if name not in weights]
        if missing:
            raise CpdError(f"{runs.path}: has no {missing[0]} of seed 0", "train it, or draw with --recorded")
        places = {told: runs.place("final", name, weights[name], 0) for told, name in students.items()}
        checkpoints = {told: place / "student/student.safetensors" for told, place in places.items()}
        checkpoints = {"teacher": home.run_dir / "teacher/teacher.safetensors", **checkpoints}
        save(of_networks(checkpoints, home.run_dir / "data/clips.csv", home.clip.spec()), output)
    click.echo(f"{output}: drawn")


def all_of(name: str, others: tuple[str, ...] = ()) -> list[Result]:
    """The results of a pipeline, and those of others that stand in one table with them."""
    results = read(recorded(name))
    for other in others:
        try:
            results = together(results, read(recorded(other)))
        except ValueError as error:
            raise CpdError(f"{recorded(other)}: {error}") from error
    return results


if __name__ == "__main__":
    main()
