"""A recorded baseline: what an engine took on one machine, kept for when the engine itself is gone.

Two sittings cannot share rounds, so each measures its engine in turns with a *reference workload*, a small network
that comes with this package. What is compared is engine/reference then with engine/reference now: a busier or slower
hour moves both. What this cannot cancel is how differently the two react to it; that is the margin, added on both
sides of the interval. On another machine the ratio itself is another, so the margin is far wider there.

A pair of rounds, one recorded and one new, gives one log-ratio of ratios. Both are symmetric about their own centres,
hence so is their difference, and the test of ``cpd_serve.bench.decision`` holds for it.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpd.errors import CpdError, EngineMismatchError
from cpd.lock import atomic, content_sha256
from cpd_serve.bench.check import Check, Facts, Gate, Plan, concluded, facts, statistic, told_start
from cpd_serve.bench.decision import Decision, decide, rounds_needed
from cpd_serve.bench.machine import HOW, machine
from cpd_serve.bench.rounds import Rounds, run_rounds, runs_for
from cpd_serve.bench.worker import Engine, Opened, Timed, worker_pair
from cpd_serve.latency import LatencySummary

SCHEMA = 2
"""1 held times with waiting for a core in them."""
KIND = "cpd-bench baseline"
REFERENCE = Path(__file__).with_name("reference.onnx")
"""Convolutions of about half a millisecond; written by benchmarks/latency/engines.py."""
SAME_MACHINE_MARGIN = 0.02
"""Log-ratio by which two sittings on one machine may differ."""
OTHER_MACHINE_MARGIN = 0.15
"""The same between machines. Both are allowances, not measurements."""
RECORD_STARTS = 12


@dataclass(frozen=True, slots=True)
class Baseline:
    """What a baseline file holds."""

    engine: Facts
    engine_sha256: str
    labels: tuple[str, ...]
    clip: dict[str, Any]
    machine: dict[str, Any]
    """Of ``cpd_serve.bench.machine``."""
    percentile: float
    """The one that its rounds are just long enough for, and so for those nearer to the median."""
    rounds: list[Timed]
    """The engine as new, the reference workload as baseline."""
    starts: list[dict[str, float]]
    """cold_start_s, first_inference_s and peak_memory_bytes of fresh processes."""
    time: str
    """UTC."""
    commit: str


def record(engine: Engine, *, percentile: float, rounds: int, max_s: float, seed: int, commit: str) -> Baseline:
    """Measures an engine in turns with the reference workload.

    Raises:
        CpdError: fewer undisturbed rounds in ``max_s`` than a verdict needs, or an engine that cannot be opened.
    """
    measured = run_rounds(
        engine,
        reference_for(engine),
        percentile=percentile,
        max_s=max_s,
        seed=seed,
        enough=lambda done: len(done.rounds) >= rounds,
        may_differ=True,
    )
    if len(measured.rounds) < rounds_needed(0.01):
        raise CpdError(
            f"only {len(measured.rounds)} undisturbed rounds in {max_s:.0f} s, too few for a baseline",
            "record on a quieter machine, or give it more time with --max-time",
        )
    opened = measured.opened["new"]
    return Baseline(
        engine=facts(engine, opened, measured.rounds, 0),
        engine_sha256=content_sha256(engine.path),
        labels=opened.manifest.labels,
        clip=opened.manifest.clip.to_dict(),
        machine=machine(engine, opened),
        percentile=percentile,
        rounds=measured.rounds,
        starts=[start_values(start_alone(engine)) for _ in range(RECORD_STARTS)],
        time=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        commit=commit,
    )


def check_recorded(
    new: Engine, baseline: Baseline, plan: Plan, normalise: bool, progress: Callable[[Rounds], None] = lambda _: None
) -> Check:
    """Compares an engine with a recorded one; see the module's docstring.

    Raises:
        EngineMismatchError: recorded on another machine, in another way, or of an engine for another task.
        CpdError: the baseline does not hold what a gate asks for.
    """
    start_s = time.perf_counter()
    if runs_for(plan.percentile) > runs_for(baseline.percentile):
        raise CpdError(
            f"the baseline's rounds are long enough for percentile {baseline.percentile:g}, not {plan.percentile:g}",
            f"record it again with --percentile {plan.percentile:g}",
        )
    if any(gate.metric == "energy" for gate in plan.gates):
        raise CpdError("energy cannot be compared with a recorded baseline", "compare with the engine file")
    opened = start_alone(new)
    margin = margin_between(new, opened, baseline, normalise)
    if normalise and plan.of_starts:
        raise CpdError("memory and starts cannot be compared between machines", "gate latency or throughput")

    def judge(gate: Gate, rounds: Rounds) -> Decision:
        of_round = statistic(gate.metric, plan.percentile)
        count = min(len(rounds.rounds), len(baseline.rounds))
        then = np.asarray([of_round(each) for each in baseline.rounds[:count]])
        return decide(rounds.log_ratios(of_round)[:count] - then, gate.limit_fraction, plan.error_rate, margin)

    def enough(rounds: Rounds) -> bool:
        progress(rounds)
        return len(rounds.rounds) >= rounds_needed(plan.error_rate) and (
            len(rounds.rounds) >= len(baseline.rounds)
            or all(judge(gate, rounds).status != "inconclusive" for gate in plan.of_rounds)
        )

    measured = run_rounds(
        new,
        reference_for(new),
        percentile=plan.percentile,
        max_s=plan.max_s,
        seed=plan.seed,
        enough=enough,
        may_differ=True,
    )
    decisions = {gate: judge(gate, measured) for gate in plan.of_rounds}
    decisions |= judge_recorded_starts(new, baseline, plan, margin)
    ours = facts(new, opened, measured.rounds, 0)
    return concluded(decisions, ours, baseline.engine, plan, measured, time.perf_counter() - start_s, margin)


def judge_recorded_starts(new: Engine, baseline: Baseline, plan: Plan, margin: float) -> dict[Gate, Decision]:
    """Starts as many fresh processes as were recorded, or fewer where that decides."""
    seen: dict[Gate, list[float]] = {gate: [] for gate in plan.of_starts}
    decisions: dict[Gate, Decision] = {}
    for then in baseline.starts if seen else []:
        now = start_alone(new)
        for gate, ratios in seen.items():
            name = {"memory": "peak_memory_bytes"}.get(gate.metric, gate.metric.replace("-", "_") + "_s")
            ratios.append(math.log(told_start(gate.metric, now) / then[name]))
            decisions[gate] = decide(np.asarray(ratios), gate.limit_fraction, plan.error_rate, margin)
        if all(decision.status != "inconclusive" for decision in decisions.values()):
            break
    return decisions


def margin_between(new: Engine, opened: Opened, baseline: Baseline, normalise: bool) -> float:
    """The margin for a comparison with this baseline.

    Raises:
        EngineMismatchError: recorded in another way, for another task, or, without ``normalise``, elsewhere.
    """
    now = machine(new, opened)
    for what, ours, theirs in (
        ("inputs", opened.manifest.clip.to_dict(), baseline.clip),
        ("labels", opened.manifest.labels, baseline.labels),
        *((key, now.get(key), baseline.machine.get(key)) for key in HOW),
    ):
        if json.dumps(ours) != json.dumps(theirs):
            raise EngineMismatchError(
                f"{new.path} and the baseline have different {what}: {ours} and {theirs}",
                "measure both in the same way, or record a new baseline",
            )
    keys = [key for key in now | baseline.machine if key not in HOW]
    other = [f"{key} {baseline.machine.get(key)}, here {now.get(key)}" for key in keys
             if now.get(key) != baseline.machine.get(key)]  # fmt: skip
    if other and not normalise:
        raise EngineMismatchError(
            "the baseline was recorded on another machine: " + "; ".join(other),
            "record it here, or compare through the reference workload with --normalise",
        )
    return OTHER_MACHINE_MARGIN if other else SAME_MACHINE_MARGIN


def reference_for(engine: Engine) -> Engine:
    """The reference workload, run where the engine runs; a TensorRT engine's is onnxruntime on the same GPU."""
    provider = engine.provider if engine.path.suffix == ".onnx" else "cuda"
    return replace(engine, path=REFERENCE, provider=provider, batch=1, video=None)


def start_alone(engine: Engine) -> Opened:
    """Opens an engine in a fresh process."""
    with worker_pair() as (worker, _):
        opened: Opened = worker.call("start", engine)
    return opened


def start_values(opened: Opened) -> dict[str, float]:
    """One of a baseline's ``starts``."""
    return {
        "cold_start_s": opened.cold_start_s,
        "first_inference_s": opened.first_inference_s,
        "peak_memory_bytes": opened.peak_memory_bytes,
    }


def write_baseline(path: Path, baseline: Baseline) -> None:
    """Writes a baseline file, whole or not at all; times are kept to a tenth of a microsecond."""
    rounds = [
        {
            "engine_100ns": in_100ns(each.new_s),
            "reference_100ns": in_100ns(each.baseline_s),
            "waited_100ns": None if each.waited_s is None else in_100ns(each.waited_s),
        }
        for each in baseline.rounds
    ]
    values = {name: getattr(baseline, name) for name in Baseline.__slots__ if name not in ("engine", "rounds")}
    document = {"schema": SCHEMA, "kind": KIND, **values, "engine": asdict(baseline.engine), "rounds": rounds}
    with atomic(path) as draft:
        draft.write_text(json.dumps(document) + "\n")


def in_100ns(times_s: NDArray[np.float64]) -> Any:
    """Seconds as nested lists of whole tenths of a microsecond."""
    return np.ceil(times_s * 1e7 - 1e-3).astype(int).tolist()  # however short, waiting stays above 0


def read_baseline(path: Path) -> Baseline:
    """Reads a baseline file.

    Raises:
        CpdError: the file is missing, is something else, or of another schema.
    """
    remedy = "record it again with cpd-bench record"
    try:
        values = json.loads(path.read_text())
        kind, schema = values.pop("kind"), values.pop("schema")
        if kind != KIND or schema != SCHEMA:
            raise ValueError(f"{kind!r} of schema {schema!r}, this version reads {KIND!r} of schema {SCHEMA}")
        engine = values.pop("engine")
        rounds = [recorded_round(**each) for each in values.pop("rounds")]
        if not rounds or not all(map(is_whole, rounds)):
            raise ValueError("its rounds are not (turns, runs) of both engine and reference")
        return Baseline(
            engine=Facts(**{**engine, "latency": LatencySummary(**engine["latency"])}),
            labels=tuple(values.pop("labels")),
            rounds=rounds,
            **values,
        )
    except OSError as error:
        raise CpdError(f"{path}: cannot be read: {error.strerror}", remedy) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CpdError(f"{path}: not a baseline that can be used: {error}", remedy) from error


def is_whole(timed: Timed) -> bool:
    """Whether a round holds as much of the engine as of the reference workload."""
    shape = timed.new_s.shape
    waited = timed.waited_s is None or timed.waited_s.shape == (2, *shape)
    return len(shape) == 2 and timed.baseline_s.shape == shape and waited


def recorded_round(
    engine_100ns: list[list[int]], reference_100ns: list[list[int]], waited_100ns: list[list[list[int]]] | None
) -> Timed:
    """A round as a baseline file holds it."""
    return Timed(
        new_s=np.asarray(engine_100ns) / 1e7,
        baseline_s=np.asarray(reference_100ns) / 1e7,
        probes_s=np.empty(0),
        wall_s=0.0,
        waiting_s=0.0,
        energy_j=None,
        waited_s=None if waited_100ns is None else np.asarray(waited_100ns) / 1e7,
    )
