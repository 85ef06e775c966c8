"""The temporal shift of TSM (arXiv 1811.08383), written out of place so that it exports as it runs."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def temporal_shift(x: Tensor, frames: int, fraction: float) -> Tensor:
    """Shows every frame some channels of its neighbours, at no arithmetic cost.

    The first ``fraction / 2`` of the channels come from the next frame, as many from the previous one, the rest stay;
    the ends are filled with zeros.

    Args:
        x: (batch * frames, channels, height, width), frames of a clip in order.
        frames: frames in a clip.
        fraction: share of channels that move, both ways together.

    Returns:
        A tensor of the same shape.
    """
    channels, height, width = x.shape[1:]
    fold = int(channels * fraction / 2)
    if fold == 0 or frames == 1:
        return x
    clips = x.reshape(-1, frames, channels, height, width)
    ahead, behind, still = clips[:, 1:, :fold], clips[:, :-1, fold : 2 * fold], clips[:, :, 2 * fold :]
    gap = torch.zeros_like(clips[:, :1, :fold])
    shifted = torch.cat([torch.cat([ahead, gap], 1), torch.cat([gap, behind], 1), still], 2)
    return shifted.reshape(-1, channels, height, width)


class Shift(nn.Module):
    """``temporal_shift`` as a module; it holds no parameters, so checkpoints do not see it."""

    def __init__(self, frames: int, fraction: float) -> None:
        super().__init__()
        self.frames, self.fraction = frames, fraction

    def forward(self, x: Tensor) -> Tensor:
        return temporal_shift(x, self.frames, self.fraction)
