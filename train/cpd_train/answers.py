"""What the teacher says of a clip, asked once where the same view comes again."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from cpd_train.cuda import networks_in
from cpd_train.loader import Batch
from cpd_train.losses.spectrum import attention_maps, grid_of, pool_to, smaller, spectral_shape
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
    """For each stage all of it, (batch, frames, channels, height, width)."""
    spectra: list[Tensor]
    """For each stage the shape of its spectrum, (batch, values). Of these three, what no term asks for is empty."""

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
    bin_weights: tuple[float, ...] | None

    def __call__(self, signals: Iterable[Tensor]) -> list[Tensor]:
        """(batch, frames, ..., height, width) of each stage -> (batch, values): see ``spectral_shape``."""
        weights = None if self.bin_weights is None else torch.tensor(self.bin_weights)
        return [
            spectral_shape(pool_to(signal.float(), grid), self.form, self.dc, self.over, self.scale, weights)
            for signal, grid in zip(signals, self.grids, strict=True)
        ]

    def of_teacher(self, stages: Sequence[Tensor]) -> list[Tensor]:
        """The same of a teacher's features, in half precision where there is one for each channel."""
        if self.align == "attention":
            return self(attention_maps(stage) for stage in stages)
        chosen = (
            evenly_chosen(stage, torch.Size((*stage.shape[:2], count, *stage.shape[3:])))
            for stage, count in zip(stages, self.channels, strict=True)
        )
        return [shape.half() for shape in self(chosen)]


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
        """Whether an answer may still be kept."""
        return self._room_bytes > 0

    def get(self, view: tuple[int, int], keys: Sequence[Key]) -> dict[Key, list[Tensor]] | None:
        """What is kept of an answer under each key, if it is under all of them."""
        parts = {key: self._kept[view, key] for key in keys if (view, key) in self._kept}
        return parts if len(parts) == len(keys) else None

    def put(self, view: tuple[int, int], parts: Mapping[Key, list[Tensor]]) -> None:
        """Keeps what fits of an answer, and nothing in place of what is kept already."""
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
        wanted: beside its logits and embedding: maps, features (kept in half precision), and ``Spectra``.
    """

    def __init__(
        self,
        model: VideoClassifier,
        grids: Sequence[tuple[int, int]],
        memory: Memory,
        precision: str = "auto",
        wanted: Iterable[Key] = (),
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.grids, self.memory, self.precision = grids, memory, precision
        self._keys: list[Key] = ["logits", *wanted]

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Answer:
        """The answer to each clip of a batch, in its order."""
        known = [self.memory.get(view, self._keys) for view in batch.views]
        new = [index for index, parts in enumerate(known) if parts is None]
        all_new = len(new) == len(known)
        if all_new and not self.memory.has_room:
            return self._answer(self._ask(batch.frames))
        if new:
            said = self._ask(batch.frames if all_new else batch.frames[new])
            # a batch at a time: each copy from a GPU waits until all that was asked of it is done
            on_host = {key: [part.to("cpu") for part in parts] for key, parts in said.items()}
            for row, index in enumerate(new):  # a clip's own: or it would keep its whole batch
                one = known[index] = {key: [part[row].clone() for part in parts] for key, parts in on_host.items()}
                self.memory.put(batch.views[index], one)
            if all_new:
                return self._answer(said)
        device = batch.frames.device
        given = [parts for parts in known if parts is not None]
        return self._answer(
            {
                key: [torch.stack(parts).to(device) for parts in zip(*(one[key] for one in given), strict=True)]
                for key in self._keys
            }
        )

    def _ask(self, frames: Tensor) -> dict[Key, list[Tensor]]:
        """What there is to keep."""
        with networks_in(frames.device, self.precision):
            features = self.model.with_features(frames)
        stages = features.stages
        said: dict[Key, list[Tensor]] = {}
        for key in self._keys:
            match key:
                case "logits":
                    said[key] = [features.frame_logits.float(), stages[-1].float().mean((1, 3, 4))]
                case "maps":
                    said[key] = [
                        pool_to(attention_maps(one), smaller(grid_of(one), ours))
                        for one, ours in zip(stages, self.grids, strict=True)
                    ]
                case "features":
                    said[key] = [stage.half() for stage in stages]
                case Spectra():
                    said[key] = key.of_teacher(stages)
        return said

    def _answer(self, said: Mapping[Key, Sequence[Tensor]]) -> Answer:
        as_float = {key: [part.float() for part in parts] for key, parts in said.items()}
        spectra = [parts for key, parts in as_float.items() if isinstance(key, Spectra)]
        frame_logits, embedding = as_float["logits"]
        return Answer(
            frame_logits,
            embedding,
            as_float.get("maps", []),
            as_float.get("features", []),
            spectra[0] if spectra else [],
        )
