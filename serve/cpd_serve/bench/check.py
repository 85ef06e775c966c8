"""A check: one or more gates on how much worse a new engine is than its baseline, decided together."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from cpd.errors import CpdError
from cpd.verdict import Status, verdict
from cpd_serve.bench.decision import Decision, decide, rounds_needed
from cpd_serve.bench.rounds import (
    ENERGY_TURN_S,
    Rounds,
    check_comparable,
    log_energy_ratio,
    log_mean_ratio,
    log_ratio,
    run_rounds,
    start_both,
)
from cpd_serve.bench.worker import Engine, Opened, Timed, worker_pair
from cpd_serve.latency import LatencySummary, summarise

Metric = Literal["latency", "throughput", "energy", "size", "memory", "cold-start", "first-inference"]
METRICS: tuple[Metric, ...] = get_args(Metric)

STARTS: dict[Metric, Callable[[Opened], float]] = {
    "memory": lambda opened: float(opened.peak_memory_bytes),
    "cold-start": lambda opened: opened.cold_start_s,
    "first-inference": lambda opened: opened.first_inference_s,
}
"""What only a new process tells: gating one of these starts fresh pairs of processes."""


@dataclass(frozen=True, slots=True)
class Gate:
    """How much worse the new engine may be: 0.05 allows 5 % more time, memory, bytes or joules."""

    metric: Metric
    limit_fraction: float


@dataclass(frozen=True, slots=True)
class Plan:
    """How to decide."""

    gates: tuple[Gate, ...]
    percentile: float = 50.0
    """Of single calls; what the latency gate is about."""
    error_rate: float = 0.01
    """Largest probability of failing what is within a limit, and of passing what is not."""
    max_s: float = 120.0
    seed: int = 0

    @property
    def of_rounds(self) -> list[Gate]:
        """Those that rounds decide."""
        return [gate for gate in self.gates if gate.metric not in STARTS and gate.metric != "size"]

    @property
    def of_starts(self) -> list[Gate]:
        """Those that fresh processes decide."""
        return [gate for gate in self.gates if gate.metric in STARTS]

    @property
    def turn_s(self) -> float:
        """How long a turn lasts at least."""
        return ENERGY_TURN_S if any(gate.metric == "energy" for gate in self.gates) else 0.0


@dataclass(frozen=True, slots=True)
class Judged:
    """A gate and what came of it."""

    gate: Gate
    decision: Decision
    reason: str
    """Why it is undecided; empty otherwise."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What was seen of one engine."""

    path: str
    runtime: str
    provider: str
    size_bytes: int
    latency: LatencySummary | None
    """None where no round counts."""
    throughput_per_s: float | None
    """Clips a second, one call after the other."""
    cold_start_ms: float
    first_inference_ms: float
    peak_memory_bytes: int
    energy_mj: float | None
    """Millijoules of a call; None where the machine does not tell."""


@dataclass(frozen=True, slots=True)
class Check:
    """The outcome of a check."""

    verdict: Status
    judged: list[Judged]
    new: Facts
    baseline: Facts
    plan: Plan
    margin: float
    """Log-ratio added on both sides of each interval; 0 where both engines were timed together."""
    measured: Rounds
    elapsed_s: float


def check(new: Engine, baseline: Engine, plan: Plan, progress: Callable[[Rounds], None] = lambda _: None) -> Check:
    """Measures two engines until every gate is decided, or for ``plan.max_s`` seconds.

    Raises:
        EngineError: an engine cannot be opened, or the two have different inputs or labels.
        CpdError: the machine cannot tell what a gate asks for, or its clock is not stable.
    """
    start_s = time.perf_counter()

    def judge_round(gate: Gate, rounds: Rounds) -> Decision:
        return decide(rounds.log_ratios(statistic(gate.metric, plan.percentile)), gate.limit_fraction, plan.error_rate)

    def enough(rounds: Rounds) -> bool:
        progress(rounds)
        return len(rounds.rounds) >= rounds_needed(plan.error_rate) and all(
            judge_round(gate, rounds).status != "inconclusive" for gate in plan.of_rounds
        )

    measured = run_rounds(
        new,
        baseline,
        percentile=plan.percentile,
        max_s=plan.max_s,
        seed=plan.seed,
        enough=enough,
        turn_s=plan.turn_s,
    )
    decisions = {gate: judge_round(gate, measured) for gate in plan.of_rounds}
    decisions |= judge_starts(new, baseline, plan, start_s + plan.max_s)
    ours = facts(new, measured.opened["new"], measured.rounds, 0)
    theirs = facts(baseline, measured.opened["baseline"], measured.rounds, 1)
    return concluded(decisions, ours, theirs, plan, measured, time.perf_counter() - start_s)


def concluded(
    decisions: Mapping[Gate, Decision],
    new: Facts,
    baseline: Facts,
    plan: Plan,
    measured: Rounds,
    elapsed_s: float,
    margin: float = 0.0,
) -> Check:
    """The outcome, once every gate is decided but those on the size, which need no measuring; see ``Check``."""
    sizes = new.size_bytes / baseline.size_bytes
    exactly = {gate: exact(sizes, gate.limit_fraction) for gate in plan.gates if gate.metric == "size"}
    decided = {**decisions, **exactly}
    judged = [judged_gate(gate, decided[gate], measured, plan, elapsed_s) for gate in plan.gates]
    return Check(
        verdict(each.decision.status for each in judged), judged, new, baseline, plan, margin, measured, elapsed_s
    )


def statistic(metric: Metric, percentile: float) -> Callable[[Timed], float]:
    """The log-ratio of a round that a gate is about."""
    if metric == "energy":
        return told_energy_ratio
    return log_mean_ratio if metric == "throughput" else lambda timed: log_ratio(timed, percentile)


def told_energy_ratio(timed: Timed) -> float:
    """``log_energy_ratio``, or CpdError where the machine does not tell energy."""
    ratio = log_energy_ratio(timed)
    if math.isnan(ratio):
        raise CpdError("this machine does not tell how much energy is used", "leave the energy gate out")
    return ratio


def judge_starts(new: Engine, baseline: Engine, plan: Plan, deadline_s: float) -> dict[Gate, Decision]:
    """Starts fresh pairs of processes until the gates that need them are decided, or time is up."""
    coin = np.random.default_rng(plan.seed)
    seen: dict[Gate, list[float]] = {gate: [] for gate in plan.of_starts}
    decisions: dict[Gate, Decision] = {}
    while seen and (not decisions or time.perf_counter() < deadline_s):
        with worker_pair() as pair:
            opened = start_both(pair, new, baseline, coin)
        check_comparable(new, baseline, opened)
        for gate, ratios in seen.items():
            ours, theirs = (told_start(gate.metric, opened[name]) for name in ("new", "baseline"))
            ratios.append(math.log(ours / theirs))
            decisions[gate] = decide(np.asarray(ratios), gate.limit_fraction, plan.error_rate)
        if all(decision.status != "inconclusive" for decision in decisions.values()):
            break
    return decisions


def told_start(metric: Metric, opened: Opened) -> float:
    """What starting told of a metric, or CpdError where the machine does not tell it."""
    value = STARTS[metric](opened)
    if not value:
        raise CpdError(f"this machine does not tell {metric}", f"leave the {metric} gate out")
    return value


def exact(ratio: float, limit_fraction: float) -> Decision:
    """The decision on something that is known without error."""
    change = ratio - 1  # 1.05 - 1 is above 0.05 in floats: what lies on the limit is within it
    return Decision("pass" if change <= limit_fraction + 1e-9 else "fail", change, (change, change), 1)


def judged_gate(gate: Gate, decision: Decision, measured: Rounds, plan: Plan, elapsed_s: float) -> Judged:
    """A decision with the reason why there is none, where there is none."""
    reason = "" if decision.status != "inconclusive" else why_undecided(gate, decision, measured, plan, elapsed_s)
    return Judged(gate, decision, reason)


def why_undecided(gate: Gate, decision: Decision, measured: Rounds, plan: Plan, elapsed_s: float) -> str:
    """One sentence for an undecided gate."""
    disturbed = measured.repeated.total()
    if disturbed > len(measured.rounds):
        causes = "; ".join(f"{count} by {cause}" for cause, count in measured.repeated.most_common())
        return f"{disturbed} of {disturbed + len(measured.rounds)} rounds were disturbed: {causes}"
    needed = rounds_needed(plan.error_rate)
    if decision.rounds < needed:
        rounds = "1 round" if decision.rounds == 1 else f"{decision.rounds} rounds"
        return f"only {rounds} in {elapsed_s:.0f} s, a verdict needs at least {needed}"
    low, high = (f"{end:+.1%}" if end is not None else "any value" for end in decision.interval)
    busy = f"; the processes waited for a core {measured.waiting_fraction:.0%} of the time"
    return (
        f"after {decision.rounds} rounds in {elapsed_s:.0f} s the change lies between {low} and {high}, "
        f"on both sides of {gate.limit_fraction:+.1%}" + (busy if measured.waiting_fraction > 0.1 else "")
    )


def facts(engine: Engine, opened: Opened, rounds: Sequence[Timed], side: Literal[0, 1]) -> Facts:
    """What was seen of one engine (0: new, 1: baseline) over all rounds that count."""
    calls_s: list[NDArray[np.float64]] = [(each.new_s, each.baseline_s)[side].ravel() for each in rounds]
    samples_s = np.concatenate(calls_s) if calls_s else np.empty(0)
    energies = [each.energy_j[side] for each in rounds if each.energy_j is not None]
    return Facts(
        path=str(engine.path),
        runtime=opened.runtime,
        provider=opened.provider,
        size_bytes=engine.path.stat().st_size,
        latency=summarise(samples_s) if calls_s else None,
        throughput_per_s=engine.batch / float(np.mean(samples_s)) if calls_s else None,
        cold_start_ms=opened.cold_start_s * 1e3,
        first_inference_ms=opened.first_inference_s * 1e3,
        peak_memory_bytes=opened.peak_memory_bytes,
        energy_mj=float(np.mean(energies)) * 1e3 if energies and len(energies) == len(rounds) else None,
    )
