"""Memory for what loading would make again: clips, decoded and resized whole, and views that are met again."""

from __future__ import annotations

import math
from collections import ChainMap, defaultdict
from collections.abc import Callable, Hashable, Iterable

import numpy as np
from numpy.typing import NDArray

from cpd_train.sampling import View

Frames = NDArray[np.uint8]
Make = Callable[[list[View]], Frames]
"""(views, frames, height, width, 3) uint8 of views that are alike in all of these."""


class Cache:
    """Frames on the host, as many as there is room for; none that is kept is let go. Clips are told by their row.

    Args:
        room_bytes: memory for all of them.
    """

    def __init__(self, room_bytes: int) -> None:
        self._room_bytes = room_bytes
        self._clips: dict[int, tuple[NDArray[np.int64], Frames]] = {}
        self._views: dict[Hashable, Frames] = {}

    def __contains__(self, row: int) -> bool:
        """Whether a clip is kept."""
        return row in self._clips

    def frames_of(self, view: View) -> Frames:
        """(frames, *view.size, 3) uint8: what a view of a clip that is kept is made of."""
        indices, frames = self._clips[view.row]
        return frames[np.searchsorted(indices, view.indices)]

    def keep_clips(self, wholes: Iterable[View], make: Make) -> None:
        """Keeps clips that are not kept yet, while there is room; those of one shape are made together.

        Args:
            wholes: of each clip all of it, see ``cpd_train.sampling.whole``.
            make: makes those of one shape.
        """
        alike: dict[tuple[int, tuple[int, int]], list[View]] = defaultdict(list)
        for whole in wholes:
            if self._take(len(whole.indices) * math.prod(whole.size) * 3):
                alike[len(whole.indices), whole.size].append(whole)
        for same in alike.values():
            self._clips |= {whole.row: (whole.indices, frames) for whole, frames in zip(same, make(same), strict=True)}

    def views(self, views: list[View], make: Make) -> Frames:
        """(views, frames, height, width, 3) uint8 of views, each made once, while there is room to keep it."""
        new = [view for view in views if view.picture not in self._views]
        made = {view.picture: frames for view, frames in zip(new, make(new), strict=True)} if new else {}
        for picture, frames in made.items():
            if self._take(frames.nbytes):
                self._views[picture] = frames.copy()  # or it would keep its whole batch
        seen = ChainMap(made, self._views)
        return np.stack([seen[view.picture] for view in views])

    def _take(self, size_bytes: int) -> bool:
        """Whether there is room for so much, which is then taken."""
        fits = size_bytes <= self._room_bytes
        self._room_bytes -= size_bytes if fits else 0
        return fits
