"""What both recipes set up alike: the clips of a run, its loaders and its seed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from cpd.clip import ClipSpec
from cpd.config import Model, Pipeline
from cpd.dataset import Split, read_clips
from cpd.errors import TrainingError
from cpd_train.cuda import arithmetic, choose_device
from cpd_train.loader import ClipLoader
from cpd_train.models import ModelSpec, VideoClassifier, build_model, load_pretrained
from cpd_train.sources import check_flip_labels
from cpd_train.terms import stage_shapes


@dataclass(frozen=True, slots=True)
class Setting:
    """The data of a run as both recipes see it."""

    config: Pipeline
    run_dir: Path
    labels: tuple[str, ...]
    data_sha256: str
    device: torch.device

    @classmethod
    def of(cls, config: Pipeline, run_dir: Path) -> Setting:
        """Reads what the data stage wrote, and sets torch up: two runs on a CPU are then identical.

        Raises:
            DataError: ``augment.flip_labels`` does not fit the data.
        """
        data = json.loads((run_dir / "data" / "data.json").read_text())
        check_flip_labels(config, data["labels"])
        torch.manual_seed(config.seed)
        torch.backends.cudnn.allow_tf32 = False  # what says fp32 shall be fp32: its answers are a reference
        return cls(config, run_dir, tuple(data["labels"]), data["sha256"], choose_device(config.device))

    @property
    def clip(self) -> ClipSpec:
        return self.config.clip.spec()

    def loader(self, split: Split, batch_size: int) -> ClipLoader:
        """A loader of one split; validation and test take a quarter of the cache each."""
        share = 0.5 if split == "train" else 0.25
        cache_bytes = int(self.config.data.cache_gb * 1e9 * share)
        clips = read_clips(self.run_dir / "data" / "clips.csv", split)
        return ClipLoader(clips, self.labels, self.clip, batch_size, self.device, cache_bytes)

    def model(self, section: Model) -> VideoClassifier:
        """A model of a section of pipeline.yaml on the run's device, with its checkpoint's weights if it names one.

        Raises:
            TrainingError: the checkpoint does not fit, or the model cannot be trained in ``precision``.
        """
        model = build_model(ModelSpec.of(section), len(self.labels), self.clip)
        if section.checkpoint is not None:
            load_pretrained(model, section.checkpoint, self.labels, as_it_is=section.epochs == 0)
        model = on_device(model, self.device)
        if section.epochs and self.device.type == "cpu":
            _check_width(model, arithmetic(self.device, self.config.precision))
        return model


def on_device(model: VideoClassifier, device: torch.device) -> VideoClassifier:
    """A model on its device, with its kernels in channels-last order, that of its frames, wherever that works.

    On CPUs, the backward pass of torch 2.13 (oneDNN) writes out of bounds for strided 1x1 convolutions of channels-last
    input whose channels are no multiple of 8, or only 8. Other networks train about a quarter faster so.
    """
    works = device.type == "cuda" or not any(_writes_out_of_bounds(module) for module in model.modules())
    layout = torch.channels_last if works else torch.preserve_format
    model.to(device, memory_format=layout)  # type: ignore[call-overload]  # torch's stubs lack memory_format
    return model


def _check_width(model: VideoClassifier, dtype: torch.dtype) -> None:
    """In bf16 on CPUs, torch 2.13 (oneDNN) takes the kernels' gradient of a strided convolution of pictures that are a
    single pixel wide from memory that nobody wrote to. The last stage has such a convolution in all networks."""
    grids, _ = stage_shapes(model)
    if dtype == torch.bfloat16 and grids[-2][1] == 1:
        raise TrainingError(
            f"the last stage of {model.spec.model} sees pictures one pixel wide, of which torch has no gradient in "
            "bf16 on a CPU",
            "use precision: fp32, or a wider clip.crop",
        )


def _writes_out_of_bounds(module: nn.Module) -> bool:
    return (
        isinstance(module, nn.Conv2d)
        and module.kernel_size == (1, 1)
        and module.stride != (1, 1)
        and (module.in_channels % 8 != 0 or module.in_channels == 8)
    )
