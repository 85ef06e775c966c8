"""The command line of the pipeline. Bodies parse, make one call and print; everything heavy is imported inside them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

import cpd
from cpd.errors import CpdError, install, reason_of
from cpd.interruption import interruptible
from cpd.stages import STAGES, check_data, pipeline_status, run_pipeline

STAGE = click.Choice([stage.name for stage in STAGES])
CONFIG = click.argument("config", metavar="PIPELINE.YAML", type=click.Path(path_type=Path))
SET = click.option(
    "--set", "overrides", metavar="KEY=VALUE", multiple=True,
    help="Replace a setting, such as teacher.epochs=3; may be given again.",
)  # fmt: skip
OUTPUT = click.option("--output", metavar="DIR", help="Run folder; default: what the file says, or runs/NAME.")


class Commands(click.Group):
    """Commands whose foreseen errors end in a line each and an exit code; a bug keeps its traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with interruptible():
                return super().invoke(ctx)
        except CpdError as error:
            click.echo("error: " + str(error).replace("\n", "\nerror: "), err=True)
            sys.exit(error.exit_code)
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            if package.startswith("cpd"):
                raise
            click.echo(f"error: {package} is not installed ({install('cpu')}, or cuda for a GPU)", err=True)
            sys.exit(1)
        except BrokenPipeError:
            raise
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            click.echo(f"error: {where}{reason_of(error)}", err=True)
            sys.exit(1)
        except KeyboardInterrupt:
            click.echo("\ninterrupted: the next run continues where this one stopped", err=True)
            sys.exit(130)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(cpd.__version__, prog_name="cpd-pipeline")
def main() -> None:
    """Distil a large video model into a small one, export it, and judge the result.

    \b
    data -> teacher -> distill -> export -> validate -> report

    A pipeline.yaml says what to do; a stage whose inputs have not changed is skipped.

    \b
    Try it:
      cpd-pipeline validate pipeline.yaml
      cpd-pipeline run pipeline.yaml
      cpd-pipeline run pipeline.yaml --set distill.spectrum.weight=0.1

    \b
    Exit codes: 0 done and every gate passed, 1 failed, 2 wrong usage or configuration,
    3 a gate failed, 4 a gate could not be decided.
    """


@main.command()
@CONFIG
@click.option("--until", metavar="STAGE", type=STAGE, help="Stop after this stage: data, teacher, ... report.")
@click.option("--force", metavar="STAGE", type=STAGE, multiple=True, help="Run this stage again; may be given again.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Where to train and measure.")
@SET
@OUTPUT
def run(
    config: Path,
    until: str | None,
    force: tuple[str, ...],
    device: str | None,
    overrides: tuple[str, ...],
    output: str | None,
) -> None:
    """Bring a run up to date: every stage that is missing or stale.

    \b
    Examples:
      cpd-pipeline run pipeline.yaml
      cpd-pipeline run pipelines/miracl.yaml --until distill --set teacher.epochs=5
    """
    from cpd.config_file import load_config

    names = [stage.name for stage in STAGES]
    late = [name for name in force if until is not None and names.index(name) > names.index(until)]
    if late:
        raise click.UsageError(f"--force {late[0]} would do nothing with --until {until}, an earlier stage")
    settings = load_config(config, _overrides(overrides, output=output, device=device))
    sys.exit(run_pipeline(settings, until, force))


@main.command()
@CONFIG
@SET
def validate(config: Path, overrides: tuple[str, ...]) -> None:
    """Check a configuration and the data it names; train nothing."""
    from cpd.config_file import load_config

    for line in check_data(load_config(config, overrides)):
        click.echo(line)
    click.echo(f"{config} can be run")


@main.command()
@CONFIG
@SET
@OUTPUT
def status(config: Path, overrides: tuple[str, ...], output: str | None) -> None:
    """Show each stage: done, stale (and why) or missing."""
    from cpd.config_file import load_config

    for stage in pipeline_status(load_config(config, _overrides(overrides, output=output))):
        click.echo(f"{stage.name:<10}{stage.state:<9}{stage.detail}".rstrip())


@main.command()
@CONFIG
@click.option("--triton", "repository", metavar="DIR", required=True,
              help="Model repository to add to; made if need be.")  # fmt: skip
@SET
@OUTPUT
def export(config: Path, repository: str, overrides: tuple[str, ...], output: str | None) -> None:
    """Add the exported students of a run to a model repository of Triton Inference Server.

    \b
    Example:
      cpd-pipeline export pipeline.yaml --triton models/
    """
    from cpd.config_file import load_config
    from cpd_export.triton import export_triton

    if not repository:  # as an unset variable leaves it; it would be the current folder
        raise click.UsageError("--triton is empty")
    settings = load_config(config, _overrides(overrides, output=output))
    for name in export_triton(settings.run_dir, Path(repository), settings.export.max_batch):
        click.echo(Path(repository, name))


@main.command()
@click.argument("run_dir", metavar="RUN_DIR", type=click.Path(path_type=Path))
def report(run_dir: Path) -> None:
    """Write report.html again from report.json."""
    from cpd.report import write_html

    click.echo(write_html(run_dir))


@main.command()
def schema() -> None:
    """Print the JSON Schema of pipeline.yaml, with which editors complete and check it.

    \b
    Example:
      cpd-pipeline schema > pipeline.schema.json
    and as the first line of pipeline.yaml:
      # yaml-language-server: $schema=pipeline.schema.json
    """
    from cpd.config_file import schema as schema_of

    click.echo(json.dumps(schema_of(), indent=2))


def _overrides(given: tuple[str, ...], **options: str | None) -> list[str]:
    """``--set`` values, and options that are settings under a name of their own."""
    return [*given, *(f"{key}={json.dumps(value)}" for key, value in options.items() if value is not None)]
