"""A student that takes after its teacher before it has learned: layer by layer, by least squares."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cpd.config import Augment
from cpd.progress import track
from cpd_train.loader import ClipLoader
from cpd_train.models import VideoClassifier, evenly_chosen
from cpd_train.models.block import Block, Layer

Grid = tuple[int, int]
"""Height and width."""
CLIPS, PIXELS = 256, 1 << 23
"""How many clips it takes at most, and how many of their pixels there is memory for."""
PLACES = 1 << 16
"""At which a layer is fitted, at most: many times as many as its kernels have numbers."""
RIDGE = 1e-3
"""At least, of the mean variance of a layer's inputs: what hardly varies is hardly used."""
RIDGE_OF_INPUTS = 0.1
"""The same for as many inputs as rows: the fewer rows for each input, the less are they to be believed."""
EPSILON = 1e-12
LEAST_VARIANCE = 1e-2
"""Of what a random layer says, as a share of what independent inputs of variance 1 would make it."""


@torch.no_grad()
def fit_to_teacher(student: VideoClassifier, teacher: VideoClassifier, frames: Tensor, *, sampled: bool) -> None:
    """Gives the student, layer by layer from the first, the kernels that come nearest to the teacher's answers.

    Each convolution sees what the student's own layers before it make of the clips, so that it makes up for what those
    lack. It is asked for evenly chosen channels of what the teacher's layer says after its batch norm; the last of a
    block for what the shortcut leaves of the block's sum. Blocks of a stage stand for the teacher's, in their order.
    Kernels keep their lengths, since their scale is the batch norm's. The classifier is fitted to the teacher's logits.

    Least squares to a larger network's answers mends pruned networks with few clips (arXiv 1707.06168, 1812.01839).

    Networks of two families have stages in common, and no layers within a block. There the inner layers stay random,
    as in an extreme learning machine (Huang et al., 2006), and the last of each block alone is fitted, with the
    shortcut's, to the teacher's sums on the student's grid. Channels beyond as many as the teacher has stay random.

    Args:
        student: as it begins: at random, or a sample of the teacher (``start.sampled_from_teacher``), whose stem stays.
        teacher: of as many stages.
        frames: (clips, frames, height, width, 3) uint8, as they are trained on.
        sampled: whether the student is such a sample.
    """
    ours, theirs = student.eval().backbone, teacher.eval().backbone
    pairs = [
        (block, its[index * len(its) // len(stage)], its[max((index + 1) * len(its) // len(stage) - 1, 0)])
        for stage, its in zip(ours.blocks, theirs.blocks, strict=True)
        for index, block in enumerate(stage)
    ]
    grids = _grids([block for block, _, _ in pairs], student, frames[:1])
    said: dict[object, Tensor] = {}

    def keep(key: object, answer: Tensor, grid: Grid) -> None:
        said[key] = at_places(_on_grid(answer, grid))

    hooks = [  # of what the end of a block is given, the last is the sum
        last.last.register_forward_pre_hook(lambda _, given, key=(last, grid): keep(key, given[0], key[1]))
        for last, grid in dict.fromkeys((last, grids[block]) for block, _, last in pairs)
    ]
    hooks += [
        norm.register_forward_hook(lambda norm, _, answer: keep(norm, answer, answer.shape[2:]))
        for norm in theirs.modules()
        if sampled and isinstance(norm, nn.BatchNorm2d)
    ]
    logits = theirs.head(theirs.stages(teacher.normalise(frames))[-1])
    for hook in hooks:
        hook.remove()

    def fit_layer(layer: Layer, x: Tensor, wanted: Tensor, given: Tensor | None = None) -> None:
        if not sampled:
            _measure(layer, x)
        _fit_layer(layer, x, wanted, given)

    x = student.normalise(frames)
    if not sampled:
        _measure(ours.stem_layer, x)
    x = ours.stem(x)
    for block, first, last in track(pairs, "fitting the student", len(pairs), "block"):
        wanted = said[last, grids[block]]
        if block.shortcut_layer is not None:
            its_shortcut = first.shortcut_layer if sampled else None
            fit_layer(block.shortcut_layer, x, wanted if its_shortcut is None else said[its_shortcut[1]])
        y = block.shift(x)
        *inner, outer = block.branch
        for index, layer in enumerate(inner):
            y = block.relu(_fit_layer(layer, y, said[first.branch[index][1]]) if sampled else _measure(layer, y))
        fit_layer(outer, y, wanted, block.shortcut(x))
        x = block(x)
    if ours.tail_layer is not None:
        _measure(ours.tail_layer, x)
    seen = ours.embedding(x)
    classifier = ours.classifier_layer
    weight, bias = least_squares(seen, logits - classifier(seen))
    classifier.weight.add_(weight)
    classifier.bias.add_(bias)
    student.train()


def clips_to_fit(training: ClipLoader, augment: Augment, seed: int, views: int) -> Tensor:
    """(clips, frames, height, width, 3) uint8: the first a training will see, unmixed; arguments as for ``fit``."""
    clips = max(1, min(CLIPS, PIXELS // (math.prod(training.spec.shape) // 3)))
    batches = islice(training.train(augment, seed, 0, views), -(-clips // training.batch_size))
    return torch.cat([batch.frames for batch in batches])[:clips]


def _grids(blocks: Sequence[Block], student: VideoClassifier, frames: Tensor) -> dict[Block, Grid]:
    """The height and width that each block answers on."""
    grids: dict[Block, Grid] = {}
    hooks = [
        block.register_forward_hook(lambda block, _, answer: grids.update({block: tuple(answer.shape[2:])}))
        for block in blocks
    ]
    student(frames)
    for hook in hooks:
        hook.remove()
    return grids


def _on_grid(values: Tensor, grid: Grid) -> Tensor:
    """(n, channels, height, width) -> (n, channels, *grid): averaged where that is coarser, else interpolated."""
    height, width = values.shape[2:]
    if (height, width) == grid:
        return values
    if height >= grid[0] and width >= grid[1]:
        return F.adaptive_avg_pool2d(values, grid)
    return F.interpolate(values, grid, mode="bilinear", align_corners=False)


def _measure(layer: Layer, x: Tensor) -> Tensor:
    """Tells a batch norm the mean and the variance of what it will see; returns what the layer then says.

    Clips that stand still vary so little that the inverse would blow up what varies on others: ``LEAST_VARIANCE``.
    """
    conv, norm = layer
    assert norm.running_mean is not None
    assert norm.running_var is not None
    answer = conv(x)
    least = LEAST_VARIANCE * conv.weight.flatten(1).square().sum(1)
    norm.running_mean.copy_(answer.mean((0, 2, 3)))
    norm.running_var.copy_(answer.var((0, 2, 3), correction=0).maximum(least))  # of a single value it is none
    said: Tensor = norm(answer)
    return said


def _fit_layer(layer: Layer, x: Tensor, wanted: Tensor, given: Tensor | None = None) -> Tensor:
    """Sets a convolution and its batch norm, but for channels that are asked for one value everywhere, or for nothing.

    Args:
        x: what it sees, (n, channels, height, width).
        wanted: what the teacher has in its place, (places, channels); the first outputs are asked for it, if there are
            more.
        given: what will be added, (n, outputs, height, width).

    Returns:
        What the layer then says.
    """
    conv, norm = layer
    count = min(conv.out_channels, wanted.shape[1])
    asked = evenly_chosen(wanted, torch.Size((len(wanted), count)))
    if given is not None:
        asked = asked - at_places(given)[:, :count]
    assert norm.running_mean is not None
    assert norm.running_var is not None
    seen = _patches(x, conv)
    # from the kernels that it has: where clips are too few to tell, they stay
    before = (conv.weight.flatten(1) * (norm.weight / (norm.running_var + norm.eps).sqrt())[:, None])[:count]
    weight = before + least_squares(seen, asked - seen @ before.T)[0]
    said = seen @ weight.T
    spread = said.std(0, correction=0)  # of a single place it is none
    varied = (spread > EPSILON).nonzero().flatten()
    scale = (conv.weight[:count].flatten(1).norm(dim=1) / weight.norm(dim=1))[varied]
    conv.weight[varied] = (weight[varied] * scale[:, None]).unflatten(1, conv.weight.shape[1:])
    norm.weight[varied], norm.bias[varied] = spread[varied], asked.mean(0)[varied]
    norm.running_mean[varied], norm.running_var[varied] = said.mean(0)[varied] * scale, (spread[varied] * scale) ** 2
    answer: Tensor = norm(conv(x))
    return answer


def least_squares(seen: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """The linear map from (n, inputs) that comes nearest to (n, outputs), with a ridge.

    It is in proportion to inputs / n, as the best one for weights and noise of some size is (Hoerl et al., 1975).

    Returns:
        Its weight, (outputs, inputs), and bias, (outputs,), as of a linear layer.
    """
    mean, aim = seen.mean(0), wanted.mean(0)
    centred = seen - mean
    spread = (centred.T @ centred / len(seen)).double()
    ridge = max(RIDGE, RIDGE_OF_INPUTS * seen.shape[1] / len(seen))
    spread.diagonal().add_(ridge * spread.diagonal().mean() + EPSILON)
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
