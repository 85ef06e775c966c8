from __future__ import annotations

import os
from pathlib import Path

import pytest

from cpd_serve.inputs import expand


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("clip10.mp4", "clip2.mp4", "CLIP1.MOV", "notes.txt", "sub/deep.webm", "odd[1].avi"):
        path = tmp_path / "videos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "videos"


def names(folder: Path, *sources: str) -> list[str]:
    return [str(path.relative_to(folder)) for path in expand(str(folder / source) for source in sources)]


def test_a_folder_gives_its_videos_in_natural_order(folder: Path) -> None:
    assert names(folder, "") == ["CLIP1.MOV", "clip2.mp4", "clip10.mp4", "odd[1].avi", "sub/deep.webm"]


def test_a_glob_gives_what_it_matches(folder: Path) -> None:
    assert names(folder, "*.mp4") == ["clip2.mp4", "clip10.mp4"]
    assert names(folder, "**/*.webm") == ["sub/deep.webm"]


def test_a_file_may_be_called_anything(folder: Path) -> None:
    assert names(folder, "odd[1].avi", "notes.txt") == ["odd[1].avi", "notes.txt"]


def test_what_names_nothing_is_kept_for_its_error(folder: Path) -> None:
    assert names(folder, "none.mp4", "*.flv") == ["none.mp4", "*.flv"]
    (folder / "empty").mkdir()
    assert names(folder, "empty") == ["empty"]


def test_a_folder_that_cannot_be_looked_into_is_kept_for_its_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scan(path: str) -> object:
        if Path(path).name == "sub":
            raise PermissionError(13, "Permission denied", path)
        return listed(path)

    listed = os.scandir
    monkeypatch.setattr(os, "scandir", scan)  # permissions do not keep root out
    assert names(folder, "") == ["CLIP1.MOV", "clip2.mp4", "clip10.mp4", "odd[1].avi", "sub"]


def test_order_is_that_of_the_command_line(folder: Path) -> None:
    assert names(folder, "clip2.mp4", "sub", "CLIP1.MOV") == ["clip2.mp4", "sub/deep.webm", "CLIP1.MOV"]
