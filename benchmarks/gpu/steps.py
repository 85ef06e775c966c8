"""What a training step costs with each loss, its frames on the device already: in turns, with synchronisation."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from inputs import LABELS, clip_of, network
from rows import Rows, Setup, reason, significant

from cpd.config import Distill
from cpd_train.common import on_device
from cpd_train.distill import Collaboration
from cpd_train.loader import Batch

NO_PARTS = {"spectrum": {"weight": 0}, "parameters": {"weight": 0}, "collaboration": "fixed"}
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
ROUNDS, CALLS = 12, 3
Step = Callable[[], None]


def names(_setup: Setup) -> list[str]:
    return list(NAMES)


def run(setup: Setup, rows: Rows) -> None:
    torch.manual_seed(0)
    device, size = torch.device(setup.device), 2 if setup.quick else 16
    frames = torch.randint(0, 256, (size, *clip_of(setup.quick).shape), dtype=torch.uint8).to(device)
    labels = torch.eye(len(LABELS))[torch.arange(size) % len(LABELS)].to(device)
    batch = Batch(frames, labels, [(row, 0) for row in range(size)])
    steps: dict[str, Step] = {}
    peaks_gb = {}
    for name, (loss, cache_gb) in NAMES.items():
        try:
            steps[name] = step_of(loss, cache_gb, batch, setup)
            steps[name]()  # makes the optimiser's state, and keeps the teacher's answers
            peaks_gb[name] = peak_gb(steps[name], device)
        except Exception as error:  # too little memory, for one; the others can still be measured
            steps.pop(name, None)
            rows.miss(name, reason(error))
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    order = np.random.default_rng(0)
    for _ in range(2 if setup.quick else ROUNDS):
        for name in order.permutation(list(steps)):
            seconds[name].append(time_of(steps[name], device))
    for name, taken in seconds.items():
        step_s = float(np.median(taken))
        values: dict[str, float | str] = {"step ms": significant(1e3 * step_s), "clips/s": significant(size / step_s)}
        kd = name.replace("method", "KD")
        if name.startswith("method") and kd in seconds:
            ratios = np.array(taken) / np.array(seconds[kd])
            values["over KD"] = significant(float(np.median(ratios)))
            values["over KD, 10th to 90th percentile"] = " to ".join(
                f"{q:.2f}" for q in np.percentile(ratios, (10, 90))
            )
        if setup.on_gpu:
            values["peak memory GB"] = significant(peaks_gb[name])
        rows.put(name, values)


def step_of(loss: str, cache_gb: float, batch: Batch, setup: Setup) -> Step:
    """One optimiser step, as ``cpd_train.fit`` makes it."""
    device = torch.device(setup.device)
    teacher, student = (on_device(network(role, setup.quick), device) for role in ("teacher", "student"))
    settings = Distill.model_validate(LOSSES[loss] | {"cache_gb": cache_gb})
    collaboration = Collaboration(student, teacher, settings, seed=0)
    optimiser = torch.optim.AdamW([*student.parameters(), *collaboration.learned], lr=1e-5)

    def step() -> None:
        student.train()
        total = torch.stack(list(collaboration(batch, 0.0).values())).sum()
        optimiser.zero_grad(set_to_none=True)
        total.backward()
        optimiser.step()

    return step


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
