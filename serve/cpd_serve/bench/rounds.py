"""Rounds: one observation each of how two engines compare, taken until a verdict can be reached."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cpd.errors import EngineMismatchError
from cpd_serve.bench.counters import Counters
from cpd_serve.bench.guards import ClockCheck, disturbance
from cpd_serve.bench.worker import Engine, Opened, Timed, Worker, worker_pair

TAIL_RUNS = 4
"""A percentile is taken of turns together that hold this many calls on its far side."""
ENERGY_TURN_S = 0.1
"""Energy counters move about once a millisecond, so turns must be long where energy is judged."""


@dataclass(slots=True)
class Rounds:
    """What has been measured so far."""

    rounds: list[Timed] = field(default_factory=list)
    repeated: Counter[str] = field(default_factory=Counter)
    """Rounds that do not count, by the reason why."""
    opened: dict[str, Opened] = field(default_factory=dict)
    """What opening told, for "new" and "baseline"."""
    elapsed_s: float = 0.0

    def log_ratios(self, statistic: Callable[[Timed], float]) -> NDArray[np.float64]:
        """(rounds,) one number a round."""
        return np.asarray([statistic(each) for each in self.rounds], dtype=np.float64)

    @property
    def waiting_fraction(self) -> float:
        """Part of the time for which the processes waited for a core."""
        wall_s = sum(each.wall_s for each in self.rounds)
        return sum(each.waiting_s for each in self.rounds) / wall_s if wall_s else 0.0


def run_rounds(
    new: Engine,
    baseline: Engine,
    *,
    percentile: float,
    max_s: float,
    seed: int,
    enough: Callable[[Rounds], bool],
    turn_s: float = 0.0,
    may_differ: bool = False,
) -> Rounds:
    """Measures until ``enough`` says so, or for ``max_s``.

    Args:
        percentile: the one that will be judged; rounds are made long enough for it.
        turn_s: how long each turn lasts at least.
        may_differ: whether the two may have different inputs and labels.

    Raises:
        EngineMismatchError: the engines have different inputs or labels.
        CpdError: an engine cannot be opened, or the machine's clock is not stable.
    """
    clock, start_s = ClockCheck(), time.perf_counter()
    coin = np.random.default_rng(seed)
    done = Rounds()
    with worker_pair() as pair:
        done.opened = start_both(pair, new, baseline, coin)
        if not may_differ:
            check_comparable(new, baseline, done.opened)
        while True:
            before = Counters.now()
            worker = pair[coin.integers(2)]
            timed: Timed = worker.call("round", new, baseline, runs_for(percentile), turn_s, int(coin.integers(2**32)))
            reason = disturbance(before, Counters.now(), timed)
            if reason:
                done.repeated[reason] += 1
            else:
                done.rounds.append(timed)
            clock.verify()
            done.elapsed_s = time.perf_counter() - start_s
            if done.elapsed_s > max_s or (not reason and enough(done)):
                return done


def start_both(
    pair: tuple[Worker, Worker], new: Engine, baseline: Engine, coin: np.random.Generator
) -> dict[str, Opened]:
    """Opens each engine in a fresh process, one after the other in random order."""
    opened = {}
    for side in coin.permutation(2).tolist():
        name, engine = (("new", new), ("baseline", baseline))[side]
        opened[name] = pair[side].call("start", engine)
    return opened


def check_comparable(new: Engine, baseline: Engine, opened: dict[str, Opened]) -> None:
    """Raises EngineMismatchError for engines that do not do the same work."""
    ours, theirs = opened["new"].manifest, opened["baseline"].manifest
    for what, mine, other in (("inputs", ours.clip, theirs.clip), ("labels", ours.labels, theirs.labels)):
        if mine != other:
            raise EngineMismatchError(
                f"{new.path} and {baseline.path} have different {what}, so their latencies cannot be compared",
                "compare engines that were exported for the same task",
            )


def runs_for(percentile: float) -> int:
    """Calls that hold ``TAIL_RUNS`` on the far side of a percentile."""
    return math.ceil(TAIL_RUNS / min(percentile / 100, 1 - percentile / 100) - 1e-9)


def log_ratio(timed: Timed, percentile: float) -> float:
    """log(new / baseline) of a percentile: the median over the shortest runs of turns that can tell it.

    For the median these are two pairs of turns, so that a machine which changes its speed meanwhile moves both sides
    of a ratio. Of these, calls that lost their core count only where there are no others: when they go on, the caches
    are cold. Tails and means are of all calls, as longer calls lose their core more often.
    """
    turns, runs = timed.new_s.shape
    groups = max(1, turns * runs // max(runs, runs_for(percentile)))
    pairs = list(zip(*(np.array_split(side, groups) for side in (timed.new_s, timed.baseline_s)), strict=True))
    if percentile == 50 and timed.waited_s is not None:
        waited = zip(*(np.array_split(side, groups) for side in timed.waited_s), strict=True)
        kept = [(new[n == 0], old[o == 0]) for (new, old), (n, o) in zip(pairs, waited, strict=True)]
        pairs = [(new, old) for new, old in kept if new.size and old.size] or pairs
    ratios = [np.percentile(new, percentile) / np.percentile(old, percentile) for new, old in pairs]
    return float(np.median(np.log(ratios)))


def log_mean_ratio(timed: Timed) -> float:
    """log(new / baseline) of the mean time of a call, which is that of the throughputs, inverted."""
    return math.log(np.mean(timed.new_s) / np.mean(timed.baseline_s))


def log_energy_ratio(timed: Timed) -> float:
    """log(new / baseline) of the energy of a call; nan where the machine does not tell."""
    if timed.energy_j is None or min(timed.energy_j) <= 0:
        return math.nan
    return math.log(timed.energy_j[0] / timed.energy_j[1])
