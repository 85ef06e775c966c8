"""The training loop with clips, losses and scores that are written down, and its schedule however short it is."""

import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from cpd.clip import ClipSpec
from cpd.config import Augment, Model
from cpd_train import fit as fit_module
from cpd_train.fit import Step, _groups, fit, one_cycle
from cpd_train.loader import Batch
from cpd_train.models import ModelSpec, build_model, read_checkpoint

CLIP = ClipSpec(frames=2, resize=(32, 32), crop=(32, 32))
STEPS = 3


class Told(Step):
    """A loss whose terms are told: the number of the step, for each of two clips more and less of it."""

    precision = "fp32"

    def __init__(self, model):
        self.model, self.progress, self.training = model, [], []

    def __call__(self, batch, progress):
        self.progress.append(progress)
        self.training.append(self.model.training)
        number = len(self.progress)
        self.losses = {"told": torch.tensor([number - 0.5, number + 0.5])}
        return {"told": self.model(batch.frames).square().mean()}


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """Trains for as many epochs as there are scores of validation clips, None for none."""

    def run(*scores):
        model = build_model(ModelSpec("tsm-tiny", 4, 1), 2, CLIP)
        frames = torch.randint(0, 256, (2, *CLIP.shape), dtype=torch.uint8)
        batch = Batch(frames, torch.eye(2), [(0, 0), (1, 0)])
        clips = SimpleNamespace(
            device=torch.device("cpu"),
            clips=[None] * (2 * STEPS + 1),
            train_all=lambda *_: (batch for _ in range(STEPS * len(scores))),
        )
        told = iter(scores)

        def judge(model, _):
            model.eval()
            score = next(told)
            return {} if score is None else {"validation_top1": score[0], "validation_loss": score[1]}

        monkeypatch.setattr(fit_module, "judge", judge)
        step, section = Told(model), Model(epochs=len(scores), batch_size=2)
        outcome = fit(
            model, clips, clips, step, section, Augment(),
            seed=0, role="student", labels=("a", "b"), data_sha256="", folder=tmp_path,
        )  # fmt: skip
        rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
        return outcome, read_checkpoint(tmp_path / "student.safetensors"), rows, step

    return run


@pytest.mark.parametrize(
    ("scores", "kept"),
    [
        (((0.5, 1.0), (0.6, 2.0), (0.6, 1.5), (0.6, 1.5), (0.4, 0.1)), 3),
        (((0.0, 9.0), (0.0, 9.5)), 1),
        ((None, None, None), 3),
    ],
    ids=["the best, then the least loss, then the first", "even the worst of all", "without validation the last"],
)
def test_the_best_epoch_is_kept(trained, scores, kept):
    outcome, checkpoint, rows, _ = trained(*scores)
    assert (outcome.epoch, checkpoint.epoch, [row["epoch"] for row in rows]) == (
        kept, kept, list(range(1, len(scores) + 1)),
    )  # fmt: skip
    assert checkpoint.validation_top1 == (scores[kept - 1] or [None])[0]


def test_a_step_knows_how_far_it_is_and_an_epoch_tells_its_mean_loss(trained):
    _, _, rows, step = trained((0.5, 1.0), (0.5, 1.0))
    assert step.progress == pytest.approx([index / (2 * STEPS) for index in range(2 * STEPS)])
    assert [row["loss"] for row in rows] == [{"told": 2.0}, {"told": 5.0}]
    assert all(step.training), "after it was judged, too"


def test_the_learning_rate_of_an_epoch_is_that_of_its_last_step(trained):
    _, _, rows, _ = trained((0.5, 1.0), (0.5, 1.0))
    first, last = (row["learning_rate"] for row in rows)
    assert 0 < last < 1e-3 * first


def test_weights_alone_decay():
    model, extra = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)), nn.Parameter(torch.zeros(2, 2))
    decayed, free = _groups(model, [extra], 0.1)
    assert (decayed["weight_decay"], [id(one) for one in decayed["params"]]) == (0.1, [id(model[0].weight)])
    others = [model[0].bias, model[1].weight, model[1].bias, extra]
    assert (free["weight_decay"], {id(one) for one in free["params"]}) == (0, {id(one) for one in others})


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
