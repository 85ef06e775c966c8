"""The schedule of the learning rate, however short the training."""

import pytest
import torch

from cpd_train.fit import one_cycle


@pytest.mark.parametrize("steps", range(1, 13))
def test_the_rate_falls_to_next_to_nothing_in_any_number_of_steps(steps):
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)])
    schedule = one_cycle(optimiser, 0.1, steps)
    rates = []
    for _ in range(steps):
        rates.append(schedule.get_last_lr()[0])
        optimiser.step()
        if len(rates) < steps:
            schedule.step()
    assert max(rates) <= 0.1
    assert rates[-1] < 1e-4
