"""pipeline.lock: what makes a stage stale, atomic writes, and one run at a time in a folder."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cpd.errors import BusyError, CpdError
from cpd.lock import HOLDER_FILE, LOCK_FILE, Cause, Lock, alone_in, atomic, hold, stat_digest

CAUSE = Cause({"distill.spectrum.weight": 10.0}, {"torch": "2.12"}, {"gpu": "none"}, {})


@pytest.fixture
def finished(tmp_path):
    """A lock with one finished stage, ``distill``, that read input.csv and wrote weights.bin and a folder."""
    (tmp_path / "input.csv").write_text("a,b")
    (tmp_path / "weights.bin").write_bytes(b"1234")
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips/one.avi").write_bytes(b"one")
    lock = Lock(tmp_path)
    cause = replace(CAUSE, files={"input.csv": lock.digest("input.csv")})
    lock.finish("distill", cause, ["weights.bin", "clips"], "top-1 71 %", 12.3)
    return Lock(tmp_path), cause


def test_a_finished_stage_is_still_good_when_read_back(finished):
    lock, cause = finished
    assert lock.staleness("distill", cause) == []
    entry = lock.entries["distill"]
    assert (entry.summary, entry.duration_s) == ("top-1 71 %", 12.3)
    assert lock.staleness("export", cause) == ["not run yet"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"config": {"distill.spectrum.weight": 20.0}}, "distill.spectrum.weight was 10.0, is 20.0"),
        ({"config": {"distill.spectrum.weight": 10.0, "a": None}}, "a was absent, is null"),
        ({"config": {}}, "distill.spectrum.weight was 10.0, is absent"),
        ({"versions": {"torch": "2.13"}}, "torch was 2.12, is 2.13"),
        ({"machine": {"gpu": "H100"}}, "gpu was none, is H100"),
        ({"files": {}}, "input.csv is no longer read"),
    ],
)
def test_a_changed_cause_is_named(finished, change, reason):
    lock, cause = finished
    assert lock.staleness("distill", replace(cause, **change)) == [reason]


def test_a_changed_input_and_a_new_one_are_named(finished):
    lock, cause = finished
    (lock.run_dir / "input.csv").write_text("a,b,c")
    (lock.run_dir / "other.csv").write_text("x")
    now = replace(cause, files={name: lock.digest(name) for name in ("input.csv", "other.csv")})
    assert lock.staleness("distill", now) == ["input.csv changed since", "other.csv is now read"]


def test_outputs_that_are_altered_or_gone_are_named(finished):
    lock, cause = finished
    (lock.run_dir / "weights.bin").write_bytes(b"12345")
    (lock.run_dir / "clips/two.avi").write_bytes(b"two")
    assert sorted(lock.staleness("distill", cause)) == ["clips changed since", "weights.bin changed since"]
    (lock.run_dir / "weights.bin").unlink()
    (lock.run_dir / "clips/two.avi").unlink()
    assert lock.staleness("distill", cause) == ["weights.bin is missing"]


@pytest.mark.parametrize(
    "alter", [lambda file: file.write_bytes(b"another"), lambda file: file.rename(file.parent / "1.avi")]
)
def test_a_file_of_a_folder_that_is_altered_or_renamed_is_seen(finished, alter):
    lock, cause = finished
    alter(lock.run_dir / "clips/one.avi")
    assert lock.staleness("distill", cause) == ["clips changed since"]


def test_an_input_that_was_copied_is_not_named_beside_what_changed(finished):
    lock, cause = finished
    copied = {"input.csv": replace(cause.files["input.csv"], stamp="another")}
    assert lock.staleness("distill", replace(cause, versions={"torch": "3"}, files=copied)) == ["torch was 2.12, is 3"]


def test_a_key_that_does_not_match_its_cause_is_named(finished):
    lock, cause = finished
    path = lock.run_dir / LOCK_FILE
    path.write_text(path.read_text().replace(cause.key("distill"), "0" * 64))
    assert Lock(lock.run_dir).staleness("distill", cause) == ["its key does not match"]


def test_writing_the_same_content_again_changes_nothing(finished):
    lock, cause = finished
    for path in (lock.run_dir / "weights.bin", lock.run_dir / "clips/one.avi"):
        path.write_bytes(path.read_bytes())
        os.utime(path, (1, 1))
    assert lock.staleness("distill", cause) == []


@pytest.mark.parametrize("name", ["weights.bin", "input.csv"])
def test_a_known_stamp_spares_reading_the_file(finished, name):
    lock, _ = finished
    path = lock.run_dir / name
    before, times = lock.digest(name), path.stat()
    for content, same in (("#" * times.st_size, True), ("#" * (times.st_size + 1), False)):
        path.write_text(content)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        assert (lock.digest(name) == before) == same


def test_outputs_of_an_earlier_run_are_deleted_and_others_are_not(finished):
    lock, cause = finished
    (lock.run_dir / "notes.txt").write_text("the user's own")
    lock.finish("distill", cause, ["weights.bin"], "", 0.0)
    assert not (lock.run_dir / "clips").exists()
    assert (lock.run_dir / "notes.txt").exists()
    (lock.run_dir / "weights.bin").unlink()
    lock.finish("distill", cause, [], "gone already", 0.0)
    assert Lock(lock.run_dir).entries["distill"].outputs == {}


def test_a_stage_that_did_not_write_what_it_promised_is_not_entered(finished):
    lock, cause = finished
    with pytest.raises(FileNotFoundError):
        lock.finish("export", cause, ["student.onnx"], "", 0.0)
    assert "export" not in Lock(lock.run_dir).entries


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"schema": 1, "stages": {}}', '{"schema": 2, "stages": {"a": {}}}', "[" * 100_000]
)
def test_a_broken_lock_counts_as_none_and_says_so(tmp_path, content):
    (tmp_path / LOCK_FILE).write_text(content)
    lock = Lock(tmp_path)
    assert lock.entries == {}
    assert LOCK_FILE in lock.damage


@pytest.mark.parametrize(("key", "value"), [("finished", "soon"), ("finished", None), ("duration_s", None)])
def test_a_lock_whose_times_are_none_counts_as_broken(finished, key, value):
    lock, _ = finished
    path = lock.run_dir / LOCK_FILE
    document = json.loads(path.read_text())
    document["stages"]["distill"][key] = value
    path.write_text(json.dumps(document))
    assert Lock(lock.run_dir).damage


@pytest.mark.parametrize("name", ["../precious", "/precious"])
def test_a_lock_cannot_name_outputs_outside_its_folder(finished, name):
    lock, _ = finished
    path = lock.run_dir / LOCK_FILE
    document = json.loads(path.read_text())
    document["stages"]["distill"]["outputs"][name] = {"sha256": "", "stamp": ""}
    path.write_text(json.dumps(document))
    assert "outside the run folder" in Lock(lock.run_dir).damage


def test_the_key_depends_on_the_stage_and_every_part_of_the_cause(finished):
    lock, cause = finished
    other_file = replace(cause, files={"input.csv": stat_digest([])})
    keys = {cause.key("a"), cause.key("b"), other_file.key("a"), replace(cause, versions={}).key("a"),
            replace(cause, config={}).key("a"), replace(cause, machine={}).key("a")}  # fmt: skip
    assert len(keys) == 6
    same_content = replace(cause, files={"input.csv": replace(lock.digest("input.csv"), stamp="another")})
    assert same_content.key("a") == cause.key("a")
    one, other = (replace(cause, config=dict(pairs)) for pairs in ([("a", 1), ("b", 2)], [("b", 2), ("a", 1)]))
    assert one.key("a") == other.key("a"), "whatever the order"


def test_an_atomic_write_leaves_the_old_content_when_it_fails(tmp_path):
    path = tmp_path / "student.npz"
    path.write_text("old")

    def fill_the_disk() -> None:
        with atomic(path) as draft:
            draft.write_text("half")
            Path("/dev/full").write_text("the rest")

    with pytest.raises(OSError, match="No space left"):
        fill_the_disk()
    assert path.read_text() == "old"
    with atomic(path) as draft:
        assert draft.suffix == ".npz", "writers that go by the suffix, or add it, find what they expect"
        draft.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_do_not_meet_and_the_last_wins(tmp_path):
    path = tmp_path / "student.trt"
    with atomic(path) as first:
        first.write_text("first")
        with atomic(path) as second:
            second.write_text("second")
        assert path.read_text() == "second"
    assert path.read_text() == "first"


@pytest.mark.parametrize("folder", [".", "/", "made"])
def test_a_folder_is_no_place_for_an_atomic_write(tmp_path, monkeypatch, folder):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "made").mkdir()
    with pytest.raises(IsADirectoryError), atomic(Path(folder)) as draft:
        draft.write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


@pytest.mark.parametrize("stem", ["student", "student[1]"])
def test_only_drafts_that_nobody_writes_any_more_are_taken_away(tmp_path, stem):
    left, older, young, other = (
        tmp_path / name
        for name in (f".{stem}.0a1b2c3d.draft.trt", f".{stem}.draft.trt", f".{stem}.5e6f.draft.trt", f"{stem}.trt.json")
    )
    for draft in (left, older, young, other):
        draft.write_text("half")
    for draft in (left, older, other):
        os.utime(draft, (1, 1))
    with atomic(tmp_path / f"{stem}.trt") as draft:
        draft.write_text("whole")
    assert sorted(tmp_path.iterdir()) == sorted([tmp_path / f"{stem}.trt", young, other])


def test_who_is_alone_in_a_folder_keeps_others_waiting(tmp_path):
    handle = os.open(tmp_path, os.O_RDONLY)
    try:
        with alone_in(tmp_path), pytest.raises(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(handle)


def test_many_files_have_one_digest_of_names_sizes_and_times(tmp_path):
    paths = [tmp_path / "a.avi", tmp_path / "b.avi"]
    for path in paths:
        path.write_bytes(b"x")
    digest = stat_digest(paths)
    assert stat_digest(reversed(paths)) == digest
    assert stat_digest(paths[:1]) != digest
    os.utime(paths[0], (1, 1))
    touched = stat_digest(paths)
    assert touched != digest
    paths[0].unlink()
    assert stat_digest(paths) not in (digest, touched)


def test_a_folder_is_held_by_one_process_at_a_time(tmp_path):
    run_dir = tmp_path / "runs/demo"
    with hold(run_dir):
        with pytest.raises(BusyError, match=f"in use by process {os.getpid()} on ") as caught, hold(run_dir):
            pass
        assert "--output" in caught.value.remedy
    with hold(run_dir):
        pass


def test_a_killed_process_lets_go_of_the_folder(tmp_path):
    code = f"import os, pathlib, cpd.lock\nwith cpd.lock.hold(pathlib.Path({str(tmp_path)!r})): os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    told = tmp_path / HOLDER_FILE
    assert told.read_text()
    with hold(tmp_path):
        assert told.read_text() == f"process {os.getpid()} on {os.uname().nodename}\n"
    assert told.read_text() == ""


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CpdError, match="cannot be used") as caught, hold(tmp_path / "file/run"):
        pass
    assert "--output" in caught.value.remedy
