"""report.json and report.html, from the files that the stages leave."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from cpd import report
from cpd.charts import Series, decades, limit_chart, line_chart, round_marks
from cpd.config import Pipeline
from cpd.errors import CpdError
from cpd.page import count, milliseconds, size, small, times

VOID = {"meta", "line", "path", "rect", "circle", "polyline", "br"}


def engine(path: str, **more: Any) -> dict[str, Any]:
    latency = {"p50": 5.61, "p90": 6.0, "p99": 10.7, "runs": 200}
    return {"path": path, "runtime": "onnxruntime", "precision": "fp32", "provider": "CPUExecutionProvider",
            "status": "validated", "reason": "", "top1": 0.93, "agreement_with_teacher": 0.951,
            "max_abs_logit_difference": 3.3e-6, "latency_ms": latency, "size_bytes": 410_000, **more}  # fmt: skip


STUDENT_LATENCY = {"p50": 0.68, "p90": 0.8, "p99": 1.3, "runs": 200}
NOT_RUN = {"top1": None, "agreement_with_teacher": None, "max_abs_logit_difference": None, "latency_ms": None}
VALIDATION = {
    "verdict": "fail",
    "teacher": {"model": "tsm-tiny", "parameters": 1_250_000, "flops": 412_000_000, "top1": 0.962, "top5": 1.0},
    "student": {"model": "tsm-tiny", "parameters": 98_400, "flops": 33_100_000, "top1": 0.934, "top5": 0.998},
    "engines": [
        engine("export/teacher.onnx", size_bytes=5_010_000),
        engine(
            "export/student.onnx",
            latency_ms=STUDENT_LATENCY,
            speedup_over_teacher=8.25,
            max_abs_graph_difference=2.4e-7,
        ),
        engine("export/student.trt", status="built, not run", reason="no NVIDIA driver here (libcuda.so.1)", **NOT_RUN),
    ],
    "gates": [
        {"name": "top1_retained_min", "status": "pass", "value": 0.971, "interval": [0.953, 0.989], "limit": 0.95},
        {"name": "latency_p99_ms_max", "status": "fail", "value": 1.3, "interval": [1.2, 1.4], "limit": 1.0,
         "reason": "200 runs in turns"},
        {"name": "speedup_min", "status": "inconclusive", "value": None, "interval": None, "limit": 4.0},
    ],
    "environment": {"cpu": "a processor", "gpu": None, "packages": {"onnxruntime": "1.31.1"}},
}  # fmt: skip
PROOF = {"name": "torch = onnxruntime", "value": 3.3e-6, "limit": 1e-4, "status": "pass"}
UNREAD = {"name": "obstacles to TensorRT 10", "value": 1.0, "limit": 0, "status": "fail", "detail": "operator Det"}
SHARE = {"name": "frame by frame", "value": 0.8, "limit": None, "status": "pass", "interval": [0.7, 0.9]}
EXPORT = {
    "files": [{"path": "export/student.onnx", "role": "student", "status": "built", "proofs": [PROOF, UNREAD]}],
    "streams": [{"path": "export/student.stream.onnx", "role": "student", "status": "built", "proofs": [SHARE]}],
}
DATA = {
    "labels": ["drift <left>", "grow"],
    "splits": {"train": 768, "validation": 128, "test": 320},
    "codecs": {"vp9": 1216},
    "variable_rate": 0,
    "broken": [{"path": "a & b.mp4", "reason": "no frame can be decoded"}],
    "sha256": "0",
}


@pytest.fixture
def run_dir(tmp_path):
    """A run folder as the stages before the report leave it."""
    curves: list[dict[str, Any]] = [
        {
            "epoch": epoch,
            "loss": {"cross_entropy": 2 / epoch, "spectrum": 0.01 * epoch},
            "learned_weights": {"cross_entropy": 0.1 * epoch, "spectrum": 0.03},
            "validation_top1": 1 - 1 / epoch,
        }
        for epoch in range(1, 6)
    ]
    curves[2]["loss"]["spectrum"] = float("nan")
    for name, document in (("validate/validation", VALIDATION), ("export/export", EXPORT), ("data/data", DATA)):
        (tmp_path / name).parent.mkdir()
        (tmp_path / f"{name}.json").write_text(json.dumps(document))
    for role in ("teacher", "student"):
        (tmp_path / role).mkdir()
        (tmp_path / role / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in curves))
    return tmp_path


@pytest.fixture
def config():
    values = {"name": "demo", "data": {"rendered": {}}, "teacher": {}, "student": {}}
    return Pipeline.model_validate(values)


class Page(HTMLParser):
    """Text and tags of a page; every opened element must be closed, in order."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.tags: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style" and data.strip():
            self.text.append(" ".join(data.split()))


def test_report_json_holds_what_the_contract_says_and_more(run_dir, config):
    summary = report.run(config, run_dir)
    assert summary == (
        f"fail: 1 of 3 gates passed (latency_p99_ms_max fail, speedup_min inconclusive), see {run_dir / 'report.html'}"
    )
    document = json.loads((run_dir / "report.json").read_text(), parse_constant=pytest.fail)
    assert document["schema"] == 1
    for key, value in VALIDATION.items():
        assert document[key] == value
    assert document["data"] == DATA
    assert document["exports"] == EXPORT["files"]
    assert document["streams"] == EXPORT["streams"]
    assert document["training"]["student"][2]["loss"]["spectrum"] is None, "not a number is not JSON"


def test_the_page_shows_everything_and_needs_nothing(run_dir, config):
    report.run(config, run_dir)
    page = Page(run_dir / "report.html")
    shown = " ".join(page.text)
    for text in (
        "Fail", "At least one gate failed.", "97.1 % kept", "12.4× fewer", "12.7× fewer", "8.2× faster", "412 MFLOP",
        "Top-1 kept of the teacher's", "95.3 % to 98.9 %", "at least 95.0 %", "at most 1 ms", "inconclusive",
        "export/student.trt", "built, not run", "no NVIDIA driver here (libcuda.so.1)", "3.3e-6", "410 kB",
        "torch = onnxruntime", "drift <left>", "1,216 clips of 2 classes", "1 clip left out", "a & b.mp4",
        "no frame can be decoded", "a processor", "1.31.1", "80.0 %", "Every epoch of the teacher",
        "loss cross entropy", "Loss terms of the student", "Learned weights of the student", "200 runs in turns",
        "8.2× faster", "graph 2.4e-7",
        "operator Det", "student.stream.onnx", "0.7 to 0.9",
    ):  # fmt: skip
        assert text in shown, text
    assert not page.tags & {"script", "link", "img", "iframe"}
    source = (run_dir / "report.html").read_text()
    assert not re.search(r"https?:|url\(|@import", source)
    assert not [name for name, _ in page.attributes if name.startswith("on") or name in ("src", "href")]
    assert "prefers-color-scheme: dark" in source


def test_the_page_of_a_report_that_says_only_what_the_contract_does(tmp_path):
    bare = {"schema": 1, **VALIDATION, "verdict": "pass", "gates": []}
    (tmp_path / "report.json").write_text(json.dumps(bare))
    page = Page(report.write_html(tmp_path))
    assert "No gates were set." in page.text
    assert "Learning" not in page.text


def test_the_page_is_the_same_whenever_it_is_drawn(run_dir, config):
    report.run(config, run_dir)
    first = (run_dir / "report.html").read_bytes()
    report.write_html(run_dir)
    assert (run_dir / "report.html").read_bytes() == first


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"schema": 2}', '{"schema": 1, "verdict": "pass"}'])
def test_a_report_that_is_none_is_a_clear_error(tmp_path, content):
    (tmp_path / "report.json").write_text(content)
    with pytest.raises(CpdError, match="is not a report"):
        report.write_html(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_a_folder_without_a_report_is_a_clear_error(tmp_path):
    with pytest.raises(CpdError, match=r"report\.json: no such file"):
        report.write_html(tmp_path)


@pytest.mark.parametrize(
    ("low", "high", "marks"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (0.12, 0.97, [0, 0.2, 0.4, 0.6, 0.8, 1]), (1, 25, [0, 5, 10, 15, 20, 25]),
     (3, 3, [3, 4, 5, 6]), (0, 0, [0, 0.2, 0.4, 0.6, 0.8, 1]), (-1, 1, [-1, -0.5, 0, 0.5, 1]),
     (1e-7, 2e-7, [1e-7, 1.2e-7, 1.4e-7, 1.6e-7, 1.8e-7, 2e-7]), (0.3, 0.6, [0.3, 0.4, 0.5, 0.6])],
)  # fmt: skip
def test_axes_have_round_marks_around_all_values(low, high, marks):
    assert round_marks(low, high) == pytest.approx(marks)


def test_a_line_chart_places_its_points_in_percent():
    chart = line_chart("loss", [Series("a", "", [(1, 2.0), (3, 0.0)]), Series("b", "", [(2, 1.0)])], str, str)
    assert [line.points for line in chart.lines] == ["0.00,0.00 100.00,100.00", "50.00,50.00"]
    assert [(tick.position, tick.label) for tick in chart.x_ticks] == [(0, "1"), (50, "2"), (100, "3")]
    assert chart.lines[0].last == "0.0"


def test_a_logarithmic_chart_gives_equal_factors_equal_steps():
    chart = line_chart("loss", [Series("a", "", [(1, 0.001), (2, 0.1)])], str, str, logarithmic=True)
    assert [line.points for line in chart.lines] == ["0.00,100.00 100.00,0.00"]
    assert [tick.position for tick in chart.y_ticks] == [100, 50, 0]


@pytest.mark.parametrize(
    ("low", "high", "marks"),
    [(0.002, 30, [0.001, 0.01, 0.1, 1, 10, 100]), (1e-9, 1, [1e-9, 1e-7, 1e-5, 1e-3, 0.1, 10]), (5, 5, [1, 10]),
     (1, 1, [1, 10])],
)  # fmt: skip
def test_logarithmic_axes_have_powers_of_ten_around_all_values(low, high, marks):
    assert decades(low, high) == pytest.approx(marks)


@pytest.mark.parametrize("at_least", [True, False])
def test_a_limit_chart_shades_the_side_that_passes(at_least):
    chart = limit_chart(3.0, (2.0, 4.0), 1.0, at_least)
    start, width = chart.good
    inside = start < chart.value < start + width
    assert inside is at_least
    assert chart.interval is not None
    assert 0 < chart.limit < chart.interval[0] < chart.value < chart.interval[1] < 100


@pytest.mark.parametrize(
    ("written", "text"),
    [(small(3.34e-6), "3.3e-6"), (small(1e-4), "1e-4"), (small(0.41), "0.41"), (small(0), "0"), (small(100.0), "100"),
     (count(98_400), "98.4 k"), (size(512), "512 B"), (size(5_010_000), "5.01 MB"), (times(8.25), "8.2×"),
     (times(123.4), "123×"), (milliseconds(0.684), "0.684 ms"), (milliseconds(1234.5), "1234 ms")],
)  # fmt: skip
def test_figures_are_written_for_people(written, text):
    assert written == text
