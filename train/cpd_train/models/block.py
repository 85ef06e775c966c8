"""What the blocks of all backbones have in common: a shift, a branch of convolutions, mostly a shortcut beside it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

from torch import Tensor, nn

MakeShift = Callable[[], nn.Module]
"""Makes the module that mixes frames (nn.Identity for TSN)."""
Layer = tuple[nn.Conv2d, nn.BatchNorm2d]


class Block(nn.Module):
    """Convolutions beside a shortcut; the shift stands in the residual branch alone."""

    expansion = 1
    """Channels it gives for each of its inner ones."""
    shift: nn.Module
    relu: nn.Module
    """The activation between its convolutions."""

    @property
    @abstractmethod
    def branch(self) -> list[Layer]:
        """The convolutions in their order, each with its batch norm."""

    @property
    @abstractmethod
    def last(self) -> nn.Module:
        """What is done to the sum of branch and shortcut, the last that it is given."""

    @property
    def shortcut_layer(self) -> Layer | None:
        """The convolution of the shortcut, where it has one."""
        return None

    @abstractmethod
    def shortcut(self, x: Tensor) -> Tensor | None:
        """What stands beside the branch, if anything does."""
