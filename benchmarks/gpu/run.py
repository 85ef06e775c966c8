"""The GPU path in one table: make gpu-check, or python benchmarks/gpu/run.py.

Each part runs in a process of its own with its own time limit. A row in which that process crashes is "not run: why",
and the part goes on with the next one in a new process; what a part measured before its time was over is kept. One JSON
and one Markdown file, named by the GPU, are written to benchmarks/gpu/results.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import click
from report import Row, aims, broken_off, completed, file_name, machine, table
from rows import ROLES

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PARTS = {"tests": 50, "models": 80, "steps": 80, "decode": 80, "training": 85, **dict.fromkeys(ROLES, 150)}
"""Part -> its time limit in seconds, in the order they run. A role's engines are built and timed one by one."""
ALL_S = 470.0
"""For all parts together. Most take less than they may; if none did, nothing would be left for the teacher."""
QUICK_S = 600.0
"""For a part that is only tried: nothing is measured, and the CPU may be slow."""
LEAST_S = 5.0
"""A part is not begun with less."""
CLOSING_S = 4.0
"""Of a part's time, in which it should be done by itself."""


@click.command()
@click.option("--quick", is_flag=True, help="Tiny sizes, on a CPU too: shows that the parts work, measures nothing.")
@click.option(
    "--part",
    "parts",
    multiple=True,
    type=click.Choice(list(PARTS)),
    help="Default: all. A role needs the part models too.",
)
@click.option("--output", type=click.Path(path_type=Path), help="Folder; default: results, and none if quick.")
def main(quick: bool, parts: tuple[str, ...], output: Path | None) -> None:
    """Runs the parts and writes the table."""
    import torch

    from cpd_train.cuda import why_no_gpu

    missing = "" if torch.cuda.is_available() else why_no_gpu()
    if missing and not quick:
        raise click.ClickException(f"no GPU to measure: {missing} (--quick tries the parts on the CPU)")
    report = measured("cpu" if missing else "cuda", quick, parts or tuple(PARTS))
    click.echo(table(report))
    output = output or (None if quick else HERE / "results")
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        path = output / file_name(report["machine"])
        path.with_suffix(".json").write_text(json.dumps(report, indent=2) + "\n")
        path.with_suffix(".md").write_text(table(report))


def measured(device: str, quick: bool, parts: tuple[str, ...]) -> Row:
    """Runs the parts: the machine, the aims and all rows."""
    began = time.monotonic()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="cpd-gpu-") as folder:
        options = ["--device", device, "--folder", folder, *(["--quick"] if quick else [])]
        for part in parts:
            limit_s = QUICK_S if quick else min(PARTS[part], began + ALL_S - time.monotonic())
            found = run_part(part, [sys.executable, str(HERE / "part.py"), part, *options], limit_s)
            click.echo(f"{part}: {sum('values' in row for row in found)} of {len(found)} rows", err=True)
            rows += found
    return {
        "machine": machine(device, quick, ROOT),
        "seconds": round(time.monotonic() - began, 1),
        "aims": aims([] if quick else rows),
        "rows": rows,
    }


def run_part(part: str, command: list[str], limit_s: float) -> list[Row]:
    """The rows of a part; those that did not come say why.

    Args:
        part: its name.
        command: starts it; ``--seconds`` and, after a crash, ``--skip`` for the rows that are told, are added.
        limit_s: seconds for all its processes together.
    """
    deadline = time.monotonic() + limit_s
    lines: list[str] = []
    why = f"not reached within {limit_s:.0f} s" if limit_s >= LEAST_S else "no time was left"
    while (left_s := deadline - time.monotonic()) >= LEAST_S:
        told = [row["name"] for row in completed(part, lines, "") if row.get("not_run") != ""]
        skip = [argument for name in told for argument in ("--skip", name)]
        written, crash = run_process([*command, "--seconds", f"{left_s - CLOSING_S:.0f}", *skip], left_s)
        lines += written
        left = [row["name"] for row in completed(part, lines, "") if row.get("not_run") == ""]
        if not left or crash is None:
            break
        if not crash or left == ["all"]:
            why = crash or "the part did not tell"
            break
        lines.append(json.dumps({"name": broken_off(written, left), "not_run": crash}))  # on with the others
    return completed(part, lines, why)


def run_process(command: list[str], limit_s: float) -> tuple[list[str], str | None]:
    """The lines a process wrote, and how it crashed: empty if it did not, None if its time was over before."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+", errors="replace") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err, start_new_session=True)
        try:
            status: int | None = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            end(process)
        for file in (out, err):
            file.seek(0)
        lines, said = out.read().splitlines(), err.read().strip().splitlines()
        if not status:
            return lines, None if status is None else ""
        return lines, f"its process ended with status {status}" + (f": {said[-1][:200]}" if said else "")


def end(process: subprocess.Popen[bytes]) -> None:
    """Ends a part and what it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


if __name__ == "__main__":
    main()
