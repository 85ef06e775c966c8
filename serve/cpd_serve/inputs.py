"""Which videos the user means: files, folders and globs, in natural order."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from cpd.folders import videos_below


def expand(sources: Iterable[str]) -> Iterator[Path]:
    """The videos that these files, folders and globs name.

    A source that names nothing is yielded as it is, so that reading it says what is wrong with it.
    """
    for source in sources:
        path = Path(source)
        # os.path's questions are answered no where Path's raise: without permission, of names that are too long
        if os.path.isdir(source):  # noqa: PTH112
            yield from sorted(videos_below(path), key=_order) or [path]
        elif not os.path.exists(source) and glob.has_magic(source):  # noqa: PTH110
            matches = glob.glob(source, recursive=True)  # noqa: PTH207  # the pattern may be absolute
            yield from sorted((Path(match) for match in matches if os.path.isfile(match)), key=_order) or [path]  # noqa: PTH113
        else:
            yield path


def _order(path: Path) -> tuple[tuple[int, int | str], ...]:
    from cpd.dataset import natural_key  # one file on the command line needs no order

    return natural_key(str(path))
