"""Folders and lists, as people have them and as the data sets publish them."""

import json

import pytest

from cpd.config import Data
from cpd.errors import DataError
from cpd_train.sources import assign_splits, find_clips, from_csv, from_folder, from_jester, from_kinetics
from cpd_train.sources import from_something_something as from_something


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


class TestFolder:
    def test_class_folders_get_splits_class_by_class(self, tmp_path):
        touch(*(tmp_path / label / f"{n}.mp4" for label in ("wave", "clap") for n in range(20)))
        found = find_clips(Data(folder=tmp_path, test_fraction=0.2, validation_fraction=0.25))
        for label in ("wave", "clap"):
            counts = [sum(c.split == s and c.label == label for c in found) for s in ("train", "validation", "test")]
            assert counts == [12, 4, 4]
        assert found == find_clips(Data(folder=tmp_path, test_fraction=0.2, validation_fraction=0.25))

    def test_split_folders_are_kept(self, tmp_path):
        touch(*(tmp_path / s / c / "a.avi" for s in ("train", "val", "test") for c in ("x", "y")))
        assert {(c.split, c.label) for c in from_folder(tmp_path)} == {
            (s, c) for s in ("train", "validation", "test") for c in ("x", "y")
        }

    def test_an_empty_class_is_named(self, tmp_path):
        touch(tmp_path / "wave" / "a.mp4")
        (tmp_path / "clap").mkdir()
        with pytest.raises(DataError, match="class clap has no video"):
            from_folder(tmp_path)

    def test_a_single_class_is_refused(self, tmp_path):
        touch(*(tmp_path / "wave" / f"{n}.mp4" for n in range(9)))
        with pytest.raises(DataError, match="only one class"):
            find_clips(Data(folder=tmp_path))

    def test_a_missing_folder_is_named(self, tmp_path):
        with pytest.raises(DataError, match="nowhere: no such folder"):
            find_clips(Data(folder=tmp_path / "nowhere"))


class TestCsv:
    def test_reads_splits_and_groups(self, tmp_path):
        table = tmp_path / "list.csv"
        table.write_text("path,label,group,split\na.avi,x,anna,train\nb.avi,y,ben,val\n")
        first, second = from_csv(table, tmp_path)
        assert (first.path, first.label, first.group, first.split) == (tmp_path / "a.avi", "x", "anna", "train")
        assert second.split == "validation"

    def test_missing_columns_and_unknown_splits_are_named(self, tmp_path):
        table = tmp_path / "list.csv"
        table.write_text("file,label\na.avi,x\n")
        with pytest.raises(DataError, match="no column path"):
            from_csv(table, tmp_path)
        table.write_text("path,label,split\na.avi,x,holdout\n")
        with pytest.raises(DataError, match=r"list.csv:2: unknown split 'holdout'"):
            from_csv(table, tmp_path)

    def test_groups_never_cross_splits_that_are_made(self, tmp_path):
        table = tmp_path / "list.csv"
        rows = [f"{p}_{n}.avi,{'xy'[n % 2]},{p}" for p in ("ada", "bo", "cy", "di", "ed", "flo") for n in range(6)]
        table.write_text("path,label,group\n" + "\n".join(rows))
        splits_of = {}
        for clip in find_clips(Data(list=table)):
            splits_of.setdefault(clip.group, set()).add(clip.split)
        assert all(len(splits) == 1 for splits in splits_of.values())
        assert set().union(*splits_of.values()) == {"train", "validation", "test"}


class TestPublishedLists:
    def test_kinetics(self, tmp_path):
        touch(tmp_path / "videos" / "abseiling" / "abc_000003_000013.mp4", tmp_path / "videos" / "zumba" / "xyz.mkv")
        table = tmp_path / "train.csv"
        table.write_text(
            "label,youtube_id,time_start,time_end,split\nabseiling,abc,3,13,train\nzumba,xyz,0,10,train\n"
            "zumba,gone,5,15,validate\n"
        )
        found = from_kinetics(table, tmp_path / "videos")
        assert [c.path.name for c in found] == ["abc_000003_000013.mp4", "xyz.mkv", "gone_000005_000015.mp4"]
        assert [c.split for c in found] == ["train", "train", "validation"]

    def test_something_something(self, tmp_path):
        touch(tmp_path / "7.webm")
        entry = {"id": "7", "label": "pushing a pen", "template": "Pushing [something]", "placeholders": ["a pen"]}
        (tmp_path / "something-something-v2-train.json").write_text(json.dumps([entry]))
        (tmp_path / "something-something-v2-validation.json").write_text(json.dumps([entry | {"id": "8"}]))
        (tmp_path / "something-something-v2-test.json").write_text(json.dumps([{"id": "9"}]))
        found = from_something(tmp_path, tmp_path)
        assert [(c.path.name, c.label, c.split) for c in found] == [
            ("7.webm", "Pushing something", "train"),
            ("8.webm", "Pushing something", "validation"),
        ]

    def test_jester(self, tmp_path):
        touch(tmp_path / "100.mp4")
        (tmp_path / "jester-v1-labels.csv").write_text("Swiping Left\nStop Sign\n")
        (tmp_path / "jester-v1-train.csv").write_text("100;Swiping Left\n")
        (tmp_path / "jester-v1-validation.csv").write_text("101;Stop Sign\n")
        found = from_jester(tmp_path, tmp_path)
        assert [(c.path.name, c.label, c.split) for c in found] == [
            ("100.mp4", "Swiping Left", "train"),
            ("101", "Stop Sign", "validation"),  # its folder of images
        ]


def test_given_splits_are_left_alone(tmp_path):
    touch(*(tmp_path / s / c / "a.avi" for s in ("train", "test") for c in ("x", "y")))
    found = assign_splits(from_folder(tmp_path), 0.5, 0.5)
    assert sum(c.split == "test" for c in found) == 2
