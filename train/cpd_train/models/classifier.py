"""A video classifier: preprocessing, a frame backbone with or without temporal shift, and averaging over time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from cpd.clip import ClipSpec
from cpd_train.models.block import MakeShift
from cpd_train.models.mobilenet import MobileNetV2
from cpd_train.models.resnet import BasicBlock, Bottleneck, ResNet
from cpd_train.models.shift import Shift

LUMA = (0.299, 0.587, 0.114)
"""BT.601's shares of R, G and B in grey."""
LEAST_SPREAD = 1.0
"""Grey levels added to a clip's standard deviation, so that the noise of an even picture stays small."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """An architecture, without its weights."""

    model: str
    """Temporal model and backbone, such as tsm-resnet18; see ``BACKBONES``."""
    width: int = 16
    """Channels of the first stage (tiny models only)."""
    blocks: int = 1
    """Residual blocks in each stage (tiny models only)."""
    shift_fraction: float = 0.25
    """Share of channels a TSM shifts, half each way."""
    dropout: float = 0.0
    causal: bool = False
    """Whether a TSM shifts from earlier frames alone, so that it can run frame by frame."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, section: object) -> Self:
        """The architecture named by a teacher or student section of pipeline.yaml."""
        named = {field.name: getattr(section, field.name) for field in fields(cls)}
        return cls(**{name: value for name, value in named.items() if value is not None})


class Features(NamedTuple):
    """What distillation compares."""

    frame_logits: Tensor
    """(batch, frames, labels) float: the evidence in each frame; their mean over time is the clip's."""
    stages: list[Tensor]
    """The features of each stage, (batch, frames, channels, height, width) float."""

    @property
    def logits(self) -> Tensor:
        """(batch, labels) float."""
        return self.frame_logits.mean(1)


class VideoClassifier(nn.Module):
    """uint8 frames to logits, in one module that trains, evaluates and exports the same graph."""

    mean: Tensor
    std: Tensor
    luma: Tensor

    def __init__(self, spec: ModelSpec, labels: int, clip: ClipSpec) -> None:
        super().__init__()
        self.spec, self.labels, self.clip = spec, labels, clip
        temporal, _, backbone = spec.model.partition("-")
        make_shift = partial(Shift, clip.frames, spec.shift_fraction, spec.causal) if temporal == "tsm" else nn.Identity
        self.backbone = BACKBONES[backbone](spec, labels, make_shift)
        # 0..255 statistics: one subtraction and one division, and no division by 255
        self.register_buffer("mean", torch.tensor(clip.mean).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(clip.std).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("luma", torch.tensor(LUMA).view(3, 1, 1), persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        """frames: (batch, frames, height, width, 3) uint8 RGB -> logits: (batch, labels)."""
        logits = self.backbone.head(self.backbone.stages(self.normalise(frames))[-1])
        return self._by_clip(logits).mean(1)  # TSN's segmental consensus

    def with_features(self, frames: Tensor) -> Features:
        """The logits and every stage's features; arguments as for ``forward``."""
        stages = self.backbone.stages(self.normalise(frames))
        return Features(self._by_clip(self.backbone.head(stages[-1])), [self._by_clip(stage) for stage in stages])

    @property
    def channels_last(self) -> bool:
        """Whether the network computes in channels-last order, which is that of its frames: as its kernels lie."""
        first: Tensor = next(self.backbone.parameters())
        return first.is_contiguous(memory_format=torch.channels_last)

    def normalise(self, frames: Tensor) -> Tensor:
        """(batch, frames, height, width, 3) uint8 -> (batch * frames, 3, height, width), as the first layer sees it."""
        # cast first: TensorRT knows uint8 as the type of an input alone
        planes = frames.to(self.mean.dtype).permute(0, 1, 4, 2, 3)
        motion = self.clip.colour == "motion"
        if self.clip.colour == "grey":
            planes = in_grey(planes, self.luma)
        elif motion:
            planes = in_motion(planes, self.luma)
        if self.clip.normalise == "clip":
            planes = planes - _mean_of_clip(planes, each_channel=motion)
            spread = _mean_of_clip(planes * planes, each_channel=motion).sqrt()
            planes = planes / (spread + LEAST_SPREAD)
        order = torch.channels_last if self.channels_last else torch.contiguous_format
        images = planes.flatten(0, 1).contiguous(memory_format=order)
        return images if self.clip.normalise == "clip" else (images - self.mean) / self.std

    def _by_clip(self, x: Tensor) -> Tensor:
        """(batch * frames, ...) -> (batch, frames, ...)."""
        return x.reshape(-1, self.clip.frames, *x.shape[1:])


def _mean_of_clip(planes: Tensor, each_channel: bool) -> Tensor:
    """(batch, frames, 3, height, width) -> (batch, 1, 1, 1, 1), or 3 with a mean for each channel.

    Row by row first: in one step, sums of some hundred thousand numbers lose digits, and each runtime loses others.
    """
    if each_channel:
        return planes.mean(4, keepdim=True).mean((1, 3), keepdim=True)
    return planes.flatten(1, 3).mean(2).mean(1).view(-1, 1, 1, 1, 1)


def brightness(planes: Tensor, luma: Tensor) -> Tensor:
    """(..., 3, height, width) RGB -> (..., 1, height, width); luma: (3, 1, 1), the shares of R, G and B.

    Plane by plane: where the three of a pixel are neighbours, runtimes multiply and add them one pixel at a time.
    """
    return (planes * luma).sum(-3, keepdim=True)


def in_grey(planes: Tensor, luma: Tensor) -> Tensor:
    """(..., 3, height, width) RGB -> the same shape, all three planes the brightness."""
    grey = brightness(planes, luma)
    return torch.cat([grey, grey, grey], -3)


def in_motion(planes: Tensor, luma: Tensor) -> Tensor:
    """(batch, frames, 3, height, width) RGB -> the same shape: the brightness, its difference from the mean of the clip
    at that pixel, and its change until the next frame (none after the last)."""
    grey = brightness(planes, luma)
    change = torch.diff(grey, dim=1, append=grey[:, -1:])
    return torch.cat([grey, grey - grey.mean(1, keepdim=True), change], 2)


Backbone = ResNet | MobileNetV2


def _resnet(
    block: type[BasicBlock] | type[Bottleneck], depths: tuple[int, int, int, int]
) -> Callable[[ModelSpec, int, MakeShift], Backbone]:
    return lambda spec, labels, make_shift: ResNet(block, depths, 64, labels, make_shift, spec.dropout)


def _tiny(spec: ModelSpec, labels: int, make_shift: MakeShift) -> Backbone:
    depth = spec.blocks
    depths = (depth, depth, depth, depth)
    return ResNet(BasicBlock, depths, spec.width, labels, make_shift, spec.dropout, small=True)


BACKBONES: dict[str, Callable[[ModelSpec, int, MakeShift], Backbone]] = {
    "tiny": _tiny,
    "resnet18": _resnet(BasicBlock, (2, 2, 2, 2)),
    "resnet34": _resnet(BasicBlock, (3, 4, 6, 3)),
    "resnet50": _resnet(Bottleneck, (3, 4, 6, 3)),
    "mobilenetv2": lambda spec, labels, make_shift: MobileNetV2(labels, make_shift, spec.dropout),
}


def build_model(spec: ModelSpec, labels: int, clip: ClipSpec) -> VideoClassifier:
    """A classifier with random weights, drawn from torch's current generator."""
    return VideoClassifier(spec, labels, clip)


def evenly_chosen(parameter: Tensor, shape: torch.Size) -> Tensor:
    """Of each dimension evenly spaced entries, as many as ``shape`` says."""
    for dim, (size, wanted) in enumerate(zip(parameter.shape, shape, strict=True)):
        if size != wanted:
            chosen = torch.arange(wanted, device=parameter.device) * size // wanted
            parameter = parameter.index_select(dim, chosen)
    return parameter


def count_flops(model: VideoClassifier) -> int:
    """Floating-point operations for one clip, two for each multiply-add, as torch's own counter sees them."""
    frames = torch.zeros((1, *model.clip.shape), dtype=torch.uint8, device=model.mean.device)
    was_training = model.training
    model.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(frames)
    model.train(was_training)
    return int(counter.get_total_flops())
