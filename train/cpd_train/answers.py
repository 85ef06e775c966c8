"""What the teacher says of a clip, asked once where the same view comes again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from cpd_train.cuda import networks_in
from cpd_train.loader import Batch
from cpd_train.losses.spectrum import attention_maps, pool_to
from cpd_train.models import VideoClassifier


class Answer(NamedTuple):
    """The teacher's side of every loss."""

    frame_logits: Tensor
    """(batch, frames, labels)."""
    embedding: Tensor
    """(batch, channels): the last stage, averaged over time and space."""
    maps: list[Tensor]
    """For each stage its attention maps, (batch, frames, height, width), on a grid no finer than the student's."""
    stages: list[Tensor]
    """For each stage its features, (batch, frames, channels, height, width); empty where no term asks for them."""

    @property
    def logits(self) -> Tensor:
        """(batch, labels)."""
        return self.frame_logits.mean(1)


class Memory:
    """Answers to single views, as many as there is room for.

    Args:
        room_bytes: memory for answers; what goes beyond is forgotten.
    """

    def __init__(self, room_bytes: int) -> None:
        self._room_bytes = room_bytes
        self._kept: dict[tuple[int, int, bool], list[Tensor]] = {}

    def get(self, view: tuple[int, int], whole: bool) -> list[Tensor] | None:
        """The parts of an answer, without or with whole features, if it is kept."""
        return self._kept.get((*view, whole))

    def put(self, view: tuple[int, int], whole: bool, parts: list[Tensor]) -> None:
        size_bytes = sum(part.numel() * part.element_size() for part in parts)
        if size_bytes <= self._room_bytes:
            self._room_bytes -= size_bytes
            self._kept[*view, whole] = parts


class Teacher:
    """Answers for batches of clips, remembering those it gave.

    Args:
        model: the teacher, on its device.
        grids: for each stage the student's (height, width); answers are not kept finer than that.
        whole: whether terms need whole features; they are kept in half precision.
        memory: what it said before.
        precision: arithmetic of the network, see ``networks_in``.
    """

    def __init__(
        self,
        model: VideoClassifier,
        grids: Sequence[tuple[int, int]],
        whole: bool,
        memory: Memory,
        precision: str = "auto",
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.grids, self.whole, self.memory, self.precision = grids, whole, memory, precision

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Answer:
        """The answer to each clip of a batch, in its order."""
        known = [self.memory.get(view, self.whole) for view in batch.views]
        new = [index for index, parts in enumerate(known) if parts is None]
        if new:
            answer = self._ask(batch.frames if len(new) == len(known) else batch.frames[new])
            rows = zip(answer.frame_logits, answer.embedding, *answer.maps, *answer.stages, strict=True)
            for index, row in zip(new, rows, strict=True):
                parts = known[index] = self._small(row)
                self.memory.put(batch.views[index], self.whole, parts)
        rows = zip(*known, strict=True)
        device = batch.frames.device
        frame_logits, embedding, *features = (
            torch.stack([part.to(device).float() for part in parts]) for parts in rows
        )
        return Answer(frame_logits, embedding, features[: len(self.grids)], features[len(self.grids) :])

    def _ask(self, frames: Tensor) -> Answer:
        with networks_in(frames.device, self.precision):
            features = self.model.with_features(frames)
        maps = []
        for stage, grid in zip(features.stages, self.grids, strict=True):
            size = (min(grid[0], stage.shape[-2]), min(grid[1], stage.shape[-1]))
            maps.append(pool_to(attention_maps(stage), size))
        embedding = features.stages[-1].float().mean((1, 3, 4))
        whole = [stage.float() for stage in features.stages] if self.whole else []
        return Answer(features.frame_logits.float(), embedding, maps, whole)

    def _small(self, row: Sequence[Tensor]) -> list[Tensor]:
        """A row of an answer as it is kept: apart from the batch, in host memory, whole features in half precision."""
        stages = 2 + len(self.grids)
        kept = [part.to("cpu", copy=True) for part in row[:stages]]
        return kept + [part.to("cpu", torch.float16, copy=True) for part in row[stages:]]
