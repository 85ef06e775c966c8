"""Video classifiers: TSN and TSM over ResNet and MobileNetV2, with torchvision's parameter names.

>>> model = build_model(ModelSpec("tsm-resnet18"), labels=10, clip=ClipSpec())
>>> model(frames).shape        # frames: uint8 (batch, frames, height, width, 3)
(batch, 10)
"""

from cpd_train.models.checkpoint import Checkpoint, load_pretrained, read_checkpoint, write_checkpoint
from cpd_train.models.classifier import Features, ModelSpec, VideoClassifier, build_model, count_flops, evenly_chosen

__all__ = [
    "Checkpoint",
    "Features",
    "ModelSpec",
    "VideoClassifier",
    "build_model",
    "count_flops",
    "evenly_chosen",
    "load_pretrained",
    "read_checkpoint",
    "write_checkpoint",
]
