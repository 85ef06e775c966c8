"""Scores rules for latency regressions on recorded checks: how often each fails engines of known slowdown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, mannwhitneyu

from cpd_serve.bench.decision import rounds_to
from cpd_serve.bench.rounds import log_ratio
from cpd_serve.bench.worker import Timed

Calls = NDArray[np.float64]
LIMIT_FRACTION = 0.05


@dataclass(frozen=True)
class Recorded:
    """The samples of one check."""

    percent: int
    """True slowdown."""
    status: str
    """What cpd-bench said."""
    elapsed_s: float
    rounds: list[Timed]

    @classmethod
    def of(cls, entry: dict[str, Any]) -> Recorded:
        sides = [entry[f"{name}_100ns"] for name in ("new", "baseline", "waited")]
        rounds = []
        for new_s, old_s, waited_s in zip(*([np.asarray(each) / 1e7 for each in side] for side in sides), strict=True):
            rounds.append(Timed(new_s, old_s, np.empty(0), 0.0, 0.0, None, waited_s))
        return cls(entry["slowdown_percent"], entry["status"], entry["elapsed_s"], rounds)

    def took(self, side: int) -> Calls:
        """(calls,) seconds of new (0) or baseline (1) from call to return, which is what other tools see."""
        whole = map(from_call_to_return, self.rounds)
        return np.concatenate([(each.new_s, each.baseline_s)[side].ravel() for each in whole])


def fixed_median(new: Calls, old: Calls) -> bool:
    """More than 5 % between the medians."""
    return bool(np.median(new) > (1 + LIMIT_FRACTION) * np.median(old))


def asv(new: Calls, old: Calls) -> bool:
    """asv continuous: the ratio of medians above 1.1, and Mann-Whitney's U with p < 0.002."""
    return bool(np.median(new) > 1.1 * np.median(old)) and mannwhitneyu(new, old).pvalue < 0.002


def pytest_benchmark_min(new: Calls, old: Calls) -> bool:
    """pytest-benchmark --benchmark-compare-fail=min:5%."""
    return bool(new.min() > (1 + LIMIT_FRACTION) * old.min())


def pytest_benchmark_mean(new: Calls, old: Calls) -> bool:
    """pytest-benchmark --benchmark-compare-fail=mean:5%."""
    return bool(new.mean() > (1 + LIMIT_FRACTION) * old.mean())


def github_action_benchmark(new: Calls, old: Calls) -> bool:
    """github-action-benchmark's alert-threshold of 200 %, on the mean."""
    return bool(new.mean() > 2 * old.mean())


RULES: dict[str, Callable[[Calls, Calls], bool]] = {
    "asv (ratio 1.1 and Mann-Whitney)": asv,
    "pytest-benchmark min:5%": pytest_benchmark_min,
    "pytest-benchmark mean:5%": pytest_benchmark_mean,
    "github-action-benchmark (2x)": github_action_benchmark,
    "5 % on medians": fixed_median,
}
OURS = "cpd-bench, limit 5 %, error rate 1 %"


def asked(checks: Sequence[Recorded]) -> Iterator[str]:
    """Markdown: what is asked of cpd-bench, and what was measured, with 95 % Clopper-Pearson intervals."""

    def measured(status: str, percents: tuple[int, ...]) -> str:
        return share([check.status == status for check in checks if check.percent in percents])

    yield "| asked | measured |"
    yield "|---|--:|"
    yield f"| an engine against itself is failed in at most 1 % | {measured('fail', (0,))} |"
    yield f"| +10 % is failed in at least 99 % | {measured('fail', (10,))} |"
    yield f"| +7 % is failed in at least 90 % | {measured('fail', (7,))} |"
    yield f"| +3 % is failed in at most 1 % | {measured('fail', (3,))} |"
    yield f"| at most 5 % of all are undecided | {measured('inconclusive', (0, 3, 7, 10))} |"
    yield f"| the median check takes less than 10 s | {np.median([check.elapsed_s for check in checks]):.1f} s |"


def table(checks: Sequence[Recorded]) -> Iterator[str]:
    """Markdown: the share of checks failed, for each rule and true slowdown, with its 95 % interval."""
    percents = sorted({check.percent for check in checks})
    counts = {percent: sum(check.percent == percent for check in checks) for percent in percents}
    yield "| rule | " + " | ".join(f"true +{percent} % ({counts[percent]} checks)" for percent in percents) + " |"
    yield "|---|" + "--:|" * len(percents)
    ours = {percent: [check.status == "fail" for check in checks if check.percent == percent] for percent in percents}
    yield f"| **{OURS}** | " + " | ".join(share(ours[percent]) for percent in percents) + " |"
    undecided = {p: [check.status == "inconclusive" for check in checks if check.percent == p] for p in percents}
    yield "| … undecided | " + " | ".join(share(undecided[percent]) for percent in percents) + " |"
    timed = [check for check in checks if check.rounds]
    for between_jobs in (False, True):
        for name, rule in RULES.items():
            failed = {percent: verdicts(rule, timed, percent, between_jobs) for percent in percents}
            where = ", old from the check before" if between_jobs else ""
            yield f"| {name}{where} | " + " | ".join(share(failed[percent]) for percent in percents) + " |"


def rounds_told(checks: Sequence[Recorded]) -> Iterator[str]:
    """Markdown: what a round of an engine against itself is made of, whose true log-ratio is 0."""
    rounds = [each for check in checks if check.percent == 0 for each in check.rounds]
    if len(rounds) < 2:
        return
    halves = np.asarray([[log_ratio(half, 50) for half in halved(each)] for each in rounds])
    whole = [from_call_to_return(each) for each in rounds]
    called, worked = (
        np.concatenate([c.ravel() for e in side for c in (e.new_s, e.baseline_s)]) for side in (whole, rounds)
    )
    ratios = {
        "calls from call to return": [log_ratio(each, 50) for each in whole],
        "without their waiting for a core": [log_ratio(replace(each, waited_s=None), 50) for each in rounds],
        "of calls that kept their core, as judged": [log_ratio(each, 50) for each in rounds],
    }
    needed = [len(check.rounds) for check in checks]
    yield f"| {len(rounds)} rounds of an engine against itself | |"
    yield "|---|--:|"
    yield f"| correlation of a round's first and second half | {np.corrcoef(halves.T)[0, 1]:.2f} |"
    for name, values in ratios.items():
        yield f"| standard deviation of a round, {name} | {np.std(values):.1%} |"
    yield f"| calls that lost their core | {np.mean(called > worked):.1%} |"
    yield f"| 95th percentile of a call, ms, from call to return | {1e3 * np.percentile(called, 95):.2f} |"
    yield f"| … without waiting for a core | {1e3 * np.percentile(worked, 95):.2f} |"
    median, high, most = np.percentile(needed, (50, 90, 100))
    yield f"| rounds of a check, of any engine: median, 90th percentile, most | {median:.0f}, {high:.0f}, {most:.0f} |"


def halved(timed: Timed) -> Iterator[Timed]:
    """The first and the last turns of a round."""
    for turns in np.array_split(np.arange(len(timed.new_s)), 2):
        yield replace(
            timed,
            new_s=timed.new_s[turns],
            baseline_s=timed.baseline_s[turns],
            waited_s=None if timed.waited_s is None else timed.waited_s[:, turns],
        )


def from_call_to_return(timed: Timed) -> Timed:
    """With the waiting for a core that was left out."""
    new_s, old_s = timed.waited_s if timed.waited_s is not None else (0.0, 0.0)
    return replace(timed, new_s=timed.new_s + new_s, baseline_s=timed.baseline_s + old_s, waited_s=None)


NOISES: dict[str, Callable[[np.random.Generator, tuple[int, int]], Calls]] = {
    "normal, standard deviation 1 %": lambda random, shape: random.normal(0, 0.01, shape),
    "normal, 3 %": lambda random, shape: random.normal(0, 0.03, shape),
    "Student's t with 2 degrees of freedom, scale 1.5 %": lambda random, shape: 0.015 * random.standard_t(2, shape),
    "normal, 2 %, and 30 % in one round of ten": lambda random, shape: random.normal(
        0, np.where(random.random(shape) < 0.1, 0.3, 0.02)
    ),
}
SEQUENCES, MOST_ROUNDS = 250, 400


def simulated(seed: int = 0) -> Iterator[str]:
    """Markdown: median and 90th percentile of the rounds to a verdict, of rounds with noise that is known."""
    random = np.random.default_rng(seed)
    yield "| noise of a round | true 0 % | true +3 % | true +7 % |"
    yield "|---|--:|--:|--:|"
    limit = np.log1p(LIMIT_FRACTION)
    for name, noise in NOISES.items():
        cells = []
        for slowdown in (0, 0.03, 0.07):
            excess = np.log1p(slowdown) - limit + noise(random, (SEQUENCES, MOST_ROUNDS))
            ends = [[rounds_to(side, 0.01) or MOST_ROUNDS + 1 for side in (each, -each)] for each in excess]
            needed = np.min(ends, axis=1)
            undecided = np.sum(needed > MOST_ROUNDS)
            median, high = np.percentile(needed, (50, 90))
            cells.append(f"{median:.0f} / {high:.0f}" + (f" ({undecided} undecided)" if undecided else ""))
        yield f"| {name} | " + " | ".join(cells) + " |"


def verdicts(
    rule: Callable[[Calls, Calls], bool], checks: Sequence[Recorded], percent: int, between_jobs: bool
) -> list[bool]:
    """A rule's verdicts on the checks of one slowdown; ``between_jobs`` takes the old samples a check earlier, as
    tools do that keep the numbers of the last job."""
    found = []
    for index, check in enumerate(checks):
        if check.percent == percent and (index or not between_jobs):
            old = checks[index - 1] if between_jobs else check
            found.append(rule(check.took(0), old.took(1)))
    return found


def curve(checks: Sequence[Recorded], slowdowns: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Share failed at each slowdown, from the checks of an engine against itself with the new side scaled.

    A check that stopped early goes on with the rounds of the checks after it.
    """
    same = [check for check in checks if check.percent == 0 and check.rounds]
    ratios = [np.asarray([log_ratio(each, 50) for each in check.rounds]) for check in same]
    endless = [np.concatenate(ratios[index:] + ratios[:index])[:400] for index in range(len(same))]
    limit = np.log1p(LIMIT_FRACTION)
    found = {OURS: [[fails(y + np.log1p(s) - limit) for y in endless] for s in slowdowns]}
    for name, rule in RULES.items():
        found[name] = [[rule(c.took(0) * (1 + s), c.took(1)) for c in same] for s in slowdowns]
    return {name: np.mean(values, axis=1) for name, values in found.items()}


def fails(excess: NDArray[np.float64]) -> bool:
    """Whether a check that stops at its first verdict fails, given (rounds,) log-ratios less the limit."""
    failed, passed = rounds_to(excess, 0.01), rounds_to(-excess, 0.01)
    return failed is not None and (passed is None or failed < passed)


def share(held: Sequence[bool]) -> str:
    """60.0 % (50 to 70)."""
    if not held:
        return "none"
    interval = binomtest(sum(held), len(held)).proportion_ci(method="exact")
    return f"{np.mean(held):.1%} ({interval.low:.1%} to {interval.high:.1%})"


COLOURS = ("#c0392b", "#2471a3", "#1e8449", "#b7950b", "#7d3c98", "#616a6b")
LEFT, TOP, WIDTH, HEIGHT = 60, 20, 520, 300


def operating_curve(checks: Sequence[Recorded]) -> str:
    """SVG: share of checks failed against the true slowdown. Lines: scaled; points: engines that are truly slower."""
    slowdowns = np.linspace(0, 0.16, 33)
    lines = curve(checks, slowdowns)

    def x(slowdown: float) -> float:
        return LEFT + WIDTH * slowdown / 0.16

    def y(fraction: float) -> float:
        return TOP + HEIGHT * (1 - fraction)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + 20} {TOP + HEIGHT + 150}" '
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for percent in range(0, 17, 2):
        parts.append(f'<text x="{x(percent / 100)}" y="{TOP + HEIGHT + 18}" text-anchor="middle">{percent}</text>')
    for fraction in (0, 0.25, 0.5, 0.75, 1):
        parts.append(f'<path d="M{LEFT} {y(fraction)}h{WIDTH}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(fraction) + 4}" text-anchor="end">{fraction:.0%}</text>')
    parts.append(f'<path d="M{x(0.05)} {TOP}v{HEIGHT}" stroke="#999" stroke-dasharray="4"/>')
    parts.append(f'<text x="{x(0.08)}" y="{TOP + HEIGHT + 36}" text-anchor="middle">true slowdown, percent</text>')
    for index, ((name, shares), colour) in enumerate(zip(lines.items(), COLOURS, strict=True)):
        points = " ".join(f"{x(s):.1f},{y(f):.1f}" for s, f in zip(slowdowns, shares, strict=True))
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="{1 if index else 2.5}"/>'
        )
        parts.append(f'<text x="{LEFT + 10}" y="{TOP + HEIGHT + 56 + 15 * index}" fill="{colour}">{name}</text>')
    for percent in sorted({check.percent for check in checks}):
        failed = float(np.mean([check.status == "fail" for check in checks if check.percent == percent]))
        parts.append(f'<circle cx="{x(percent / 100)}" cy="{y(failed)}" r="4" fill="{COLOURS[0]}"/>')
    return "\n".join([*parts, "</svg>"]) + "\n"
