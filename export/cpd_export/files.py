"""export.json: what the export stage made, what it could not make and why, and what is proven of each file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cpd.lock import atomic
from cpd_export.proofs import Proof

Status = Literal["built", "failed", "skipped"]


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
    """Why it was not built."""
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


def write_summary(run_dir: Path, files: Sequence[ExportedFile], streams: Sequence[ExportedFile]) -> None:
    """Writes export.json; ``streams`` are the files that take a frame at a time, not a clip."""
    summary = {"files": [file.to_dict() for file in files], "streams": [file.to_dict() for file in streams]}
    write_file(run_dir / "export/export.json", (json.dumps(summary, indent=2, allow_nan=False) + "\n").encode())
