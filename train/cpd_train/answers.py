"""What the teacher says of a clip, asked once where the same view comes again."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from cpd_train.cuda import networks_in
from cpd_train.loader import Batch
from cpd_train.losses.spectrum import attention_maps, pool_to, spectral_shape
from cpd_train.models import VideoClassifier, evenly_chosen


class Answer(NamedTuple):
    """The teacher's side of every loss."""

    frame_logits: Tensor
    """(batch, frames, labels)."""
    embedding: Tensor
    """(batch, channels): the last stage, averaged over time and space."""
    maps: list[Tensor]
    """For each stage its attention maps, (batch, frames, height, width), on a grid no finer than the student's."""
    features: list[Tensor]
    """For each stage all of it, (batch, frames, channels, height, width); empty if no term asks for that."""
    spectra: list[Tensor]
    """For each stage the shape of its spectrum, (batch, values); empty if no term asks for that."""

    @property
    def logits(self) -> Tensor:
        """(batch, labels)."""
        return self.frame_logits.mean(1)


@dataclass(frozen=True, slots=True)
class Spectra:
    """What the spectrum term compares: of which signal, on which grid, and in which form."""

    grids: tuple[tuple[int, int], ...]
    """For each stage the (height, width) that the signal is averaged to."""
    align: str
    """attention, whose signals are maps; adapter, of all the teacher's channels; or channels, of some."""
    channels: tuple[int, ...]
    """How many of the teacher's in each stage, evenly chosen."""
    form: str
    dc: bool
    over: str
    scale: str

    def __call__(self, signals: Iterable[Tensor]) -> list[Tensor]:
        """(batch, frames, ..., height, width) of each stage -> (batch, values): see ``spectral_shape``."""
        return [
            spectral_shape(pool_to(signal.float(), grid), self.form, self.dc, self.over, self.scale)
            for signal, grid in zip(signals, self.grids, strict=True)
        ]

    def of_teacher(self, stages: Sequence[Tensor], maps: Sequence[Tensor]) -> list[Tensor]:
        """The same of a teacher's features, in half precision where there is one for each channel."""
        if self.align == "attention":
            return self(maps)
        chosen = [
            evenly_chosen(stage, _with_channels(stage, count))
            for stage, count in zip(stages, self.channels, strict=True)
        ]
        return [shape.half() for shape in self(chosen)]


def half(grid: tuple[int, int]) -> tuple[int, int]:
    """Half of (height, width), rounded up."""
    return (grid[0] + 1) // 2, (grid[1] + 1) // 2


def smaller(ours: tuple[int, int], theirs: tuple[int, int]) -> tuple[int, int]:
    """The smaller of two grids, (height, width), in each direction."""
    return min(ours[0], theirs[0]), min(ours[1], theirs[1])


def _with_channels(stage: Tensor, count: int) -> torch.Size:
    return torch.Size((*stage.shape[:2], count, *stage.shape[3:]))


Key = Hashable
"""What of an answer is kept: two terms of one key want the same."""


class Memory:
    """Answers to single views, as many as there is room for.

    Args:
        room_bytes: memory for answers; from the first that goes beyond it on, they are forgotten.
    """

    def __init__(self, room_bytes: int) -> None:
        self._room_bytes = room_bytes
        self._kept: dict[tuple[tuple[int, int], Key], list[Tensor]] = {}

    @property
    def has_room(self) -> bool:
        return self._room_bytes > 0

    def get(self, view: tuple[int, int], keys: Sequence[Key]) -> list[list[Tensor]] | None:
        """What is kept of an answer under each key, if it is under all of them."""
        parts = [self._kept[view, key] for key in keys if (view, key) in self._kept]
        return parts if len(parts) == len(keys) else None

    def put(self, view: tuple[int, int], parts: Mapping[Key, list[Tensor]]) -> None:
        for key, tensors in parts.items():
            if (view, key) not in self._kept:
                size_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
                fits = size_bytes <= self._room_bytes
                self._room_bytes = self._room_bytes - size_bytes if fits else 0
                if fits:
                    self._kept[view, key] = tensors


class Teacher:
    """Answers for batches of clips, remembering those it gave.

    Args:
        model: the teacher, on its device.
        grids: for each stage the student's (height, width); attention maps are not kept finer than that.
        memory: what it said before.
        precision: arithmetic of the network, see ``networks_in``.
        whole: whether terms need its features as they are; they are kept in half precision.
        spectra: the shapes of what spectra terms need, of features and attention maps; they are kept as they are given.
    """

    def __init__(
        self,
        model: VideoClassifier,
        grids: Sequence[tuple[int, int]],
        memory: Memory,
        precision: str = "auto",
        *,
        whole: bool = False,
        spectra: Spectra | None = None,
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.grids, self.memory, self.precision = grids, memory, precision
        self.whole, self.spectra = whole, spectra
        self._keys: list[Key] = ["answer", *(["features"] if whole else []), *([spectra] if spectra else [])]

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Answer:
        """The answer to each clip of a batch, in its order."""
        known = [self.memory.get(view, self._keys) for view in batch.views]
        new = [index for index, parts in enumerate(known) if parts is None]
        if len(new) == len(known) and not self.memory.has_room:
            return self._answer(self._ask(batch.frames))
        if new:
            said = self._ask(batch.frames if len(new) == len(known) else batch.frames[new])
            # a batch at a time: each copy from a GPU waits until all that was asked of it is done
            on_host = [[part.to("cpu") for part in parts] for parts in said]
            for row, index in enumerate(new):  # a clip's own: or it would keep its whole batch
                parts = known[index] = [[part[row].clone() for part in of_key] for of_key in on_host]
                self.memory.put(batch.views[index], dict(zip(self._keys, parts, strict=True)))
            if len(new) == len(known):
                return self._answer(said)
        device = batch.frames.device
        by_key = zip(*(parts for parts in known if parts is not None), strict=True)
        return self._answer([[torch.stack(parts).to(device) for parts in zip(*clips, strict=True)] for clips in by_key])

    def _ask(self, frames: Tensor) -> list[list[Tensor]]:
        """What there is to keep under each key."""
        with networks_in(frames.device, self.precision):
            features = self.model.with_features(frames)
        stages = features.stages
        maps = [
            pool_to(attention_maps(stage), smaller((stage.shape[-2], stage.shape[-1]), grid))
            for stage, grid in zip(stages, self.grids, strict=True)
        ]
        said = [[features.frame_logits.float(), stages[-1].float().mean((1, 3, 4)), *maps]]
        if self.whole:
            said.append([stage.half() for stage in stages])
        if self.spectra:
            said.append(self.spectra.of_teacher(stages, maps))
        return said

    def _answer(self, said: Sequence[Sequence[Tensor]]) -> Answer:
        (frame_logits, embedding, *maps), *further = [[part.float() for part in parts] for parts in said]
        features = further.pop(0) if self.whole else []
        return Answer(frame_logits, embedding, maps, features, further.pop() if self.spectra else [])
