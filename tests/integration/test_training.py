"""Both recipes on real encoded clips, in small: what they write, what they refuse, and that a seed is enough."""

import io
import json
import math
import re
import shutil
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from cpd.config import Distill, Pipeline
from cpd.dataset import read_clips
from cpd.errors import DataError, TrainingError
from cpd.stages import run_pipeline
from cpd_train import distill, judging, prepare, teacher, terms
from cpd_train.answers import Memory, Spectra, Teacher
from cpd_train.common import Setting
from cpd_train.distill import Collaboration
from cpd_train.losses.collaboration import BOUND
from cpd_train.losses.parameters import parameter_distillation
from cpd_train.losses.spectrum import attention_maps, grid_of, pool_to, spectrum_distillation, temporal_spectrum
from cpd_train.models import evenly_chosen, read_checkpoint, write_checkpoint
from cpd_train.terms import TERMS, Term, half

BASE = {
    "name": "small",
    "device": "cpu",
    "data": {"rendered": {"train": 4, "validation": 2, "test": 2, "size": 32}},
    "clip": {"frames": 8, "resize": 24, "crop": (20, 20)},
    "teacher": {"model": "tsm-tiny", "width": 6, "blocks": 1, "epochs": 2, "batch_size": 8},
    "student": {"model": "tsm-tiny", "width": 4, "blocks": 1, "epochs": 3, "batch_size": 8},
}


def config_of(**changes):
    return Pipeline.model_validate(BASE | changes)


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """A run folder with rendered clips and a trained teacher."""
    run_dir = tmp_path_factory.mktemp("run")
    prepare.run(config_of(), run_dir)
    teacher.run(config_of(), run_dir)
    return run_dir


def metrics_of(run_dir, role):
    return [json.loads(line) for line in (run_dir / role / "metrics.jsonl").read_text().splitlines()]


def test_the_teacher_leaves_what_other_rooms_read(taught):
    checkpoint = read_checkpoint(taught / "teacher" / "teacher.safetensors")
    rows = metrics_of(taught, "teacher")
    assert checkpoint.labels[:2] == ("drift_left", "drift_right")
    assert checkpoint.validation_top1 == max(row["validation_top1"] for row in rows)
    with np.load(taught / "teacher" / "test_logits.npz") as kept:
        assert kept["logits"].shape == (16, 8)
        assert sorted(set(kept["labels"].tolist())) == list(range(8))
        assert all(path.endswith(".avi") for path in kept["paths"])
        assert 0 <= kept["grey_mean"] <= 1, "DALI's frames are those the server will read"
        assert kept["grey_mean"] <= kept["grey_largest"] <= 255


def test_training_on_the_validation_clips_keeps_the_last_epoch(tmp_path):
    config = config_of(data=BASE["data"] | {"train_on_validation": True})
    prepare.run(config, tmp_path)
    splits = json.loads((tmp_path / "data" / "data.json").read_text())["splits"]
    assert splits == {"train": 8 * (4 + 2), "validation": 0, "test": 8 * 2}
    assert "epoch 2 of 2" in teacher.run(config, tmp_path)
    checkpoint = read_checkpoint(tmp_path / "teacher" / "teacher.safetensors")
    assert (checkpoint.epoch, checkpoint.validation_top1) == (2, None)
    assert all("validation_top1" not in row for row in metrics_of(tmp_path, "teacher"))


def test_a_seed_makes_two_runs_identical(taught):
    weights = []
    for _ in range(2):
        distill.run(config_of(), taught)
        weights.append(load_file(taught / "student" / "student.safetensors"))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    distill.run(config_of(seed=1), taught)
    other = load_file(taught / "student" / "student.safetensors")
    assert not torch.equal(weights[0]["conv1.weight"], other["conv1.weight"])


def test_long_loops_show_how_far_they_are(taught, monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    distill.run(config_of(), taught)
    epoch = r"student \d/3: .*? 0/4 .*judging on validation clips: .*? 0/2 .*"
    told = terminal.getvalue().replace("\r", " ")
    assert re.search(rf"fitting the student: .*? 0/4 .*{3 * epoch}judging on test clips: .*? 0/2 ", told)


@pytest.mark.parametrize(
    ("section", "parts"),
    [
        ({}, {"cross_entropy", "logits", "spectrum"}),
        ({"spectrum": {"weight": 0}}, {"cross_entropy", "logits"}),
        ({"parameters": {"weight": 0.1}, "logits": 0}, {"cross_entropy", "spectrum", "parameters"}),
        ({"spectrum": {"align": "adapter", "form": "complex"},
          "parameters": {"weight": 0.1, "form": "quantiles", "decay": True}},
         {"cross_entropy", "logits", "spectrum", "parameters"}),
        ({"collaboration": "fixed"}, {"cross_entropy", "logits", "spectrum"}),
        ({"collaboration": "confidence"}, {"cross_entropy", "logits", "spectrum"}),
        ({"collaboration": "sampled"}, {"cross_entropy", "logits", "spectrum"}),
        ({"attention": 10, "fitnet": 1, "dist": 1, "relational": 1, "spatial_spectrum": 1},
         {"cross_entropy", "logits", "spectrum", "attention", "fitnet", "dist", "relational", "spatial_spectrum"}),
    ],
)  # fmt: skip
def test_every_part_can_be_switched(taught, section, parts):
    distill.run(config_of(distill=section), taught)
    rows = metrics_of(taught, "student")
    assert set(rows[0]["loss"]) == parts
    assert all(np.isfinite(list(row["loss"].values())).all() for row in rows)
    assert ("learned_weights" in rows[0]) == ("collaboration" not in section)


@pytest.mark.parametrize("form", ["energy", "quantiles"])
def test_the_teachers_kernels_are_described_once(taught, form, monkeypatch):
    """Every step compares the student's kernels as they are by then."""
    setting = Setting.of(config_of(), taught)
    taught_model = read_checkpoint(taught / "teacher" / "teacher.safetensors").model
    student = setting.model(setting.config.student)
    asked = []
    of_stages = terms.kernel_distributions
    monkeypatch.setattr(terms, "kernel_distributions", lambda *given: asked.append(given) or of_stages(*given))
    section = {"parameters": {"weight": 1, "form": form}, "collaboration": "fixed"}
    step = Collaboration(student, taught_model, Distill.model_validate(section), seed=0)
    batch = next(iter(setting.loader("train", 8).train(setting.config.augment, 0, 0, 1)))
    theirs = terms.spatial_kernels(taught_model)
    for _ in range(2):
        term = step(batch, 0.0)["parameters"]
        assert term.requires_grad
        torch.testing.assert_close(term, parameter_distillation(terms.spatial_kernels(student), theirs, form))
        with torch.no_grad():
            for kernel in step.fixed.student_kernels[0]:
                kernel[..., 0, 0] += 1
    of_teacher = [stages for stages, _ in asked if stages[0][0] is theirs[0][0]]
    assert (len(asked), len(of_teacher)) == (3, 1)


@pytest.mark.parametrize("mixup", [0.0, 0.5])
@pytest.mark.parametrize("align", ["attention", "adapter", "channels"])
def test_kept_answers_are_those_the_teacher_gives(taught, align, mixup):
    setting = Setting.of(config_of(), taught)
    model = read_checkpoint(taught / "teacher" / "teacher.safetensors").model
    grids, counts = [(10, 10), (5, 5), (3, 3), (2, 2)], {"adapter": (6, 12, 24, 48), "channels": (3, 6, 12, 24)}
    sizes, channels = ((5, 5), (3, 3), (2, 2), (1, 1)), counts.get(align, ())
    spectra = Spectra(sizes, align, channels, "amplitude", True, "time", "clip", None)
    ask = Teacher(model, grids, Memory(10**8), wanted=["maps", *(["features"] if align == "adapter" else []), spectra])
    loader = setting.loader("train", 8)
    for epoch in (0, 1, 2, 3):
        for batch in loader.train(setting.config.augment, 0, epoch, repeat=2, mixup=mixup):
            answer = ask(batch)
            with torch.no_grad():
                features = model.with_features(batch.frames)
            torch.testing.assert_close(answer.logits, features.logits, atol=1e-5, rtol=1e-4)
            assert len(answer.features) == (4 if align == "adapter" else 0)
            for ours, stage in zip(answer.features, features.stages, strict=False):
                torch.testing.assert_close(ours, stage, atol=1e-3, rtol=1e-3)
            signals = []
            for ours, stage in zip(answer.maps, features.stages, strict=True):
                torch.testing.assert_close(ours, attention_maps(stage), atol=1e-4, rtol=1e-3)
                step = {"attention": 0, "adapter": 1, "channels": 2}[align]
                signals.append(stage[:, :, ::step] if step else ours)
            for ours, signal, grid in zip(answer.spectra, signals, spectra.grids, strict=True):
                wanted = temporal_spectrum(pool_to(signal, grid)).flatten(1)
                torch.testing.assert_close(ours, wanted / wanted.norm(dim=1, keepdim=True), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("align", ["attention", "adapter", "channels"])
def test_the_loss_is_that_of_the_formula(taught, align):
    setting = Setting.of(config_of(), taught)
    teacher = read_checkpoint(taught / "teacher" / "teacher.safetensors").model
    student = setting.model(setting.config.student)
    section = {"spectrum": {"weight": 1, "align": align}, "parameters": {"weight": 0, "start": "teacher"}, "views": 1}
    step = Collaboration(student, teacher, Distill.model_validate(section | {"collaboration": "fixed"}), seed=0)
    batch = next(iter(setting.loader("train", 8).train(setting.config.augment, 0, 0, 1)))
    asked, kept = (step(batch, 0.0)["spectrum"] for _ in range(2))
    with torch.no_grad():
        ours, theirs = student.with_features(batch.frames).stages, teacher.with_features(batch.frames).stages
        match align:
            case "attention":
                pairs = [[attention_maps(stage) for stage in stages] for stages in (ours, theirs)]
            case "adapter":
                pairs = [
                    [_by_frame(adapt, stage) for adapt, stage in zip(step.fixed.adapters, ours, strict=True)],
                    theirs,
                ]
            case "channels":
                chosen = [
                    evenly_chosen(its, its.shape[:2] + our.shape[2:3] + its.shape[3:])
                    for our, its in zip(ours, theirs, strict=True)
                ]
                small = [half(grid_of(stage)) for stage in ours]
                pairs = [[pool_to(x, grid) for x, grid in zip(side, small, strict=True)] for side in (ours, chosen)]
        wanted = spectrum_distillation(*pairs, over="space-time").mean()
    torch.testing.assert_close(asked, wanted, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(kept, asked, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("over", ["time", "space-time"])
@pytest.mark.parametrize("scale", ["clip", "bin"])
@pytest.mark.parametrize("weights", [(0, 1, 1, 2, 1), (1, 0, 0, 0, 0)])
def test_temporal_frequencies_can_be_weighed(taught, over, scale, weights):
    setting = Setting.of(config_of(), taught)
    model = read_checkpoint(taught / "teacher" / "teacher.safetensors").model
    student = setting.model(setting.config.student)
    batch = next(iter(setting.loader("train", 8).train(setting.config.augment, 0, 0, 1)))
    section = {"weight": 1, "align": "attention", "over": over, "scale": scale, "bin_weights": weights}
    config = config_of(distill={"spectrum": section, "collaboration": "fixed"})
    loss = Collaboration(student, model, config.distill, seed=0)(batch, 0.0)["spectrum"]
    with torch.no_grad():
        maps = [[attention_maps(stage) for stage in one.with_features(batch.frames).stages] for one in (student, model)]
    wanted, plain = (
        spectrum_distillation(*maps, over=over, scale=scale, bin_weights=given).mean()
        for given in (torch.tensor(weights), None)
    )
    torch.testing.assert_close(loss, wanted, atol=1e-4, rtol=1e-3)
    assert not torch.isclose(loss, plain, rtol=1e-2)


def _by_frame(adapt: torch.nn.Conv2d, stage: torch.Tensor) -> torch.Tensor:
    return torch.stack([adapt(stage[:, frame]) for frame in range(stage.shape[1])], 1)


def test_a_full_memory_asks_again(taught):
    setting = Setting.of(config_of(), taught)
    model = read_checkpoint(taught / "teacher" / "teacher.safetensors").model
    ask = Teacher(model, [(2, 2)] * 4, Memory(3000))
    loader = setting.loader("train", 8)
    for epoch in range(3):
        for batch in loader.train(setting.config.augment, 0, epoch, repeat=1):
            with torch.no_grad():
                torch.testing.assert_close(ask(batch).logits, model(batch.frames), atol=1e-5, rtol=1e-4)


def test_runs_of_one_seed_can_share_what_the_teacher_said(taught, monkeypatch):
    config, memory = config_of(distill={"views": 1}), Memory(10**8)
    distill.run(config, taught)
    alone = load_file(taught / "student" / "student.safetensors")
    distill.run(config, taught, memory)
    monkeypatch.setattr(Teacher, "_ask", lambda *_: pytest.fail("the teacher was asked again"))
    distill.run(config, taught, memory)
    shared = load_file(taught / "student" / "student.safetensors")
    assert all(torch.equal(alone[name], shared[name]) for name in alone)


@pytest.mark.parametrize("collaboration", ["fixed", "learned"])
def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(taught, collaboration):
    distill.run(config_of(), taught)
    before = (taught / "student" / "student.safetensors").read_bytes()
    changes = {"student": BASE["student"] | {"learning_rate": 1e9}, "distill": {"collaboration": collaboration}}
    with pytest.raises(TrainingError, match=r"(of the student is|logits that are) not finite"):
        distill.run(config_of(**changes), taught)
    kept = (taught / "student" / "student.safetensors").read_bytes()
    assert kept == before or all(
        torch.isfinite(tensor).all() for tensor in load_file(taught / "student" / "student.safetensors").values()
    )


@pytest.mark.parametrize(
    ("role", "changes"),
    [
        ("teacher", {"learning_rate": 1e9, "weight_decay": 0}),
        ("student", {"learning_rate": 1e9, "weight_decay": 0}),
        ("student", {"learning_rate": 1e-3, "weight_decay": 1e9}),
    ],
)
def test_a_training_that_fails_before_its_first_checkpoint_leaves_the_earlier_result_good(
    taught, tmp_path, capsys, role, changes
):
    config = config_of(output=str(tmp_path))
    shutil.copytree(taught / "data", tmp_path / "data")
    run_pipeline(config, until="distill")
    capsys.readouterr()
    with pytest.raises(TrainingError, match="not finite") as caught:
        run_pipeline(
            config.model_copy(update={role: getattr(config, role).model_copy(update=changes)}), until="distill"
        )
    assert "is kept" not in str(caught.value), "it has a checkpoint"
    assert not [*(tmp_path / role).glob(".*draft*")]
    capsys.readouterr()
    run_pipeline(config, until="distill")
    assert " running " not in capsys.readouterr().err


def test_a_teacher_whose_loss_is_not_finite_has_no_weight_of_a_term_to_lower(taught, tmp_path):
    shutil.copytree(taught / "data", tmp_path / "data")
    with pytest.raises(TrainingError, match=r"cross_entropy loss of the teacher .* \(lower teacher.learning_rate\)$"):
        teacher.run(config_of(teacher=BASE["teacher"] | {"learning_rate": 1e9}), tmp_path)


def test_weights_that_decay_away_say_which_setting_to_lower(taught, tmp_path):
    shutil.copytree(taught / "data", tmp_path / "data")
    with pytest.raises(TrainingError, match=r"not finite .*learning_rate or .*weight_decay"):
        teacher.run(config_of(teacher=BASE["teacher"] | {"weight_decay": 1e9}), tmp_path)


@pytest.mark.parametrize("validated", [True, False])
def test_weights_that_are_not_finite_never_replace_a_checkpoint(taught, tmp_path, validated, monkeypatch):
    """One loss whose gradient is NaN, at the very last step; the loss itself is finite."""
    run_dir = tmp_path / "run"
    config = config_of(data=BASE["data"] | {"train_on_validation": not validated})
    prepare.run(config, run_dir)
    shutil.copytree(taught / "teacher", run_dir / "teacher")
    steps = BASE["student"]["epochs"] * (8 * (4 if validated else 6) // 8)
    asked = []

    def poisoned(scene):
        asked.append(scene)
        root = (scene.ours.logits - scene.ours.logits).sqrt() if len(asked) == steps else 0 * scene.ours.logits
        return root.sum(1)

    monkeypatch.setitem(TERMS, "evidence", Term(poisoned))
    with pytest.raises(
        TrainingError, match=r"the gradient of the loss of the student is not finite in epoch 3, .*epoch [12] is kept"
    ):
        distill.run(config.model_copy(update={"distill": Distill(spectrum={"evidence": 1})}), run_dir)
    assert len(asked) == steps
    kept = load_file(run_dir / "student" / "student.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in kept.values())


def test_in_fp16_losses_are_those_of_fp32_within_its_three_digits(taught, tmp_path):
    rows = {}
    for precision in ("fp32", "fp16"):
        shutil.copytree(taught, tmp_path / precision)
        distill.run(config_of(precision=precision), tmp_path / precision)
        rows[precision] = metrics_of(tmp_path / precision, "student")
    for whole, ours in zip(rows["fp32"], rows["fp16"], strict=True):
        assert ours["loss"] == pytest.approx(whole["loss"], rel=0.01)
        assert ours["loss"] != whole["loss"], "this is fp32 again"
        assert "loss_scale" in ours
        assert "loss_scale" not in whole


def test_in_fp16_a_teacher_learns_and_a_student_learns_from_it(tmp_path):
    section = {"width": 8, "epochs": 8, "learning_rate": 0.01}
    config = config_of(
        precision="fp16", data=BASE["data"] | {"train_on_validation": True},
        distill={"parameters": {"start": "random"}},
        **{role: BASE[role] | section for role in ("teacher", "student")},
    )  # fmt: skip
    prepare.run(config, tmp_path)
    teacher.run(config, tmp_path)
    distill.run(config, tmp_path)
    for role, term in (("teacher", "cross_entropy"), ("student", "logits")):
        first, *_, last = [row["loss"][term] for row in metrics_of(tmp_path, role)]
        assert last < 0.75 * first, role


@pytest.fixture
def poison(monkeypatch):
    """Makes the first gradients NaN, of losses that are finite; returns what becomes the student's weights before each
    step."""

    def begin(count):
        weights = []

        class Poisoned(Collaboration):
            def __call__(self, batch, progress):
                weights.append([parameter.detach().clone() for parameter in self.student.parameters()])
                bias = self.student.backbone.fc.bias
                poison = (bias - bias).sqrt().sum() if len(weights) <= count else 0 * bias.sum()
                return super().__call__(batch, progress) | {"poison": poison}

        monkeypatch.setattr(distill, "Collaboration", Poisoned)
        return weights

    return begin


@pytest.mark.parametrize("count", [1, 3])
def test_in_fp16_a_gradient_that_overflows_leaves_a_step_out_and_lowers_the_scale(taught, tmp_path, count, poison):
    shutil.copytree(taught, tmp_path / "run")
    weights = poison(count)
    distill.run(config_of(precision="fp16"), tmp_path / "run")
    assert metrics_of(tmp_path / "run", "student")[-1]["loss_scale"] == 2.0 ** (16 - count)
    for step, (before, after) in enumerate(pairwise(weights)):
        alike = all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
        assert alike == (step < count), f"step {step}"


def test_in_fp16_a_gradient_that_is_not_finite_at_any_scale_is_an_error(taught, tmp_path, poison):
    shutil.copytree(taught, tmp_path / "run")
    weights = poison(1000)
    config = config_of(precision="fp16", student=BASE["student"] | {"epochs": 6})
    with pytest.raises(TrainingError, match=r"the gradient of the loss .* not finite in .*or use precision: fp32"):
        distill.run(config, tmp_path / "run")
    assert len(weights) == 17, "at 2^16, and at each half of it down to 1"


def test_the_clips_of_a_loss_that_is_not_finite_are_named(taught, monkeypatch):
    seen = []

    def failing(scene):
        seen.append(scene)
        return torch.where(torch.arange(len(scene.labels)) == 5, torch.nan, scene.ours.logits.sum(1))

    monkeypatch.setitem(TERMS, "evidence", Term(failing))
    with pytest.raises(TrainingError) as caught:
        distill.run(config_of(distill={"spectrum": {"evidence": 1}}), taught)
    clip = re.search(r"evidence loss .* \(clips (\w+)/\d+\.avi\)", str(caught.value))
    assert clip is not None
    assert clip[1] == Setting.of(config_of(), taught).labels[int(seen[0].labels[5].argmax())]


def test_noise_comes_back_from_its_bound(taught):
    student, other = (Setting.of(config_of(), taught).model(config_of().student) for _ in range(2))
    step = distill.Collaboration(student, other, Distill(), seed=0)
    step.log_variances.data.fill_(-50)
    step._noise().sum().backward()
    assert (step.log_variances.grad != 0).all()
    assert step.log()["learned_weights"]["logits"] == pytest.approx(0.9 * math.exp(BOUND), rel=1e-5)


def test_teacher_and_student_that_do_not_fit_are_refused(taught, tmp_path):
    with pytest.raises(TrainingError, match="the student sees 4 frames and the teacher 8"):
        distill.run(config_of(clip=BASE["clip"] | {"frames": 4}), taught)
    model = read_checkpoint(taught / "teacher/teacher.safetensors").model
    labels = Setting.of(config_of(), taught).labels
    (tmp_path / "data").symlink_to(taught / "data")
    (tmp_path / "teacher").mkdir()
    write_checkpoint(tmp_path / "teacher/teacher.safetensors", model, "teacher", labels[::-1], "", 1, None)
    with pytest.raises(TrainingError, match=f"other labels: {labels[-1]} where the data has {labels[0]}"):
        distill.run(config_of(), tmp_path)


def test_a_student_that_cannot_learn_from_its_teacher_is_refused_before_the_teacher_is_trained(taught, tmp_path):
    shutil.copytree(taught / "data", tmp_path / "data")
    student = {"model": "tsm-mobilenetv2", "epochs": 1, "batch_size": 8}
    with pytest.raises(TrainingError, match="no counterpart in the teacher"):
        teacher.run(config_of(student=student, distill={"parameters": {"start": "teacher"}}), tmp_path)
    assert not (tmp_path / "teacher").exists()


@pytest.mark.parametrize(("model", "width"), [("tsm-tiny", 8), ("tsm-resnet18", 16), ("tsn-mobilenetv2", 16)])
def test_pictures_whose_gradient_a_cpu_lacks_in_bf16_are_refused(taught, model, width):
    def built(precision, crop):
        config = config_of(precision=precision, clip={"resize": 24, "crop": (20, crop)}, student={"model": model})
        return Setting.of(config, taught).model(config.student)

    with pytest.raises(TrainingError, match=r"one pixel wide.*\(use precision: fp32, or a wider clip.crop\)"):
        built("bf16", width)
    built("bf16", width + 1)
    built("fp32", width)


def test_a_rehearsal_draws_nothing_that_training_would_miss(taught):
    setting = Setting.of(config_of(), taught)
    before = torch.get_rng_state()
    distill.rehearse(setting)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_mirrored_label_that_does_not_exist_is_named(taught):
    mapped = {"drift_right": "drift_lfet", "drift_lfet": "drift_right"}
    with pytest.raises(DataError, match=r"flip_labels names 'drift_lfet', .*\(did you mean drift_left\?\)"):
        distill.run(config_of(augment={"flip": True, "flip_labels": mapped}), taught)


def test_a_teacher_can_be_loaded_as_it_is(taught, tmp_path):
    prepare.run(config_of(), tmp_path)
    checkpoint = taught / "teacher" / "teacher.safetensors"
    section = BASE["teacher"] | {"epochs": 0, "checkpoint": str(checkpoint)}
    teacher.run(config_of(teacher=section), tmp_path)
    theirs, ours = (load_file(path) for path in (checkpoint, tmp_path / "teacher" / "teacher.safetensors"))
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)


@pytest.mark.parametrize(("role", "split"), [("teacher", "validation"), ("teacher", "test"), ("student", "test")])
def test_a_gpu_that_is_full_outside_of_training_names_the_setting_too(taught, tmp_path, role, split, monkeypatch):
    predict = judging.predict

    def full(model, loader, description):
        if loader.clips[0].split == split:
            raise RuntimeError("Can't allocate 6220800 bytes on device 0.")
        return predict(model, loader, description)

    monkeypatch.setattr(judging, "predict", full)
    shutil.copytree(taught / "data", tmp_path / "data")
    shutil.copytree(taught / "teacher", tmp_path / "teacher")
    as_it_is = BASE["teacher"] | {"epochs": 0, "checkpoint": str(taught / "teacher" / "teacher.safetensors")}
    config = config_of(teacher=as_it_is, student=BASE["student"] | {"epochs": 1})
    with pytest.raises(TrainingError, match=rf"too little memory for the {role}: .*\(lower {role}\.batch_size\)"):
        (teacher if role == "teacher" else distill).run(config, tmp_path)


def test_a_teacher_that_is_loaded_as_it_is_must_be_whole_and_made_for_these_clips(taught, tmp_path):
    prepare.run(config_of(), tmp_path)
    section = BASE["teacher"] | {"epochs": 0, "checkpoint": str(taught / "teacher" / "teacher.safetensors")}
    with pytest.raises(TrainingError, match="another use: its colour is rgb, here it is grey"):
        teacher.run(config_of(teacher=section, clip=BASE["clip"] | {"colour": "grey"}), tmp_path)
    headless = load_file(section["checkpoint"])
    torch.save({name: tensor for name, tensor in headless.items() if not name.startswith("fc.")}, tmp_path / "x.pth")
    with pytest.raises(TrainingError, match=r"x\.pth: has no fc\.bias for 8 classes"):
        teacher.run(config_of(teacher=section | {"checkpoint": str(tmp_path / "x.pth")}), tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distill": {"cross_entropy": 0, "logits": 0, "spectrum": {"weight": 0}}}, "every weight is 0"),
        ({"distill": {"collaboration": "sampled", "logits": 0, "spectrum": {"weight": 0}}}, "sampled draws one of"),
        ({"student": BASE["student"] | {"label_smoothing": 0.1}}, "student.label_smoothing must be 0"),
        ({"clip": BASE["clip"] | {"frames": 1}, "distill": {"spectrum": {"dc": False}}}, "nothing of a clip of one"),
    ],
)
def test_settings_that_teach_nothing_are_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        config_of(**changes)


def test_a_teacher_born_again_learns_from_the_one_before_it(taught, tmp_path):
    prepare.run(config_of(), tmp_path)
    teacher.run(config_of(teacher=BASE["teacher"] | {"generations": 2}), tmp_path)
    folder, alone = tmp_path / "teacher", taught / "teacher"
    first, second, one = (load_file(path / "teacher.safetensors") for path in (folder / "generation-1", folder, alone))
    assert all(torch.equal(first[name], one[name]) for name in one), "the first is the teacher of one generation"
    assert not torch.equal(first["fc.weight"], second["fc.weight"])
    first_row, *_, last_row = metrics_of(tmp_path, "teacher")
    assert set(first_row["loss"]) == set(first_row["learned_weights"]) == {"cross_entropy", "logits", "spectrum"}
    assert first_row["learned_weights"] != last_row["learned_weights"], "its noise is learned"


def test_losses_are_told_before_they_are_weighed(taught):
    told = []
    for collaboration, weight in (("fixed", 1), ("fixed", 1e-6), ("learned", 1e-6)):
        distill.run(config_of(distill={"spectrum": {"weight": weight}, "collaboration": collaboration}), taught)
        told.append(metrics_of(taught, "student")[0]["loss"]["spectrum"])
    assert told == pytest.approx([told[0]] * 3, rel=0.2)


def test_channels_that_the_student_started_from_can_be_compared_one_by_one(taught):
    section = {"spectrum": {"align": "channels"}, "parameters": {"weight": 0, "start": "teacher"}}
    distill.run(config_of(distill=section), taught)
    losses = [row["loss"]["spectrum"] for row in metrics_of(taught, "student")]
    assert losses[-1] < losses[0]
    with pytest.raises(ValidationError, match=r"needs parameters.start: fitted"):
        config_of(distill={"spectrum": {"align": "channels"}, "parameters": {"start": "random"}})


@pytest.mark.parametrize(
    ("section", "start", "align"),
    [
        ({}, "fitted", "channels"),
        ({}, "teacher", "channels"),
        ({}, "random", "auto"),
        ({"fitnet": 1}, "fitted", "channels"),
        ({"spectrum": {"align": "attention"}}, "fitted", "attention"),
        ({"spectrum": {"align": "channels"}}, "fitted", "channels"),
    ],
)
def test_by_itself_the_spectrum_is_that_of_channels_where_they_correspond(section, start, align):
    assert distill.aligned(Distill.model_validate(section), start, correspond=True).spectrum.align == align


def test_channels_that_do_not_correspond_are_compared_by_attention_and_refused_one_by_one():
    auto, asked = (Distill.model_validate({"spectrum": {"align": align}}) for align in ("auto", "channels"))
    assert distill.aligned(auto, "fitted", correspond=False).spectrum.align == "auto"
    with pytest.raises(TrainingError, match=r"do not correspond to the teacher's: it is of another family"):
        distill.aligned(asked, "fitted", correspond=False)
    with pytest.raises(TrainingError, match=r"do not correspond to the teacher's: it began with its checkpoint"):
        distill.aligned(asked, "random", correspond=True)


def test_the_evidence_of_each_frame_is_a_term(taught):
    distill.run(config_of(distill={"spectrum": {"weight": 0, "evidence": 1}}), taught)
    losses = [row["loss"]["evidence"] for row in metrics_of(taught, "student")]
    assert 0 < losses[-1] < 2


class TestPrepare:
    def test_clips_count_by_their_content(self, write_video, tmp_path, capsys):
        rows = ["path,label,split"]
        for n in range(12):
            path = write_video(np.full((4, 32, 32, 3), 20 * n, np.uint8), name=f"{n}.avi")
            rows.append(f"{path.name},{'xy'[n % 2]},{('train', 'train', 'val', 'test')[n // 2 % 4]}")
        (tmp_path / "list.csv").write_text("\n".join(rows))
        config = config_of(
            data={"list": str(tmp_path / "list.csv")},
            teacher=BASE["teacher"] | {"epochs": 1},
            output=str(tmp_path / "run"),
        )

        def stages_run():
            run_pipeline(config, until="teacher")
            return [line.split()[0] for line in capsys.readouterr().err.splitlines() if " running " in line]

        assert stages_run() == ["data", "teacher"]
        (tmp_path / "1.avi").touch()
        assert stages_run() == ["data"], "copied anew, but the same"
        write_video(np.full((4, 32, 32, 3), 200, np.uint8), name="1.avi")
        assert stages_run() == ["data", "teacher"], "another take"

    def test_clips_that_no_run_has_made_are_not_deleted(self, tmp_path):
        mine = tmp_path / "data/clips/mine.mp4"
        mine.parent.mkdir(parents=True)
        mine.touch()
        with pytest.raises(DataError, match="is there already, and no run has rendered it"):
            prepare.run(config_of(), tmp_path)
        assert mine.exists()
        (tmp_path / "pipeline.lock").write_text('{"schema": 2, "stages": {}}')
        with pytest.raises(DataError, match="no run has rendered it"):
            prepare.run(config_of(), tmp_path)

    def test_a_run_killed_while_it_rendered_starts_over(self, tmp_path, monkeypatch):
        def killed(path, _):
            path.touch()
            raise KeyboardInterrupt

        monkeypatch.setattr(prepare, "write_video", killed)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                prepare.run(config_of(), tmp_path)
            assert len(list(tmp_path.rglob("*.avi"))) == 1

    def test_a_run_may_move_with_its_clips(self, tmp_path):
        config = config_of(output=str(tmp_path / "run"))
        run_pipeline(config, until="data")
        (tmp_path / "run").rename(tmp_path / "moved")
        clips = read_clips(tmp_path / "moved/data/clips.csv")
        assert all(clip.path.is_relative_to(tmp_path / "moved") and clip.path.exists() for clip in clips)
        teacher.run(config_of(teacher=BASE["teacher"] | {"epochs": 1}), tmp_path / "moved")
        with np.load(tmp_path / "moved/teacher/test_logits.npz") as kept:
            assert kept["paths"][0].startswith("data/clips/test/")

    def test_a_broken_clip_is_named_and_left_out(self, write_video, tmp_path):
        rows = ["path,label,split"]
        for n in range(12):
            path = write_video(np.full((4, 32, 32, 3), 20 * n, np.uint8), name=f"{n}.avi")
            rows.append(f"{path.name},{'xy'[n % 2]},{('train', 'train', 'val', 'test')[n // 2 % 4]}")
        (tmp_path / "11.avi").write_bytes(b"no video")
        rows.append("gone.avi,x,train")
        (tmp_path / "list.csv").write_text("\n".join(rows))
        data = {"list": str(tmp_path / "list.csv"), "max_broken_fraction": 0.2}
        summary = prepare.run(config_of(data=data), tmp_path / "run")
        written = json.loads((tmp_path / "run" / "data" / "data.json").read_text())
        assert summary == "2 classes, 7 train (64%), 2 validation (18%), 2 test (18%) clips, 2 broken left out"
        assert {(entry["path"].rsplit("/")[-1], entry["reason"].split(":")[0]) for entry in written["broken"]} == {
            ("11.avi", "cannot be opened as a video"), ("gone.avi", "no such file"),
        }  # fmt: skip
        with pytest.raises(DataError, match=r"2 of 13 clips cannot be used.*gone.avi: no such file"):
            prepare.run(config_of(data=data | {"max_broken_fraction": 0.1}), tmp_path / "run")

    def test_one_video_under_two_names_is_told_where_it_is_in_two_splits(self, write_video, tmp_path):
        rows = ["path,label,split"]
        for n, (grey, label, split) in enumerate([
            (0, "x", "train"), (0, "x", "train"), (50, "x", "train"), (100, "y", "train"), (100, "y", "test"),
            (150, "x", "test"), (200, "x", "val"), (250, "y", "val"),
        ]):  # fmt: skip
            path = write_video(np.full((4, 32, 32, 3), grey, np.uint8), name=f"{n}.avi")
            rows.append(f"{path.name},{label},{split}")
        (tmp_path / "list.csv").write_text("\n".join(rows))
        summary = prepare.run(config_of(data={"list": str(tmp_path / "list.csv")}), tmp_path / "run")
        assert summary.endswith(f"; the same video in two splits or classes: {tmp_path}/3.avi and {tmp_path}/4.avi")
        written = json.loads((tmp_path / "run" / "data" / "data.json").read_text())
        assert written["in_two_places"] == [[f"{tmp_path}/3.avi", f"{tmp_path}/4.avi"]]
