"""The files of the export stage, and export.json: what it made, what it could not and why, and what is proven of each.

A stage's files belong together: an engine beside an ONNX file it was not built from would answer for another model. So
all are written as drafts first, then what an earlier export left is taken away, and only then the drafts take their
places: whatever fails or is killed on the way, an old engine never lies beside a new ONNX file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from cpd.lock import atomic
from cpd.manifest import Precision, Role
from cpd_export.proofs import Proof

Status = Literal["built", "failed", "skipped"]
SUMMARY = "export/export.json"
STREAM = "export/student.stream.onnx"


def onnx_path(role: str, precision: str) -> str:
    """Where a model's ONNX file lies, from the run folder on."""
    return f"export/{role}{'' if precision == 'fp32' else '.' + precision}.onnx"


def engine_path(onnx: str) -> str:
    """Where the engine of an ONNX file lies."""
    return onnx.removesuffix(".onnx") + ".trt"


@dataclass(slots=True)
class ExportedFile:
    """One file of export.json."""

    path: str
    """Relative to the run folder."""
    role: str
    runtime: str
    precision: str
    status: Status
    reason: str = ""
    """Why it was not built, or else which of its proofs failed: a target that does not read it, for one."""
    size_bytes: int = 0
    latency_ms: dict[str, float] = field(default_factory=dict)
    """Of one clip in onnxruntime on this CPU; empty where not measured."""
    recommended: bool = False
    """Whether this is the student's fastest faithful file for onnxruntime on this machine."""
    proofs: list[Proof] = field(default_factory=list)
    quantisation: dict[str, Any] = field(default_factory=dict)
    """How int8 was found: every trial, and the damage of each layer."""

    def to_dict(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in self.__slots__ if name != "quantisation"}
        return {
            **values,
            "proofs": [proof.to_dict() for proof in self.proofs],
            **({"quantisation": self.quantisation} if self.quantisation else {}),
        }


def write_file(path: Path, data: bytes) -> None:
    """Replaces a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as draft:
        draft.write_bytes(data)


def replace_files(
    run_dir: Path, made: Mapping[str, bytes], files: Sequence[ExportedFile], streams: Sequence[ExportedFile]
) -> None:
    """Puts one export in place of the one before it, of which nothing stays.

    Args:
        run_dir: the run folder.
        made: every file's content, by its path from the run folder on.
        files: what is said of them, and of those that could not be made.
        streams: those that take a frame at a time, not a clip.
    """
    summary = {"files": [file.to_dict() for file in files], "streams": [file.to_dict() for file in streams]}
    text = json.dumps(summary, indent=2, allow_nan=False) + "\n"
    (run_dir / SUMMARY).parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as drafts:
        # Drafts take their places in reverse order, so the summary comes last: it speaks of all the others.
        for path, data in {SUMMARY: text.encode(), **made}.items():
            drafts.enter_context(atomic(run_dir / path)).write_bytes(data)
        for path in _of_an_earlier_export():
            if path not in made or not path.endswith(".onnx"):
                (run_dir / path).unlink(missing_ok=True)


def _of_an_earlier_export() -> list[str]:
    """Every path the stage may have written; the summary and the engines' manifests before what they speak of."""
    models = [onnx_path(role, precision) for role in get_args(Role) for precision in get_args(Precision)]
    engines = [engine_path(model) for model in models]
    return [SUMMARY, *(f"{engine}.json" for engine in engines), *engines, *models, STREAM]
