"""The files that the engines are measured on: a checkpoint, three ONNX files, clips and torch's answers to them."""

from __future__ import annotations

import time
from functools import partial

import numpy as np
import onnx
import torch
from inputs import LABELS, clip_of, moving, network
from numpy.typing import NDArray
from rows import BATCHES, ROLES, Rows, Setup, Values, significant
from torch import nn

from cpd.manifest import Manifest, Precision
from cpd_export.graph import export_graph, with_manifest
from cpd_export.half import half_graph
from cpd_export.int8 import Choice, quantise_as
from cpd_train.models import VideoClassifier, write_checkpoint

OPSET = 18
CALIBRATION = 4
"""Clips that give batch norms their statistics and int8 its ranges."""
WEIGHT_BITS = 7
"""Of int8's weights: with 8, sums saturate on CPUs without VNNI, and their answers are no measure of the graph."""


def names(_setup: Setup) -> list[str]:
    return [f"{role} exported" for role in ROLES]


def run(setup: Setup, rows: Rows) -> None:
    count, height, width, _ = clip_of(setup.quick).shape
    frames = np.stack([moving(count, height, width, seed) for seed in range(max(BATCHES))])
    np.save(setup.folder / "frames.npy", frames)
    for role in ROLES:
        rows.measure(f"{role} exported", partial(export, role, frames, setup))


def export(role: str, frames: NDArray[np.uint8], setup: Setup) -> Values:
    """Writes ``<role>.safetensors``, ``<role>.npy`` (torch's logits on the CPU, in fp32) and the ONNX files."""
    torch.manual_seed(0)
    began = time.perf_counter()
    model = settled(network(role, setup.quick), frames[:CALIBRATION])
    write_checkpoint(setup.folder / f"{role}.safetensors", model, role, LABELS, "0" * 64, 0, 0.0)
    with torch.no_grad():
        logits = torch.cat([model(clip[None]) for clip in torch.from_numpy(frames)])
        np.save(setup.folder / f"{role}.npy", logits.numpy())
    graph = export_graph(model, OPSET)
    graphs: dict[Precision, onnx.ModelProto] = {
        "fp32": graph,
        "fp16": half_graph(graph),
        "int8": quantise_as(graph, frames[:CALIBRATION], Choice("minmax", WEIGHT_BITS)),
    }
    for precision, proto in graphs.items():
        digest = "0" * 64
        spec = model.spec.model, LABELS, model.clip, precision, OPSET, digest, digest
        manifest = Manifest(role, *spec)  # type: ignore[arg-type]  # one of ROLES
        (setup.folder / f"{role}.{precision}.onnx").write_bytes(with_manifest(proto, manifest))
    return {
        "model": model.spec.model,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "seconds": significant(time.perf_counter() - began),
    }


def settled(model: VideoClassifier, frames: NDArray[np.uint8]) -> VideoClassifier:
    """The model with the batch statistics of these clips: with random ones its logits would hardly differ by clip."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(torch.from_numpy(frames))
    for norm in norms:
        norm.momentum = 0.1
    return model.eval()
