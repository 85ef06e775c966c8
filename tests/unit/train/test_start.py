"""Where a student's parameters start."""

import numpy as np
import pytest
import torch

from cpd.clip import ClipSpec
from cpd.errors import TrainingError
from cpd_train import start
from cpd_train.losses.parameters import energy_shares, kernel_coefficients, with_energy_shares
from cpd_train.models import ModelSpec, build_model, evenly_chosen
from cpd_train.start import START, begin, told, without_counterpart
from cpd_train.terms import spatial_kernels

CLIP = ClipSpec(frames=4, resize=(40, 40), crop=(32, 32))


def model(name="tsm-tiny", width=8, blocks=1, seed=0):
    torch.manual_seed(seed)
    return build_model(ModelSpec(name, width, blocks), 3, CLIP)


def no_frames():
    raise AssertionError("asked to see clips")


def some_frames(clips=16):
    return torch.randint(0, 256, (clips, *CLIP.shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))


def smooth(teacher):
    """The same model with low-pass kernels."""
    with torch.no_grad():
        for kernel in (kernel for stage in spatial_kernels(teacher) for kernel in stage):
            kernel.add_(kernel.mean((2, 3), keepdim=True) * 3)
    return teacher


def test_random_changes_nothing():
    student = model()
    before = {name: value.clone() for name, value in student.state_dict().items()}
    START["random"](student, model(width=32), no_frames)
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())


def test_kernels_get_the_shares_asked_for_and_keep_their_energy():
    kernels = [torch.randn(6, 4, 3, 3, dtype=torch.float64), torch.randn(5, 1, 3, 3, dtype=torch.float64)]
    shares = torch.linspace(9, 1, 9, dtype=torch.float64) / 45
    shaped = with_energy_shares(kernels, shares)
    np.testing.assert_allclose(energy_shares(kernel_coefficients(shaped)), shares, rtol=1e-6)
    before, after = (sum(float(kernel.square().sum()) for kernel in some) for some in (kernels, shaped))
    assert after == pytest.approx(before, rel=1e-6)


@pytest.mark.parametrize("name", ["tsm-tiny", "tsm-mobilenetv2"])
def test_energy_follows_the_teacher_whatever_its_family(name):
    student, teacher = model(name), smooth(model(width=16, blocks=2, seed=1))
    START["energy"](student, teacher, no_frames)
    for ours, theirs in zip(spatial_kernels(student), spatial_kernels(teacher), strict=True):
        if ours:
            wanted, got = (energy_shares(kernel_coefficients(kernels)) for kernels in (theirs, ours))
            torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-6)


def test_a_sample_of_the_same_network_is_the_network():
    student, teacher = model(seed=0), model(seed=1)
    START["teacher"](student, teacher, no_frames)
    frames = torch.randint(0, 256, (2, *CLIP.shape), dtype=torch.uint8)
    assert torch.equal(student.eval()(frames), teacher.eval()(frames))


def test_a_sample_holds_every_fourth_channel_of_the_first_blocks():
    student, teacher = model(width=8, blocks=1), model(width=32, blocks=2, seed=1)
    START["teacher"](student, teacher, no_frames)
    ours, theirs = (one.backbone.get_submodule("layer2.0.conv2").weight for one in (student, teacher))
    assert torch.equal(ours, theirs[::4, ::4])


def test_entries_are_chosen_evenly_where_sizes_do_not_divide():
    assert evenly_chosen(torch.arange(32), torch.Size([5])).tolist() == [0, 6, 12, 19, 25]


def test_networks_of_two_families_are_refused():
    with pytest.raises(TrainingError, match=r"no counterpart in the teacher, a tsm-tiny") as caught:
        START["teacher"](model("tsm-mobilenetv2"), model(), no_frames)
    assert caught.value.remedy == "set distill.parameters.start: fitted"


def test_energy_needs_kernels_of_one_size_in_both_and_passes_over_stages_without(monkeypatch):
    ours, theirs = ([[torch.randn(4, 2, size, size)], [torch.randn(4, 2, 3, 3)]] for size in (3, 5))
    monkeypatch.setattr(start, "spatial_kernels", lambda stages: stages)
    with pytest.raises(TrainingError, match="kernels of 3 and 5 have no common frequencies"):
        START["energy"](ours, theirs, no_frames)
    before = [stage[0].clone() for stage in ours]
    START["energy"](ours, [[], theirs[1]], no_frames)
    assert [torch.equal(stage[0], kernel) for stage, kernel in zip(ours, before, strict=True)] == [True, False]


def test_fitted_one_of_its_teachers_architecture_is_the_teacher_whatever_its_dropout():
    student = build_model(ModelSpec("tsm-tiny", 8, 1, dropout=0.9), 3, CLIP)
    START["fitted"](student, model(seed=1), no_frames)
    assert torch.equal(student.eval()(some_frames(2)), model(seed=1).eval()(some_frames(2)))


def test_kernels_of_another_size_are_no_counterpart():
    assert without_counterpart(model(width=8), build_model(ModelSpec("tsm-resnet18"), 3, CLIP)) == "conv1.weight"


def test_students_wider_than_their_teacher_are_refused():
    with pytest.raises(TrainingError, match=r"no counterpart"):
        START["teacher"](model(width=32), model(width=16), no_frames)


@pytest.mark.parametrize(
    ("student", "loaded", "words"),
    [
        (("tsm-tiny", 4), False, "fitted to the teacher's answers"),
        (("tsm-tiny", 4), True, "from its checkpoint"),
        (("tsm-mobilenetv2",), False, "fitted to the teacher's answers"),
        (("tsm-tiny", 16), False, "fitted to the teacher's answers"),
    ],
)
def test_by_itself_a_student_is_fitted_to_its_teacher_unless_it_has_a_checkpoint(student, loaded, words):
    student = model(*student)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    assert told(begin("auto", student, model(width=8), some_frames, loaded=loaded), loaded=loaded) == words
    same = all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    assert same == (words != "fitted to the teacher's answers")
