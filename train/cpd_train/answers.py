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

    logits: Tensor
    """(batch, labels)."""
    embedding: Tensor
    """(batch, channels): the last stage, averaged over time and space."""
    maps: list[Tensor]
    """For each stage its attention maps, (batch, frames, height, width), on a grid no finer than the student's."""
    stages: list[Tensor]
    """For each stage its features, (batch, frames, channels, height, width); empty where no term asks for them."""


class Teacher:
    """Answers for batches of clips, remembering those it gave.

    Args:
        model: the teacher, on its device.
        grids: for each stage the student's (height, width); answers are not kept finer than that.
        whole: whether terms need whole features; these are too large to be remembered.
        keep_bytes: memory for answers; what goes beyond is asked again.
    """

    def __init__(self, model: VideoClassifier, grids: Sequence[tuple[int, int]], whole: bool, keep_bytes: int) -> None:
        self.model = model.eval().requires_grad_(False)
        self.grids, self.whole, self._left = grids, whole, 0 if whole else keep_bytes
        self._kept: dict[tuple[int, int], list[Tensor]] = {}

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Answer:
        """The answer to each clip of a batch, in its order."""
        new = [index for index, key in enumerate(batch.views) if key not in self._kept]
        if len(new) == len(batch.views):
            answer = self._ask(batch.frames)
            self._keep(batch.views, answer)
            return answer
        if new:
            self._keep([batch.views[index] for index in new], self._ask(batch.frames[new]))
        if any(key not in self._kept for key in batch.views):  # the memory is full
            return self._ask(batch.frames)
        rows = zip(*(self._kept[key] for key in batch.views), strict=True)
        logits, embedding, *maps = (torch.stack(row).to(batch.frames.device) for row in rows)
        return Answer(logits, embedding, maps, [])

    def _ask(self, frames: Tensor) -> Answer:
        with networks_in(frames.device):
            features = self.model.with_features(frames)
        maps = []
        for stage, grid in zip(features.stages, self.grids, strict=True):
            size = (min(grid[0], stage.shape[-2]), min(grid[1], stage.shape[-1]))
            maps.append(pool_to(attention_maps(stage.float()), size))
        embedding = features.stages[-1].float().mean((1, 3, 4))
        whole = [stage.float() for stage in features.stages] if self.whole else []
        return Answer(features.logits, embedding, maps, whole)

    def _keep(self, keys: Sequence[tuple[int, int]], answer: Answer) -> None:
        tensors = [tensor.cpu() for tensor in (answer.logits, answer.embedding, *answer.maps)]
        size = sum(tensor[0].numel() * tensor.element_size() for tensor in tensors)
        for index, key in enumerate(keys):
            if size > self._left:
                return
            self._kept[key] = [tensor[index].clone() for tensor in tensors]
            self._left -= size
