"""Folders and lists, as people have them and as the data sets publish them."""

import json
import os
from collections import Counter

import pytest

from cpd.config import Data
from cpd.errors import DataError
from cpd_train.lists import from_csv, from_jester, from_kinetics
from cpd_train.lists import from_something_something as from_something
from cpd_train.sources import find_clips, from_folder
from cpd_train.splits import assign_splits


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
        touch(tmp_path / "clap" / "clip" / "00001.jpg")
        with pytest.raises(DataError, match=r"class clap has no video .*data\.list"):
            from_folder(tmp_path)

    def test_split_folders_without_classes_are_told(self, tmp_path):
        touch(*(tmp_path / split / "a.avi" for split in ("train", "val")))
        with pytest.raises(DataError, match=r"holds no class folders in train, val \(put the clips of each class"):
            from_folder(tmp_path)

    def test_a_class_of_files_that_are_no_videos_says_what_is_one(self, tmp_path):
        touch(tmp_path / "wave" / "a.mp4", tmp_path / "clap" / "a.h264")
        with pytest.raises(
            DataError, match=r"class clap has no video \(remove it or add clips to it: .*\.avi, .*\.webm"
        ):
            from_folder(tmp_path)

    def test_a_single_class_is_refused(self, tmp_path):
        touch(*(tmp_path / "wave" / f"{n}.mp4" for n in range(9)))
        with pytest.raises(DataError, match="only one class"):
            find_clips(Data(folder=tmp_path))

    def test_a_missing_folder_is_named(self, tmp_path):
        with pytest.raises(DataError, match="nowhere: no such folder"):
            find_clips(Data(folder=tmp_path / "nowhere"))

    def test_splits_do_not_depend_on_where_the_folder_lies(self, tmp_path):
        splits = []
        for home in ("here", "moved/elsewhere"):
            touch(*(tmp_path / home / label / f"{n}.mp4" for label in ("wave", "clap") for n in range(20)))
            splits.append([clip.split for clip in find_clips(Data(folder=tmp_path / home))])
        assert splits[0] == splits[1]

    def test_a_folder_beside_splits_is_named(self, tmp_path):
        touch(*(tmp_path / s / c / "a.avi" for s in ("train", "test") for c in ("x", "y")), tmp_path / "new" / "b.avi")
        with pytest.raises(DataError, match="new: stands beside test, and is no split"):
            from_folder(tmp_path)

    def test_hidden_files_are_left_aside_and_links_followed(self, tmp_path):
        touch(*(tmp_path / "clips" / c / name for c in "xy" for name in ("a.avi", "._a.avi", ".trash/b.avi")))
        touch(tmp_path / "more" / "c.avi")
        (tmp_path / "clips/x/linked").symlink_to(tmp_path / "more")
        (tmp_path / "more/loop").symlink_to(tmp_path / "more")
        assert sorted(clip.path.name for clip in from_folder(tmp_path / "clips")) == ["a.avi", "a.avi", "c.avi"]

    def test_a_name_that_cannot_be_written_down_is_refused(self, tmp_path):
        touch(*(tmp_path / c / "a.avi" for c in "xy"))
        os.close(os.open(os.fsencode(tmp_path / "x") + b"/caf\xe9.avi", os.O_CREAT))
        with pytest.raises(DataError, match=r"caf\\udce9\.avi: its name is not UTF-8"):
            find_clips(Data(folder=tmp_path))


class TestCsv:
    def test_a_class_whose_name_breaks_a_line_is_refused(self, tmp_path):
        rows = ["path,label", *(f'{n}.avi,"a\nb"' for n in range(4)), *(f"{n}.avi,c" for n in range(4, 8))]
        (tmp_path / "list.csv").write_text("\n".join(rows))
        with pytest.raises(DataError, match=r"'a\\nb': is no name of a class"):
            find_clips(Data(list=tmp_path / "list.csv"))

    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            (["a.avi,x,,train", "a.avi,y,,train"], "a.avi: is of two classes, x and y"),
            (["a.avi,x,,train", "a.avi,x,,test"], "a.avi: is of two splits, train and test"),
            (["a.avi,x,,train", "b/../a.avi,x,,test"], "/a.avi: is of two splits, train and test"),
            (["a.avi,x,anna,train", "b.avi,y,anna,test"], "list.csv:3: group anna is in test here and in train before"),
        ],
    )
    def test_what_would_leak_is_refused(self, tmp_path, rows, message):
        (tmp_path / "list.csv").write_text("\n".join(["path,label,group,split", *rows]))
        with pytest.raises(DataError, match=message):
            find_clips(Data(list=tmp_path / "list.csv"))

    def test_a_clip_has_one_name_however_its_path_goes_up_and_down(self, tmp_path):
        touch(tmp_path / "a" / "x.mp4", tmp_path / "elsewhere" / "b" / "y.mp4", tmp_path / "elsewhere" / "x.mp4")
        (tmp_path / "link").symlink_to(tmp_path / "elsewhere" / "b")
        rows = ["a/x.mp4", "a/../a/x.mp4", "none/../a/x.mp4", "./a//x.mp4", "link/../x.mp4"]
        (tmp_path / "list.csv").write_text("\n".join(["path,label", *(f"{row},wave" for row in rows)]))
        assert {clip.path for clip in from_csv(tmp_path / "list.csv", tmp_path)} == {
            tmp_path / "a/x.mp4",
            tmp_path / "link/../x.mp4",  # what is behind the link goes up to elsewhere
        }

    def test_a_comma_does_not_cut_a_label(self, tmp_path):
        table = tmp_path / "list.csv"
        table.write_text('path,label\na.avi,"turn left, slowly"\nb.avi,"turn left, fast",\n')
        assert [clip.label for clip in from_csv(table, tmp_path)] == ["turn left, slowly", "turn left, fast"]
        table.write_text("path,label\na.avi,turn left, slowly\nb.avi,turn left, fast\n")
        with pytest.raises(DataError, match=r"list.csv:2: has more values than there are columns"):
            from_csv(table, tmp_path)

    def test_a_column_that_comes_twice_is_refused(self, tmp_path):
        (tmp_path / "list.csv").write_text("path,label, label\na.avi,x,1\nb.avi,y,2\n")
        with pytest.raises(DataError, match=r"list\.csv: two columns are called label"):
            from_csv(tmp_path / "list.csv", tmp_path)

    def test_repeated_rows_and_spaces_change_nothing(self, tmp_path):
        rows = [f"{n}.avi,{'xy'[n % 2]}" for n in range(40)]
        again = [f"./{row}" for row in rows]
        tables = [["path,label", *rows], ["path, label ", *(row.replace(",", ", ") for row in rows), *rows, *again]]
        found = []
        for lines in tables:
            (tmp_path / "list.csv").write_text("\n".join(lines))
            found.append(find_clips(Data(list=tmp_path / "list.csv")))
        assert found[0] == found[1]

    def test_one_group_is_the_reason_that_a_split_is_empty(self, tmp_path):
        rows = [f"{n}.avi,{'xy'[n % 2]},anna" for n in range(40)]
        (tmp_path / "list.csv").write_text("\n".join(["path,label,group", *rows]))
        with pytest.raises(DataError, match="all are of one group, anna"):
            find_clips(Data(list=tmp_path / "list.csv"))

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

    def test_a_share_of_groups_is_a_share_of_their_clips(self, tmp_path):
        table = tmp_path / "list.csv"
        sizes = {"ada": 300, "bo": 20, "cy": 40, "di": 60, "ed": 80, "flo": 100}
        rows = [f"{p}_{n}.avi,{'xy'[n % 2]},{p}" for p, size in sizes.items() for n in range(size)]
        table.write_text("path,label,group\n" + "\n".join(rows))
        for fraction in (0.1, 0.2, 0.3):
            found = find_clips(Data(list=table, test_fraction=fraction, validation_fraction=0.1))
            assert sum(clip.split == "test" for clip in found) == pytest.approx(fraction * 600, abs=10)

    def test_groups_of_one_class_are_shared_out_class_by_class(self, tmp_path):
        table = tmp_path / "list.csv"
        rows = [f"{c}/{r}_{n}.avi,{c},{c}-{r}" for c in range(50) for r in range(3) for n in range(4)]
        table.write_text("path,label,group\n" + "\n".join(rows))
        counts = Counter((clip.label, clip.split) for clip in find_clips(Data(list=table)))
        assert set(counts.values()) == {4}
        assert len(counts) == 150


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

    def test_two_videos_of_the_name_that_a_list_gives_are_told(self, tmp_path):
        touch(
            tmp_path / "a" / "xyz.mp4",
            tmp_path / "b" / "xyz.webm",
            tmp_path / "c" / "other.mp4",
            tmp_path / "other.avi",
        )
        table = tmp_path / "train.csv"
        table.write_text("label,youtube_id,time_start,time_end,split\nzumba,xyz,0,10,train\n")
        with pytest.raises(DataError, match=r"two videos are called xyz: .*a/xyz.mp4 and .*b/xyz.webm"):
            from_kinetics(table, tmp_path)

    def test_something_something(self, tmp_path):
        touch(tmp_path / "7.webm")
        entry = {"id": "7", "label": "pushing a pen", "template": "Pushing [something]", "placeholders": ["a pen"]}
        (tmp_path / "something-something-v2-train.json").write_text(json.dumps([entry]), encoding="utf-8-sig")
        (tmp_path / "something-something-v2-validation.json").write_text(json.dumps([entry | {"id": "8"}]))
        (tmp_path / "something-something-v2-test.json").write_text(json.dumps([{"id": "9"}]))
        found = from_something(tmp_path, tmp_path)
        assert [(c.path.name, c.label, c.split) for c in found] == [
            ("7.webm", "Pushing something", "train"),
            ("8.webm", "Pushing something", "validation"),
        ]

    def test_a_list_of_another_format_is_told(self, tmp_path):
        (tmp_path / "clips-train.json").write_text("path,label\na.avi,x\n")
        for form in ("csv", "kinetics", "something-something", "jester"):
            (tmp_path / "clips-train.csv").write_text("name,kind\na.avi,x\n")
            with pytest.raises(DataError, match=r"check data\.format"):
                find_clips(Data(list=tmp_path / f"clips-train.{'json' if form[0] == 's' else 'csv'}", format=form))

    @pytest.mark.parametrize(
        ("form", "text"),
        [
            ("kinetics", "label,youtube_id,time_start,time_end\nx,abc,inf,10\n"),
            ("kinetics", "youtube_id,time_start,time_end,label\nabc,0,10\n"),
            ("something-something", '[{"id": 1, "template": null}]'),
            ("something-something", "[" * 100_000),
        ],
    )
    def test_values_that_no_such_list_has_are_told(self, tmp_path, form, text):
        table = tmp_path / f"train.{'json' if form[0] == 's' else 'csv'}"
        table.write_text(text)
        with pytest.raises(DataError, match=rf"train\.\w+: is not a {form} list: .*check data\.format"):
            find_clips(Data(list=table, format=form))

    @pytest.mark.parametrize(
        ("form", "text"),
        [
            ("kinetics", "label,youtube_id,time_start,time_end\n ,abc,0,10\n"),
            ("something-something", '[{"id": "abc", "template": " "}]'),
            ("jester", "abc; \n"),
        ],
    )
    def test_a_label_of_blanks_is_no_class(self, tmp_path, form, text):
        table = tmp_path / f"train.{'json' if form[0] == 's' else 'csv'}"
        table.write_text(text)
        with pytest.raises(DataError, match=r"train\.\w+: abc\S* has no label"):
            find_clips(Data(list=table, format=form))

    def test_videos_behind_links_are_found_and_hidden_ones_left(self, tmp_path):
        touch(tmp_path / "disk" / "abc.mp4", tmp_path / "videos" / ".trash" / "abc.avi")
        (tmp_path / "videos/disk").symlink_to(tmp_path / "disk")
        (tmp_path / "train.csv").write_text("label,youtube_id,time_start,time_end\n zumba ,abc,0,10\n")
        (found,) = from_kinetics(tmp_path / "train.csv", tmp_path / "videos")
        assert (found.path, found.label) == (tmp_path / "videos/disk/abc.mp4", "zumba")

    def test_jester(self, tmp_path):
        touch(tmp_path / "100.mp4")
        (tmp_path / "jester-v1-labels.csv").write_text("Swiping Left\nStop Sign\n")
        (tmp_path / "jester-v1-train.csv").write_text("100;Swiping Left\n", encoding="utf-8-sig")  # as Windows writes
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
