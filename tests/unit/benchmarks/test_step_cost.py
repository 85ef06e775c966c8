"""benchmarks/distillation/step_cost.py: each of its losses makes a step."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from cpd_train.loader import Batch

FOLDER = Path(__file__).parents[3] / "benchmarks/distillation"


@pytest.fixture
def step_cost(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    for name in ("methods", "step_cost"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import step_cost

    return step_cost


def test_every_loss_that_is_compared_makes_a_step(step_cost):
    frames = torch.randint(0, 256, (2, *step_cost.CLIP.shape), dtype=torch.uint8)
    batch = Batch(frames, torch.eye(step_cost.LABELS)[:2], [(0, 0), (1, 0)])
    for name in step_cost.COMPARED:
        step_cost.step_of(name, False, batch, "fp32")()
