"""MobileNetV2 (arXiv 1801.04381) with torchvision's parameter names, and a temporal shift in its residual blocks."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from cpd_train.models.block import Block, Layer, MakeShift

# expansion, channels, repeats, stride of each group of blocks (paper, table 2)
SETTINGS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
STAGE_ENDS = (3, 6, 13, 18)
"""Indices in ``features`` whose outputs are the four stages: strides 4, 8, 16 and 32."""


class InvertedResidual(Block):
    """Expand, filter each channel alone, project; the shift stands where there is a shortcut, as in the TSM release."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int, make_shift: MakeShift) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        self.shift = make_shift() if self.residual else nn.Identity()
        self.relu, self._last = nn.ReLU6(inplace=True), nn.Identity()
        layers: list[nn.Module] = [] if expansion == 1 else [_conv(inputs, hidden, 1)]
        layers += [_conv(hidden, hidden, 3, stride, groups=hidden)]
        layers += [nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs)]
        self.conv = nn.Sequential(*layers)

    @property
    def branch(self) -> list[Layer]:
        *layers, conv, norm = self.conv
        return [*(_layer(layer) for layer in layers), cast("Layer", (conv, norm))]

    @property
    def last(self) -> nn.Module:
        return self._last

    def shortcut(self, x: Tensor) -> Tensor | None:
        return x if self.residual else None

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(self.shift(x))
        z: Tensor = self._last(x + y if self.residual else y)
        return z


class MobileNetV2(nn.Module):
    """Inverted residual blocks over single frames; arguments as for ``ResNet``."""

    def __init__(self, labels: int, make_shift: MakeShift, dropout: float = 0.0) -> None:
        super().__init__()
        layers: list[nn.Module] = [_conv(3, 32, 3, 2)]
        inputs = 32
        for expansion, channels, repeats, stride in SETTINGS:
            for index in range(repeats):
                layers.append(InvertedResidual(inputs, channels, stride if index == 0 else 1, expansion, make_shift))
                inputs = channels
        layers.append(_conv(inputs, 1280, 1))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(1280, labels))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    @property
    def stage_modules(self) -> list[nn.Module]:
        """The four stages, in order; the stem belongs to none."""
        starts = (1, *(end + 1 for end in STAGE_ENDS))
        return [self.features[start : end + 1] for start, end in zip(starts, STAGE_ENDS, strict=False)]

    @property
    def blocks(self) -> list[list[Block]]:
        """Those of each stage; the last stage ends with a convolution more."""
        return [[block for block in stage.children() if isinstance(block, Block)] for stage in self.stage_modules]

    @property
    def stem_layer(self) -> Layer:
        """What is fitted of the stem."""
        return _layer(self.features[0])

    @property
    def tail_layer(self) -> Layer:
        """What is fitted between the last block and the average."""
        return _layer(self.features[-1])

    @property
    def classifier_layer(self) -> nn.Linear:
        """What makes logits of the embedding."""
        return cast("nn.Linear", self.classifier[1])

    def stem(self, x: Tensor) -> Tensor:
        """(n, 3, height, width) -> (n, 32, height, width), at half of the size."""
        y: Tensor = self.features[0](x)
        return y

    def embedding(self, x: Tensor) -> Tensor:
        """(n, channels, height, width) of the last block -> (n, 1280), as the classifier sees it."""
        y: Tensor = self.features[-1](x).mean((2, 3))
        return y

    def stages(self, x: Tensor) -> list[Tensor]:
        """(n, 3, height, width) -> the four stages' features, each (n, channels, height, width)."""
        features = []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in STAGE_ENDS:
                features.append(x)
        return features

    def head(self, x: Tensor) -> Tensor:
        """(n, channels, height, width) -> (n, labels)."""
        logits: Tensor = self.classifier(x.mean((2, 3)))
        return logits


def _layer(module: nn.Module) -> Layer:
    """The convolution and the batch norm of what ``_conv`` makes."""
    conv, norm, _ = module.children()
    return cast("Layer", (conv, norm))


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(inplace=True),
    )
