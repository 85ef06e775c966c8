"""The report stage: everything a run found out, as report.json for programs and report.html for people."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cpd
from cpd.errors import CpdError
from cpd.lock import atomic

if TYPE_CHECKING:
    from cpd.config import Pipeline

SCHEMA = 1


def run(config: Pipeline, run_dir: Path) -> str:
    """Gathers what the stages wrote into report.json, and draws report.html from it.

    Returns:
        The verdict, the gates that were not passed, and where to read more.
    """
    exported = _json(run_dir / "export/export.json")
    report = _strict(
        {
            "schema": SCHEMA,
            "name": config.name,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "version": cpd.__version__,
            **_json(run_dir / "validate/validation.json"),
            "exports": exported["files"],
            "streams": exported.get("streams", []),
            "data": _json(run_dir / "data/data.json"),
            "training": {role: _json_lines(run_dir / role / "metrics.jsonl") for role in ("teacher", "student")},
        }
    )
    text = json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False)
    with atomic(run_dir / "report.json") as path:
        path.write_text(text + "\n", encoding="utf-8")
    page = _write_html(report, run_dir)
    gates = report["gates"]
    passed = sum(gate["status"] == "pass" for gate in gates)
    others = ", ".join(f"{gate['name']} {gate['status']}" for gate in gates if gate["status"] != "pass")
    return f"{report['verdict']}: {passed} of {len(gates)} gates passed{f' ({others})' if others else ''}, see {page}"


def write_html(run_dir: Path) -> Path:
    """Draws report.html from report.json: one file that needs nothing else.

    Raises:
        CpdError: there is no report.json, or it is not one of ours.
    """
    source = run_dir / "report.json"
    try:
        report = _json(source)
        if report["schema"] != SCHEMA:
            raise ValueError(f"schema {report['schema']!r}, this version reads {SCHEMA}")
        return _write_html(report, run_dir)
    except FileNotFoundError as error:
        raise CpdError(f"{source}: no such file", "cpd-pipeline run writes it at its end") from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise CpdError(f"{source} is not a report ({reason})", "write it anew with run --force report") from error


def _write_html(report: Any, run_dir: Path) -> Path:
    from cpd.page import render

    page = render(report)
    with atomic(run_dir / "report.html") as path:
        path.write_text(page, encoding="utf-8")
    return run_dir / "report.html"


def _strict(value: Any) -> Any:
    """The value as every JSON reader takes it: numbers that are not finite become null."""
    if isinstance(value, dict):
        return {key: _strict(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_strict(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _json_lines(path: Path) -> list[Any]:
    """The objects of a file with one a line; none where a model was not trained."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
