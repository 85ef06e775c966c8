"""The streaming graph of a causal TSM: one frame and the caches of its shifts in, logits and new caches out.

A causal shift shows a frame some channels of the frame before, so keeping those channels is all that the past is. The
logits are the consensus of the last ``clip.frames`` frames: with caches that start as zeros, those after the last frame
of a clip are what the whole-clip graph gives for it, at 1/frames of the work for each.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cpd.errors import ExportError
from cpd.manifest import NEXT
from cpd.metrics import Logits
from cpd_export.graph import Signature, clean, export_quietly
from cpd_export.proofs import LOGIT_LIMIT, Frames, Proof, at_most, largest
from cpd_export.session import OnnxSession
from cpd_export.timing import in_turns, percentiles_ms
from cpd_train.models import VideoClassifier
from cpd_train.models.classifier import in_grey
from cpd_train.models.shift import Shift, shifted_channels

FRAME_COST_MAX = 8 / 6
"""A frame may take this share of a clip's time, times the frames of a clip: a third more than its part of the work."""


@dataclass(frozen=True, slots=True)
class StreamGraph:
    """A graph that goes frame by frame."""

    proto: onnx.ModelProto
    signature: Signature
    """What onnxruntime must say of its inputs and outputs."""


def export_stream(model: VideoClassifier, opset: int) -> StreamGraph:
    """Exports a causal model frame by frame; every input but ``frame`` starts as zeros.

    Raises:
        ExportError: the model is not causal, or normalises a whole clip, so it would have to know the frame to come.
    """
    if model.clip.normalise == "clip":
        raise ExportError(
            f"{model.spec.model} normalises whole clips and cannot run frame by frame",
            "train it with clip.normalise: dataset",
        )
    if not model.spec.causal:
        raise ExportError(
            f"{model.spec.model} looks ahead and cannot run frame by frame", "train it with student.causal: true"
        )
    stream = StreamingClassifier(model).eval()
    state = stream.empty_state(batch=2)
    frame = torch.zeros((2, *model.clip.shape[1:]), dtype=torch.uint8)
    batch = {0: torch.export.Dim("batch")}
    names = list(state)
    proto = export_quietly(
        stream,
        (frame, *state.values()),
        inputs=["frame", *names],
        outputs=["logits", *(NEXT + name for name in names)],
        dynamic_shapes={"frame": batch, "state": tuple(batch for _ in state)},
        opset=opset,
    )
    shapes = {name: ["batch", *tensor.shape[1:]] for name, tensor in state.items()}
    signature: Signature = [
        ("frame", "tensor(uint8)", ["batch", *model.clip.shape[1:]]),
        *((name, "tensor(float)", shape) for name, shape in shapes.items()),
        ("logits", "tensor(float)", ["batch", model.labels]),
        *((NEXT + name, "tensor(float)", shape) for name, shape in shapes.items()),
    ]
    return StreamGraph(clean(proto, opset), signature)


def run_stream(session: OnnxSession, clips: Frames) -> Logits:
    """Logits after the last frame of each clip, one frame at a time.

    Args:
        session: a streaming graph.
        clips: (batch, frames, height, width, 3) uint8.

    Returns:
        (batch, classes) float32.
    """
    state = empty_arrays(session, len(clips))
    names = list(state)
    logits: Logits = np.empty(0, dtype=np.float32)
    for index in range(clips.shape[1]):
        logits, *kept = session.run({"frame": clips[:, index], **state})
        state = dict(zip(names, kept, strict=True))
    return logits


def prove_stream(session: OnnxSession, whole: OnnxSession, clips: Frames) -> tuple[list[Proof], dict[str, float]]:
    """That the streaming graph equals the whole-clip graph, and what a frame costs of a clip; also its latency.

    A frame's caches stay in place, as the server keeps them; a clip is handed over anew each time, as the server does.
    """
    frames = clips.shape[1]
    apart = largest(run_stream(session, clips), whole.logits(clips))
    frame = session.in_place({"frame": np.ascontiguousarray(clips[:1, 0]), **empty_arrays(session, 1)})
    times_s = in_turns({"frame": frame, "clip": lambda: whole.logits(clips[:1])})
    share = float(np.median(times_s["frame"]) / np.median(times_s["clip"]))
    proofs = [
        at_most("frame by frame = whole clip", apart, LOGIT_LIMIT),
        at_most("time of a frame / time of a clip", share, FRAME_COST_MAX / frames),
    ]
    return proofs, percentiles_ms(times_s["frame"])


def empty_arrays(session: OnnxSession, batch: int) -> dict[str, NDArray[np.float32]]:
    """The caches before the first frame."""
    inputs = [entry for entry in session.signature if NEXT + entry[0] in {name for name, _, _ in session.signature}]
    return {name: np.zeros((batch, *(int(size) for size in shape[1:])), dtype=np.float32) for name, _, shape in inputs}


class StreamingClassifier(nn.Module):
    """A causal classifier that is given one frame at a time and what it kept of the frames before."""

    def __init__(self, model: VideoClassifier) -> None:
        super().__init__()
        self.frames, self.labels, self.grey = model.clip.frames, model.labels, model.clip.colour == "grey"
        self.mean, self.std, self.luma = model.mean, model.std, model.luma
        self.backbone = copy.deepcopy(model.backbone)
        self._caches = _Caches()
        self._height_width = model.clip.crop
        if self.frames > 1:
            for name, module in list(self.backbone.named_modules()):
                if isinstance(module, Shift):
                    self.backbone.set_submodule(name, _CachedShift(module.fraction, self._caches))

    def forward(self, frame: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """frame: (batch, height, width, 3) uint8; state as ``empty_state`` -> logits: (batch, labels), next state."""
        history, seen, *caches = state
        self._caches.start(caches)
        planes = frame.to(self.mean.dtype).permute(0, 3, 1, 2)
        if self.grey:
            planes = in_grey(planes, self.luma)
        images = (planes - self.mean) / self.std
        newest = self.backbone.head(self.backbone.stages(images)[-1])
        history = torch.cat([history[:, 1:], newest[:, None]], 1)
        seen = (seen + 1).clamp(max=float(self.frames))
        return history.sum(1) / seen, history, seen, *self._caches.kept

    def empty_state(self, batch: int) -> dict[str, Tensor]:
        """Zeros for every input but the frame: logits of the last frames, how many there were, and the shift caches."""
        self._caches.start(None)
        with torch.no_grad():
            self.backbone.stages(torch.zeros((batch, 3, *self._height_width)))
        return {
            "history": torch.zeros((batch, self.frames, self.labels)),
            "seen": torch.zeros((batch, 1)),
            **{f"cache_{index}": torch.zeros_like(kept) for index, kept in enumerate(self._caches.kept)},
        }


class _Caches:
    """What the shifts read and keep during one frame, in the order in which they run."""

    def __init__(self) -> None:
        self._given: Iterator[Tensor] | None = None
        self.kept: list[Tensor] = []

    def start(self, given: list[Tensor] | None) -> None:
        """Before a frame; None stands for zeros of whatever shape is asked for."""
        self._given, self.kept = None if given is None else iter(given), []

    def exchange(self, now: Tensor) -> Tensor:
        """Keeps these channels for the next frame and gives those of the frame before."""
        self.kept.append(now)
        return torch.zeros_like(now) if self._given is None else next(self._given)


class _CachedShift(nn.Module):
    """``temporal_shift(causal=True)`` for a single frame."""

    def __init__(self, fraction: float, caches: _Caches) -> None:
        super().__init__()
        self._fraction, self._caches = fraction, caches

    def forward(self, x: Tensor) -> Tensor:
        fold = shifted_channels(x.shape[1], self._fraction)
        if fold == 0:
            return x
        return torch.cat([self._caches.exchange(x[:, :fold]), x[:, fold:]], 1)
