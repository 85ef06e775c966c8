"""benchmarks/gpu: what it reports when parts crash, hang or fail, and that all its parts run."""

from __future__ import annotations

import importlib
import io
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

FOLDER = Path(__file__).parents[3] / "benchmarks/gpu"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch):
    """Imports a module of benchmarks/gpu, which are scripts that lie beside each other."""
    monkeypatch.syspath_prepend(FOLDER)
    before = set(sys.modules)

    yield importlib.import_module

    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(FOLDER)):
            del sys.modules[name]


@pytest.fixture
def run(module) -> ModuleType:
    return module("run")


PART = """
import json, os, sys, time
skip = [sys.argv[at + 1] for at, word in enumerate(sys.argv) if word == "--skip"]
def tell(row): print(json.dumps(row), flush=True)
tell({"planned": ["first", "second", "third"]})
if "first" not in skip: tell({"name": "first", "values": {"ms": 1.5}})
"""


def part(run: ModuleType, script: str, limit_s: float = 30.0) -> dict[str, dict[str, object]]:
    """Row name -> the rest of it, of a part that runs this after it has told its first row."""
    rows = run.run_part("decode", [sys.executable, "-c", PART + script], limit_s)
    assert [row.pop("part") for row in rows] == ["decode"] * len(rows)
    return {row.pop("name"): row for row in rows}


def test_a_crash_loses_one_row_and_the_part_goes_on(run: ModuleType) -> None:
    script = """
if "second" not in skip: print("free(): invalid pointer", file=sys.stderr); os.abort()
tell({"name": "third", "values": {"ms": 2.5}})
"""
    assert part(run, script) == {
        "first": {"values": {"ms": 1.5}},
        "second": {"not_run": "its process ended with status -6: free(): invalid pointer"},
        "third": {"values": {"ms": 2.5}},
    }


def test_a_crash_loses_the_row_it_happened_in_though_earlier_ones_are_told_later(run: ModuleType) -> None:
    script = """
tell({"begun": "second"})
tell({"begun": "third"})
if "third" not in skip: sys.exit("an illegal memory access")
tell({"name": "second", "values": {"ms": 2.5}})
"""
    assert part(run, script) == {
        "first": {"values": {"ms": 1.5}},
        "second": {"values": {"ms": 2.5}},
        "third": {"not_run": "its process ended with status 1: an illegal memory access"},
    }


def test_an_error_that_costs_the_gpus_context_ends_the_process(module, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access")

    rows = module("rows").Rows(told := io.StringIO())
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    rows.measure("first", fails)
    monkeypatch.setattr(torch.cuda, "synchronize", fails)
    with pytest.raises(SystemExit, match="an illegal memory access"):
        rows.measure("second", fails)
    assert [json.loads(line) for line in told.getvalue().splitlines()] == [
        {"begun": "first"}, {"name": "first", "not_run": "CUDA error: an illegal memory access"}, {"begun": "second"}
    ]  # fmt: skip


def test_a_part_that_hangs_keeps_what_it_has_told_and_is_ended_with_its_children(
    run: ModuleType, tmp_path: Path
) -> None:
    script = f"""
import subprocess
child = subprocess.Popen(["sleep", "600"])
open({str(tmp_path / "child")!r}, "w").write(str(child.pid))
time.sleep(600)
"""
    rows = part(run, script, limit_s=6.0)
    assert rows["first"] == {"values": {"ms": 1.5}}
    assert rows["second"] == rows["third"] == {"not_run": "not reached within 6 s"}
    child = int((tmp_path / "child").read_text())
    for _ in range(50):  # the kernel takes a moment
        stat = Path(f"/proc/{child}/stat")
        if not stat.exists() or stat.read_text().split()[2] == "Z":
            return
        time.sleep(0.1)
    os.kill(child, 9)
    pytest.fail("the part's child outlived it")


def test_a_part_that_cannot_begin_is_one_row(run: ModuleType) -> None:
    rows = run.run_part("decode", [sys.executable, "-c", "raise SystemExit('no such library')"], 30.0)
    assert rows == [{"part": "decode", "name": "all", "not_run": "its process ended with status 1: no such library"}]


def test_a_part_that_forgets_a_row_is_noticed(run: ModuleType) -> None:
    assert part(run, "")["third"] == {"not_run": "the part did not tell"}


def test_a_line_cut_off_by_a_crash_is_no_row(module) -> None:
    lines = ['{"planned": ["a", "b"]}', '{"name": "a", "values": {"ms": 1}}', '{"name": "b", "val']
    assert module("report").completed("steps", lines, "why") == [
        {"part": "steps", "name": "a", "values": {"ms": 1}},
        {"part": "steps", "name": "b", "not_run": "why"},
    ]


def measured(part: str, name: str, values: dict[str, float]) -> dict[str, object]:
    return {"part": part, "name": name, "values": values}


def rows_of(wait: float = 0.03, step: float = 1.2, engine_ms: float = 0.5, decoded: float = 1.0) -> list[dict]:
    latency, waits = "batch 1 p50 ms", {"data-wait, fraction": wait, "decoded by DALI, fraction": decoded}
    return [
        measured("training", "method, 720p H.264, NVDEC", waits),
        measured("steps", "method, teacher fresh", {"over KD": step}),
        measured("student", "torch eager fp32", {latency: 4.0}),
        measured("student", "torch eager fp16", {latency: 3.0}),
        measured("student", "tensorrt fp32", {latency: 0.1, "parity": "fail"}),
        measured("student", "tensorrt fp16", {latency: engine_ms, "parity": "pass"}),
        measured("student", "tensorrt_rtx fp32", {latency: 2 * engine_ms, "parity": "pass"}),
        measured("student", "tensorrt_rtx int8", {latency: 0.2}),
        {"part": "student", "name": "tensorrt int8", "not_run": "why"},
        measured("student", "onnxruntime TensorRT fp16", {latency: 0.01}),
        measured("teacher", "tensorrt fp16", {latency: 0.01}),
    ]


def test_aims_are_judged_by_their_rows_alone(module) -> None:
    found = module("report").aims(rows_of())
    assert [(aim["measured"], aim["status"]) for aim in found] == [(0.03, "reached"), (1.2, "missed"), (6.0, "reached")]


def test_an_aim_at_its_limit(module) -> None:
    found = module("report").aims(rows_of(wait=0.05, step=1.15, engine_ms=1.0))
    assert [aim["status"] for aim in found] == ["missed", "reached", "reached"]


def test_data_wait_without_nvdec_is_no_measurement_of_it(module) -> None:
    assert module("report").aims(rows_of(decoded=0.0))[0]["status"] == "not measured"


def test_nothing_measured_reaches_nothing(module) -> None:
    assert {aim["status"] for aim in module("report").aims([])} == {"not measured"}


def test_the_table_holds_every_row_and_never_breaks(module) -> None:
    report = module("report")
    here = report.machine("cpu", False, FOLDER) | {"gpu": "NVIDIA H100 80GB HBM3", "compute_capability": "9.0"}
    rows = [*rows_of(), {"part": "decode", "name": "av1", "not_run": "a | b"}]
    text = report.table({"machine": here, "seconds": 12.3, "aims": report.aims(rows), "rows": rows})
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 3 + len(rows)
    assert all(line.count("|") == 4 for line in lines)
    assert "| student | tensorrt int8 | not run: why |" in lines
    assert "| aim | method step over KD: at most 1.15 | 1.2, missed |" in lines
    assert "compute capability 9.0" in text
    assert report.file_name(here) == "nvidia-h100-80gb-hbm3"


def test_all_parts_together_take_less_than_eight_minutes(run: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run.ALL_S < 8 * 60
    now_s, limits_s = 0.0, {}

    def slow_part(part: str, _command: list[str], limit_s: float) -> list[dict[str, object]]:
        nonlocal now_s
        limits_s[part] = limit_s
        now_s += max(0.0, limit_s)
        return []

    monkeypatch.setattr(run.time, "monotonic", lambda: now_s)
    monkeypatch.setattr(run, "run_part", slow_part)
    assert run.measured("cpu", False, tuple(run.PARTS))["seconds"] == run.ALL_S
    assert limits_s["tests"] == run.PARTS["tests"]
    assert limits_s["teacher"] < run.PARTS["teacher"]


def test_a_part_for_which_no_time_is_left_is_not_begun(run: ModuleType) -> None:
    rows = run.run_part("decode", [sys.executable, "-c", "raise SystemExit('begun')"], 0.0)
    assert rows == [{"part": "decode", "name": "all", "not_run": "no time was left"}]


ENGINE = """
import os, time
from pathlib import Path

def serve(pipe, runtime, precision, role, folder, device):
    others = [path for path in folder.glob("pid-*") if Path(f"/proc/{path.name[4:]}").exists()]
    (folder / f"pid-{os.getpid()}").touch()
    if others:
        pipe.send(("failed", "started beside another"))
    elif runtime == "crashes":
        os._exit(9)
    elif runtime == "hangs":
        time.sleep(600)
    import numpy
    pipe.send(("ready", numpy.eye(2)))
    while True:
        batch, calls = pipe.recv()
        pipe.send(("seconds", [0.001 * batch] * calls))
"""


def test_engines_run_one_after_the_other_and_lose_their_own_row_alone(
    module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "imitated.py").write_text(ENGINE)
    monkeypatch.syspath_prepend(tmp_path)
    engines, rows = module("engines"), module("rows")
    monkeypatch.setattr(engines.runtimes, "serve", importlib.import_module("imitated").serve)
    monkeypatch.setattr(engines.runtimes, "RUNTIMES", ("first", "crashes", "last"))
    monkeypatch.setattr(engines.runtimes, "obstacle", lambda *_: "")
    np.save(tmp_path / "student.npy", np.eye(2))
    (tmp_path / "student.int8.onnx").touch()
    setup, told = rows.Setup("cuda", True, tmp_path, 600.0), io.StringIO()
    engines.run("student", setup, rows.Rows(told, skip=["last int8"]))
    found = {row["name"]: row for row in map(json.loads, told.getvalue().splitlines()) if "name" in row}
    assert list(found) == [name for name in engines.names(setup) if name != "last int8"]
    for name, row in found.items():
        if name.startswith("crashes"):
            assert row["not_run"] == "its process ended with status 9"
        else:
            assert row["values"]["batch 16 p50 ms"] == 16.0
    with pytest.raises(RuntimeError, match="no answer within 1 s"):
        engines.measure("hangs", "fp32", "student", setup, 1.0)
    engines.run("student", rows.Setup("cuda", True, tmp_path, 0.0), rows.Rows(told := io.StringIO()))
    assert {json.loads(line)["not_run"] for line in told.getvalue().splitlines()} == {"no time was left to measure it"}


def test_a_student_that_cannot_be_compiled_loses_its_row_alone(module, tmp_path: Path, monkeypatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(torch, "compile", lambda *_, **__: fails)
    steps, rows, told = module("steps"), module("rows"), io.StringIO()
    setup = rows.Setup("cpu", True, tmp_path, 600.0)
    steps.run(setup, rows.Rows(told, skip=["CE"]))
    found = {row.pop("name"): row for row in map(json.loads, told.getvalue().splitlines()) if "name" in row}
    assert list(found) == [name for name in steps.names(setup) if name != "CE"]
    assert found.pop("method, compiled student") == {"not_run": "no C++ compiler"}
    assert all("values" in row for row in found.values())


def run_tests(module, folder: Path, tests: str, limit_s: float) -> dict[str, object]:
    """The row of gpu_tests.py for these tests."""
    path, told = folder / "test_some.py", io.StringIO()
    path.write_text(tests)
    options = [str(path), "--rootdir", str(folder), "-p", "no:cacheprovider"]
    rows = module("rows")
    module("gpu_tests").run(rows.Setup("cuda", True, folder, limit_s), rows.Rows(told), options)
    return json.loads(told.getvalue())


def test_a_gpu_test_that_crashes_is_one_that_failed_and_the_others_go_on(module, tmp_path: Path) -> None:
    tests = """
import os, pytest
def test_first(): pass
def test_crashes(): os.abort()
@pytest.fixture
def broken(): raise OSError("no device")
def test_broken(broken): pass
@pytest.mark.skip(reason="no GPU")
def test_skipped(): pass
@pytest.mark.parametrize("at", [0, 1])
def test_crashes_too(at): os.abort()
def test_fails(): assert 1 == 2
def test_last(): pass
"""
    values = run_tests(module, tmp_path, tests, 200.0)["values"]
    for name in ("test_crashes", "test_crashes_too[0]", "test_crashes_too[1]"):
        assert re.match(r"worker 'gw\d' crashed while running", values.pop(f"failed: {name}")), name
    assert values == {
        "passed": 2, "failed": 5, "skipped": 1, "failed: test_broken": "OSError: no device",
        "skipped: test_skipped": "no GPU", "failed: test_fails": "assert 1 == 2",
    }  # fmt: skip


def test_a_gpu_test_that_hangs_loses_those_alone_that_had_not_run(module, tmp_path: Path) -> None:
    tests = """
import time
def test_first(): pass
def test_fails(): assert 1 == 2
def test_hangs(): time.sleep(600)
def test_last(): pass
"""
    limit = "not reached within 20 s"
    assert run_tests(module, tmp_path, tests, 20.0)["values"] == {
        "passed": 1, "failed": 1, "skipped": 0, "not run": 2, "failed: test_fails": "assert 1 == 2",
        "not run: test_hangs": limit, "not run: test_last": limit,
    }  # fmt: skip


def test_tests_that_cannot_begin_say_how_pytest_ended(module, tmp_path: Path) -> None:
    rows, told = module("rows"), io.StringIO()
    module("gpu_tests").run(rows.Setup("cuda", True, tmp_path, 60.0), rows.Rows(told), ["--no-such-option"])
    assert json.loads(told.getvalue()) == {"name": "pytest -m gpu", "not_run": "pytest ended with status 4"}


@pytest.mark.parametrize(
    ("runtime", "precision", "device", "why"),
    [
        ("torch eager", "fp32", "cpu", ""),
        ("torch eager", "int8", "cuda", "torch runs no int8"),
        ("torch.compile", "fp32", "cpu", "no CUDA GPU"),
        ("onnxruntime CPU", "int8", "cpu", ""),
        ("tensorrt_rtx", "fp16", "cpu", "no CUDA GPU"),
        ("tensorrt_rtx", "fp16", "cuda", ""),
    ],
)
def test_what_cannot_run_is_known_without_trying(module, runtime: str, precision: str, device: str, why: str) -> None:
    obstacle = module("runtimes").obstacle(runtime, precision, device)
    assert obstacle.startswith(why)
    assert bool(obstacle) == bool(why)


def gpu_check(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, FOLDER / "run.py", *arguments], capture_output=True, text=True, check=False)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_one_line_says_so_and_nothing_is_written() -> None:
    before = sorted(FOLDER.rglob("*.json"))
    done = gpu_check()
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert done.stderr.startswith("Error: no GPU to measure: ")
    assert sorted(FOLDER.rglob("*.json")) == before


@pytest.mark.slow
def test_every_part_runs_in_small(tmp_path: Path) -> None:
    """All but the tests marked gpu, which run by themselves."""
    parts = ("models", "steps", "decode", "training", "student")
    done = gpu_check("--quick", "--output", str(tmp_path), *(word for part in parts for word in ("--part", part)))
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("*-quick.json")
    report = json.loads(path.read_text())
    assert path.with_suffix(".md").read_text().strip() == done.stdout.strip()
    told = {(row["part"], row["name"]): row for row in report["rows"]}
    values = {key: row["values"] for key, row in told.items() if "values" in row}
    missed = {key: row["not_run"] for key, row in told.items() if "not_run" in row}
    assert {key[0] for key in missed} == {"student"}, missed
    assert values["student", "onnxruntime CPU fp32"]["parity"] == "pass"
    assert values["student", "torch eager fp32"]["difference to torch, of the spread"] < 1e-5
    assert values["student", "onnxruntime CPU int8"]["difference to torch, of the spread"] < 0.5
    for codec in ("vp8", "vp9", "mjpeg"):
        assert values["decode", f"{codec} 60p"]["loader frames/s"] > 0, codec
    for codec in ("h264", "hevc", "av1", "mpeg4"):
        assert values["decode", f"{codec} 60p"]["loader clips/s"] > 0, codec
    assert values["training", "KD, 720p H.264, NVDEC"]["clips/s"] > 0
    assert values["steps", "method, teacher kept"]["over KD"] > 0
    compiled = values["steps", "method, compiled student"]
    assert compiled["over not compiled"] > 0
    assert compiled["first step s"] > 10 * compiled["step ms"] / 1e3, "nothing was compiled"
    assert {aim["status"] for aim in report["aims"]} == {"not measured"}
    if not torch.cuda.is_available():
        assert missed["student", "tensorrt_rtx fp32"] == "no CUDA GPU"
