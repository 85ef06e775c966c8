"""ResNet (arXiv 1512.03385) with torchvision's parameter names, and a temporal shift at the head of each block."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from cpd_train.models.block import Block, Layer, MakeShift


class Shortcut(nn.Sequential):
    """A 1x1 convolution and its batch norm, where a block changes the size."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    @property
    def layer(self) -> Layer:
        return cast("Layer", tuple(self))


class ResidualBlock(Block):
    """One whose sum is activated."""

    relu: nn.ReLU
    downsample: Shortcut | None

    @property
    def last(self) -> nn.Module:
        return self.relu

    @property
    def shortcut_layer(self) -> Layer | None:
        return None if self.downsample is None else self.downsample.layer

    def shortcut(self, x: Tensor) -> Tensor:
        y: Tensor = x if self.downsample is None else self.downsample(x)
        return y

    def forward(self, x: Tensor) -> Tensor:
        y = self.shift(x)
        *inner, (conv, norm) = self.branch
        for first, its_norm in inner:
            y = self.relu(its_norm(first(y)))
        z: Tensor = self.relu(norm(conv(y)) + self.shortcut(x))
        return z


class BasicBlock(ResidualBlock):
    """Two 3x3 convolutions."""

    def __init__(self, inputs: int, planes: int, stride: int, make_shift: MakeShift) -> None:
        super().__init__()
        self.shift = make_shift()
        self.conv1 = nn.Conv2d(inputs, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(inputs, planes * self.expansion, stride)

    @property
    def branch(self) -> list[Layer]:
        return [(self.conv1, self.bn1), (self.conv2, self.bn2)]


class Bottleneck(ResidualBlock):
    """1x1, 3x3 and 1x1 convolutions."""

    expansion = 4

    def __init__(self, inputs: int, planes: int, stride: int, make_shift: MakeShift) -> None:
        super().__init__()
        self.shift = make_shift()
        self.conv1 = nn.Conv2d(inputs, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, planes * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(inputs, planes * self.expansion, stride)

    @property
    def branch(self) -> list[Layer]:
        return [(self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)]


class ResNet(nn.Module):
    """Four stages of residual blocks over single frames.

    Args:
        block: BasicBlock or Bottleneck.
        depths: blocks in each of the four stages.
        width: channels of the first stage; each later stage doubles it.
        labels: how many logits.
        make_shift: makes the module that mixes frames at the head of each block (nn.Identity for TSN).
        dropout: before the classifier.
        small: a 3x3 stem without pooling, for frames of about 40 to 64 pixels.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: tuple[int, int, int, int],
        width: int,
        labels: int,
        make_shift: MakeShift,
        dropout: float = 0.0,
        small: bool = False,
    ) -> None:
        super().__init__()
        kernel = 3 if small else 7
        self.conv1 = nn.Conv2d(3, width, kernel, 2, kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(3, 2, 1)
        inputs = width
        for stage, depth in enumerate(depths):
            planes = width << stage
            blocks = []
            for index in range(depth):
                blocks.append(block(inputs, planes, 2 if stage and index == 0 else 1, make_shift))
                inputs = planes * block.expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(inputs, labels)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @property
    def stage_modules(self) -> list[nn.Module]:
        """The four stages, in order; the stem belongs to none."""
        return [self.get_submodule(f"layer{stage}") for stage in (1, 2, 3, 4)]

    @property
    def blocks(self) -> list[list[Block]]:
        """Those of each stage."""
        return [[cast("Block", block) for block in stage.children()] for stage in self.stage_modules]

    @property
    def stem_layer(self) -> Layer:
        return self.conv1, self.bn1

    tail_layer = None
    """Between the last block and the average there is none."""

    @property
    def classifier_layer(self) -> nn.Linear:
        return self.fc

    def stem(self, x: Tensor) -> Tensor:
        """(n, 3, height, width) -> (n, width, height, width), at a half or, with pooling, a quarter of the size."""
        y: Tensor = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return y

    def stages(self, x: Tensor) -> list[Tensor]:
        """(n, 3, height, width) -> the four stages' features, each (n, channels, height, width)."""
        x = self.stem(x)
        features = []
        for stage in self.stage_modules:
            x = stage(x)
            features.append(x)
        return features

    def embedding(self, x: Tensor) -> Tensor:
        """(n, channels, height, width) of the last block -> (n, channels), as the classifier sees it."""
        y: Tensor = self.avgpool(x).flatten(1)
        return y

    def head(self, x: Tensor) -> Tensor:
        """(n, channels, height, width) -> (n, labels)."""
        logits: Tensor = self.fc(self.dropout(self.embedding(x)))
        return logits


def _shortcut(inputs: int, outputs: int, stride: int) -> Shortcut | None:
    return None if stride == 1 and inputs == outputs else Shortcut(inputs, outputs, stride)
