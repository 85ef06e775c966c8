"""What run.py writes: the rows of a part, the aims beside what was measured, and the Markdown table."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cpd_export.gpu import first_gpu
from cpd_serve.environment import environment, gpu_and_driver

Row = dict[str, Any]
"""part, name, and values or not_run."""
AIMS: dict[str, tuple[str, Callable[[float], bool]]] = {
    "data-wait": ("under 0.05", lambda fraction: fraction < 0.05),
    "method step over KD": ("at most 1.15", lambda ratio: ratio <= 1.15),
    "student at batch 1, TensorRT over torch eager": ("at least 3", lambda ratio: ratio >= 3),
}
"""What is asked of an H100-class GPU."""


def completed(part: str, lines: Iterable[str], why: str) -> list[Row]:
    """The rows a part wrote, in the order it planned, and one for each that it planned and did not write.

    Args:
        part: its name.
        lines: what it wrote, the last one perhaps cut off.
        why: it did not write the others.
    """
    planned, found = ["all"], {}
    for told in parsed(lines):
        if "planned" in told:
            planned = told["planned"]
        elif "name" in told:
            found[told["name"]] = {"part": part, **told}
    missing = {name: {"part": part, "name": name, "not_run": why} for name in planned}
    return list((missing | found).values())


def broken_off(lines: Iterable[str], left: Sequence[str]) -> str:
    """The row at which a process crashed: of those that are left the one it began last, or else the first.

    Args:
        lines: what it wrote.
        left: the rows that are not told, at least one.
    """
    begun = [told["begun"] for told in parsed(lines) if "begun" in told]
    return begun[-1] if begun and begun[-1] in left else left[0]


def parsed(lines: Iterable[str]) -> Iterator[Row]:
    """What a part wrote, without what was cut off."""
    for line in lines:
        with suppress(json.JSONDecodeError):
            yield json.loads(line)


def aims(rows: Iterable[Row]) -> list[Row]:
    """The aims: what was measured, None where it was not, and whether that reaches them."""
    values = {(row["part"], row["name"]): row["values"] for row in rows if "values" in row}

    def value(part: str, name: str, key: str) -> float | None:
        found: float | None = values.get((part, name), {}).get(key)
        return found

    training, decoder = values.get(("training", "method, 720p H.264, NVDEC"), {}), "decoded by DALI, fraction"

    def fastest(runtime: str, proven: bool) -> float | None:
        """Of the student's rows in any precision; of another runtime those alone whose answers are torch's."""
        rows = [told for (part, name), told in values.items() if part == "student" and name.startswith(runtime)]
        return min(
            (told["batch 1 p50 ms"] for told in rows if not proven or told.get("parity") == "pass"), default=None
        )

    eager, engine = fastest("torch eager", proven=False), fastest("tensorrt", proven=True)
    measured = (
        training.get("data-wait, fraction") if training.get(decoder) == 1 else None,
        value("steps", "method, teacher fresh", "over KD"),
        round(eager / engine, 2) if eager and engine else None,
    )
    return [
        {"name": name, "aim": aim, "measured": found,
         "status": "not measured" if found is None else "reached" if reached(found) else "missed"}
        for (name, (aim, reached)), found in zip(AIMS.items(), measured, strict=True)
    ]  # fmt: skip


def machine(device: str, quick: bool, root: Path) -> dict[str, Any]:
    """What was measured on: the machine, its driver and packages, and the commit under ``root``."""
    here, gpu = environment(), first_gpu()
    return {
        "device": device,
        "quick": quick,
        "gpu": gpu.name if gpu else None,
        "compute_capability": gpu.capability if gpu else None,
        "driver": gpu_and_driver()[1],
        "commit": first_line("git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"),
        "date": datetime.now(UTC).date().isoformat(),
        **{name: here[name] for name in ("cpu", "cpus", "system", "python", "packages")},
    }


def first_line(*command: str) -> str | None:
    """The first line a command prints; None where it cannot."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.partition("\n")[0].strip() or None


def file_name(here: dict[str, Any]) -> str:
    """Of the report of a machine, without suffix."""
    name = re.sub(r"[^a-z0-9]+", "-", (here["gpu"] or "no gpu").lower()).strip("-")
    return f"{name}-quick" if here["quick"] else name


def table(report: dict[str, Any]) -> str:
    """Markdown: the machine in a line, the aims, then every row."""
    here = report["machine"]
    gpu = f"Driver {here['driver']}, compute capability {here['compute_capability']}, " if here["gpu"] else ""
    packages = ", ".join(f"{name} {version}" for name, version in here["packages"].items())
    lines = [
        f"# {here['gpu'] or 'No GPU'}" + (": tiny sizes, which measure nothing" if here["quick"] else ""),
        "",
        f"{gpu}{here['cpus']} CPUs ({here['cpu']}), commit {here['commit']}, {here['date']}, "
        f"{report['seconds']:.0f} s. Python {here['python']}, {packages}.",
        "",
        "| part | what | measured |",
        "|---|---|---|",
    ]
    for aim in report["aims"]:
        found = "" if aim["measured"] is None else f"{aim['measured']}, "
        lines.append(f"| aim | {aim['name']}: {aim['aim']} | {found}{aim['status']} |")
    for row in report["rows"]:
        told = "; ".join(f"{name} {value}" for name, value in row.get("values", {}).items())
        cell = told or f"not run: {row['not_run']}"
        lines.append(f"| {row['part']} | {row['name']} | {cell.replace('|', '/')} |")
    return "\n".join(lines) + "\n"
