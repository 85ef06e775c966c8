"""An export takes the place of the one before it so that, wherever it is cut off, no file lies beside another's."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from cpd_export.files import ExportedFile, replace_files

MODELS = ("export/teacher.onnx", "export/student.onnx", "export/student.int8.onnx", "export/student.stream.onnx")
ENGINES = ("export/student.trt", "export/student.trt.json", "export/student.int8.trt", "export/student.int8.trt.json")
MADE = {"export/teacher.onnx": b"new", "export/student.onnx": b"new", "export/student.trt": b"new"}
FILES = [ExportedFile(path, "student", "onnxruntime", "fp32", "built") for path in MADE]


class CutOffError(Exception):
    """Stands for a full disk or a killed process."""


def earlier_export(run_dir: Path) -> None:
    (run_dir / "export").mkdir()
    for path in (*MODELS, *ENGINES, "export/export.json", "export/notes.txt", "export/tensorrt.timing.cache"):
        (run_dir / path).write_bytes(b"old")


def contents(run_dir: Path) -> dict[str, bytes]:
    return {path.relative_to(run_dir).as_posix(): path.read_bytes() for path in (run_dir / "export").iterdir()}


def test_nothing_of_an_earlier_export_stays(tmp_path: Path) -> None:
    earlier_export(tmp_path)
    replace_files(tmp_path, MADE, FILES, [])
    found = contents(tmp_path)
    summary = json.loads(found.pop("export/export.json"))
    assert [file["path"] for file in summary["files"]] == list(MADE)
    assert found == MADE | {"export/notes.txt": b"old", "export/tensorrt.timing.cache": b"old"}, "others' files stay"


@pytest.mark.parametrize("operation", ["write_bytes", "unlink", "replace"])
def test_cut_off_anywhere_no_old_engine_lies_beside_a_new_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    whole = getattr(Path, operation)
    monkeypatch.setattr("os.fsync", lambda file: None)  # so that seventy drafts take no seconds
    for allowed in itertools.count():
        run_dir = tmp_path / str(allowed)
        run_dir.mkdir()
        earlier_export(run_dir)
        calls = itertools.count()

        def cut_off(path: Path, *args: object, calls: itertools.count[int] = calls, last: int = allowed, **kw: object):  # type: ignore[no-untyped-def]
            if ".draft" in path.name and operation == "unlink":
                return whole(path, *args, **kw)
            if next(calls) == last:
                raise CutOffError
            return whole(path, *args, **kw)

        with monkeypatch.context() as patch:
            patch.setattr(Path, operation, cut_off)
            try:
                replace_files(run_dir, MADE, FILES, [])
            except CutOffError:
                pass
            else:
                break
        found = contents(run_dir)
        assert not [path for path in found if ".draft" in path]
        if b"new" in found.values():
            old = {path for path, data in found.items() if data == b"old"}
            assert not old & {*ENGINES, "export/export.json"}
        if operation == "write_bytes":
            assert set(found.values()) == {b"old"}, "nothing is replaced before everything is written"
    assert allowed >= 3, "the operation was never cut off"
