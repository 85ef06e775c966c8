"""The losses against independent numpy and scipy versions, and against what mathematics promises of them."""

import math

import numpy as np
import pytest
import scipy.fft
import scipy.special
import scipy.stats
import torch

from cpd.config import Distill
from cpd.errors import TrainingError
from cpd_train.losses import collaboration, parameters, rivals, spectrum
from cpd_train.terms import TERMS


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def stages(rng, batch=3, frames=8, sizes=((4, 6), (2, 3)), dtype=torch.float64):
    return [torch.from_numpy(rng.uniform(0.1, 1, (batch, frames, *size))).to(dtype) for size in sizes]


class TestLogitDistillation:
    def test_equals_scipy(self, rng):
        student, teacher = rng.normal(size=(2, 5, 7))
        expected = [
            scipy.stats.entropy(scipy.special.softmax(t / 3), scipy.special.softmax(s / 3)) * 9
            for s, t in zip(student, teacher, strict=True)
        ]
        actual = rivals.logit_distillation(torch.from_numpy(student), torch.from_numpy(teacher), 3.0)
        np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-10)

    def test_is_zero_for_logits_that_differ_by_a_constant(self, rng):
        logits = torch.from_numpy(rng.normal(size=(4, 6)))
        assert rivals.logit_distillation(logits + 5, logits, 4.0).abs().max() < 1e-12


class TestAttentionMaps:
    def test_equal_numpy(self, rng):
        features = rng.normal(size=(2, 3, 5, 4, 6))
        maps = spectrum.attention_maps(torch.from_numpy(features))
        np.testing.assert_allclose(maps.numpy(), (features**2).mean(2), rtol=1e-12)

    def test_gradients_are_right(self, rng):
        features = torch.from_numpy(rng.normal(size=(2, 3, 5, 2, 2))).requires_grad_()
        assert torch.autograd.gradcheck(spectrum.attention_maps, features)

    def test_half_precision_features_give_float_maps_and_get_gradients_of_their_own_type(self, rng):
        features = torch.from_numpy(rng.normal(size=(2, 3, 5, 4, 6))).bfloat16().requires_grad_()
        maps = spectrum.attention_maps(features)
        maps.sum().backward()
        assert (maps.dtype, features.grad.dtype) == (torch.float32, torch.bfloat16)
        torch.testing.assert_close(maps, features.float().square().mean(2), rtol=1e-2, atol=1e-3)


class TestTemporalSpectrum:
    @pytest.mark.parametrize("frames", [1, 2, 5, 7, 8])
    def test_keeps_the_energy_of_the_signal(self, rng, frames):
        """Parseval, for odd and even numbers of frames."""
        signal = torch.from_numpy(rng.normal(size=(2, frames, 3, 4)))
        transformed = spectrum.temporal_spectrum(signal, "complex")
        torch.testing.assert_close(transformed.square().sum((1, 4)), signal.square().sum(1))

    @pytest.mark.parametrize("form", ["amplitude", "log-amplitude", "complex"])
    @pytest.mark.parametrize("frames", [7, 8])
    def test_equals_scipy(self, rng, form, frames):
        signal = rng.normal(size=(2, frames, 3))
        transformed = scipy.fft.rfft(signal, axis=1, norm="ortho")
        transformed[:, 1 : (frames + 1) // 2] *= math.sqrt(2)
        expected = {
            "amplitude": np.abs(transformed),
            "log-amplitude": np.log1p(np.abs(transformed)),
            "complex": np.stack([transformed.real, transformed.imag], -1),
        }[form]
        actual = spectrum.temporal_spectrum(torch.from_numpy(signal), form).numpy()
        np.testing.assert_allclose(actual, expected, atol=2e-6)

    @pytest.mark.parametrize("bin_", [1, 2, 3])
    def test_a_pure_tone_lands_in_one_bin(self, bin_):
        tone = torch.cos(2 * math.pi * bin_ * torch.arange(8, dtype=torch.float64) / 8)[None, :, None]
        amplitude = spectrum.temporal_spectrum(tone)[0, :, 0]
        assert amplitude.argmax() == bin_
        assert amplitude[bin_] == pytest.approx(2.0, abs=1e-3)
        assert amplitude.sum() - amplitude[bin_] < 1e-6

    def test_an_offset_reaches_the_dc_bin_alone(self, rng):
        signal = torch.from_numpy(rng.normal(size=(2, 8, 3)))
        torch.testing.assert_close(
            spectrum.temporal_spectrum(signal + 3, dc=False), spectrum.temporal_spectrum(signal, dc=False)
        )
        assert not torch.allclose(spectrum.temporal_spectrum(signal + 3), spectrum.temporal_spectrum(signal))

    def test_a_shift_in_time_changes_phases_only(self, rng):
        signal = torch.from_numpy(rng.normal(size=(2, 8, 3)))
        shifted = signal.roll(3, dims=1)
        torch.testing.assert_close(spectrum.temporal_spectrum(shifted), spectrum.temporal_spectrum(signal))
        assert not torch.allclose(
            spectrum.temporal_spectrum(shifted, "complex"), spectrum.temporal_spectrum(signal, "complex")
        )

    @pytest.mark.parametrize("frames", [7, 8])
    def test_over_time_and_space_equals_scipy_and_keeps_the_energy(self, rng, frames):
        signal = rng.normal(size=(2, frames, 3, 5, 4))
        expected = scipy.fft.fftn(signal, axes=(1, 3, 4), norm="ortho")[:, : frames // 2 + 1]
        expected[:, 1 : (frames + 1) // 2] *= math.sqrt(2)
        actual = spectrum.temporal_spectrum(torch.from_numpy(signal), over="space-time").numpy()
        np.testing.assert_allclose(actual, np.abs(expected), atol=2e-6)
        np.testing.assert_allclose((actual**2).sum((1, 3, 4)), (signal**2).sum((1, 3, 4)), rtol=1e-4)

    def test_over_time_and_space_a_moved_picture_looks_the_same(self, rng):
        signal = torch.from_numpy(rng.normal(size=(2, 8, 5, 6)))
        moved = signal.roll((1, 2, 4), dims=(1, 2, 3))
        torch.testing.assert_close(*(spectrum.temporal_spectrum(x, over="space-time") for x in (moved, signal)))
        assert not torch.allclose(*(spectrum.temporal_spectrum(x) for x in (moved, signal)))


class TestSpectrumDistillation:
    @pytest.mark.parametrize("form", ["amplitude", "log-amplitude", "complex"])
    def test_is_zero_for_identical_signals(self, rng, form):
        signal = stages(rng)
        torch.testing.assert_close(
            spectrum.spectrum_distillation(signal, signal, form), torch.zeros(3, dtype=torch.float64)
        )

    def test_equals_numpy(self, rng):
        ours, theirs = stages(rng, frames=7), stages(rng, frames=7)
        expected = np.zeros(3)
        for a, b in zip(ours, theirs, strict=True):
            units = []
            for x in (a.numpy(), b.numpy()):
                amplitude = np.abs(np.fft.rfft(x, axis=1, norm="ortho"))
                amplitude[:, 1:] *= math.sqrt(2)
                flat = amplitude.reshape(3, -1)
                units.append(flat / np.linalg.norm(flat, axis=1, keepdims=True))
            expected += ((units[0] - units[1]) ** 2).sum(1)
        np.testing.assert_allclose(spectrum.spectrum_distillation(ours, theirs).numpy(), expected, atol=1e-5)

    @pytest.mark.parametrize("weights", [None, np.array([0.0, 1, 2, 1])])
    def test_bin_by_bin_equals_numpy(self, rng, weights):
        ours, theirs = stages(rng, frames=7), stages(rng, frames=7)
        expected = np.zeros(3)
        for a, b in zip(ours, theirs, strict=True):
            units = []
            for x in (a.numpy(), b.numpy()):
                flat = np.abs(np.fft.rfft(x, axis=1)).reshape(3, 4, -1)
                units.append(flat / np.linalg.norm(flat, axis=2, keepdims=True))
            expected += (((units[0] - units[1]) ** 2).sum(2) * (1 if weights is None else weights)).mean(1)
        given = None if weights is None else torch.from_numpy(weights)
        actual = spectrum.spectrum_distillation(ours, theirs, scale="bin", bin_weights=given)
        np.testing.assert_allclose(actual.numpy(), expected, atol=1e-5)

    def test_bin_by_bin_a_weak_bin_counts_as_much_and_an_empty_one_does_not(self, rng):
        signal = torch.from_numpy(rng.uniform(0.5, 1, (1, 8, 4, 4)))
        tone = torch.cos(2 * math.pi * 2 * torch.arange(8, dtype=torch.float64) / 8)[None, :, None, None]
        places = torch.from_numpy(rng.uniform(-1, 1, (2, 4, 4)))
        still = signal.mean(1, keepdim=True).expand_as(signal)

        def distance(strength):
            ours, theirs = (still + strength * tone * place for place in places)
            return float(spectrum.spectrum_distillation([ours], [theirs], scale="bin"))

        assert distance(0.1) == pytest.approx(distance(0.05), rel=1e-2)
        assert distance(1e-6) < 1e-4 * distance(0.1)

    def test_does_not_see_loudness(self, rng):
        ours, theirs = stages(rng), stages(rng)
        torch.testing.assert_close(
            spectrum.spectrum_distillation([7 * x for x in ours], theirs),
            spectrum.spectrum_distillation(ours, theirs),
            atol=1e-4,
            rtol=1e-3,
        )

    @pytest.mark.parametrize("scale", ["clip", "bin"])
    @pytest.mark.parametrize("size", [1e-3, 1, 1e3])
    def test_does_not_see_loudness_in_the_range_it_says(self, rng, size, scale):
        ours, theirs = ([x + 0.1 for x in stages(rng, dtype=torch.float32)] for _ in range(2))
        torch.testing.assert_close(
            spectrum.spectrum_distillation([size * x for x in ours], [size * x for x in theirs], scale=scale),
            spectrum.spectrum_distillation(ours, theirs, scale=scale),
            atol=0,
            rtol=3e-2,
        )

    def test_compares_different_grids_on_the_smaller(self, rng):
        large = stages(rng, sizes=((4, 6),))
        small = [spectrum.pool_to(large[0], (2, 3))]
        assert spectrum.spectrum_distillation(large, small).abs().max() < 1e-12

    def test_where_grids_cross_both_are_compared_on_what_is_smaller_each_way(self, rng):
        ours, theirs = stages(rng, sizes=((4, 3),)), stages(rng, sizes=((2, 6),))
        pooled = ([x.unflatten(2, (2, -1)).mean(3) for x in ours], [x.unflatten(3, (3, -1)).mean(4) for x in theirs])
        wanted = spectrum.spectrum_distillation(*pooled)
        torch.testing.assert_close(spectrum.spectrum_distillation(ours, theirs), wanted)
        torch.testing.assert_close(spectrum.spectrum_distillation(theirs, ours), wanted)

    @pytest.mark.parametrize("size", [(2, 2), (2, 5), (4, 2), (3, 5)])
    def test_no_pixel_is_left_out_of_a_smaller_grid(self, rng, size):
        (maps,) = stages(rng, sizes=((4, 5),))
        wanted = torch.nn.functional.adaptive_avg_pool2d(maps, size)
        torch.testing.assert_close(spectrum.pool_to(maps, size), wanted)

    def test_a_bin_below_a_hundredth_of_its_clip_stays_shorter_in_proportion(self):
        frames = torch.arange(8, dtype=torch.float64)[None, :, None, None]

        def length(share):
            """Of bin 2, where it has this share of the length of a clip that hardly moves."""
            signal = 1 + share * math.sqrt(2) * torch.cos(2 * math.pi * 2 * frames / 8)
            return float(spectrum.spectral_shape(signal, scale="bin")[0, 2]) * math.sqrt(5)

        assert [length(share) for share in (0.02, 0.01, 0.005)] == pytest.approx([1, 1, 0.5], rel=1e-3)

    def test_bin_weights_are_factors_on_the_spectra_of_whole_clips(self, rng):
        (ours,), (theirs,) = (stages(rng, frames=7, sizes=((4, 6),)) for _ in range(2))
        weights, units = np.array([0.5, 0, 2, 3]), []
        for x in (ours.numpy(), theirs.numpy()):
            amplitude = np.abs(np.fft.rfft(x, axis=1)) * np.array([1, *[math.sqrt(2)] * 3])[:, None, None]
            flat = (amplitude * weights[:, None, None]).reshape(3, -1)
            units.append(flat / np.linalg.norm(flat, axis=1, keepdims=True))
        actual = spectrum.spectrum_distillation([ours], [theirs], bin_weights=torch.from_numpy(weights))
        np.testing.assert_allclose(actual.numpy(), ((units[0] - units[1]) ** 2).sum(1), atol=1e-5)

    def test_bin_weights_choose_what_counts(self, rng):
        ours = stages(rng, sizes=((2, 2),))
        theirs = [ours[0] + 5]
        without_dc = torch.tensor([0.0, 1, 1, 1, 1], dtype=torch.float64)
        assert spectrum.spectrum_distillation(ours, theirs, bin_weights=without_dc).max() < 1e-9
        assert spectrum.spectrum_distillation(ours, theirs).min() > 1e-3

    @pytest.mark.parametrize("scale", ["clip", "bin"])
    @pytest.mark.parametrize("form", ["amplitude", "log-amplitude", "complex"])
    def test_gradients_are_right(self, rng, form, scale):
        ours, theirs = stages(rng, batch=1, frames=5, sizes=((2, 2),)), stages(rng, batch=1, frames=5, sizes=((2, 2),))
        assert torch.autograd.gradcheck(
            lambda x: spectrum.spectrum_distillation([x], theirs, form, scale=scale), ours[0].requires_grad_()
        )

    @pytest.mark.parametrize("scale", ["clip", "bin"])
    def test_a_still_clip_has_a_finite_gradient(self, scale):
        """Every bin but DC is exactly zero there, where an absolute value has no gradient."""
        still = torch.ones(1, 8, 2, 2, dtype=torch.float64, requires_grad=True)
        other = torch.rand(1, 8, 2, 2, dtype=torch.float64)
        spectrum.spectrum_distillation([still], [other], scale=scale).sum().backward()
        assert torch.isfinite(still.grad).all()

    @pytest.mark.parametrize("scale", ["clip", "bin"])
    @pytest.mark.parametrize(
        ("weights", "message"),
        [
            ([1, 1, 1, 1], "4 bin weights for 5 bins"),
            ([1], "1 bin weights for 5 bins"),
            ([1, 1, -1, 1, 1], "must be 0 or more"),
            ([1, 1, math.nan, 1, 1], "must be 0 or more"),
        ],
    )
    def test_refuses_bin_weights_that_do_not_fit(self, rng, scale, weights, message):
        with pytest.raises(TrainingError, match=message):
            spectrum.spectrum_distillation(
                stages(rng), stages(rng), scale=scale, bin_weights=torch.tensor(weights, dtype=torch.float64)
            )

    def test_refuses_other_frames_and_stages(self, rng):
        with pytest.raises(TrainingError, match="7 frames and the teacher 8"):
            spectrum.spectrum_distillation(stages(rng, frames=7), stages(rng, frames=8))
        with pytest.raises(TrainingError, match="2 stages and the teacher 1"):
            spectrum.spectrum_distillation(stages(rng), stages(rng)[:1])


class TestParameterDistribution:
    @pytest.mark.parametrize("size", [2, 3, 5, 7])
    def test_dct_equals_scipy(self, rng, size):
        kernel = rng.normal(size=(4, 2, size, size))
        expected = scipy.fft.dctn(kernel, type=2, norm="ortho", axes=(2, 3)).reshape(8, -1)
        np.testing.assert_allclose(
            parameters.kernel_coefficients([torch.from_numpy(kernel)]).numpy(), expected, atol=1e-12
        )

    def test_energy_shares_keep_the_energy_and_sum_to_one(self, rng):
        kernels = [torch.from_numpy(rng.normal(size=(4, 2, 3, 3))), torch.from_numpy(rng.normal(size=(6, 1, 3, 3)))]
        coefficients = parameters.kernel_coefficients(kernels)
        assert coefficients.shape == (4 * 2 + 6, 9)
        assert coefficients.square().sum().item() == pytest.approx(sum(k.square().sum().item() for k in kernels))
        assert parameters.energy_shares(coefficients).sum().item() == pytest.approx(1)

    def test_flat_kernels_have_all_energy_at_dc(self):
        shares = parameters.energy_shares(parameters.kernel_coefficients([torch.ones(2, 2, 3, 3, dtype=torch.float64)]))
        assert shares[0].item() == pytest.approx(1, abs=1e-6)

    def test_energy_divergence_equals_scipy(self, rng):
        ours, theirs = (torch.from_numpy(rng.normal(size=(10, 9)) * rng.uniform(0.5, 2, 9)) for _ in range(2))
        expected = scipy.stats.entropy((theirs.numpy() ** 2).sum(0), (ours.numpy() ** 2).sum(0))
        shares = [parameters.energy_shares(coefficients) for coefficients in (ours, theirs)]
        assert parameters.energy_divergence(*shares).item() == pytest.approx(expected, rel=1e-6)

    def test_quantiles_equal_numpy(self, rng):
        coefficients = rng.normal(size=(50, 9))
        expected = np.quantile(coefficients / np.sqrt((coefficients**2).mean()), (np.arange(32) + 0.5) / 32, axis=0)
        np.testing.assert_allclose(
            parameters.coefficient_quantiles(torch.from_numpy(coefficients)).numpy(), expected, atol=1e-6
        )

    def test_quantiles_are_apart_by_the_square_of_a_shift(self, rng):
        quantiles = torch.from_numpy(rng.normal(size=(32, 9)))
        assert parameters.quantile_distance(quantiles + 0.5, quantiles).item() == pytest.approx(0.25)

    @pytest.mark.parametrize("form", ["energy", "quantiles"])
    def test_stages_count_alike_and_those_that_either_model_lacks_are_passed_over(self, rng, form):
        first, second, third, fourth = ([torch.from_numpy(rng.normal(size=(6, 4, 3, 3)))] for _ in range(4))
        both = parameters.parameter_distillation([first, second, [], third], [third, fourth, first, []], form)
        describe, distance = parameters.PARAMETER_FORMS[form]
        pairs = [[describe(parameters.kernel_coefficients(side)) for side in pair]
                 for pair in ((first, third), (second, fourth))]  # fmt: skip
        torch.testing.assert_close(both, (distance(*pairs[0]) + distance(*pairs[1])) / 2)

    def test_refuses_another_number_of_stages(self):
        stage = [torch.rand(2, 2, 3, 3)]
        with pytest.raises(TrainingError, match="the student has 1 stages and the teacher 2"):
            parameters.parameter_distillation([stage], [stage, stage], "energy")

    @pytest.mark.parametrize("form", ["energy", "quantiles"])
    def test_depends_on_neither_scale_nor_order_of_filters(self, rng, form):
        kernels = torch.from_numpy(rng.normal(size=(6, 4, 3, 3)))
        other = (3 * kernels.flip(0)).contiguous()
        assert parameters.parameter_distillation([[kernels]], [[other]], form).item() == pytest.approx(0, abs=1e-9)

    @pytest.mark.parametrize("form", ["energy", "quantiles"])
    def test_gradients_are_right(self, rng, form):
        theirs = torch.from_numpy(rng.normal(size=(5, 2, 3, 3)))
        ours = torch.from_numpy(rng.normal(size=(3, 2, 3, 3))).requires_grad_()
        assert torch.autograd.gradcheck(lambda x: parameters.parameter_distillation([[x]], [[theirs]], form), ours)

    def test_quantiles_of_dead_kernels_have_a_gradient(self):
        dead = torch.zeros(4, 2, 3, 3, requires_grad=True)
        parameters.parameter_distillation([[dead]], [[torch.rand(4, 2, 3, 3)]], "quantiles").backward()
        assert torch.isfinite(dead.grad).all()

    def test_refuses_models_without_spatial_kernels(self):
        with pytest.raises(TrainingError, match="no stage has spatial kernels") as caught:
            parameters.parameter_distillation([[], []], [[], []], "energy")
        assert "distill.parameters.weight: 0" in caught.value.remedy

    def test_refuses_kernels_of_other_sizes(self, rng):
        with pytest.raises(TrainingError, match="kernels of 3 and 5"):
            parameters.parameter_distillation([[torch.rand(2, 2, 3, 3)]], [[torch.rand(2, 2, 5, 5)]], "energy")

    @pytest.mark.parametrize("side", ["student", "teacher"])
    @pytest.mark.parametrize("form", ["energy", "quantiles"])
    @pytest.mark.parametrize(
        ("shapes", "message"), [(((3, 3), (5, 5)), "kernels of 3 and 5"), (((3, 5),), "kernels of 3x5")]
    )
    def test_refuses_kernels_of_one_stage_that_differ_in_size(self, side, form, shapes, message):
        stage, plain = [torch.rand(2, 2, *shape) for shape in shapes], [torch.rand(2, 2, 3, 3)]
        given = {"student": [plain], "teacher": [plain]} | {side: [stage]}
        with pytest.raises(TrainingError, match=message):
            parameters.parameter_distillation(**given, form=form)


class TestCollaboration:
    def test_learned_noise_settles_where_theory_says(self):
        """At s = log(2 L) its gradient vanishes: a term then weighs w / (2 L)."""
        values, weights = torch.tensor([[0.5, 3.0], [0.1, 7.0]], dtype=torch.float64)
        values.requires_grad_()
        s = (2 * values.detach()).log().requires_grad_()
        collaboration.learned_noise(values, weights, s).sum().backward()
        assert s.grad.abs().max() < 1e-12
        torch.testing.assert_close(values.grad, weights / (2 * values.detach()))

    def test_confidence_has_mean_one_and_follows_the_teacher(self):
        logits = torch.tensor([[4.0, 0.0], [0.0, 4.0], [0.0, 0.0]])
        weights = collaboration.teacher_confidence(logits, torch.eye(2)[[0, 0, 0]])
        assert weights.mean().item() == pytest.approx(1)
        assert weights[0] > weights[2] > weights[1]

    def test_confidence_compares_clips_of_which_the_teacher_is_sure_and_wrong(self):
        weights = collaboration.teacher_confidence(torch.tensor([[0.0, 200.0], [0.0, 201.0]]), torch.eye(2)[[0, 0]])
        assert weights.mean().item() == pytest.approx(1)
        assert (weights[0] / weights[1]).item() == pytest.approx(math.e, rel=1e-4)

    def test_drawn_terms_are_fair_in_the_mean(self):
        generator = torch.Generator().manual_seed(0)
        draws = torch.stack([collaboration.drawn_term(torch.tensor([5.0, 3.0, 2.0]), generator) for _ in range(20000)])
        assert ((draws > 0).sum(1) == 1).all()
        torch.testing.assert_close(draws.mean(0), torch.ones(3), atol=0.1, rtol=0)


class TestRivals:
    def test_attention_transfer_equals_numpy(self, rng):
        ours, theirs = stages(rng), stages(rng)
        expected = np.zeros(3)
        for a, b in zip(ours, theirs, strict=True):
            flat = [x.numpy().reshape(3, -1) for x in (a, b)]
            units = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in flat]
            expected += ((units[0] - units[1]) ** 2).sum(1)
        np.testing.assert_allclose(rivals.attention_transfer(ours, theirs).numpy(), expected, rtol=1e-6)

    @pytest.mark.parametrize("temperature", [1, 4])
    def test_dist_equals_numpy(self, rng, temperature):
        ours, theirs = rng.normal(size=(2, 6, 4))
        soft = [scipy.special.softmax(x / temperature, axis=1) for x in (ours, theirs)]
        rows = [1 - np.corrcoef(a, b)[0, 1] for a, b in zip(*soft, strict=True)]
        columns = [1 - np.corrcoef(a, b)[0, 1] for a, b in zip(soft[0].T, soft[1].T, strict=True)]
        actual = rivals.dist(torch.from_numpy(ours), torch.from_numpy(theirs), temperature).numpy()
        np.testing.assert_allclose(actual, (np.array(rows) + np.mean(columns)) * temperature**2, rtol=1e-6)

    def test_relational_equals_numpy(self, rng):
        embeddings = rng.normal(size=(5, 3)), rng.normal(size=(5, 7))
        matrices = []
        for x in embeddings:
            distances = np.linalg.norm(x[:, None] - x[None], axis=2)
            matrices.append(distances / (distances.sum() / 20))
        gap = np.abs(matrices[0] - matrices[1])
        expected = np.where(gap < 1, gap**2 / 2, gap - 0.5).mean(1)
        actual = rivals.relational(*(torch.from_numpy(x) for x in embeddings)).numpy()
        np.testing.assert_allclose(actual, expected, atol=1e-5)

    @pytest.mark.parametrize("logits", [torch.zeros(3, 5), torch.eye(3) * 1e4, torch.randn(1, 5)])
    def test_dist_of_the_same_predictions_is_zero_even_where_they_do_not_vary(self, logits):
        assert rivals.dist(logits, logits, temperature=4).abs().max() < 1e-4

    def test_dist_of_a_student_that_tells_nothing_apart_is_that_of_no_correlation(self, rng):
        teacher = torch.from_numpy(rng.normal(size=(3, 5)))
        torch.testing.assert_close(rivals.dist(0 * teacher, teacher, 4), torch.full((3,), 2.0 * 4**2).double())

    @pytest.mark.parametrize("loss", [rivals.attention_transfer, rivals.fitnet, rivals.spatial_spectrum])
    def test_other_stages_clips_and_frames_are_refused(self, loss):
        maps = torch.rand(2, 4, 6, 6)
        with pytest.raises(TrainingError, match="the student has 1 stages and the teacher 2"):
            loss([maps], [maps, maps])
        with pytest.raises(TrainingError, match="the student has 1 clips and the teacher 2"):
            loss([maps[:1]], [maps])
        with pytest.raises(TrainingError, match="the student has 1 frames and the teacher 4"):
            loss([maps[:, :1]], [maps])

    @pytest.mark.parametrize(
        "loss", [lambda a, b: rivals.logit_distillation(a, b, 4), lambda a, b: rivals.dist(a, b, 4)]
    )
    def test_other_clips_and_classes_are_refused(self, loss):
        logits = torch.rand(4, 6)
        with pytest.raises(TrainingError, match="the student has 1 clips and the teacher 4"):
            loss(logits[:1], logits)
        with pytest.raises(TrainingError, match="the student has 6 classes and the teacher 1"):
            loss(logits, logits[:, :1])
        with pytest.raises(TrainingError, match=r"of shape \(6,\) and the teacher's of \(4, 6\)"):
            loss(logits[0], logits)

    def test_other_clips_have_no_relations(self):
        with pytest.raises(TrainingError, match="the student has 1 clips and the teacher 4"):
            rivals.relational(torch.rand(1, 3), torch.rand(4, 5))

    @pytest.mark.parametrize(
        "loss", [rivals.attention_transfer, rivals.fitnet, rivals.spatial_spectrum, spectrum.spectrum_distillation]
    )
    def test_maps_are_not_compared_with_features(self, loss):
        maps, features = torch.rand(2, 4, 6, 6), torch.rand(2, 4, 6, 6, 6)
        with pytest.raises(TrainingError, match=r"of shape \(2, 4, 6, 6\) and the teacher's of \(2, 4, 6, 6, 6\)"):
            loss([maps], [features])
        with pytest.raises(TrainingError, match="the student has 6 channels and the teacher 5"):
            loss([features], [features[:, :, :5]])

    @pytest.mark.parametrize("width", [5, 6])
    def test_spatial_spectrum_is_that_of_numpys_half_plane(self, rng, width):
        ours, theirs = (stages(rng, sizes=((4, width), (3, 2))) for _ in range(2))
        expected = np.zeros(3)
        for a, b in zip(ours, theirs, strict=True):
            flat = [np.abs(np.fft.fft2(x.numpy()))[..., : x.shape[-1] // 2 + 1].reshape(3, -1) for x in (a, b)]
            units = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in flat]
            expected += ((units[0] - units[1]) ** 2).sum(1)
        np.testing.assert_allclose(rivals.spatial_spectrum(ours, theirs).numpy(), expected, rtol=1e-6)

    def test_spatial_spectrum_has_the_gradient_it_says(self):
        ours, theirs = torch.rand(2, 1, 2, 3, 4, dtype=torch.float64)
        ours.requires_grad_()
        assert torch.autograd.gradcheck(lambda maps: rivals.spatial_spectrum([maps], [theirs]), ours)

    def test_every_weight_has_its_term(self):
        assert set(Distill().weights) == set(TERMS)

    def test_spatial_spectrum_does_not_see_a_shift_in_space(self, rng):
        maps = stages(rng)
        moved = [x.roll((1, 2), dims=(2, 3)) for x in maps]
        assert rivals.spatial_spectrum(moved, maps).abs().max() < 1e-5
        assert rivals.spatial_spectrum(stages(rng), maps).min() > 1e-3

    def test_attention_transfer_is_the_spectrum_of_maps_with_its_phases(self, rng):
        ours, theirs = ([torch.tensor(rng.random((3, t, 5, 4))) for t in (7, 8)] for _ in range(2))
        spectra = spectrum.spectrum_distillation(ours, theirs, form="complex", over="space-time")
        torch.testing.assert_close(rivals.attention_transfer(ours, theirs), spectra)

    def test_fitnet_is_the_mean_squared_error(self, rng):
        sides = [[torch.from_numpy(rng.normal(size=(3, 4, 5, size, size))) for size in (4, 2)] for _ in range(2)]
        expected = sum(((ours - theirs) ** 2).reshape(3, -1).mean(1) for ours, theirs in zip(*sides, strict=True)) / 2
        torch.testing.assert_close(rivals.fitnet(*sides), expected)


def of_maps(loss):
    """A loss of features that sees their attention maps."""
    return lambda ours, theirs: loss([spectrum.attention_maps(ours)], [spectrum.attention_maps(theirs)])


FEATURES, MAPS, LOGITS, KERNELS = (2, 6, 5, 4, 6), (2, 6, 4, 6), (4, 7), (6, 4, 3, 3)
LOSSES = {
    "logits": (lambda ours, theirs: rivals.logit_distillation(ours, theirs, 4.0), LOGITS),
    "dist": (lambda ours, theirs: rivals.dist(ours, theirs, 4.0), LOGITS),
    "relational": (rivals.relational, LOGITS),
    "fitnet": (lambda ours, theirs: rivals.fitnet([ours], [theirs]), FEATURES),
    "attention": (of_maps(rivals.attention_transfer), FEATURES),
    "attention of maps": (lambda ours, theirs: rivals.attention_transfer([ours], [theirs]), MAPS),
    "spatial_spectrum": (of_maps(rivals.spatial_spectrum), FEATURES),
    "spatial_spectrum of maps": (lambda ours, theirs: rivals.spatial_spectrum([ours], [theirs]), MAPS),
    "energy": (lambda ours, theirs: parameters.parameter_distillation([[ours]], [[theirs]], "energy"), KERNELS),
    "quantiles": (lambda ours, theirs: parameters.parameter_distillation([[ours]], [[theirs]], "quantiles"), KERNELS),
    "spectrum": (of_maps(spectrum.spectrum_distillation), FEATURES),
    "spectrum of channels": (lambda ours, theirs: spectrum.spectrum_distillation([ours], [theirs]), FEATURES),
} | {
    f"spectrum, {form}, by {scale}": (
        lambda a, b, form=form, scale=scale: spectrum.spectrum_distillation([a], [b], form, scale=scale),
        MAPS,
    )
    for form in ("amplitude", "log-amplitude", "complex")
    for scale in ("clip", "bin")
}  # fmt: skip


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", LOSSES)
class TestHalfPrecision:
    def test_a_loss_is_that_of_float(self, rng, name, kind):
        loss, shape = LOSSES[name]
        ours, theirs = (torch.from_numpy(rng.normal(size=shape)).to(kind) for _ in range(2))
        sides = [ours.requires_grad_(), ours.detach().float().requires_grad_()]
        values = [loss(sides[0], theirs), loss(sides[1], theirs.float())]
        for value in values:
            value.sum().backward()
        tolerance = 2 * float(torch.finfo(kind).eps)
        torch.testing.assert_close(*values, atol=tolerance, rtol=10 * tolerance, check_dtype=False)
        size = float(sides[1].grad.abs().max())
        assert sides[0].grad.dtype == kind
        torch.testing.assert_close(
            sides[0].grad, sides[1].grad, atol=5 * tolerance * size, rtol=5 * tolerance, check_dtype=False
        )

    def test_values_beyond_the_square_root_of_the_largest_number_are_no_matter(self, rng, name, kind):
        loss, shape = LOSSES[name]
        ours, theirs = (torch.from_numpy(rng.normal(size=shape) * 1e3).to(kind).requires_grad_() for _ in range(2))
        loss(ours, theirs.detach()).sum().backward()
        assert torch.isfinite(loss(ours, theirs)).all()
        assert torch.isfinite(ours.grad).all()

    @pytest.mark.parametrize("value", [0.0, 1.0])
    def test_what_is_the_same_everywhere_has_a_finite_value_and_gradient(self, rng, name, kind, value):
        loss, shape = LOSSES[name]
        still, other = torch.full(shape, value, dtype=kind).requires_grad_(), torch.from_numpy(rng.normal(size=shape))
        found = loss(still, other.to(kind))
        found.sum().backward()
        assert torch.isfinite(found).all()
        # the gradient of dead kernels is beyond float16, in which none are trained
        assert torch.isfinite(still.grad).all() or (name, kind, value) == ("quantiles", torch.float16, 0)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_a_single_clip_in_half_precision_has_no_distances(kind):
    one = torch.ones(1, 5, dtype=kind, requires_grad=True)
    rivals.relational(one, 2 * one.detach()).sum().backward()
    assert not one.grad.any()


def test_attention_maps_of_large_float16_features_are_right():
    features = torch.full((1, 2, 3, 2, 2), 300.0, dtype=torch.float16, requires_grad=True)
    maps = spectrum.attention_maps(features)
    maps.backward(torch.full_like(maps, 1e-3))
    assert (maps == 9e4).all()
    torch.testing.assert_close(features.grad, torch.full_like(features, 2 * 300 / 3 * 1e-3))
