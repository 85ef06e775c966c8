"""What travels with an exported model, so that it can be served without the project that made it.

Stored as JSON under ``METADATA_KEY`` in an ONNX file's metadata (see ``cpd.onnx_file``), and beside an engine as
``<engine>.json``. The JSON carries the SHA-256 of its own content, so a manifest that was altered is not believed.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from cpd.clip import ClipSpec
from cpd.errors import EngineError

METADATA_KEY = "cpd.manifest"
SCHEMA = 1
SEAL = "sha256"
"""Key of the digest of everything else in the JSON."""
ONNX_NAME = re.compile(r"[^/\\:\0]+\.onnx")
"""A file name in the same folder, on any system."""
NEXT = "next_"
"""In a streaming graph, prefix of the output that is given to the input of the same name with the following frame."""
DAY_MS = 86_400_000
SHA256 = re.compile(r"[0-9a-f]{64}")
"""A digest in hexadecimal."""

Role = Literal["teacher", "student"]
Precision = Literal["fp32", "fp16", "int8"]


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What an engine was built with, and so where it can run."""

    flavour: str
    """Module that built it: tensorrt or tensorrt_rtx."""
    version: str
    """Full version of that module."""
    target: str
    """GPU and compute capability it was built on, or the capabilities it was built for; a + means later ones too."""
    onnx: str
    """File name of the ONNX model it was built from, in the same folder."""
    onnx_sha256: str
    engine_sha256: str
    options: dict[str, Any] = field(default_factory=dict)
    """Build options: max_batch, workspace_bytes, version_compatible, hardware_compatible …"""


@dataclass(frozen=True, slots=True)
class Manifest:
    """The description of one exported model."""

    role: Role
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
    latency_ms: dict[str, float] = field(default_factory=dict)
    """Of one clip in onnxruntime on the exporting machine's CPU, such as {"p50": 1.3}; empty where not measured."""
    versions: dict[str, str] = field(default_factory=dict)
    """Packages that made the file."""
    graph_sha256: str = ""
    """Of the ONNX file without this manifest (``cpd.onnx_file.graph_sha256``); empty until that is known."""
    streaming: bool = False
    """Whether the graph takes one frame and its caches instead of a whole clip."""
    engine: EngineInfo | None = None
    schema: int = SCHEMA

    def to_json(self) -> str:
        values = asdict(self)
        return json.dumps({**values, SEAL: _digest(values)}, indent=2, sort_keys=True)

    @classmethod
    def from_json(cls, text: str, where: str) -> Manifest:
        """Reads and checks a manifest.

        Args:
            text: JSON as written by ``to_json``.
            where: what to call its source in an error.

        Raises:
            EngineError: not a manifest, altered, of a newer schema, or with missing, unknown or impossible values.
        """
        try:
            values = json.loads(text, object_pairs_hook=_once)
            if not isinstance(values, dict):
                raise ValueError("not a JSON object")
            if values.get("schema") != SCHEMA:
                raise ValueError(f"schema {values.get('schema')!r}, this version reads {SCHEMA}")
            seal = values.pop(SEAL, None)
            _refuse_unknown(values, cls)
            if seal != _digest(values):
                raise ValueError("it was altered since it was written (its SHA-256 differs)")
            _check(values)
            engine = values.pop("engine", None)
            return cls(
                labels=tuple(values.pop("labels")),
                clip=ClipSpec.from_dict(values.pop("clip")),
                engine=_engine_info(engine) if engine is not None else None,
                **values,
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise EngineError(f"{where}: its manifest cannot be used: {error}", "export the model again") from error


def engine_manifest_path(engine: Path) -> Path:
    """Where an engine's manifest lies: student.trt -> student.trt.json."""
    return engine.with_name(engine.name + ".json")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object none of whose keys comes twice: readers would not agree on which of the two counts."""
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key comes twice")
    return values


def _digest(values: dict[str, Any]) -> str:
    """Hex SHA-256 of the values, however they are indented and ordered."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _refuse_unknown(values: dict[str, Any], kind: type) -> None:
    unknown = sorted(set(values) - {f.name for f in fields(kind)})
    if unknown:
        raise ValueError(f"unknown keys {ascii(', '.join(unknown))[1:-1][:80]}")


def _check(values: dict[str, Any]) -> None:
    """Raises ValueError for a value that no exporter writes; a seal does not make a value possible."""
    labels = values["labels"]
    if not isinstance(labels, list) or not labels or not all(isinstance(label, str) for label in labels):
        raise ValueError("labels must be a list of names")
    if len(set(labels)) != len(labels):
        raise ValueError("labels must differ")
    for name, allowed in (("role", get_args(Role)), ("precision", get_args(Precision))):
        if values[name] not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {values[name]!r}")
    for name in ("opset", "parameters", "flops"):
        if type(values.get(name, 0)) is not int or values.get(name, 0) < 0:
            raise ValueError(f"{name} must be a count, got {values[name]!r}")
    if not isinstance(values["model"], str) or not _texts(values.get("versions", {})):
        raise ValueError("model must be text, and so must versions")
    for name in ("checkpoint_sha256", "data_sha256", "graph_sha256"):
        if values.get(name, "") != "":  # empty where it was not recorded
            _check_digest(name, values[name])
    for name, largest in (("accuracy", 1), ("latency_ms", DAY_MS)):
        if not all(type(number) in (int, float) and 0 <= number <= largest for number in values.get(name, {}).values()):
            raise ValueError(f"{name} must hold numbers from 0 to {largest}")
    if type(values.get("streaming", False)) is not bool:
        raise ValueError(f"streaming must be true or false, got {values['streaming']!r}")


def _texts(values: dict[str, Any]) -> bool:
    return all(isinstance(value, str) for value in values.values())


def _check_digest(name: str, value: object) -> None:
    if not isinstance(value, str) or not SHA256.fullmatch(value):
        raise ValueError(f"{name} must be a SHA-256, got {value!r}")


def _engine_info(values: dict[str, Any]) -> EngineInfo:
    _refuse_unknown(values, EngineInfo)
    texts = {name: value for name, value in values.items() if name != "options"}
    if not _texts(texts) or not isinstance(values.get("options", {}), dict):
        raise ValueError("engine must hold text, and its options a mapping")
    if not ONNX_NAME.fullmatch(values["onnx"]):
        raise ValueError(f"engine.onnx must be a file name in the same folder, got {values['onnx']!r}")
    if not values["target"]:
        raise ValueError("engine.target must say where the engine runs")
    for name in ("onnx_sha256", "engine_sha256"):
        _check_digest(f"engine.{name}", values[name])
    return EngineInfo(**values)
