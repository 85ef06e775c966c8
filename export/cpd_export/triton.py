"""A Triton Inference Server model repository from the files of a run, for those who outgrow one machine.

Layout and keys are those of Triton's documentation (model_repository.md, model_configuration.md):

    DIR/student/config.pbtxt      what goes in and out, and how requests are batched
    DIR/student/labels.txt        a name for each logit, in order
    DIR/student/1/model.onnx      a higher number is a newer version; Triton serves the highest
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from cpd.errors import DataError, EngineError, ExportError, reason_of
from cpd.lock import atomic, content_sha256
from cpd.manifest import Manifest, engine_manifest_path
from cpd.onnx_file import read_onnx_manifest

BACKENDS = {".onnx": ("onnxruntime", "model.onnx"), ".trt": ("tensorrt", "model.plan")}
"""Triton's backend and the file name it looks for."""
RUNTIMES = ("onnxruntime", "tensorrt")
QUEUE_DELAY_US = 2000
"""How long a request may wait for others to share a batch with."""


def export_triton(run_dir: Path, repository: Path, max_batch: int) -> list[str]:
    """Puts every student that a run has exported into a model repository.

    Returns:
        The names of the models written.

    Raises:
        DataError: the run has no exported files, or none that Triton serves.
        EngineError: one of them was damaged, changed, or is another than the run says.
        ExportError: see ``write_repository``.
    """
    table = run_dir / "export/export.json"
    if not table.is_file():
        raise DataError(f"{table}: no exported files", "run the export stage first")
    try:
        precisions = {
            run_dir / file["path"]: file["precision"]
            for file in json.loads(table.read_text(encoding="utf-8"))["files"]
            if (file["role"], file["status"]) == ("student", "built") and file["runtime"] in RUNTIMES
        }
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DataError(f"{table}: cannot be read: {error}", "run the export stage again") from error
    if not precisions:
        raise DataError(f"{table}: names no student that Triton serves", "run the export stage again")
    for path, precision in precisions.items():
        manifest = _read_manifest(path)
        if (manifest.role, manifest.precision) != ("student", precision):
            what = f"is the {manifest.role} in {manifest.precision}, not the student in {precision}"
            raise EngineError(f"{path}: {what}", "run the export stage again")
    return write_repository(list(precisions), repository, max_batch)


def write_repository(models: Sequence[Path], repository: Path, max_batch: int) -> list[str]:
    """Adds models to a repository, each as its next version, unless it is the newest one there already.

    All are checked, and then all are written as drafts, before the first takes its place.

    Args:
        models: .onnx files, and .trt engines of the full TensorRT.
        repository: made if need be.
        max_batch: most clips in a request or a batch of requests.

    Raises:
        EngineError: a model is damaged, changed or not one of ours.
        ExportError: a model cannot be served by Triton, the repository holds another of its name, or cannot be used.
    """
    entries = [_Entry(path, max_batch) for path in models]
    with _explained(repository), ExitStack() as drafts:
        for entry in entries:
            entry.check(repository)
        for entry in entries:
            entry.write(repository, drafts)
    return [entry.name for entry in entries]


@contextmanager
def _explained(repository: Path) -> Iterator[None]:
    """Turns whatever the file system refuses into one line."""
    try:
        yield
    except OSError as error:
        reason = reason_of(error)
        raise ExportError(f"{error.filename or repository}: {reason}", "mend that, or name another folder") from error


class _Entry:
    """One model on its way into a repository."""

    def __init__(self, path: Path, max_batch: int) -> None:
        if path.suffix not in BACKENDS:
            raise ExportError(f"{path}: not a model that Triton serves", f"name {' or '.join(BACKENDS)} files")
        self.path, self.manifest = path, _read_manifest(path)
        if self.manifest.streaming:
            raise ExportError(f"{path}: takes a frame at a time, not a clip", "serve it with cpd-serve --stream")
        most = self.manifest.engine.options.get("max_batch") if self.manifest.engine else None
        if isinstance(most, int) and max_batch > most:
            raise ExportError(
                f"{path}: was built for batches of up to {most}, not {max_batch}", "run the export stage again"
            )
        self.name = path.name.replace(".", "-") if path.suffix == ".trt" else path.stem.replace(".", "-")
        backend, self.file_name = BACKENDS[path.suffix]
        self.config = config_text(self.name, backend, self.manifest, max_batch)
        self.labels = labels_text(self.manifest.labels, path)

    def check(self, repository: Path) -> None:
        """Raises ExportError where the repository has this name for something else."""
        for name, text in (("config.pbtxt", self.config), ("labels.txt", self.labels)):
            there = repository / self.name / name
            found = there.read_bytes().splitlines() if there.exists() else text.encode().splitlines()
            differs = [line for line in text.encode().splitlines() if line not in found]
            if len(differs) == 1 and differs[0].startswith(b"max_batch_size"):
                raise ExportError(
                    f"{there}: has another max_batch_size than export.max_batch",
                    "change either, or name another folder",
                )
            if differs or len(found) != len(text.splitlines()):
                raise ExportError(f"{there}: belongs to a model of other inputs or labels", "name another folder")

    def write(self, repository: Path, drafts: ExitStack) -> None:
        """The model takes its place first: Triton loads a version when it finds its configuration."""
        folder, data = repository / self.name, self.path.read_bytes()
        versions = [int(child.name) for child in folder.glob("*") if child.name.isdecimal()]
        newest = max(versions, default=0)
        files = {folder / "config.pbtxt": self.config.encode(), folder / "labels.txt": self.labels.encode()}
        model = folder / str(newest) / self.file_name
        if not model.exists() or model.read_bytes() != data:
            files[folder / str(newest + 1) / self.file_name] = data
        for path, content in files.items():
            _make_folder(path.parent, drafts)
            drafts.enter_context(atomic(path)).write_bytes(content)


def _make_folder(folder: Path, drafts: ExitStack) -> None:
    """Makes a folder that is gone again where nothing comes to lie in it."""
    if not folder.is_dir():
        _make_folder(folder.parent, drafts)
        folder.mkdir()
        drafts.callback(_remove_if_empty, folder)


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def config_text(name: str, backend: str, manifest: Manifest, max_batch: int) -> str:
    """A config.pbtxt (message ModelConfig of Triton's model_config.proto); the batch is not among the dims."""
    dims = ", ".join(map(str, manifest.clip.shape))
    return f"""name: {json.dumps(name)}
backend: "{backend}"
max_batch_size: {max_batch}
input [
  {{
    name: "frames"
    data_type: TYPE_UINT8
    dims: [ {dims} ]
  }}
]
output [
  {{
    name: "logits"
    data_type: TYPE_FP32
    dims: [ {len(manifest.labels)} ]
    label_filename: "labels.txt"
  }}
]
dynamic_batching {{
  max_queue_delay_microseconds: {QUEUE_DELAY_US}
}}
"""


def labels_text(labels: Sequence[str], path: Path) -> str:
    """A label on each line, as Triton reads them.

    Raises:
        ExportError: a label does not fit on a line.
    """
    broken = [label for label in labels if not label or label.splitlines() != [label]]
    if broken:
        raise ExportError(f"{path}: the label {broken[0]!r} does not fit on a line of labels.txt", "rename the class")
    return "".join(f"{label}\n" for label in labels)


def _read_manifest(path: Path) -> Manifest:
    """The manifest of a model that Triton can serve, checked against its file.

    Raises:
        EngineError: damaged, changed or not one of ours.
        ExportError: made for a runtime that Triton does not have.
    """
    if path.suffix == ".onnx":
        return read_onnx_manifest(path)
    beside = engine_manifest_path(path)
    if not path.is_file() or not beside.is_file():
        raise EngineError(f"{path}: the engine and {beside.name} must both be there", "run the export stage again")
    manifest = Manifest.from_json(beside.read_text(encoding="utf-8", errors="replace"), str(beside))
    if manifest.engine is None or manifest.engine.engine_sha256 != content_sha256(path):
        raise EngineError(f"{path}: is not the file its manifest describes", "run the export stage again")
    if manifest.engine.flavour != "tensorrt":
        raise ExportError(
            f"{path}: was built by {manifest.engine.flavour}, which Triton does not run",
            f"serve {manifest.engine.onnx}, or build the engine with tensorrt",
        )
    return manifest
