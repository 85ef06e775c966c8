"""``cpd-bench`` as CI runs it: real processes, real engines, exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from onnx import helper

from cpd.manifest import METADATA_KEY, Manifest
from cpd.onnx_file import graph_sha256

pytestmark = pytest.mark.alone
BENCH = [sys.executable, "-c", "from cpd_serve.bench.cli import main; main(prog_name='cpd-bench')"]


def bench(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*BENCH, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=600, **options
    )


def slow_down(source: Path, target: Path, layers: int) -> Path:
    """The same model with work added before its first layer."""
    model = onnx.load(source)
    cast, *rest = model.graph.node
    names = ["frames_as_float", *(f"more{index}" for index in range(layers))]
    more = [helper.make_node("Tanh", [one], [other]) for one, other in pairwise(names)]
    rest[0].input[0] = names[-1]
    cast.output[0] = names[0]
    del model.graph.node[:]
    model.graph.node.extend([cast, *more, *rest])
    onnx.checker.check_model(model)
    said = Manifest.from_json(model.metadata_props[0].value, "it")
    digest = graph_sha256(model.SerializeToString())
    helper.set_model_props(model, {METADATA_KEY: replace(said, graph_sha256=digest).to_json()})
    onnx.save(model, target)
    return target


@pytest.fixture
def slow_model(colour_model: Path, tmp_path: Path) -> Path:
    return slow_down(colour_model, tmp_path / "slow.onnx", layers=20)


def test_a_much_slower_engine_fails_and_every_report_says_so(
    colour_model: Path, slow_model: Path, tmp_path: Path
) -> None:
    reports = {kind: tmp_path / f"report.{kind}" for kind in ("json", "junit", "markdown")}
    asked = [part for kind, path in reports.items() for part in (f"--{kind}", path)]
    done = bench(
        "check", "--engine", slow_model, "--baseline", colour_model, "--max-slowdown", "5%", "--gate", "size=1000%",
        "--history", tmp_path / "runs.jsonl", "--commit", "abc", *asked,
    )  # fmt: skip
    assert done.returncode == 3, done.stdout + done.stderr
    assert done.stdout.startswith("fail:")
    document = json.loads(reports["json"].read_text())
    latency, size = document["gates"]
    assert latency["status"] == "fail"
    assert latency["interval"][0] > 0.05
    assert size["status"] == "pass"
    assert document["new"]["peak_memory_bytes"] > 10_000_000
    assert document["new"]["cold_start_ms"] > document["new"]["first_inference_ms"] > 0
    assert ElementTree.parse(reports["junit"]).getroot().get("failures") == "1"
    assert "limit +5%" in reports["markdown"].read_text()
    shown = bench("history", tmp_path / "runs.jsonl")
    assert shown.returncode == 0
    assert "abc" in shown.stdout


def test_an_engine_against_itself_passes_at_a_wide_limit(colour_model: Path) -> None:
    done = bench("check", "--engine", colour_model, "--baseline", colour_model, "--max-slowdown", "100%", "--json", "-")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["verdict"] == "pass"  # stdout is the document alone


def test_too_little_time_is_undecided_and_says_so(colour_model: Path) -> None:
    done = bench("check", "--engine", colour_model, "--baseline", colour_model, "--max-time", "0.001")
    assert done.returncode == 4
    assert "a verdict needs at least" in done.stdout or "were disturbed" in done.stdout


def test_a_recorded_baseline_stands_in_for_an_engine(colour_model: Path, slow_model: Path, tmp_path: Path) -> None:
    recorded = tmp_path / "baseline.json"
    done = bench("record", "--engine", colour_model, "--output", recorded, "--rounds", 12)
    assert done.returncode == 0, done.stderr
    slower = bench("check", "--engine", slow_model, "--baseline", recorded, "--max-slowdown", "5%")
    assert slower.returncode == 3, slower.stdout + slower.stderr
    document = json.loads(recorded.read_text())
    document["machine"]["cpu"] = "another"
    recorded.write_text(json.dumps(document))
    refused = bench("check", "--engine", slow_model, "--baseline", recorded)
    assert refused.returncode == 1
    assert "another machine" in refused.stderr
    assert "--normalise" in refused.stderr
    normalised = bench("check", "--engine", slow_model, "--baseline", recorded, "--normalise")
    assert normalised.returncode == 3, normalised.stdout + normalised.stderr
    assert "for the sitting or machine" in normalised.stdout


def test_from_clip_times_decoding_too(colour_model: Path, write_video: Callable[..., Path]) -> None:
    video = write_video(np.random.default_rng(0).integers(0, 255, (12, 48, 48, 3), dtype=np.uint8))
    whole = bench("check", "--engine", colour_model, "--baseline", colour_model, "--max-slowdown", "100%",
                  "--from", "clip", "--video", video, "--json", "-")  # fmt: skip
    alone = bench(
        "check", "--engine", colour_model, "--baseline", colour_model, "--max-slowdown", "100%", "--json", "-"
    )
    p50_ms = [json.loads(done.stdout)["new"]["latency_ms"]["p50"] for done in (whole, alone)]
    assert p50_ms[0] > 2 * p50_ms[1]


@pytest.mark.parametrize(
    ("changes", "word"),
    [({"labels": ("a", "b", "c")}, "labels"), ({"clip": None}, "inputs")],
)
def test_engines_for_different_tasks_are_refused(
    colour_model: Path, write_model: Callable[..., Path], tmp_path: Path, changes: dict[str, Any], word: str
) -> None:
    from cpd.clip import ClipSpec

    if "clip" in changes:
        changes = {"clip": ClipSpec(frames=6, resize=32, crop=(32, 32))}
    other = write_model(tmp_path / "other.onnx", **changes)
    done = bench("check", "--engine", other, "--baseline", colour_model)
    assert done.returncode == 1
    assert f"different {word}" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["check", "--engine", "absent.onnx", "--baseline", "absent.onnx"], 1, "no such file"),
        (["check", "--engine", "absent.onnx", "--baseline", "absent.json"], 1, "cannot be read"),
        (["check", "--engine", "a.onnx", "--baseline", "b.onnx", "--max-slowdown", "5"], 2, "5%"),
        (["check", "--engine", "a.onnx", "--baseline", "b.onnx", "--gate", "speed=5%"], 2, "throughput"),
        (["check", "--engine", "a.onnx", "--baseline", "b.onnx", "--from", "clip"], 2, "--video"),
        (["record", "--engine", "a.onnx", "--output", "x.json", "--video", __file__], 2, "--video would do nothing"),
        (["check", "--engine", "a.onnx", "--baseline", "b.onnx", "--commit", "abc"], 2, "--commit would do nothing"),
        (["check", "--engine", "a.onnx", "--baseline", "b.onnx", "--normalise"], 1, "recorded baseline"),
        (["record", "--engine", "absent.onnx", "--output", "x.json"], 1, "no such file"),
        (["history", "absent.jsonl"], 1, "no such file"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments: list[str], code: int, word: str, tmp_path: Path) -> None:
    done = bench(*arguments, cwd=tmp_path)
    assert done.returncode == code, done.stdout + done.stderr
    assert word in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_check_gives_no_verdict(colour_model: Path, tmp_path: Path, how: signal.Signals) -> None:
    report = tmp_path / "report.json"
    process = subprocess.Popen(
        [*BENCH, "check", "--engine", colour_model, "--baseline", colour_model, "--percentile", "99.9",
         "--json", report],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    time.sleep(3)
    os.killpg(process.pid, how) if how == signal.SIGINT else process.send_signal(how)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    assert "no verdict" in err
    assert "Traceback" not in err
    assert out == ""
    assert not report.exists()


def test_help_is_instant() -> None:
    start_s = time.process_time_ns()
    done = bench("--help")
    assert done.returncode == 0
    assert time.process_time_ns() - start_s < 1e9
    code = "import sys, cpd_serve.bench.cli; sys.exit('numpy' in sys.modules or 'onnxruntime' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
