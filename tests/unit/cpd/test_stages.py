"""The table of stages: one changed setting reruns exactly the stages that depend on it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cpd.config_file import load_config
from cpd.errors import CpdError, DataError
from cpd.pipeline import INDIFFERENT, Stage, run_stages, status_of
from cpd.stages import STAGES, check_data, pipeline_status, run_pipeline

YAML = "name: demo\ndata: {rendered: {}}\nteacher: {}\nstudent: {}\nvalidate: {gates: {top1_min: 0.5}}\n"
EXPORT = [
    {"path": "export/student.onnx", "status": "built"},
    {"path": "export/student.trt", "status": "built"},
    {"path": "export/student.int8.onnx", "status": "failed"},
]


@pytest.fixture
def pipeline(tmp_path):
    """Runs the real table over rooms that write each output as the hash of all that its stage depends on."""
    path = tmp_path / "pipeline.yaml"
    path.write_text(YAML)
    ran: list[str] = []

    def room(stage: Stage) -> Callable[..., str]:
        def run(config, run_dir):
            ran.append(stage.name)
            settings = config.model_dump(mode="json", by_alias=True)
            seen = [settings.get(key.partition(".")[0]) for key in stage.config]
            content = json.dumps(seen) + "".join(read(run_dir / name) for name in stage.inputs(config, run_dir))
            result = hashlib.sha256(content.encode()).hexdigest()
            if stage.name == "export":
                write(run_dir / "export/export.json", json.dumps({"files": EXPORT, "from": result}))
            for name in stage.outputs(config, run_dir):
                if name != "export/export.json":
                    write(run_dir / name, result)
            return ""

        return run

    stages = [replace(stage, run=room(stage)) for stage in STAGES]

    def run(*overrides: str) -> list[str]:
        ran.clear()
        run_stages(stages, load_config(path, [*overrides, f"output={tmp_path / 'run'}"]))
        return list(ran)

    return run


def read(path: Path) -> str:
    return path.read_text() if path.is_file() else ""


def write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


ALL = ["data", "teacher", "distill", "export", "validate", "report"]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("seed=1", ALL),
        ("data.rendered.train=3", ALL),
        ("data.validation_fraction=0.2", ALL),
        ("clip.frames=4", ALL[1:]),
        ("augment.brightness=0.1", ALL[1:]),
        ("precision=bf16", ALL[1:]),
        ("teacher.epochs=3", ALL[1:]),
        ("student.learning_rate=0.1", ALL[2:]),
        ("distill.spectrum.weight=20", ALL[2:]),
        ("export.opset=19", ALL[3:]),
        ("validate.gates.top1_min=0.6", ALL[4:]),
        ("validate.latency_runs=3", ALL[4:]),
        ("name=other", ["report"]),
        ("data.cache_gb=0", []),
    ],
)
def test_one_changed_setting_reruns_exactly_what_depends_on_it(pipeline, override, expected):
    assert pipeline() == ALL
    assert pipeline() == []
    assert pipeline(override) == expected


def test_another_device_trains_nothing_anew(pipeline):
    pipeline("device=auto")
    assert not {"data", "teacher", "distill"} & set(pipeline("device=cpu"))


def test_every_setting_belongs_to_a_stage_or_is_known_to_change_no_result(tmp_path):
    path = tmp_path / "pipeline.yaml"
    path.write_text(YAML)
    settings = load_config(path).model_dump(by_alias=True)
    owned = {key.partition(".")[0] for stage in STAGES for key in stage.config}
    assert set(settings) - owned == {"output", "device"}
    assert {key.partition(".")[0] for key in INDIFFERENT} <= owned


def test_a_model_used_as_it_is_depends_on_its_checkpoint(pipeline, tmp_path):
    checkpoint = tmp_path / "weights.pth"
    checkpoint.write_bytes(b"1")
    given = (f"teacher.checkpoint={checkpoint}", "teacher.epochs=0")
    assert pipeline(*given) == ALL
    assert pipeline(*given) == []
    checkpoint.write_bytes(b"2")
    assert pipeline(*given) == ALL[1:]


def test_an_altered_export_is_made_again(pipeline, tmp_path):
    pipeline()
    (tmp_path / "run/export/student.trt.json").write_text("altered")
    assert pipeline() == ["export"], "made again as it was, so the verdict still holds"
    (tmp_path / "run/export/export.json").write_text("{")
    assert pipeline() == ["export"]


def test_check_data_says_what_would_be_rendered(tmp_path):
    path = tmp_path / "pipeline.yaml"
    path.write_text(YAML)
    assert check_data(load_config(path)) == [
        "train      96 clips a class, to be rendered",
        "validation 16 clips a class, to be rendered",
        "test       40 clips a class, to be rendered",
    ]
    with pytest.raises(CpdError, match=r"teacher\.checkpoint: there is no file .*nothing\.pth"):
        check_data(load_config(path, ["teacher.checkpoint=nothing.pth"]))


def test_check_data_names_all_that_is_missing_at_once(tmp_path):
    path = tmp_path / "pipeline.yaml"
    path.write_text(YAML)
    missing = ["teacher.checkpoint=a.pth", "student.checkpoint=b.pth"]
    mapped = ["augment.flip=true", "augment.flip_labels={drift_lef: drift_right, drift_right: drift_lef}"]
    with pytest.raises(DataError) as caught:
        check_data(load_config(path, missing + mapped))
    assert str(caught.value).splitlines() == [
        f"teacher.checkpoint: there is no file {Path.cwd()}/a.pth",
        f"student.checkpoint: there is no file {Path.cwd()}/b.pth",
        "augment.flip_labels names 'drift_lef', which the data has no class of (did you mean drift_left?)",
    ]


@pytest.mark.parametrize("named", ["nothing.pth", "."])
def test_a_run_refuses_a_missing_checkpoint_before_the_data_stage(tmp_path, monkeypatch, named):
    monkeypatch.chdir(tmp_path)
    Path("pipeline.yaml").write_text(YAML)
    config = load_config(Path("pipeline.yaml"), [
        f"student.checkpoint={named}", "data.rendered={train: 1, validation: 1, test: 1, size: 32}", "output=run",
    ])  # fmt: skip
    with pytest.raises(DataError, match=r"student\.checkpoint: there is no file"):
        run_pipeline(config)
    assert not Path("run").exists()
    assert run_pipeline(config, until="data") == 0


@pytest.mark.parametrize("role", ["teacher", "student"])
@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["folder", "pipe"])
def test_a_status_reads_no_checkpoint_that_is_no_file(tmp_path, role, make):
    path = tmp_path / "pipeline.yaml"
    path.write_text(YAML)
    given = tmp_path / "given"
    config = load_config(path, [f"{role}.checkpoint={given}", f"output={tmp_path / 'run'}"])
    assert {stage.state for stage in pipeline_status(config)} == {"missing"}
    make(given)
    with pytest.raises(DataError, match=rf"^{role}\.checkpoint: is no file: {given}$"):
        pipeline_status(config)


@pytest.mark.parametrize("mapped", ["{}", "{grow: grow}", "{drift_left: drift_right, drift_right: drift_left}"])
def test_rendered_clips_are_not_mirrored_under_wrong_labels(tmp_path, mapped):
    path = tmp_path / "pipeline.yaml"
    path.write_text(YAML)
    with pytest.raises(DataError, match=r"mirrors rendered clips .*turn_clockwise: turn_counterclockwise") as caught:
        check_data(load_config(path, ["augment.flip=true", f"augment.flip_labels={mapped}"]))
    remedy = str(caught.value).partition("flip_labels: ")[2].rstrip(")")
    check_data(load_config(path, ["augment.flip=true", f"augment.flip_labels={remedy}"]))


@pytest.fixture
def listed(tmp_path):
    """A pipeline.yaml on a list of two classes in three splits, and the clips it names: 20 for training."""
    rows = ["path,label,split"]
    for split, clips in (("train", 10), ("validation", 1), ("test", 2)):
        for label in ("wave 10", "wave 9"):
            rows += [f"{split}-{label}-{index}.avi,{label},{split}" for index in range(clips)]
    for row in rows[1:]:
        (tmp_path / row.partition(",")[0]).touch()
    (tmp_path / "clips.csv").write_text("\n".join(rows) + "\n")
    path = tmp_path / "pipeline.yaml"
    path.write_text(YAML.replace("{rendered: {}}", "{list: clips.csv}"))
    return path


def test_check_data_counts_the_clips_of_every_class(listed):
    assert check_data(load_config(listed)) == [
        "train      20 clips of 2 classes: wave 9 10, wave 10 10",
        "validation 2 clips of 2 classes: wave 9 1, wave 10 1",
        "test       4 clips of 2 classes: wave 9 2, wave 10 2",
    ]


def test_check_data_names_absent_clips_and_refuses_too_many(listed):
    (listed.parent / "train-wave 9-3.avi").unlink()
    lines = check_data(load_config(listed))
    assert lines[3:] == [f"missing    1 of 26 clips do not exist, such as {listed.parent}/train-wave 9-3.avi"]
    with pytest.raises(DataError, match=r"1 of 26 clips do not exist, more than data\.max_broken_fraction \(0\.01\)"):
        check_data(load_config(listed, ["data.max_broken_fraction=0.01"]))


def test_a_replaced_clip_or_list_makes_the_data_stage_stale(listed):
    data = STAGES[0]
    run_dir = listed.parent / "run"

    def stand_in(config, run_dir):
        for name in data.outputs(config, run_dir):
            write(run_dir / name, "the same")
        return ""

    config = load_config(listed, [f"output={run_dir}"])
    run_stages([replace(data, run=stand_in)], config)
    assert [status.state for status in status_of(STAGES[:1], config)] == ["done"]
    (listed.parent / "train-wave 9-3.avi").write_bytes(b"another take")
    assert [status.detail for status in status_of(STAGES[:1], config)] == ["the source clips changed since"]
    (listed.parent / "train-wave 9-3.avi").unlink()
    (listed.parent / "clips.csv").write_text((listed.parent / "clips.csv").read_text() + "\n")
    assert status_of(STAGES[:1], config)[0].detail == (
        f"{listed.parent}/clips.csv changed since; the source clips changed since"
    )
