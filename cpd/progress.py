"""One progress bar for every long stage; silent where stderr is not a terminal, so that logs stay readable."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from cpd.interruption import check

Item = TypeVar("Item")


def track(items: Iterable[Item], description: str, total: int | None = None, unit: str = "clip") -> Iterator[Item]:
    """Yields the items and shows on stderr how far along they are."""
    from tqdm import tqdm  # the pipeline has it, a device has not

    for item in tqdm(items, desc=f"  {description}", total=total, unit=unit, leave=False, disable=None):
        check()
        yield item
