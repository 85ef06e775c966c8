"""A student that takes after its teacher before it has learned: layer by layer, by least squares."""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cpd.config import Augment
from cpd.progress import track
from cpd_train.loader import ClipLoader
from cpd_train.models import VideoClassifier, evenly_chosen
from cpd_train.models.resnet import Layer, ResNet

CLIPS, PIXELS = 256, 1 << 24
"""How many clips it takes at most, and how many of their pixels there is memory for."""
PLACES = 1 << 16
"""At which a layer is fitted, at most: many times as many as its kernels have numbers."""
RIDGE = 1e-3
"""Of the mean variance of a layer's inputs: what hardly varies is hardly used."""
EPSILON = 1e-12


@torch.no_grad()
def fit_to_teacher(student: VideoClassifier, teacher: VideoClassifier, frames: Tensor) -> None:
    """Gives the student, layer by layer from the first, the kernels that come nearest to the teacher's answers.

    Each convolution sees what the student's own layers before it make of the clips, so that it makes up for what those
    lack. It is asked for evenly chosen channels of what the teacher's layer says after its batch norm; the last of a
    block for what the shortcut leaves of the block's sum. A block of the student stands for as many of the teacher's as
    it has fewer. Kernels keep their lengths, since their scale is the batch norm's. The classifier is fitted to the
    teacher's logits.

    Least squares to a larger network's answers mends pruned networks with few clips (arXiv 1707.06168, 1812.01839).

    Args:
        student: a ResNet that holds a sample of the teacher (``start.sampled_from_teacher``), as which its stem stays.
        teacher: of the same blocks, no narrower and no shallower.
        frames: (clips, frames, height, width, 3) uint8, as they are trained on.
    """
    ours, theirs = student.eval().backbone, teacher.eval().backbone
    assert isinstance(ours, ResNet)
    assert isinstance(theirs, ResNet)
    said: dict[nn.Module, Tensor] = {}
    hooks = [
        norm.register_forward_hook(lambda norm, _, answer: said.update({norm: at_places(answer)}))
        for norm in theirs.modules()
        if isinstance(norm, nn.BatchNorm2d)
    ]
    hooks += [  # of what a block's activation sees, the last is the sum
        block.relu.register_forward_pre_hook(lambda relu, seen: said.update({relu: at_places(seen[0])}))
        for stage in theirs.blocks
        for block in stage
    ]
    logits = theirs.head(theirs.stages(teacher.normalise(frames))[-1])
    for hook in hooks:
        hook.remove()
    x = ours.stem(student.normalise(frames))
    pairs = zip(ours.blocks, theirs.blocks, strict=True)
    for stage, its in track(pairs, "fitting the student", len(ours.blocks), "stage"):
        for index, block in enumerate(stage):
            first, last = index * len(its) // len(stage), (index + 1) * len(its) // len(stage) - 1
            model = its[first]
            if block.downsample is not None and model.downsample is not None:
                _fit_layer(block.downsample.layer, x, said[model.downsample.layer[1]])
            y = block.shift(x)
            *inner, outer = block.branch
            for layer, (_, its_norm) in zip(inner, model.branch, strict=False):
                y = block.relu(_fit_layer(layer, y, said[its_norm]))
            _fit_layer(outer, y, said[its[last].relu], given=block.shortcut(x))
            x = block(x)
    seen = x.mean((2, 3))
    weight, bias = least_squares(seen, logits - ours.fc(seen))
    ours.fc.weight.add_(weight)
    ours.fc.bias.add_(bias)
    student.train()


def clips_to_fit(training: ClipLoader, augment: Augment, seed: int, views: int) -> Tensor:
    """(clips, frames, height, width, 3) uint8: the first that a training will see; arguments as for ``fit``."""
    clips = max(1, min(CLIPS, PIXELS // (math.prod(training.spec.shape) // 3)))
    batches = islice(training.train(augment, seed, 0, views), -(-clips // training.batch_size))
    return torch.cat([batch.frames for batch in batches])[:clips]


def _fit_layer(layer: Layer, x: Tensor, wanted: Tensor, given: Tensor | None = None) -> Tensor:
    """Sets a convolution and its batch norm, but for channels that are asked for one value everywhere.

    Args:
        x: what it sees, (n, channels, height, width).
        wanted: what the teacher has in its place, (places, channels).
        given: what will be added, (n, outputs, height, width).

    Returns:
        What the layer then says.
    """
    conv, norm = layer
    asked = evenly_chosen(wanted, torch.Size((len(wanted), conv.out_channels)))
    if given is not None:
        asked = asked - at_places(given)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    seen = _patches(x, conv)
    # from the sample on: where clips are too few to tell, it stays
    sample = conv.weight.flatten(1) * (norm.weight / (norm.running_var + norm.eps).sqrt())[:, None]
    weight = sample + least_squares(seen, asked - seen @ sample.T)[0]
    said = seen @ weight.T
    spread = said.std(0)
    varied = spread > EPSILON
    scale = (conv.weight.flatten(1).norm(dim=1) / weight.norm(dim=1))[varied]
    conv.weight[varied] = (weight[varied] * scale[:, None]).unflatten(1, conv.weight.shape[1:])
    norm.weight[varied], norm.bias[varied] = spread[varied], asked.mean(0)[varied]
    norm.running_mean[varied], norm.running_var[varied] = said.mean(0)[varied] * scale, (spread[varied] * scale) ** 2
    answer: Tensor = norm(conv(x))
    return answer


def least_squares(seen: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """The linear map from (n, inputs) that comes nearest to (n, outputs), with a little ridge.

    Returns:
        Its weight, (outputs, inputs), and bias, (outputs,), as of a linear layer.
    """
    mean, aim = seen.mean(0), wanted.mean(0)
    centred = seen - mean
    spread = (centred.T @ centred / len(seen)).double()
    spread.diagonal().add_(RIDGE * spread.diagonal().mean() + EPSILON)
    weight = torch.linalg.solve(spread, (centred.T @ (wanted - aim) / len(seen)).double()).T.to(seen.dtype)
    return weight, aim - weight @ mean


def at_places(values: Tensor) -> Tensor:
    """(n, channels, height, width) -> (places, channels): all there are or ``PLACES`` of them, the same each time."""
    image, row, column = _places(*values.shape[:1], *values.shape[2:], values.device)
    return values[image, :, row, column]


def _patches(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """What a convolution sees at the places of its output, (places, inputs * kernel height * kernel width)."""
    kernel, stride = conv.kernel_size[0], conv.stride[0]
    windows = F.pad(x, (kernel // 2,) * 4).unfold(2, kernel, stride).unfold(3, kernel, stride)
    image, row, column = _places(*windows.shape[:1], *windows.shape[2:4], windows.device)
    return windows[image, :, row, column].flatten(1)


@lru_cache(maxsize=8)  # the grids of one network
def _places(n: int, height: int, width: int, device: torch.device) -> tuple[Tensor, ...]:
    """The images, rows and columns of the places in (n, channels, height, width)."""
    drawn = torch.randperm(n * height * width, generator=torch.Generator().manual_seed(0))[:PLACES]
    return torch.unravel_index(drawn.to(device), (n, height, width))
