"""What the teacher says of a clip, asked once where the same view comes again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from cpd_train.cuda import networks_in
from cpd_train.loader import Batch
from cpd_train.losses.spectrum import attention_maps, pool_to
from cpd_train.models import VideoClassifier, evenly_chosen


class Answer(NamedTuple):
    """The teacher's side of every loss."""

    frame_logits: Tensor
    """(batch, frames, labels)."""
    embedding: Tensor
    """(batch, channels): the last stage, averaged over time and space."""
    maps: list[Tensor]
    """For each stage its attention maps, (batch, frames, height, width), on a grid no finer than the student's."""
    stages: list[Tensor]
    """For each stage the features that terms ask for, (batch, frames, channels, height, width); empty if none does."""

    @property
    def logits(self) -> Tensor:
        """(batch, labels)."""
        return self.frame_logits.mean(1)


def half(grid: tuple[int, int]) -> tuple[int, int]:
    """Half of (height, width), rounded up."""
    return (grid[0] + 1) // 2, (grid[1] + 1) // 2


class Memory:
    """Answers to single views, as many as there is room for.

    Args:
        room_bytes: memory for answers; from the first that goes beyond it on, they are forgotten.
    """

    def __init__(self, room_bytes: int) -> None:
        self._room_bytes = room_bytes
        self._kept: dict[tuple[int, ...], list[Tensor]] = {}

    @property
    def has_room(self) -> bool:
        return self._room_bytes > 0

    def get(self, view: tuple[int, int], channels: tuple[int, ...]) -> list[Tensor] | None:
        """The parts of an answer with so many channels of each stage's features, if they are kept."""
        parts, features = self._kept.get(view), self._kept.get(view + channels) if channels else []
        return None if parts is None or features is None else parts + features

    def put(self, view: tuple[int, int], channels: tuple[int, ...], parts: list[Tensor]) -> None:
        split = len(parts) - len(channels)
        for key, some in ((view, parts[:split]), (view + channels, parts[split:])):
            size_bytes = sum(part.numel() * part.element_size() for part in some)
            if some and key not in self._kept:
                fits = size_bytes <= self._room_bytes
                self._room_bytes = self._room_bytes - size_bytes if fits else 0
                if fits:
                    self._kept[key] = some


class Teacher:
    """Answers for batches of clips, remembering those it gave.

    Args:
        model: the teacher, on its device.
        grids: for each stage the student's (height, width); answers are not kept finer than that.
        channels: for each stage how many evenly chosen channels of its features terms need, if they need features;
            they are kept in half precision. All there are stay on the teacher's own grid; fewer are brought to half
            the student's, which costs a quarter.
        memory: what it said before.
        precision: arithmetic of the network, see ``networks_in``.
    """

    def __init__(
        self,
        model: VideoClassifier,
        grids: Sequence[tuple[int, int]],
        channels: Sequence[int],
        memory: Memory,
        precision: str = "auto",
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.grids, self.channels, self.memory, self.precision = grids, tuple(channels), memory, precision

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Answer:
        """The answer to each clip of a batch, in its order."""
        known = [self.memory.get(view, self.channels) for view in batch.views]
        new = [index for index, parts in enumerate(known) if parts is None]
        all_new = len(new) == len(known)
        if new:
            answer = self._ask(batch.frames if all_new else batch.frames[new])
            if self.memory.has_room or not all_new:
                for index, row in zip(new, zip(*_on_host(answer), strict=True), strict=True):
                    parts = known[index] = [part.clone() for part in row]  # or one clip would keep its whole batch
                    self.memory.put(batch.views[index], self.channels, parts)
            if all_new:
                return answer
        device = batch.frames.device
        frame_logits, embedding, *features = (
            torch.stack(parts).to(device).float() for parts in zip(*known, strict=True)
        )
        return Answer(frame_logits, embedding, features[: len(self.grids)], features[len(self.grids) :])

    def _ask(self, frames: Tensor) -> Answer:
        with networks_in(frames.device, self.precision):
            features = self.model.with_features(frames)
        maps, asked = [], []
        for stage, grid in zip(features.stages, self.grids, strict=True):
            size = (min(grid[0], stage.shape[-2]), min(grid[1], stage.shape[-1]))
            maps.append(pool_to(attention_maps(stage), size))
        embedding = features.stages[-1].float().mean((1, 3, 4))
        for stage, grid, channels in zip(features.stages, self.grids, self.channels, strict=False):
            chosen = evenly_chosen(stage, torch.Size((*stage.shape[:2], channels, *stage.shape[3:]))).float()
            small = chosen if channels == stage.shape[2] else pool_to(chosen, half(grid))
            asked.append(small.to(torch.float16).float())  # as if it had been kept
        return Answer(features.frame_logits.float(), embedding, maps, asked)


def _on_host(answer: Answer) -> list[Tensor]:
    """The parts of an answer as they are kept: in host memory, features in half precision.

    A batch at a time: each copy from a GPU waits until all that was asked of it is done.
    """
    whole = [part.to("cpu") for part in (answer.frame_logits, answer.embedding, *answer.maps)]
    return whole + [stage.to("cpu", torch.float16) for stage in answer.stages]
