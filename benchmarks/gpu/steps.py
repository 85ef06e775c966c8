"""What a training step costs with each loss, its frames on the device already: in turns, with synchronisation."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from inputs import LABELS, clip_of, network
from rows import Rows, Setup, Values, significant

from cpd.config import Distill
from cpd_train.common import on_device
from cpd_train.cuda import scaler_of
from cpd_train.distill import Collaboration
from cpd_train.loader import Batch

NO_PARTS: dict[str, object] = {"spectrum": {"weight": 0}, "parameters": {"weight": 0}, "collaboration": "fixed"}
LOSSES: dict[str, dict[str, object]] = {
    "CE": NO_PARTS | {"cross_entropy": 1, "logits": 0},
    "KD": NO_PARTS,
    "method": {},
}
TEACHER = {"fresh": 0.0, "kept": 1.0}
"""How often the teacher is asked -> distill.cache_gb."""
NAMES = {"CE": ("CE", 0.0)} | {
    f"{loss}, teacher {asked}": (loss, cache_gb) for loss in ("KD", "method") for asked, cache_gb in TEACHER.items()
}
COMPILED, PLAIN = "method, compiled student", "method, teacher kept"
"""A step whose student went through torch.compile, and the same without, which takes turns with it."""
ROUNDS, CALLS = 12, 3
Step = Callable[[], None]


def names(_setup: Setup) -> list[str]:
    return [*NAMES, COMPILED]


def run(setup: Setup, rows: Rows) -> None:
    torch.manual_seed(0)
    device, batch = torch.device(setup.device), batch_of(setup)
    steps: dict[str, Step] = {}
    peaks_gb = {}
    for name, (loss, cache_gb) in NAMES.items():
        if not rows.wants(name):
            continue
        rows.begin(name)
        try:
            steps[name] = step_of(loss, cache_gb, batch, setup)
            steps[name]()  # makes the optimiser's state, and keeps the teacher's answers
            peaks_gb[name] = peak_gb(steps[name], device)
        except Exception as error:  # too little memory, for one; the others can still be measured
            steps.pop(name, None)
            rows.failed(name, error)
    seconds = in_turns(steps, setup)
    for name, taken in seconds.items():
        values = cost(taken, batch)
        kd = name.replace("method", "KD")
        if name.startswith("method") and kd in seconds:
            values |= ratio("over KD", taken, seconds[kd])
        if setup.on_gpu:
            values["peak memory GB"] = significant(peaks_gb[name])
        rows.put(name, values)
    rows.measure(COMPILED, partial(compiled, batch, setup))  # last: compiling takes long, and may crash


def compiled(batch: Batch, setup: Setup) -> Values:
    """What compiling the student makes of a step, and the seconds that it takes, with the first step."""
    device, (loss, cache_gb) = torch.device(setup.device), NAMES[PLAIN]
    steps = {
        name: step_of(loss, cache_gb, batch, setup, compile_student=name == COMPILED) for name in (PLAIN, COMPILED)
    }
    steps[PLAIN]()
    began = time.perf_counter()
    steps[COMPILED]()
    wait(device)
    first_s = time.perf_counter() - began
    peak = {"peak memory GB": significant(peak_gb(steps[COMPILED], device))} if setup.on_gpu else {}
    seconds = in_turns(steps, setup)
    return {
        **cost(seconds[COMPILED], batch),
        **ratio("over not compiled", seconds[COMPILED], seconds[PLAIN]),
        "first step s": significant(first_s),
        **peak,
    }


def batch_of(setup: Setup) -> Batch:
    """Frames of noise on the device, and their labels."""
    device, size = torch.device(setup.device), 2 if setup.quick else 16
    frames = torch.randint(0, 256, (size, *clip_of(setup.quick).shape), dtype=torch.uint8).to(device)
    labels = torch.eye(len(LABELS))[torch.arange(size) % len(LABELS)].to(device)
    return Batch(frames, labels, [(row, 0) for row in range(size)])


def step_of(loss: str, cache_gb: float, batch: Batch, setup: Setup, *, compile_student: bool = False) -> Step:
    """One optimiser step, as ``cpd_train.fit`` makes it."""
    device = torch.device(setup.device)
    teacher, student = (on_device(network(role, setup.quick), device) for role in ("teacher", "student"))
    settings = Distill.model_validate(LOSSES[loss] | {"cache_gb": cache_gb})
    collaboration = Collaboration(student, teacher, settings, seed=0)
    learned = [*student.parameters(), *collaboration.learned]
    optimiser = torch.optim.AdamW(learned, lr=1e-5, fused=True)
    scaler = scaler_of(device, collaboration.precision)
    if compile_student:
        backend = "aot_eager" if setup.quick else "inductor"  # which on a CPU needs a C++ compiler
        student.with_features = torch.compile(student.with_features, backend=backend)  # type: ignore[method-assign]

    def step() -> None:
        student.train()
        total = torch.stack(list(collaboration(batch, 0.0).values())).sum()
        optimiser.zero_grad(set_to_none=True)
        scaler.scale(total).backward()  # type: ignore[no-untyped-call]
        scaler.unscale_(optimiser)
        size = torch.nn.utils.clip_grad_norm_(learned, 5.0)
        assert torch.isfinite(total + size) or scaler.is_enabled(), "the loss is not finite"
        scaler.step(optimiser)
        scaler.update()

    return step


def in_turns(steps: Mapping[str, Step], setup: Setup) -> dict[str, list[float]]:
    """Seconds of each step, once a round, in random order."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    order = np.random.default_rng(0)
    for _ in range(2 if setup.quick else ROUNDS):
        for name in order.permutation(list(steps)):
            seconds[name].append(time_of(steps[name], torch.device(setup.device)))
    return seconds


def cost(seconds: Sequence[float], batch: Batch) -> dict[str, float | str]:
    step_s = float(np.median(seconds))
    return {"step ms": significant(1e3 * step_s), "clips/s": significant(len(batch.views) / step_s)}


def ratio(name: str, seconds: Sequence[float], others: Sequence[float]) -> dict[str, float | str]:
    """How many times as long as another step, round by round."""
    ratios = np.array(seconds) / np.array(others)
    spread = " to ".join(f"{q:.2f}" for q in np.percentile(ratios, (10, 90)))
    return {name: significant(float(np.median(ratios))), f"{name}, 10th to 90th percentile": spread}


def time_of(step: Step, device: torch.device) -> float:
    """Median seconds of a step, after one that is not counted; each waits for the device."""
    seconds = []
    for _ in range(CALLS + 1):
        wait(device)
        began = time.perf_counter()
        step()
        wait(device)
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds[1:]))


def peak_gb(step: Step, device: torch.device) -> float:
    """Memory of one step beyond what was held before it, in GB; 0 on a CPU."""
    if device.type != "cuda":
        return 0.0
    wait(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    step()
    wait(device)
    return (torch.cuda.max_memory_allocated(device) - before) / 1e9


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
