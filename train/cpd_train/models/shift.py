"""The temporal shift of TSM (arXiv 1811.08383), written out of place so that it exports as it runs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def temporal_shift(x: Tensor, frames: int, fraction: float, causal: bool = False) -> Tensor:
    """Shows every frame some channels of its neighbours, at no arithmetic cost.

    The first ``fraction / 2`` of the channels come from the next frame, as many from the previous one, the rest stay;
    the ends are filled with zeros. A causal shift (the paper's online TSM) looks back alone: the first ``fraction / 2``
    come from the previous frame, the rest stay.

    Args:
        x: (batch * frames, channels, height, width), frames of a clip in order.
        frames: frames in a clip.
        fraction: share of channels that move, both ways together.
        causal: whether no frame may see a later one.

    Returns:
        A tensor of the same shape.
    """
    fold = shifted_channels(x.shape[1], fraction)
    if fold == 0 or frames == 1:
        return x
    if x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous():
        # Shifted in the order it has: otherwise each shift would undo channels-last, and the next convolution redo it.
        return _shift(x.permute(0, 2, 3, 1), frames, fold, causal, dim=-1).permute(0, 3, 1, 2)
    return _shift(x, frames, fold, causal, dim=-3)


def _shift(x: Tensor, frames: int, fold: int, causal: bool, dim: int) -> Tensor:
    """``temporal_shift`` of (batch * frames, ...) whose channels are at ``dim``, one of the last three."""
    clips = x.reshape(-1, frames, *x.shape[1:])
    moved = [_later(clips.narrow(dim, 0, fold))]
    if not causal:
        moved = [_earlier(clips.narrow(dim, 0, fold)), _later(clips.narrow(dim, fold, fold))]
    done = len(moved) * fold
    still = clips.narrow(dim, done, clips.shape[dim] - done)
    return torch.cat([*moved, still], dim).reshape(x.shape)


def shifted_channels(channels: int, fraction: float) -> int:
    """How many channels move in one direction."""
    return int(channels * fraction / 2)


def _earlier(clips: Tensor) -> Tensor:
    """Every frame gets what the next one had."""
    return F.pad(clips[:, 1:], (0, 0, 0, 0, 0, 0, 0, 1))


def _later(clips: Tensor) -> Tensor:
    """Every frame gets what the previous one had."""
    return F.pad(clips[:, :-1], (0, 0, 0, 0, 0, 0, 1, 0))


class Shift(nn.Module):
    """``temporal_shift`` as a module; it holds no parameters, so checkpoints do not see it."""

    def __init__(self, frames: int, fraction: float, causal: bool = False) -> None:
        super().__init__()
        self.frames, self.fraction, self.causal = frames, fraction, causal

    def forward(self, x: Tensor) -> Tensor:
        return temporal_shift(x, self.frames, self.fraction, self.causal)
