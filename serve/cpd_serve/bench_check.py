"""A check: one or more gates on how much worse a new engine is than its baseline, decided together."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cpd.errors import CpdError
from cpd_serve.bench_decision import Decision, Status, decide, rounds_needed
from cpd_serve.bench_rounds import (
    ENERGY_TURN_S,
    Rounds,
    check_comparable,
    log_energy_ratio,
    log_mean_ratio,
    log_ratio,
    run_rounds,
    start_both,
)
from cpd_serve.bench_worker import Engine, Opened, Timed, worker_pair
from cpd_serve.latency import LatencySummary, summarise

Metric = Literal["latency", "throughput", "energy", "size", "memory", "cold-start", "first-inference"]

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
    latency: LatencySummary
    throughput_per_s: float
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
    percentile: float
    error_rate: float
    margin_fraction: float
    measured: Rounds
    elapsed_s: float


def check(
    new: Engine,
    baseline: Engine,
    gates: Sequence[Gate],
    *,
    percentile: float = 50.0,
    error_rate: float = 0.01,
    max_s: float = 60.0,
    seed: int = 0,
) -> Check:
    """Measures two engines until every gate is decided, or for ``max_s`` seconds.

    Raises:
        EngineError: an engine cannot be opened, or the two have different inputs or labels.
        CpdError: the machine cannot tell what a gate asks for, or its clock is not stable.
    """
    start_s = time.perf_counter()
    of_rounds = [gate for gate in gates if gate.metric not in STARTS and gate.metric != "size"]

    def enough(rounds: Rounds) -> bool:
        return all(
            decide(observations(gate, rounds, percentile), gate.limit_fraction, error_rate).status != "inconclusive"
            for gate in of_rounds
        ) and len(rounds.rounds) >= rounds_needed(error_rate)

    measured = run_rounds(
        new,
        baseline,
        percentile=percentile,
        max_s=max_s,
        seed=seed,
        enough=enough,
        turn_s=ENERGY_TURN_S if any(gate.metric == "energy" for gate in gates) else 0.0,
    )
    started = run_starts(new, baseline, gates, error_rate, start_s + max_s, seed)
    elapsed_s = time.perf_counter() - start_s
    judged = []
    for gate in gates:
        if gate.metric == "size":
            decision = exact(math.log(new.path.stat().st_size / baseline.path.stat().st_size), gate.limit_fraction)
        else:
            seen = started[gate.metric] if gate.metric in STARTS else observations(gate, measured, percentile)
            decision = decide(seen, gate.limit_fraction, error_rate)
        judged.append(Judged(gate, decision, why_undecided(gate, decision, measured.repeated, error_rate, elapsed_s)))
    return Check(
        verdict=verdict_of(judged),
        judged=judged,
        new=facts(new, measured.opened["new"], [each.new_s for each in measured.rounds], energy(measured, 0)),
        baseline=facts(
            baseline, measured.opened["baseline"], [each.baseline_s for each in measured.rounds], energy(measured, 1)
        ),
        percentile=percentile,
        error_rate=error_rate,
        margin_fraction=0.0,
        measured=measured,
        elapsed_s=elapsed_s,
    )


def observations(gate: Gate, rounds: Rounds, percentile: float) -> NDArray[np.float64]:
    """(rounds,) log-ratios of what a gate is about.

    Raises:
        CpdError: the machine does not tell energy.
    """
    statistics: dict[Metric, Callable[[Timed], float]] = {
        "latency": lambda timed: log_ratio(timed, percentile),
        "throughput": log_mean_ratio,
        "energy": log_energy_ratio,
    }
    seen = rounds.log_ratios(statistics[gate.metric])
    if np.isnan(seen).any():
        raise CpdError("this machine does not tell how much energy is used", "leave the energy gate out")
    return seen


def run_starts(
    new: Engine, baseline: Engine, gates: Sequence[Gate], error_rate: float, deadline_s: float, seed: int
) -> dict[Metric, NDArray[np.float64]]:
    """Starts fresh pairs of processes until the gates that need them are decided, or time is up.

    Returns:
        (pairs,) log-ratios for each gated metric of ``STARTS``.
    """
    needed = [gate for gate in gates if gate.metric in STARTS]
    seen: dict[Metric, list[float]] = {gate.metric: [] for gate in needed}
    coin = np.random.default_rng(seed)
    pairs = 0
    while needed and (pairs == 0 or time.perf_counter() < deadline_s):
        with worker_pair() as pair:
            opened = start_both(pair, new, baseline, coin)
        check_comparable(new, baseline, opened)
        pairs += 1
        for metric, values in seen.items():
            ours, theirs = (STARTS[metric](opened[name]) for name in ("new", "baseline"))
            if not (ours and theirs):
                raise CpdError(f"this machine does not tell {metric}", f"leave the {metric} gate out")
            values.append(math.log(ours / theirs))
        needed = [
            gate
            for gate in needed
            if decide(np.asarray(seen[gate.metric]), gate.limit_fraction, error_rate).status == "inconclusive"
        ]
    return {metric: np.asarray(values) for metric, values in seen.items()}


def exact(log_ratio: float, limit_fraction: float) -> Decision:
    """The decision on something that is known without error."""
    change = math.expm1(log_ratio)
    return Decision("pass" if change <= limit_fraction else "fail", change, (change, change), 1)


def verdict_of(judged: Sequence[Judged]) -> Status:
    """Fail if a gate failed; else undecided if one is; else pass."""
    statuses = {each.decision.status for each in judged}
    return "fail" if "fail" in statuses else "inconclusive" if "inconclusive" in statuses else "pass"


def why_undecided(gate: Gate, decision: Decision, repeated: Counter[str], error_rate: float, elapsed_s: float) -> str:
    """One sentence for an undecided gate; empty for a decided one."""
    if decision.status != "inconclusive":
        return ""
    disturbed = sum(repeated.values())
    if disturbed > decision.rounds:
        causes = "; ".join(f"{count}x {cause}" for cause, count in repeated.most_common())
        return f"{disturbed} of {disturbed + decision.rounds} rounds were disturbed and do not count: {causes}"
    if decision.rounds < rounds_needed(error_rate):
        return (
            f"only {decision.rounds} rounds in {elapsed_s:.0f} s, a verdict needs at least {rounds_needed(error_rate)}"
        )
    low, high = (f"{end:+.1%}" if end is not None else "anything" for end in decision.interval)
    return (
        f"after {decision.rounds} rounds in {elapsed_s:.0f} s the change lies between {low} and {high}, "
        f"which does not settle on which side of {gate.limit_fraction:+.1%} it is"
    )


def facts(engine: Engine, opened: Opened, rounds_s: Sequence[NDArray[np.float64]], energy_j: float | None) -> Facts:
    """What was seen of one engine, over all rounds that count."""
    samples_s = np.concatenate([each.ravel() for each in rounds_s]) if rounds_s else np.full(1, np.nan)
    return Facts(
        path=str(engine.path),
        runtime=opened.runtime,
        provider=opened.provider,
        size_bytes=engine.path.stat().st_size,
        latency=summarise(samples_s),
        throughput_per_s=engine.batch / float(np.mean(samples_s)),
        cold_start_ms=opened.cold_start_s * 1e3,
        first_inference_ms=opened.first_inference_s * 1e3,
        peak_memory_bytes=opened.peak_memory_bytes,
        energy_mj=None if energy_j is None else energy_j * 1e3,
    )


def energy(measured: Rounds, engine: Literal[0, 1]) -> float | None:
    """Mean joules of a call of one engine; None where the machine does not tell."""
    told = [each.energy_j[engine] for each in measured.rounds if each.energy_j is not None]
    return float(np.mean(told)) if told and len(told) == len(measured.rounds) else None
