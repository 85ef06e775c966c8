"""The videos in a folder, for those who train on them and those who label them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

VIDEO_SUFFIXES = frozenset((
    ".3gp", ".asf", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mjpeg", ".mkv", ".mov",
    ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv",
))  # fmt: skip
"""What is taken for a video in a folder; a file that is named itself may be called anything."""


def videos_below(folder: Path) -> Iterator[Path]:
    """Videos in a folder and those below it, behind links too; what is hidden is left aside.

    A folder that cannot be looked into is yielded itself, so that reading it says why.
    """
    seen: set[str] = set()
    closed: list[OSError] = []
    for parent, folders, names in os.walk(folder, onerror=closed.append, followlinks=True):
        real = os.path.realpath(parent)
        folders[:] = [] if real in seen else [name for name in folders if not name.startswith(".")]
        if real not in seen:
            seen.add(real)
            paths = (Path(parent, name) for name in names if not name.startswith("."))
            yield from (path for path in paths if path.suffix.lower() in VIDEO_SUFFIXES)
    yield from (Path(error.filename) for error in closed)
