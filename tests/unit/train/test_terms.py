"""What each term of the loss compares, on features and answers that are written down."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.special
import torch

from cpd.clip import ClipSpec
from cpd.config import Distill
from cpd_train.losses import rivals
from cpd_train.models import ModelSpec, build_model
from cpd_train.terms import TERMS, Fixed, spatial_kernels, stage_shapes

CLIP = ClipSpec(frames=4, resize=(40, 48), crop=(32, 40))


def model(name="tsm-tiny", width=4, blocks=1):
    torch.manual_seed(0)
    return build_model(ModelSpec(name, width, blocks), 3, CLIP)


def scene(ours, theirs, **spectrum):
    """A batch whose frames have these logits, (batch, frames, labels)."""
    sides = (
        SimpleNamespace(frame_logits=logits, logits=logits.mean(1), stages=[logits[..., None, None]], embedding=logits)
        for logits in map(torch.from_numpy, (ours, theirs))
    )
    ours, theirs = sides
    theirs.embedding = theirs.embedding.mean(1)
    distill = Distill(temperature=3.0, spectrum=spectrum)
    return SimpleNamespace(ours=ours, theirs=theirs, labels=None, fixed=SimpleNamespace(distill=distill))


@pytest.fixture
def logits():
    return np.random.default_rng(0).normal(size=(2, 5, 7, 3)).astype(np.float32)


@pytest.mark.parametrize("scale", ["clip", "bin"])
def test_evidence_is_the_spectrum_with_its_phases_of_logits_without_what_all_classes_share(logits, scale):
    distances = []
    for bins in (slice(None),) if scale == "clip" else map(slice, range(4), range(1, 5)):
        units = []
        for side in logits:
            centred = side - side.mean(2, keepdims=True)
            found = np.fft.rfft(centred, axis=1)[:, bins] * np.array([1, *[math.sqrt(2)] * 3])[bins][:, None]
            flat = found.reshape(5, -1)
            units.append(flat / np.linalg.norm(flat, axis=1, keepdims=True))
        distances.append((np.abs(units[0] - units[1]) ** 2).sum(1))
    term = TERMS["evidence"].loss(scene(*logits, scale=scale))
    np.testing.assert_allclose(term, np.mean(distances, axis=0), rtol=1e-4)


def test_predictions_are_compared_at_the_temperature_and_clips_by_their_embeddings(logits):
    given = scene(*logits)
    ours, theirs = (side.logits for side in (given.ours, given.theirs))
    torch.testing.assert_close(TERMS["logits"].loss(given), rivals.logit_distillation(ours, theirs, 3.0))
    torch.testing.assert_close(TERMS["dist"].loss(given), rivals.dist(ours, theirs, 3.0))
    torch.testing.assert_close(TERMS["relational"].loss(given), rivals.relational(ours, theirs))


def test_blended_labels_count_by_their_shares(logits):
    given = scene(*logits)
    given.labels = torch.tensor([[1.0, 0, 0], [0.3, 0.7, 0], [0, 0, 1], [0, 1, 0], [0.5, 0.5, 0]])
    wanted = -(given.labels.numpy() * scipy.special.log_softmax(logits[0].mean(1), axis=1)).sum(1)
    np.testing.assert_allclose(TERMS["cross_entropy"].loss(given), wanted, rtol=1e-5)


@pytest.mark.parametrize("name", ["tsm-tiny", "tsm-mobilenetv2"])
def test_kernels_of_a_single_pixel_have_no_frequencies(name):
    kernels = spatial_kernels(model(name))
    assert len(kernels) == 4
    assert {kernel.shape[-2:] for stage in kernels for kernel in stage} == {(3, 3)}


@pytest.mark.parametrize("training", [False, True])
def test_asking_for_the_shapes_of_stages_changes_no_network(training):
    network = model().train(training)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    grids, channels = stage_shapes(network)
    assert (grids, channels) == ([(16, 20), (8, 10), (4, 5), (2, 3)], [4, 8, 16, 32])
    assert network.training == training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


@pytest.mark.parametrize(
    ("align", "grids", "channels", "adapters"),
    [
        ("auto", ((16, 20), (8, 10), (4, 5), (2, 3)), (8, 16, 32, 64), 0),
        ("adapter", ((16, 20), (8, 10), (4, 5), (2, 3)), (8, 16, 32, 64), 4),
        ("channels", ((8, 10), (4, 5), (2, 3), (1, 2)), (4, 8, 16, 32), 0),
    ],
)
def test_what_the_spectrum_is_of_follows_from_the_two_networks(align, grids, channels, adapters):
    fixed = Fixed(model(), model(width=8), Distill(spectrum={"align": align}), ["spectrum"])
    assert (fixed.spectra.grids, fixed.spectra.channels, len(fixed.adapters)) == (grids, channels, adapters)
    assert fixed.spectra.align == {"auto": "attention"}.get(align, align)
    for names, wanted in ((["logits"], 0), (["fitnet"], 4)):
        assert len(Fixed(model(), model(width=8), Distill(spectrum={"align": align}), names).adapters) == wanted
