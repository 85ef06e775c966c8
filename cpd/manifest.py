"""What travels with an exported model, so that it can be served without the project that made it.

Stored as JSON under ``METADATA_KEY`` in an ONNX file's metadata, and beside an engine as ``<engine>.json``.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from cpd.clip import ClipSpec
from cpd.errors import EngineError

METADATA_KEY = "cpd.manifest"
SCHEMA = 1

Precision = Literal["fp32", "fp16", "int8"]


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What an engine was built with, and so where it can run."""

    flavour: str
    """Module that built it: tensorrt or tensorrt_rtx."""
    version: str
    """Full version of that module."""
    target: str
    """GPU name and compute capability it was built on, or the capabilities it was built for."""
    onnx: str
    """File name of the ONNX model it was built from, in the same folder."""
    onnx_sha256: str
    engine_sha256: str
    options: dict[str, Any] = field(default_factory=dict)
    """Build options: profiles, workspace_bytes, version_compatible, hardware_compatible …"""


@dataclass(frozen=True, slots=True)
class Manifest:
    """The description of one exported model."""

    role: Literal["teacher", "student"]
    model: str
    """Architecture, such as tsm-resnet18."""
    labels: tuple[str, ...]
    """Class names; position is the index of the logit."""
    clip: ClipSpec
    precision: Precision
    opset: int
    checkpoint_sha256: str
    """Of the safetensors file the graph was made from."""
    data_sha256: str
    """Of the audited clip table the model was trained on."""
    parameters: int = 0
    flops: int = 0
    """Floating-point operations for one clip: two for a multiply-add."""
    accuracy: dict[str, float] = field(default_factory=dict)
    """Fractions measured at export, such as {"top1": 0.91, "top5": 1.0}; empty where not measured."""
    versions: dict[str, str] = field(default_factory=dict)
    """Packages that made the file."""
    engine: EngineInfo | None = None
    schema: int = SCHEMA

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2, sort_keys=True)

    @classmethod
    def from_json(cls, text: str, where: str) -> Manifest:
        """Reads and checks a manifest.

        Args:
            text: JSON as written by ``to_json``.
            where: what to call its source in an error.

        Raises:
            EngineError: not a manifest, one of a newer schema, or one with missing, unknown or impossible values.
        """
        try:
            values = json.loads(text)
            if not isinstance(values, dict):
                raise ValueError("not a JSON object")
            if values.get("schema") != SCHEMA:
                raise ValueError(f"schema {values.get('schema')!r}, this version reads {SCHEMA}")
            unknown = sorted(set(values) - {f.name for f in fields(cls)})
            if unknown:
                raise ValueError(f"unknown keys {', '.join(unknown)}")
            engine = values.pop("engine", None)
            labels = values.pop("labels")
            if not labels or not all(isinstance(label, str) for label in labels):
                raise ValueError("labels must be a list of names")
            if engine is not None and Path(engine["onnx"]).name != engine["onnx"]:
                raise ValueError(f"engine.onnx must be a file name in the same folder, got {engine['onnx']!r}")
            return cls(
                labels=tuple(labels),
                clip=ClipSpec.from_dict(values.pop("clip")),
                engine=EngineInfo(**engine) if engine is not None else None,
                **values,
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise EngineError(f"{where}: its manifest cannot be used: {error}", "export the model again") from error


def engine_manifest_path(engine: Path) -> Path:
    """Where an engine's manifest lies: student.trt -> student.trt.json."""
    return engine.with_name(engine.name + ".json")
