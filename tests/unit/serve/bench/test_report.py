"""What the reports say is what was decided, and other programs can read them."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest

from cpd_serve.bench.check import Check, Facts, Gate, Judged, Plan
from cpd_serve.bench.decision import Decision
from cpd_serve.bench.report import (
    PLOT_COLUMNS,
    as_dict,
    as_junit,
    as_markdown,
    as_text,
    between,
    compared,
    method,
    plot,
    write_report,
)
from cpd_serve.bench.rounds import Rounds
from cpd_serve.bench.worker import Timed
from cpd_serve.latency import LatencySummary

FACTS = Facts("new.onnx", "onnxruntime", "CPUExecutionProvider", 26_000, LatencySummary(1.0, 1.2, 2.0, 640), 950.0,
              210.0, 1.5, 81_000_000, None)  # fmt: skip
LATENCY, SIZE = Gate("latency", 0.05), Gate("size", 0.1)


def outcome(*decisions: Decision, reason: str = "") -> Check:
    gates = (LATENCY, SIZE)[: len(decisions)]
    judged = [Judged(gate, each, reason if each.status == "inconclusive" else "")
              for gate, each in zip(gates, decisions, strict=True)]  # fmt: skip
    statuses = [each.status for each in decisions]
    verdict = next((status for status in ("fail", "inconclusive") if status in statuses), "pass")
    baseline = replace(FACTS, path="old.onnx")
    return Check(verdict, judged, FACTS, baseline, Plan(gates), 0.0, Rounds(), 3.2)


PASSED = Decision("pass", 0.003, (-0.01, 0.021), 12)
FAILED = Decision("fail", 0.09, (0.062, 0.12), 9)
UNDECIDED = Decision("inconclusive", 0.05, (0.03, 0.07), 300)
UNKNOWN = Decision("inconclusive", None, (None, None), 0)


def test_json_holds_the_gates_as_report_json_does() -> None:
    document = json.loads(json.dumps(as_dict(outcome(FAILED, PASSED), {"cpu": "x"}), allow_nan=False))
    assert document["verdict"] == "fail"
    gate = document["gates"][0]
    assert {key: gate[key] for key in ("name", "status", "value", "interval", "limit")} == {
        "name": "latency p50", "status": "fail", "value": 0.09, "interval": [0.062, 0.12], "limit": 0.05,
    }  # fmt: skip
    assert document["new"]["latency_ms"] == {"p50": 1.0, "p90": 1.2, "p99": 2.0, "runs": 640}


def test_junit_counts_a_failed_gate_as_failure_and_an_undecided_one_as_error() -> None:
    suite = ElementTree.fromstring(as_junit(outcome(UNDECIDED, FAILED, reason="too <busy> & noisy")))
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("2", "1", "1")
    cases = suite.findall("testcase")
    error = cases[0].find("error")
    assert error is not None
    assert error.get("message") == "too <busy> & noisy"
    assert cases[1].find("failure") is not None


@pytest.mark.parametrize("decision", [PASSED, FAILED, UNDECIDED, UNKNOWN])
def test_plot_shows_the_interval_on_the_right_side_of_the_limit(decision: Decision) -> None:
    row, axis = plot(outcome(decision).judged[0], outcome(decision))
    row, axis = row[17:], axis[17:]
    limit = axis.index("|limit")
    assert len(row) <= PLOT_COLUMNS
    if decision is PASSED:
        assert row.index("┤") < limit
    elif decision is FAILED:
        assert row.index("├") > limit
    elif decision is UNDECIDED:
        assert row.index("├") < limit < row.index("┤")
    else:
        assert row[0] == "◄"
        assert row[-1] == "►"


def test_text_and_markdown_say_the_verdict_the_change_and_the_reason() -> None:
    check = outcome(UNDECIDED, reason="a busy neighbour")
    for text in (as_text(check), as_markdown(check, {"cpu": "x", "gpu": None})):
        assert "undecided" in text
        assert "+3.0% to +7.0%" in text
        assert "a busy neighbour" in text
    assert "gpu" not in as_markdown(check, {"cpu": "x", "gpu": None}).splitlines()[-1]


@pytest.mark.parametrize(
    ("ends", "words"),
    [((0.03, 0.07), "+3.0% to +7.0%"), ((None, 0.07), "any to +7.0%"), ((None, None), "no interval yet")],
)
def test_an_end_without_a_bound_is_said_so(ends: tuple[float | None, float | None], words: str) -> None:
    assert between(Judged(LATENCY, Decision("inconclusive", 0.05, ends, 9), "")) == words
    assert between(Judged(SIZE, Decision("pass", 0.05, (0.05, 0.05), 1), "")) == "exact"


def test_the_method_names_what_makes_it_less_sure() -> None:
    plain = outcome(PASSED)
    assert method(plain) == "0 rounds in 3.2 s; wrong with probability at most 0.01 either way"
    calls_s = np.full((2, 4), 1e-3)
    measured = Rounds([Timed(calls_s, calls_s, np.empty(0), 1.0, 0.25, None)], Counter({"steal time": 3}))
    told = method(replace(plain, measured=measured, margin=math.log(1.02)))
    assert told == (
        "1 rounds in 3.2 s, 3 more repeated, waiting for a core 25% of the time; "
        "wrong with probability at most 0.01 either way; ±2% for the sitting or machine"
    )


def test_large_numbers_are_written_out() -> None:
    rows = {what: (new, old) for what, new, old in compared(replace(FACTS, size_bytes=1_234_567), FACTS)}
    assert rows["size"] == ("1,235 kB", "26 kB")
    assert "energy of a call" not in rows


def test_reports_are_written_whole_or_to_stdout(tmp_path, capsys) -> None:
    write_report(str(tmp_path / "report.json"), "{}\n")
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
    write_report("-", "{}\n")
    assert capsys.readouterr().out == "{}\n"
