"""Whether one engine is slower than another by more than a limit: a test that may stop at any moment.

Each round gives one number, y = log(new / baseline) of a percentile, measured by two freshly opened sessions in turns.
A fair coin decides in each round which of two processes holds which engine, and who is first in each turn. Hence, given
all that happened before, y is distributed symmetrically about the true log-ratio θ: exactly so, whatever the machine
does, if both engines are the same (exchanging the names changes the sign of y and nothing else), and for engines of
different speed as long as disturbances act on both alike. Nothing is assumed of the spread of y, of its shape, or that
it stays the same while the load changes.

To show θ > L, bet on each x = y - L being positive. With λ > 0 and a stake 0 < s <= 1 the factor

    1 + s tanh(λ x)    lies in 1 - s .. 1 + s and has mean 1 if x is symmetric about 0, and at most 1 if θ <= L,

because tanh is odd and increasing. The product over the rounds is a nonnegative supermartingale, and so is its mean
over several λ. By Ville's inequality it ever reaches 1/α with probability at most α while θ <= L. So looking after
every round and stopping at will costs nothing: P(fail although θ <= limit) <= α, and, betting on -x, P(pass although
θ >= limit) <= α. The L that are not refuted either way are an interval that holds θ with probability 1 - 2α at all
times together (a confidence sequence).

1 + tanh(λ x) is the likelihood ratio of a normal x with mean λ σ² against its mirror image; the best λ is μ/σ², unknown
here, so the bets of ``SENSITIVITIES`` are averaged, which costs at most a factor of their number. The stake is below 1
so that a wild round can neither win nor lose much (a factor of 1.8 or 0.2): with one round in ten off by 30 %, a stake
of 1 left 14 % of simulated checks undecided after 400 rounds, a stake of 0.8 none. The bound is also why at least
``rounds_needed`` rounds come before any verdict.

Sources: Ville 1939; Ramdas, Grünwald, Vovk, Shafer, "Game-theoretic statistics and safe anytime-valid inference",
arXiv 2210.01948; Howard, Ramdas, McAuliffe, Sekhon, "Time-uniform, nonparametric, nonasymptotic confidence sequences",
arXiv 1810.08240 (their symmetric observations); Efron 1969 for symmetry in place of normality.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cpd.verdict import Status

LogRatios = NDArray[np.float64]
"""(rounds,) natural logarithms of new / baseline."""

SENSITIVITIES = np.asarray([1.0, 4.0, 16.0, 64.0, 256.0, 1024.0])
"""λ of the bets, per unit of log-ratio; between them, each true ratio and noise finds one within a factor of 2."""
STAKE = 0.8


@dataclass(frozen=True, slots=True)
class Decision:
    """What the rounds say about new / baseline - 1: 0.05 is 5 % more."""

    status: Status
    change_fraction: float | None
    """Estimated change; None without rounds."""
    interval: tuple[float | None, float | None]
    """Holds the true change with probability 1 - 2 * error rate; None where there is no bound yet."""
    rounds: int


def decide(log_ratios: LogRatios, limit_fraction: float, error_rate: float, margin: float = 0.0) -> Decision:
    """Judges the rounds so far; may be asked after every round without weakening the error rates.

    Args:
        log_ratios: (rounds,) log(new / baseline), in order.
        limit_fraction: largest change that passes, such as 0.05; above -1.
        error_rate: largest probability of failing what is within the limit, and of passing what is not.
        margin: log-ratio by which the rounds may be off all together, such as the difference between two sittings.
    """
    limit = math.log1p(limit_fraction)
    low, high = interval(log_ratios, error_rate)
    low, high = low - margin, high + margin
    status: Status = "inconclusive"
    if reached(log_ratios - (limit + margin), error_rate):
        status = "fail"
    elif reached((limit - margin) - log_ratios, error_rate):
        status = "pass"
    return Decision(status, _fraction(centre(log_ratios)), (_fraction(low), _fraction(high)), len(log_ratios))


def rounds_to(excess: LogRatios, error_rate: float) -> int | None:
    """After how many rounds the bets on ``excess`` being positive had multiplied to 1 / ``error_rate``, if ever."""
    won = np.flatnonzero(_log_wealth(excess) >= -math.log(error_rate))
    return int(won[0]) + 1 if len(won) else None


def reached(excess: LogRatios, error_rate: float) -> bool:
    """Whether the bets on ``excess`` being positive were ever won."""
    return rounds_to(excess, error_rate) is not None


def interval(log_ratios: LogRatios, error_rate: float) -> tuple[float, float]:
    """Log-ratios that no round so far has refuted, each end at ``error_rate``; infinite before ``rounds_needed``."""
    if len(log_ratios) < rounds_needed(error_rate):
        return -math.inf, math.inf
    return _lower_end(log_ratios, error_rate), -_lower_end(-log_ratios, error_rate)


def rounds_needed(error_rate: float) -> int:
    """Fewest rounds after which there can be a verdict: each multiplies the wealth by 1 + ``STAKE`` at most."""
    return math.ceil(-math.log(error_rate) / math.log1p(STAKE))


def centre(log_ratios: LogRatios) -> float:
    """The Hodges-Lehmann estimate: the median of the means of all pairs, each round with itself too; nan if none."""
    if len(log_ratios) == 0:
        return math.nan
    one, other = np.triu_indices(len(log_ratios))
    return float(np.median((log_ratios[one] + log_ratios[other]) / 2))


def _log_wealth(excess: LogRatios) -> LogRatios:
    """(rounds,) logarithm of the mean over the bets of the product of their factors, after each round."""
    factors = np.log1p(STAKE * np.tanh(SENSITIVITIES[:, None] * excess))
    wealth: LogRatios = np.logaddexp.reduce(np.cumsum(factors, axis=1), axis=0) - math.log(len(SENSITIVITIES))
    return wealth


def _lower_end(log_ratios: LogRatios, error_rate: float) -> float:
    """Largest L at which the bets on y > L are won; they are won at every smaller one."""
    high = float(np.max(log_ratios)) + 1e-9
    step = 1.0
    while not reached(log_ratios - (high - step), error_rate):
        step *= 2
        if step > 2**20:
            return -math.inf
    low = high - step
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if reached(log_ratios - middle, error_rate) else (low, middle)
    return low


def _fraction(log_ratio: float) -> float | None:
    return math.expm1(log_ratio) if math.isfinite(log_ratio) else None
