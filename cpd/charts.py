"""Geometry of the report's charts: values become percentages of a plot's width and height, ready to be drawn.

Text stays out of the drawings, so that a chart can be stretched to any width and its labels keep their size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

MOST_STEPS = 5


@dataclass(frozen=True, slots=True)
class Tick:
    """A labelled place on an axis."""

    position: float
    """Percent from the left or from the top."""
    label: str


@dataclass(frozen=True, slots=True)
class Line:
    """One series of a chart."""

    name: str
    style: str
    """CSS class that gives it its colour."""
    points: str
    """SVG polyline points in percent."""
    end: tuple[float, float]
    """Percent from the left and from the top of the last point."""
    last: str
    """The last value, formatted."""


@dataclass(frozen=True, slots=True)
class LineChart:
    """Several series over the epochs."""

    title: str
    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]


@dataclass(frozen=True, slots=True)
class LimitChart:
    """A value with its interval against a limit, on one axis; all in percent from the left."""

    value: float
    limit: float
    interval: tuple[float, float] | None
    good: tuple[float, float]
    """Where the value passes: start and width."""


@dataclass(frozen=True, slots=True)
class Series:
    """Values to draw: x ascending."""

    name: str
    style: str
    points: Sequence[tuple[float, float]]


def line_chart(
    title: str,
    series: Sequence[Series],
    written: Callable[[float], str],
    on_axis: Callable[[float], str],
    logarithmic: bool = False,
) -> LineChart:
    """The series on common axes, y from a round number at or below all values to one at or above.

    Args:
        title: what is drawn.
        series: those without a point are left out.
        written: formats the last value of a series.
        on_axis: formats a mark of the y axis.
        logarithmic: whether equal steps of y are equal factors; values must then be above 0.
    """
    series = [one for one in series if one.points]
    if not series:
        return LineChart(title, (), (), ())
    xs = [x for one in series for x, _ in one.points]
    ys = [y for one in series for _, y in one.points]
    y_marks = decades(min(ys), max(ys)) if logarithmic else round_marks(min(ys), max(ys))
    height: Callable[[float], float] = math.log10 if logarithmic else float
    across, down = _scale(min(xs), max(xs)), _scale(height(y_marks[-1]), height(y_marks[0]))
    lines = []
    for one in series:
        places = [(across(x), down(height(y))) for x, y in one.points]
        text = " ".join(f"{x:.2f},{y:.2f}" for x, y in places)
        lines.append(Line(one.name, one.style, text, places[-1], written(one.points[-1][1])))
    epochs = [x for x in round_marks(min(xs), max(xs)) if min(xs) <= x <= max(xs) and x.is_integer()]
    return LineChart(
        title,
        tuple(lines),
        tuple(Tick(across(x), f"{x:.0f}") for x in epochs),
        tuple(Tick(down(height(y)), on_axis(y)) for y in y_marks),
    )


def limit_chart(value: float, interval: tuple[float, float] | None, limit: float, at_least: bool) -> LimitChart:
    """The value and its interval beside the limit, with room on both sides."""
    shown = [value, limit, *(interval or ())]
    room = (max(shown) - min(shown)) * 0.25 or abs(limit) * 0.25 or 1.0
    across = _scale(min(shown) - room, max(shown) + room)
    place = across(limit)
    return LimitChart(
        across(value),
        place,
        (across(interval[0]), across(interval[1])) if interval else None,
        (place, 100 - place) if at_least else (0.0, place),
    )


def round_marks(low: float, high: float) -> list[float]:
    """Round numbers in at most ``MOST_STEPS`` equal steps, from at or below ``low`` to at or above ``high``."""
    if high <= low:
        high = low + (abs(low) or 1.0)
    unit = 10.0 ** math.floor(math.log10((high - low) / MOST_STEPS))
    for step in (unit * factor for factor in (1, 2, 5, 10, 20, 50)):
        # A hair of slack keeps a bound that is round itself from being rounded past.
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        if last - first <= MOST_STEPS:
            return [mark * step for mark in range(first, last + 1)]
    raise AssertionError("50 units are at least the whole range")


def decades(low: float, high: float) -> list[float]:
    """Powers of ten in at most ``MOST_STEPS`` equal steps, from at or below ``low`` to at or above ``high``."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    step = max(1, math.ceil((last - first) / MOST_STEPS))
    return [10.0 ** (first + step * index) for index in range(max(1, math.ceil((last - first) / step)) + 1)]


def _scale(low: float, high: float) -> Callable[[float], float]:
    """A function from values to percent; ``low`` is 0 and ``high`` is 100."""
    return lambda value: 100 * (value - low) / (high - low) + 0.0 if high != low else 50.0  # no minus zero
