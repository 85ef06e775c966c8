"""Who may import whom: the linter's contracts, and every module imported with what it must not need hidden."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[2]
TENSORRT = ["tensorrt", "tensorrt_rtx", "tensorrt_lean", "cuda"]
HIDDEN = {
    "cpd": ["torch", "nvidia", "onnx", "onnxscript", "onnxruntime", "safetensors", *TENSORRT],
    "cpd_serve": [
        "torch", "nvidia", "onnx", "onnxscript", "pydantic", "yaml", "jinja2", "tqdm", "safetensors", *TENSORRT,
    ],
    "cpd_train": ["onnx", "onnxscript", "onnxruntime", "starlette", *TENSORRT],
    "cpd_export": ["nvidia", "starlette", *TENSORRT],
}  # fmt: skip
"""What is hidden while every module of a package is imported: it may be needed in a function, not to import."""
ADAPTERS = ["cpd_serve.runtimes.cuda_buffers"]
"""What is hidden from the others belongs in here; imported in functions alone."""

IMPORT_ALL = """
import importlib, json, pkgutil, sys

package, hidden, adapters = json.loads(sys.argv[1])

class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in hidden:
            raise ModuleNotFoundError(f"{name} is hidden", name=name)

sys.meta_path.insert(0, Hide())
root = importlib.import_module(package)
names = [package, *(module.name for module in pkgutil.walk_packages(root.__path__, package + "."))]
for name in sorted(set(names) - set(adapters)):
    importlib.import_module(name)
print(len(names))
"""

HELP = """
import json, sys
module, arguments, heavy = json.loads(sys.argv[1])
sys.argv = ["command", *arguments, "--help"]
try:
    __import__(module, fromlist=["main"]).main()
except SystemExit as end:
    assert not end.code, end.code
print(json.dumps(sorted(set(heavy) & set(sys.modules))), file=sys.stderr)
"""
HEAVY = [
    "numpy", "av", "torch", "nvidia", "onnx", "onnxruntime", "pydantic", "yaml", "jinja2", "tqdm",
    "starlette", "uvicorn",
]  # fmt: skip


def python(code: str, *values: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-c", code, json.dumps(values)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def test_the_contracts_hold() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout


def test_the_shared_language_is_all_that_starts_no_room() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (named,) = [one["source_modules"] for one in contracts if one["name"] == "the shared language needs no framework"]
    modules = {f"cpd.{path.stem}" for path in (ROOT / "cpd").iterdir() if path.suffix == ".py" or path.is_dir()}
    assert set(named) == modules - {"cpd.__init__", "cpd.__pycache__", "cpd.cli", "cpd.stages"}


def test_export_knows_the_models_and_nothing_else_of_training() -> None:
    graph = grimp.build_graph("cpd_export", "cpd_train", cache_dir=None)
    known = {
        imported
        for module in graph.modules
        if module.startswith("cpd_export")
        for imported in graph.find_modules_directly_imported_by(module)
        if imported.startswith("cpd_train")
    }
    assert known
    assert all(name.startswith("cpd_train.models") for name in known), known


@pytest.mark.parametrize("package", HIDDEN)
def test_every_module_imports_without_what_it_does_not_need(package: str) -> None:
    done = python(IMPORT_ALL, package, HIDDEN[package], ADAPTERS)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 5


def test_hiding_is_seen() -> None:
    assert "torch is hidden" in python(IMPORT_ALL, "cpd_train", ["torch"], []).stderr


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("cpd.cli", []), ("cpd.cli", ["run"]), ("cpd_serve.cli", []), ("cpd_serve.cli", ["http"]),
        ("cpd_serve.bench.cli", []),
    ],
)  # fmt: skip
def test_help_imports_nothing_heavy(module: str, arguments: list[str]) -> None:
    done = python(HELP, module, arguments, HEAVY)
    assert done.returncode == 0, done.stderr
    assert "Usage: " in done.stdout
    assert json.loads(done.stderr) == []
