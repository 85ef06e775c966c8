"""One part of the GPU check, in a process of its own: python benchmarks/gpu/part.py NAME --device cuda --folder DIR.

Called by run.py; writes JSON rows (rows.py) to stdout, and whatever libraries print to stderr.
"""

from __future__ import annotations

import importlib
import os
import sys
from functools import partial
from pathlib import Path

os.environ.setdefault("PYTHONWARNINGS", "ignore")

import click
from rows import ROLES, Rows, Setup

MODULES = {
    "tests": "gpu_tests", "models": "models", "steps": "steps", "decode": "decode", "training": "training",
    **dict.fromkeys(ROLES, "engines"),
}  # fmt: skip
"""Part -> its module, which has ``names(setup)`` and ``run(setup, rows)``; engines are of a role."""


@click.command()
@click.argument("name", type=click.Choice(list(MODULES)))
@click.option("--device", type=click.Choice(["cuda", "cpu"]), required=True)
@click.option("--quick", is_flag=True)
@click.option("--folder", type=click.Path(path_type=Path), required=True)
@click.option("--seconds", type=float, default=600.0)
@click.option("--skip", multiple=True, help="Rows that are told already.")
def main(name: str, device: str, quick: bool, folder: Path, seconds: float, skip: tuple[str, ...]) -> None:
    """Runs a part."""
    rows = Rows(os.fdopen(os.dup(1), "w", buffering=1), skip)
    os.dup2(2, 1)
    setup = Setup(device, quick, folder, seconds)
    module = importlib.import_module(MODULES[name])
    rows.plan(module.names(setup))
    run = partial(module.run, name) if name in ROLES else module.run
    run(setup, rows)
    sys.stderr.flush()
    os._exit(0)  # libraries that crash while the interpreter ends have nothing more to say


if __name__ == "__main__":
    main()
