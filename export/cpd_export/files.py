"""What the export stage writes: each file proven before it takes its place, and listed in export.json."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from cpd.manifest import EngineInfo, Manifest, engine_manifest_path
from cpd_export.engine import BuildOptions, BuiltEngine
from cpd_export.proofs import Proof

Status = Literal["built", "failed", "skipped"]


@dataclass(slots=True)
class ExportedFile:
    """One line of export.json."""

    path: str
    """Relative to the run folder."""
    role: str
    runtime: str
    precision: str
    status: Status
    reason: str = ""
    size_bytes: int = 0
    proofs: list[Proof] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in self.__slots__}
        return {**values, "proofs": [proof.to_dict() for proof in self.proofs]}


def write_file(path: Path, data: bytes) -> None:
    """Replaces a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        part.write_bytes(data)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_engine(path: Path, engine: BuiltEngine, onnx: Path, manifest: Manifest, options: BuildOptions) -> None:
    """Writes an engine and, beside it, the manifest that knows both files by their hash."""
    info = EngineInfo(
        flavour=engine.flavour,
        version=engine.version,
        target=engine.target,
        onnx=onnx.name,
        onnx_sha256=hashlib.sha256(onnx.read_bytes()).hexdigest(),
        engine_sha256=hashlib.sha256(engine.data).hexdigest(),
        options=options.to_dict(),
    )
    write_file(path, engine.data)
    write_file(engine_manifest_path(path), replace(manifest, engine=info).to_json().encode())


def write_summary(run_dir: Path, files: Sequence[ExportedFile]) -> None:
    """Writes export.json."""
    summary = {"files": [file.to_dict() for file in files]}
    write_file(run_dir / "export/export.json", (json.dumps(summary, indent=2) + "\n").encode())
