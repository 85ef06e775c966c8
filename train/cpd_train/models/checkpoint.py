"""Checkpoints that describe themselves, and weights that come from elsewhere."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from cpd.clip import ClipSpec
from cpd.errors import TrainingError, reason_of
from cpd.lock import atomic
from cpd_train.models.classifier import ModelSpec, VideoClassifier, build_model, count_flops

METADATA_KEY = "cpd"
ALONE = "save its state_dict alone"
FLAT = {"0": "0.0", "1": "0.1", "3": "1.0", "4": "1.1", "6": "2", "7": "3"}
"""Where torchvision has the layers of an inverted residual block that are counted one by one."""
FLAT_FIRST = {"0": "0.0", "1": "0.1", "3": "1", "4": "2"}
"""The same of the first block, which does not expand."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A trained model and what it was trained for."""

    model: VideoClassifier
    role: str
    labels: tuple[str, ...]
    data_sha256: str
    parameters: int
    flops: int
    """Per clip; two for a multiply-add."""
    epoch: int
    validation_top1: float | None
    """Fraction; None where there were no validation clips."""


def write_checkpoint(
    path: Path,
    model: VideoClassifier,
    role: str,
    labels: tuple[str, ...],
    data_sha256: str,
    epoch: int,
    top1: float | None,
) -> None:
    """Writes weights and their description as one safetensors file, atomically."""
    description = {
        "role": role,
        "model": model.spec.to_dict(),
        "labels": list(labels),
        "clip": model.clip.to_dict(),
        "data_sha256": data_sha256,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "flops": count_flops(model),
        "epoch": epoch,
        "validation_top1": top1,
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.backbone.state_dict().items()}
    data = save(tensors, metadata={METADATA_KEY: json.dumps(description)})
    with atomic(path) as draft:  # save_file has errors of its own, and a file that its owner alone may read
        draft.write_bytes(data)


def read_checkpoint(path: Path) -> Checkpoint:
    """Rebuilds a model from a checkpoint of ours.

    Raises:
        TrainingError: missing, damaged, or not written by ``write_checkpoint``.
    """
    tensors, metadata = _read_safetensors(path)
    if METADATA_KEY not in metadata:
        raise TrainingError(f"{path}: does not describe its model", "name it as `checkpoint:` of a model instead")
    with _understood(path):
        description: dict[str, Any] = json.loads(metadata[METADATA_KEY])
        clip = ClipSpec.from_dict(description["clip"])
        model = build_model(ModelSpec(**description["model"]), len(description["labels"]), clip)
        model.backbone.load_state_dict(tensors)
        return Checkpoint(
            model=model.eval(),
            role=description["role"],
            labels=tuple(description["labels"]),
            data_sha256=description["data_sha256"],
            parameters=description["parameters"],
            flops=description["flops"],
            epoch=description["epoch"],
            validation_top1=description["validation_top1"],
        )


def load_pretrained(model: VideoClassifier, path: Path, labels: tuple[str, ...], as_it_is: bool = False) -> list[str]:
    """Copies weights from a checkpoint of any origin into a model.

    ImageNet weights in torchvision's names, published TSM checkpoints (``module.base_model.layer1.0.conv1.net.weight``,
    ``new_fc``; of MobileNetV2 ``features.3.conv.0.net.weight``) and checkpoints of ours load alike. A classifier made
    for other classes is left as it is.

    Args:
        model: whose weights are overwritten.
        path: of the checkpoint.
        labels: of the data.
        as_it_is: the model will not be trained any more, so nothing may be missing or meant for other clips.

    Returns:
        The names of parameters the file does not hold: none, or those of the classifier.

    Raises:
        TrainingError: the file cannot be read, belongs to another backbone or to other labels, or holds no numbers.
    """
    tensors, metadata = _read_weights(path)
    if METADATA_KEY in metadata:
        with _understood(path):
            description = json.loads(metadata[METADATA_KEY])
            theirs, wrong = tuple(description["labels"]), _other_use(description, model) if as_it_is else ""
        if theirs != labels:
            raise TrainingError(
                f"{path}: was trained for other labels ({', '.join(theirs[:3])} …, {len(theirs)} in all; "
                f"the data has {', '.join(labels[:3])} …, {len(labels)} in all)",
                "name a checkpoint of the same classes",
            )
        if wrong:
            raise TrainingError(f"{path}: was trained for another use: {wrong}", "say so in the pipeline, or train it")
    own = model.backbone.state_dict()
    renamed = _as_torchvision({_own_name(name): tensor for name, tensor in tensors.items()})
    classifier = {name for name in own if name.startswith(("fc.", "classifier."))}
    for name in classifier & set(renamed):
        if renamed[name].shape != own[name].shape:
            del renamed[name]
    # which torchvision's ResNets of before torch 0.4.1 have not, and nothing here reads
    counters = {name for name in own if name.endswith(".num_batches_tracked")}
    missing = sorted(set(own) - set(renamed) - counters)
    unfit = sorted(name for name in set(own) & set(renamed) if not _fits(renamed[name], own[name]))
    foreign = [name for name in missing if name not in classifier]
    if foreign or unfit:
        wrong = foreign[0] if foreign else unfit[0]
        raise TrainingError(
            f"{path}: does not fit {model.spec.model} (first at {wrong}: {len(foreign)} missing, {len(unfit)} of "
            "another shape or type)",
            "name the architecture the weights were made for",
        )
    if as_it_is and missing:
        raise TrainingError(f"{path}: has no {missing[0]} for {len(labels)} classes", "train it for at least one epoch")
    taken = {name: renamed[name] for name in own if name in renamed}
    endless = next((name for name, values in taken.items() if not torch.isfinite(values).all()), None)
    if endless:
        raise TrainingError(f"{path}: {endless} is not finite", "name another checkpoint")
    model.backbone.load_state_dict({**own, **taken})
    return missing


def _fits(theirs: Tensor, ours: Tensor) -> bool:
    """Whether a weight can be taken over; the integers of a quantised model are not the numbers they stand for."""
    numbers = theirs.is_floating_point() or not ours.is_floating_point()
    return theirs.shape == ours.shape and numbers and theirs.layout == ours.layout and not theirs.is_meta


@contextmanager
def _understood(path: Path) -> Iterator[None]:
    """Turns what a damaged description leads to, or one that another version of cpd wrote, into one line."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise TrainingError(
            f"{path}: what it says of its model cannot be used: {type(error).__name__}: {reason}",
            "it is damaged, or of another version of cpd: train it again",
        ) from error


def _other_use(description: dict[str, Any], model: VideoClassifier) -> str:
    """What a checkpoint of ours was made for and a model is not; dropout is nothing that a finished model has."""
    clip, theirs = ClipSpec.from_dict(description["clip"]), ModelSpec(**description["model"])
    their = {**theirs.to_dict(), **clip.to_dict(), "dropout": 0}
    our = {**model.spec.to_dict(), **model.clip.to_dict(), "dropout": 0}
    return next(
        (f"its {name} is {their[name]}, here it is {our[name]}" for name in their if their[name] != our[name]), ""
    )


def _own_name(name: str) -> str:
    """Published TSM names to torchvision's: module.base_model.layer1.0.conv1.net.weight -> layer1.0.conv1.weight."""
    name = re.sub(r"^(module\.)?(base_model\.|backbone\.)?", "", name)
    name = name.replace(".net.", ".")
    return re.sub(r"^new_fc\.", "fc.", name)


def _as_torchvision(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A MobileNetV2 as TSM publishes it, whose blocks are flat, with torchvision's names; others as they are."""
    if "features.1.conv.0.weight" not in tensors:
        return tensors

    def nested(layer: re.Match[str]) -> str:
        places = FLAT_FIRST if layer[1] == "1" else FLAT
        return f"features.{layer[1]}.conv.{places.get(layer[2], layer[2])}."

    renamed = {}
    for name, tensor in tensors.items():
        name = re.sub(r"^features\.(\d+)\.conv\.(\d)\.", nested, name)
        renamed[re.sub(r"^(classifier|fc)\.", "classifier.1.", name)] = tensor
    return renamed


def _read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if not path.exists():
        raise TrainingError(f"{path}: no such checkpoint")
    try:
        with warnings.catch_warnings(action="ignore"):  # torch's of TorchScript, which is refused below
            values = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds here, and its text tells how to run the code in the file
        why = reason_of(error) if isinstance(error, OSError) else "it is damaged, or holds other things"
        raise TrainingError(f"{path}: cannot be read as weights alone: {why}", ALONE) from error
    values = values.get("state_dict", values) if isinstance(values, dict) else values
    if not isinstance(values, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in values.items()
    ):
        raise TrainingError(f"{path}: holds no state_dict", ALONE)
    return values, {}


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if not path.exists():
        raise TrainingError(f"{path}: no such checkpoint")
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise TrainingError(f"{path}: cannot be read as safetensors: {error}") from error
