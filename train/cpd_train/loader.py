"""The DALI adapter: views in, batches of uint8 clips out, on a GPU or a CPU.

One graph serves every codec. Where DALI's decoder can read a video (what NVDEC reads on this GPU; VP8, VP9 and MJPEG on
a CPU; of a common container), it decodes in the graph; any other video is decoded by PyAV and enters the same graph
before the resize. DALI chooses between the two sample by sample.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from nvidia.dali import fn, pipeline_def, types
from torch import Tensor

from cpd.clip import ClipSpec
from cpd.config import Augment
from cpd.container import NVDEC_LIBRARY, open_file
from cpd.dataset import Clip
from cpd.errors import VideoError
from cpd.threads import usable_cpus
from cpd.video import probe, read_frames, read_middles
from cpd_train.ahead import ahead
from cpd_train.cache import Cache, Frames
from cpd_train.nvdec import CODECS, Range, readable
from cpd_train.sampling import View, batches, evaluation_views, training_views, whole

ANY_SIZE = Range((1, 1), (1 << 14, 1 << 14), 1 << 20)
ON_CPU = {"vp8": ANY_SIZE, "vp9": ANY_SIZE, "mjpeg": ANY_SIZE}
"""What ``fn.decoders.video`` of DALI 2.4 reads on a CPU."""
CONTAINERS = frozenset({"avi", "matroska,webm", "mov,mp4,m4a,3gp,3g2,mj2"})
"""FFmpeg's names of the formats that DALI is given; its own FFmpeg reads fewer than PyAV's, of FLV no VP9."""
CHROMA_420 = frozenset({"yuv420p", "yuvj420p"})
"""FFmpeg's names of the 8-bit formats that NVDEC is asked for."""
PROGRESSIVE = 1
"""FFmpeg's AV_FIELD_PROGRESSIVE; 0 is unknown, and of all others NVDEC may give the fields one by one."""
MIDDLE_GREY = 127
AHEAD = 2
"""Batches made while the model works on an earlier one."""
DECODED_BYTES = {"cpu": 1 << 29, "cuda": 1 << 31}
"""Of frames at their own size that are held at once, where they are decoded, unless one clip alone takes more."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What a training step sees."""

    frames: Tensor
    """(batch, frames, height, width, 3) uint8 RGB on the loader's device."""
    labels: Tensor
    """(batch, labels) float: how much of each class there is, which is one but where clips are blended."""
    views: list[tuple[int, int]]
    """For each clip its position in the table, and which of its random views this is."""


class ClipLoader:
    """Batches of one split.

    Args:
        clips: the clips of the split.
        labels: all class names; position is the class index.
        spec: the input contract.
        batch_size: clips in a batch.
        device: cpu or cuda.
        cache_bytes: memory for decoded, resized clips, and what is left of it for views that are met again; what does
            not fit is made anew each time.

    ``readable`` holds the sizes that DALI's own decoder is given, by FFmpeg's codec name; PyAV decodes the rest.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        labels: Sequence[str],
        spec: ClipSpec,
        batch_size: int,
        device: torch.device,
        cache_bytes: int = 0,
    ) -> None:
        self.clips, self.labels, self.spec, self.batch_size = clips, labels, spec, batch_size
        self.device = device
        self._pipeline = _graph(
            device_type=device.type,
            batch_size=batch_size,
            num_threads=usable_cpus(),
            device_id=device.index or 0 if device.type == "cuda" else None,
            prefetch_queue_depth=1,
            exec_dynamic=True,
        )
        self._pipeline.build()
        self._pool = ThreadPoolExecutor(usable_cpus())
        self._cache = Cache(cache_bytes)
        on_gpu = device.type == "cuda"
        # a stream of its own, so that loading does not queue behind the training steps
        self._stream = torch.cuda.Stream(device) if on_gpu else None  # type: ignore[no-untyped-call]
        self.readable = readable(device) if on_gpu else ON_CPU
        self._native: dict[int, bool] = {}
        if not self.readable and any(clip.codec in CODECS for clip in clips):
            warnings.warn(
                f"the GPU decodes no video here (no NVDEC, or no {NVDEC_LIBRARY}): the CPU does, which can be slower; "
                "a container needs NVIDIA_DRIVER_CAPABILITIES=compute,utility,video",
                stacklevel=2,
            )

    def evaluate(self) -> Iterator[Batch]:
        """Every clip once, in order, in its fixed view."""
        views = evaluation_views(self.clips, self.labels, self.spec)
        return self._load((group, False) for group in batches(views, self.batch_size, drop_last=False))

    def train(self, augment: Augment, seed: int, epoch: int, repeat: int = 0, mixup: float = 0.0) -> Iterator[Batch]:
        """One random view of every clip, in random order; a last batch that is not full is left out.

        Args: see ``training_views``.
        """
        return self._load(self._groups(augment, seed, epoch, repeat, mixup))

    def train_all(self, augment: Augment, seed: int, epochs: int, repeat: int, mixup: float) -> Iterator[Batch]:
        """``train`` of all epochs in one: the first batches of the next are made while the one before is judged."""
        return self._load(
            group for epoch in range(epochs) for group in self._groups(augment, seed, epoch, repeat, mixup)
        )

    def _groups(
        self, augment: Augment, seed: int, epoch: int, repeat: int, mixup: float
    ) -> Iterator[tuple[list[View], bool]]:
        """The views of each batch of an epoch, and whether they are kept."""
        views = training_views(self.clips, self.labels, self.spec, augment, seed, epoch, repeat, mixup)
        # the first epoch fills the cache with clips, which are worth more: every view is made of them
        keep = repeat > 0 and epoch > 0 and self._stream is None
        return ((group, keep) for group in batches(views, self.batch_size, drop_last=len(views) >= self.batch_size))

    def _load(self, groups: Iterable[tuple[list[View], bool]]) -> Iterator[Batch]:
        for batch in ahead((self._run(views, keep) for views, keep in groups), AHEAD):
            if self._stream is not None:  # no later batch is given this memory while the model still reads it
                for tensor in (batch.frames, batch.labels):
                    tensor.record_stream(torch.cuda.current_stream(self.device))
            yield batch

    def _run(self, views: list[View], keep: bool) -> Batch:
        frames = self._kept(views) if keep else self._made(views)
        with torch.cuda.stream(self._stream):
            labels = F.one_hot(torch.tensor([view.label for view in views]), len(self.labels)).float().to(self.device)
            if any(view.share != 1 for view in views):
                shares = torch.tensor([view.share for view in views]).to(self.device)
                frames, labels = blended(frames, shares).round().to(torch.uint8), blended(labels, shares)
            if self._stream is not None:  # the training stream reads what is finished
                self._stream.synchronize()
        return Batch(frames, labels, [(view.row, view.number) for view in views])

    def _made(self, views: list[View]) -> Tensor:
        new = [whole(view, self.clips[view.row], self.spec) for view in views if view.row not in self._cache]
        self._cache.keep_clips(new, self._made_whole)
        return self._through_graph(views, self.spec.crop)

    def _kept(self, views: list[View]) -> Tensor:
        """The same, of which each view is made once, while there is room to keep it."""
        return torch.from_numpy(self._cache.views(views, lambda new: self._made(new).numpy()))

    def _made_whole(self, wholes: list[View]) -> Frames:
        with torch.cuda.stream(self._stream):
            return self._through_graph(wholes, wholes[0].size).cpu().numpy()

    def reads(self, row: int) -> bool:
        """Whether DALI's own decoder reads a clip on the loader's device."""
        if row not in self._native:
            clip = self.clips[row]
            sizes = self.readable.get(clip.codec)
            fits = sizes is not None and sizes.holds(clip.height, clip.width) and clip.path.is_file()
            upright = clip.rotation == 0 and not clip.mirrored
            plain = fits and upright and clip.plain and clip.bit_depth == 8
            self._native[row] = plain and header_fits(clip.path, self.device)
        return self._native[row]

    def _through_graph(self, views: list[View], size: tuple[int, int]) -> Tensor:
        pieces = [self._piece(piece, size) for piece in self._pieces(views)]
        if len(pieces) == 1:
            return pieces[0]
        with torch.cuda.stream(self._stream):
            frames = torch.cat(pieces)
        if self._stream is not None:
            self._stream.synchronize()
        return frames

    def _pieces(self, views: list[View]) -> Iterator[list[View]]:
        """The views in their order, as many together as ``DECODED_BYTES`` allows."""
        piece: list[View] = []
        left = most = DECODED_BYTES[self.device.type]
        for view in views:
            clip = self.clips[view.row]
            height, width = view.size if view.row in self._cache else (clip.height, clip.width)
            needed = len(view.indices) * height * width * 3
            if piece and needed > left:
                yield piece
                piece, left = [], most
            piece.append(view)
            left -= needed
        yield piece

    def _piece(self, views: list[View], size: tuple[int, int]) -> Tensor:
        decoded = list(self._pool.map(self._source, views))
        inputs: dict[str, list[Any]] = {
            "encoded": [encoded for encoded, _ in decoded],
            "raw": [raw for _, raw in decoded],
            "native": [np.array(raw.shape[1] == 0) for _, raw in decoded],
            "indices": [view.indices.astype(np.int32) for view in views],
            "size": [_floats(view.size) for view in views],
            "top_left": [_floats(view.box[:2]) for view in views],
            "bottom_right": [_floats(view.box[2:]) for view in views],
            "out": [_floats(size) for _ in views],
            "hole_corner": [_floats(view.hole[:2]) for view in views],
            "hole_shape": [_floats(view.hole[2:]) for view in views],
            "mirror": [np.array(view.mirror, dtype=np.int32) for view in views],
            "brightness": [np.array(view.brightness, dtype=np.float32) for view in views],
            "contrast": [np.array(view.contrast, dtype=np.float32) for view in views],
        }
        for name, values in inputs.items():
            self._pipeline.feed_input(name, values)
        try:
            (output,) = self._pipeline.run()
        except RuntimeError:  # DALI's, of which the clip cannot be told
            self._check_unchanged(views)
            raise
        if self._stream is not None:
            with torch.cuda.stream(self._stream):
                frames = torch.utils.dlpack.from_dlpack(output.as_tensor()).clone()
            self._stream.synchronize()  # DALI has its memory back after this
            return frames
        return torch.from_numpy(np.array(output.as_tensor()))

    def _check_unchanged(self, views: list[View]) -> None:
        """Raises VideoError for the first clip that decoded when the data stage tried it, and does no more."""
        for path in dict.fromkeys(self.clips[view.row].path for view in views):
            info = probe(path)
            if info.damage:
                raise VideoError(f"{path}: {info.damage}", "it changed since the data stage read it: mend it")

    def _source(self, view: View) -> tuple[Frames, Frames]:
        """(encoded bytes, decoded frames) of a view; whichever is not used is a stand-in of the least size."""
        clip = self.clips[view.row]
        if view.row in self._cache:
            return _NO_BYTES, self._cache.frames_of(view)
        if self.reads(view.row):
            return np.fromfile(clip.path, dtype=np.uint8), _NO_FRAMES
        if clip.plain:
            return _NO_BYTES, np.ascontiguousarray(read_frames(clip.path, view.indices))
        return _NO_BYTES, read_middles(clip.path, view.indices, self.spec)


def blended(values: Tensor, shares: Tensor) -> Tensor:
    """Of each of a batch its share, (batch,), and for the rest the one before it; the first is after the last."""
    shares = shares.reshape(-1, *[1] * (values.dim() - 1)).to(torch.float32)
    return shares * values + (1 - shares) * values.roll(1, 0)


_NO_BYTES = np.zeros(1, dtype=np.uint8)
_NO_FRAMES = np.zeros((1, 0, 0, 3), dtype=np.uint8)


def header_fits(path: Path, device: torch.device) -> bool:
    """Whether DALI is given a file: its codec tells neither the container nor, for NVDEC, the chroma and the fields."""
    with open_file(path) as (container, stream):
        context = stream.codec_context
        by_nvdec = context.pix_fmt in CHROMA_420 and context.field_order <= PROGRESSIVE
        return container.format.name in CONTAINERS and (device.type != "cuda" or by_nvdec)


def _floats(values: Sequence[float]) -> NDArray[np.float32]:
    return np.asarray(values, dtype=np.float32)


@pipeline_def(enable_conditionals=True)  # type: ignore[untyped-decorator]
def _graph(device_type: str) -> Any:
    """Decode or take, resize, crop, mirror, light, erase. Every number comes from outside, sample by sample."""
    on_gpu = device_type == "cuda"

    def given(name: str, ndim: int, dtype: Any, layout: str | None = None) -> Any:
        return fn.external_source(name=name, ndim=ndim, dtype=dtype, layout=layout)

    encoded, raw = given("encoded", 1, types.UINT8), given("raw", 4, types.UINT8, "FHWC")
    size, out = given("size", 1, types.FLOAT), given("out", 1, types.FLOAT)
    top_left, bottom_right = given("top_left", 1, types.FLOAT), given("bottom_right", 1, types.FLOAT)
    hole_corner, hole_shape = given("hole_corner", 1, types.FLOAT), given("hole_shape", 1, types.FLOAT)
    indices, native, mirror = (
        given("indices", 1, types.INT32),
        given("native", 0, types.BOOL),
        given("mirror", 0, types.INT32),
    )
    brightness, contrast = given("brightness", 0, types.FLOAT), given("contrast", 0, types.FLOAT)
    if native:
        frames = fn.decoders.video(encoded, frames=indices, device="mixed" if on_gpu else "cpu")
    else:
        frames = raw.gpu() if on_gpu else raw
    frames = fn.resize(frames, size=size, interp_type=types.INTERP_LINEAR, antialias=True)
    # a crop of the model's own size passes this unchanged
    frames = fn.resize(
        frames, size=out, roi_start=top_left, roi_end=bottom_right, interp_type=types.INTERP_LINEAR, antialias=True
    )
    frames = fn.flip(frames, horizontal=mirror, vertical=0)
    frames = fn.brightness_contrast(frames, brightness=brightness, contrast=contrast)
    return fn.erase(frames, anchor=hole_corner, shape=hole_shape, axis_names="HW", fill_value=MIDDLE_GREY)
