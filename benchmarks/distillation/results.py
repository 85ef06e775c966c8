"""What was measured: a line of JSON for each training, and what can be said of many."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
Right = NDArray[np.bool_]
"""(clips,) whether each test clip is labelled right."""
Gap = NDArray[np.float64]
"""(clips,) 1 where one model alone is right, -1 where the other alone is."""


@dataclass(frozen=True, slots=True)
class Result:
    """One trained model."""

    kind: str
    """search: a weight on trial; fold: on trial too, tested on groups that the table does not test; final: for the
    table; teacher, and fold teacher: what students of them learn from."""
    method: str
    weight: float
    seed: int
    validation: list[float]
    """Top-1 (fraction) after each epoch; empty where the validation clips are trained on."""
    test_right: str
    """Of each test clip whether it is labelled right: bits in hexadecimal, the first clip's first."""
    test_clips: int
    learned_weights: list[dict[str, float]]
    """Of each term after each epoch; empty where weights are not learned."""
    seconds: float
    made: dict[str, str]
    """Commit, date and machine."""
    settings: str = ""
    """Digest of what the pipeline said but for its seed; empty in results older than this."""
    clips: str = ""
    """Digest of the clips there were, and how many groups a fold leaves out; empty in results older than this."""

    @property
    def right(self) -> Right:
        """``test_right`` unpacked."""
        return np.unpackbits(np.frombuffer(bytes.fromhex(self.test_right), np.uint8))[: self.test_clips].astype(bool)

    @property
    def validation_score(self) -> float:
        """Of a trial: the mean top-1 of the last quarter of the epochs, less a matter of luck than that of the best
        one; or top-1 on the groups that were left out."""
        if self.kind == "fold":
            return float(self.right.mean())
        return float(np.mean(self.validation[-max(1, len(self.validation) // 4) :]))


def packed(right: Right) -> str:
    """As ``Result.test_right`` holds it."""
    return np.packbits(right).tobytes().hex()


def read(path: Path) -> list[Result]:
    """The results of a file, in order; none where there is no file yet."""
    return [Result(**json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []


def append(path: Path, result: Result) -> None:
    """Adds a result at the end of a file."""
    path.parent.mkdir(exist_ok=True)
    with path.open("a") as file:  # one write, so that two programs may fill one file
        file.write(json.dumps(asdict(result)) + "\n")


def together(results: Sequence[Result], more: Sequence[Result]) -> list[Result]:
    """The results of two files.

    Raises:
        ValueError: the other has none, or they cannot stand in one table: the same seeds, or other test clips.
    """
    if not more:
        raise ValueError("there are no results")
    trained = {(one.method, one.weight, one.seed) for one in results if one.kind == "final"}
    finals = [one for one in more if one.kind == "final"]
    for one in finals:
        if (one.method, one.weight, one.seed) in trained:
            raise ValueError(f"{one.method} of seed {one.seed} is among the others already")
    if len({one.test_clips for one in (*results, *more) if one.kind in ("final", "teacher")}) > 1:
        raise ValueError("other clips were tested")
    return [*results, *more]


def latest(results: Iterable[Result]) -> list[Result]:
    """The finals of each method with the weight that it was trained with last, in their order."""
    finals = [result for result in results if result.kind == "final"]
    weights = {result.method: result.weight for result in finals}
    return [result for result in finals if result.weight == weights[result.method]]


def scores(results: Iterable[Result], method: str) -> dict[float, list[float]]:
    """Validation scores of a method's trials, by weight."""
    found = defaultdict(list)
    for result in results:
        if result.kind in ("search", "fold") and result.method == method:
            found[result.weight].append(result.validation_score)
    return dict(sorted(found.items()))


def best_weight(results: Iterable[Result], method: str) -> float | None:
    """The weight with the highest mean validation score; None before a search."""
    means = {weight: float(np.mean(values)) for weight, values in scores(results, method).items()}
    return max(means, key=means.__getitem__) if means else None


def difference(
    ours: Mapping[int, Right],
    theirs: Mapping[int, Right],
    groups: Mapping[int, Sequence[str]] = MappingProxyType({}),
    *,
    whole: bool = False,
) -> tuple[float, float, float] | None:
    """Mean paired difference of top-1 with its 95 % bootstrap interval, over seeds and test clips both; fractions.

    Args:
        ours, theirs: by seed; only seeds that both have are used.
        groups: by seed, who each of its test clips is of. Seeds of other groups are other folds, which count alike:
            their clips are drawn together, their seeds each fold's own.
        whole: draw whole groups, since clips of one person are alike. With few groups such an interval is still
            somewhat too narrow.
    """
    folds: dict[tuple[str, ...], list[Gap]] = defaultdict(list)
    for seed in sorted(set(ours) & set(theirs)):
        folds[tuple(groups.get(seed, ()))].append(ours[seed].astype(float) - theirs[seed])
    if not folds:
        return None
    rng = np.random.default_rng(0)
    sums, shares = [], []
    for clips_of, gaps in folds.items():
        count = len(gaps[0])
        _, unit = np.unique(clips_of if whole else range(count), return_inverse=True)
        of_unit = np.stack([np.bincount(unit, gap) for gap in gaps]) / count
        sums.append(drawn(rng, len(gaps)) @ of_unit / len(gaps))
        shares.append(np.bincount(unit) / count)
    times = drawn(rng, sum(map(len, shares)))
    means = (times * np.concatenate(sums, 1)).sum(1) / (times @ np.concatenate(shares))
    low, high = np.percentile(means, [2.5, 97.5])
    return float(np.mean([np.mean(gaps) for gaps in folds.values()])), float(low), float(high)


def drawn(rng: np.random.Generator, count: int) -> NDArray[np.int64]:
    """(RESAMPLES, count): how often each of so many is drawn, with replacement."""
    return rng.multinomial(count, np.full(count, 1 / count), size=RESAMPLES)


def table(
    results: Sequence[Result], order: Sequence[str], groups: Mapping[int, Sequence[str]] = MappingProxyType({})
) -> str:
    """Markdown: mean test top-1, the way to the teacher, and paired differences to CE, to KD and from the method; the
    last also with whole groups drawn, if those of every seed's test clips are given.

    Where a method was trained with several weights, each has a row; others are compared with its latest.
    """
    finals = [result for result in results if result.kind == "final"]
    known = all(len(groups.get(result.seed, ())) == result.test_clips for result in finals)
    trained: dict[tuple[str, float], dict[int, Right]] = defaultdict(dict)
    for result in finals:
        trained[result.method, result.weight][result.seed] = result.right
    right = {result.method: trained[result.method, result.weight] for result in latest(results)}
    teachers = [float(result.right.mean()) for result in results if result.kind == "teacher"]
    alone = _mean(right.get("ce", {}))
    columns = ["loss", "weight", "seeds", "test top-1", "way from CE to teacher", "points over CE", "over KD"]
    columns += ["method over it", *(["groups drawn"] if known else [])]
    lines = [f"| {' | '.join(columns)} |", f"|---|{'--:|' * (len(columns) - 1)}"]
    rows = [(method, weight) for method in order for name, weight in sorted(trained) if name == method]
    for method, weight in rows:
        mine = trained[method, weight]
        tops = [float(one.mean()) for one in mine.values()]
        spread = f" ± {100 * np.std(tops, ddof=1):.1f}" if len(tops) > 1 else ""
        way = "-"
        if teachers and alone is not None and np.mean(teachers) > alone:
            way = f"{100 * (np.mean(tops) - alone) / (np.mean(teachers) - alone):.0f} %"
        gaps = " | ".join(
            "-" if method == other else written(difference(*pair, groups if known else {}, whole=whole))
            for other, pair, whole in (
                ("ce", (mine, right.get("ce", {})), False),
                ("kd", (mine, right.get("kd", {})), False),
                ("method", (right.get("method", {}), mine), False),
                *([("method", (right.get("method", {}), mine), True)] if known else []),
            )
        )
        lines.append(f"| {method} | {weight:g} | {len(tops)} | {100 * np.mean(tops):.1f} %{spread} | {way} | {gaps} |")
    blank = " |" * (len(columns) - 4)
    lines += [f"| teacher | | {len(teachers)} | {100 * np.mean(teachers):.1f} % |{blank}"] if teachers else []
    return "\n".join(lines)


def search_table(results: Sequence[Result], order: Sequence[str]) -> str:
    """Markdown: the mean validation score of every weight tried."""
    lines = ["| method | weight: validation top-1, mean of the last quarter of epochs (trainings) |", "|---|---|"]
    for method in order:
        tried = scores(results, method)
        cells = [f"{weight:g}: {100 * np.mean(values):.1f} % ({len(values)})" for weight, values in tried.items()]
        lines += [f"| {method} | {', '.join(cells)} |"] if cells else []
    return "\n".join(lines)


def written(gap: tuple[float, float, float] | None) -> str:
    """A difference and its interval in points, as a table has it."""
    return "-" if gap is None else f"{100 * gap[0]:+.1f} ({100 * gap[1]:+.1f} to {100 * gap[2]:+.1f})"


def _mean(right: Mapping[int, Right]) -> float | None:
    return float(np.mean([one.mean() for one in right.values()])) if right else None
