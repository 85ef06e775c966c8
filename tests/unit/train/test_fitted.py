"""Students that are fitted to their teacher's answers."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from cpd.clip import ClipSpec
from cpd_train.fitted import at_places, fit_to_teacher, least_squares
from cpd_train.models import ModelSpec, build_model
from cpd_train.models.resnet import BasicBlock, Bottleneck, ResNet
from cpd_train.models.shift import Shift
from cpd_train.start import START, sampled_from_teacher

CLIP = ClipSpec(frames=4, resize=(40, 40), crop=(32, 32))


def model(width=8, blocks=1, seed=0, block=BasicBlock):
    """A network whose batch norms have seen clips, as those of a trained one."""
    torch.manual_seed(seed)
    made = build_model(ModelSpec("tsm-tiny", width, blocks), 3, CLIP)
    made.backbone = ResNet(block, (blocks,) * 4, width, 3, partial(Shift, CLIP.frames, 0.25), small=True)
    with torch.no_grad():
        for norm in (module for module in made.modules() if isinstance(module, nn.BatchNorm2d)):
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.uniform_(-0.3, 0.3)
        for _ in range(20):
            made.train()(clips(8, seed=7))
    return made.eval()


def clips(count, seed):
    """Squares of noise that move from frame to frame."""
    noise = torch.randint(0, 256, (count, 8, 8, 3), generator=torch.Generator().manual_seed(seed))
    coarse = noise.repeat_interleave(4, 1).repeat_interleave(4, 2)
    return torch.stack([coarse.roll(3 * frame, 2) for frame in range(CLIP.frames)], 1).to(torch.uint8)


def begun(start, student, teacher):
    START[start](student, teacher, lambda: clips(160, seed=1))
    return student.eval()


def test_least_squares_is_numpys():
    rng = np.random.default_rng(0)
    seen, wanted = rng.normal(size=(200, 5)), rng.normal(size=(200, 3))
    weight, bias = least_squares(torch.tensor(seen), torch.tensor(wanted))
    best, *_ = np.linalg.lstsq(np.column_stack([seen, np.ones(200)]), wanted, rcond=None)
    np.testing.assert_allclose(weight, best[:-1].T, atol=2e-3)
    np.testing.assert_allclose(bias, best[-1], atol=2e-3)


def test_few_rows_for_each_input_are_not_learned_by_heart():
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn((64, 1), generator=generator) / 8
    seen, fresh = (torch.randn((rows, 64), generator=generator) for rows in (64, 1000))
    weight, bias = least_squares(seen, seen @ truth + torch.randn((64, 1), generator=generator))
    wanted = fresh @ truth + torch.randn((1000, 1), generator=generator)
    assert (fresh @ weight.T + bias - wanted).square().mean() < wanted.var()


def test_places_are_the_same_for_all_that_have_them():
    values = torch.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    once, twice = at_places(values), at_places(values * 2)
    assert torch.equal(once * 2, twice)
    assert sorted(once[:, 0].tolist()) == sorted(values[:, 0].flatten().tolist())
    assert torch.equal(once[:, 1] - once[:, 0], torch.full((40,), 20))


@torch.no_grad()
@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
@pytest.mark.parametrize("count", [1, 48])
def test_fitted_to_one_of_its_own_size_it_gives_the_same_answers(block, count):
    teacher, student = model(block=block, blocks=2), model(block=block, blocks=2, seed=3)
    sampled_from_teacher(student, teacher)
    fit_to_teacher(student, teacher, clips(count, seed=1), sampled=True)
    ours, theirs = student.eval()(clips(16, seed=2)), teacher(clips(16, seed=2))
    assert (ours - theirs).std() < 0.1 * theirs.std()


@torch.no_grad()
@pytest.mark.parametrize(("width", "blocks"), [(4, 1), (8, 1), (4, 2)])
def test_fitted_it_is_nearer_to_its_teacher_than_a_sample_of_it(width, blocks):
    teacher = model(width=16, blocks=2)
    theirs = teacher(clips(32, seed=2))
    far = {
        start: float(
            (begun(start, model(width=width, blocks=blocks, seed=3), teacher)(clips(32, seed=2)) - theirs).std()
        )
        for start in ("teacher", "fitted")
    }
    assert far["fitted"] < 0.9 * theirs.std()
    assert far["fitted"] < far["teacher"]


@torch.no_grad()
def test_one_of_its_own_size_that_sees_no_later_frames_is_fitted_too():
    teacher, student = model(), build_model(ModelSpec("tsm-tiny", 8, 1, causal=True), 3, CLIP)
    theirs = teacher(clips(32, seed=2))
    far = {start: float((begun(start, student, teacher)(clips(32, seed=2)) - theirs).std()) for start in START}
    assert far["fitted"] < 0.9 * far["teacher"]


@torch.no_grad()
@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        (ModelSpec("tsm-mobilenetv2"), ModelSpec("tsm-tiny", 16, 2)),
        (ModelSpec("tsm-tiny", 8), ModelSpec("tsm-mobilenetv2")),
        (ModelSpec("tsm-tiny", 8), ModelSpec("tsm-resnet18")),
        (ModelSpec("tsn-tiny", 8), ModelSpec("tsm-resnet50")),
        (ModelSpec("tsm-tiny", 24, 3), ModelSpec("tsm-tiny", 16, 2)),
    ],
    ids=lambda spec: f"{spec.model}-{spec.width}",
)
def test_a_student_of_another_family_answers_as_its_teacher_on_the_clips_it_was_fitted_with(student, teacher):
    torch.manual_seed(0)
    teacher, student = (build_model(spec, 3, CLIP) for spec in (teacher, student))
    for _ in range(20):
        teacher.train()(clips(8, seed=7))
    theirs = teacher.eval()(clips(160, seed=1))
    ours = begun("fitted", student, teacher)(clips(160, seed=1))
    assert (ours - theirs).std() < 0.9 * theirs.std()
    assert all(torch.isfinite(value).all() for value in student.state_dict().values())


@torch.no_grad()
def test_a_stage_of_another_family_says_on_its_own_grid_what_the_teachers_does():
    teacher, student = model(width=16, blocks=2), build_model(ModelSpec("tsm-mobilenetv2"), 3, CLIP)
    begun("fitted", student, teacher)
    ours, theirs = (one.with_features(clips(32, seed=2)).stages for one in (student, teacher))
    wanted = nn.functional.adaptive_avg_pool2d(theirs[0].flatten(0, 1), ours[0].shape[3:])
    got = ours[0].flatten(0, 1)[:, :16].clamp(min=0)  # of its 24 channels, as many as the teacher has
    alike = torch.corrcoef(torch.stack([got.flatten(), wanted.flatten()]))[0, 1]
    assert alike > 0.5


@torch.no_grad()
def test_a_block_alone_says_what_the_last_of_its_teachers_stage_does():
    teacher, student, first = model(blocks=2), model(seed=3), []
    teacher.backbone.blocks[0][1].branch[-1][1].weight.mul_(6)  # so it says something else than the first
    START["fitted"](student, teacher, lambda: clips(32, seed=1))
    teacher.backbone.blocks[0][0].register_forward_hook(lambda *given: first.append(given[-1]))
    last, ours = (one.eval().with_features(clips(16, seed=2)).stages[0].flatten() for one in (teacher, student))
    of_first, of_last = (torch.corrcoef(torch.stack([ours, its.flatten()]))[0, 1] for its in (first[0], last))
    assert of_last > of_first + 0.05


def test_fitted_twice_it_is_the_same_network():
    teacher = model(width=16, blocks=2)
    one, other = (begun("fitted", model(seed=seed), teacher).state_dict() for seed in (3, 4))
    kept = [name for name in one if not name.endswith("num_batches_tracked")]
    assert all(torch.equal(one[name], other[name]) for name in kept)


@torch.no_grad()
def test_batch_norms_know_what_the_fitted_layers_say():
    student = begun("fitted", model(width=4, seed=3), model(width=16, blocks=2))
    before = student(clips(48, seed=1))
    norms = [module for module in student.modules() if isinstance(module, nn.BatchNorm2d)]
    student.train()
    norms[0].eval()  # the stem is the teacher's
    for norm in norms[1:]:
        norm.momentum = 1.0
    student(clips(48, seed=1))
    torch.testing.assert_close(student.eval()(clips(48, seed=1)), before, rtol=0.02, atol=0.02)


@torch.no_grad()
def test_of_another_family_all_batch_norms_know_what_they_see():
    student, some = build_model(ModelSpec("tsm-mobilenetv2"), 3, CLIP), clips(8, seed=1)
    START["fitted"](student, model(), lambda: some)
    seen = {}
    for norm in (module for module in student.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.register_forward_pre_hook(lambda norm, given: seen.update({norm: given[0]}))
    student.eval()(some)
    assert len(seen) > 50
    for norm, values in seen.items():
        spread = values.var((0, 2, 3), correction=0)
        torch.testing.assert_close(norm.running_mean, values.mean((0, 2, 3)), rtol=0.01, atol=0.01)
        torch.testing.assert_close(norm.running_var.maximum(spread), norm.running_var, rtol=0.01, atol=0.01)
        assert (norm.running_var < 1.1 * spread + 0.05).all()


@torch.no_grad()
def test_what_never_varies_leaves_a_sample_as_it_is():
    student, sample, teacher = model(width=4, seed=3), model(width=4, seed=3), model(width=16, blocks=2)
    still = torch.zeros((4, *CLIP.shape), dtype=torch.uint8)
    for layer in (module for module in teacher.modules() if isinstance(module, nn.Conv2d)):
        layer.weight.zero_()
    START["teacher"](sample, teacher, lambda: still)
    START["fitted"](student, teacher, lambda: still)
    kernels = [
        (ours.weight, its.weight)
        for ours, its in zip(student.modules(), sample.modules(), strict=True)
        if isinstance(ours, nn.Conv2d)
    ]
    assert all(torch.equal(ours, its) for ours, its in kernels)
    assert all(torch.isfinite(value).all() for value in student.state_dict().values())


@torch.no_grad()
def test_a_single_place_leaves_a_sample_as_it_is():
    clip = ClipSpec(frames=1, resize=(16, 16), crop=(16, 16))  # of which the last stage sees one place
    teacher, student, sample = (build_model(ModelSpec("tsm-tiny", width), 3, clip) for width in (8, 4, 4))
    still = torch.zeros((1, *clip.shape), dtype=torch.uint8)
    START["teacher"](sample, teacher, lambda: still)
    START["fitted"](student, teacher, lambda: still)
    ours, its = (one.backbone.get_submodule("layer4.0.conv2").weight for one in (student, sample))
    assert torch.equal(ours, its)
    assert all(torch.isfinite(value).all() for value in student.state_dict().values())


@torch.no_grad()
def test_fitted_to_still_clips_it_answers_others_within_reason():
    torch.manual_seed(0)
    student, teacher = (build_model(ModelSpec(name, 8), 3, CLIP).eval() for name in ("tsm-tiny", "tsm-mobilenetv2"))
    START["fitted"](student, teacher, lambda: torch.full((8, *CLIP.shape), 127, dtype=torch.uint8))
    assert student.eval()(clips(16, seed=2)).abs().max() < 100
