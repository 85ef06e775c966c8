"""What is measured on: synthetic videos of every codec, and networks with random weights."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray

from cpd.clip import ClipSpec
from cpd.dataset import Clip
from cpd.video import probe
from cpd_train.models import ModelSpec, VideoClassifier, build_model

ENCODERS = {
    "h264": ("libx264", ".mp4", {"preset": "ultrafast", "g": "30"}),
    "hevc": ("libx265", ".mp4", {"preset": "ultrafast", "g": "30", "x265-params": "log-level=none:keyint=30"}),
    "av1": ("libsvtav1", ".mp4", {"preset": "10", "g": "30", "crf": "35", "b": "0"}),
    "vp8": ("libvpx", ".webm", {"deadline": "realtime", "cpu-used": "8", "g": "30"}),
    "vp9": ("libvpx-vp9", ".webm", {"deadline": "realtime", "cpu-used": "8", "g": "30"}),
    "mjpeg": ("mjpeg", ".avi", {}),
    "mpeg4": ("mpeg4", ".avi", {"g": "30"}),
}
"""Codec -> PyAV's encoder, a usual container, and options that encode fast with a keyframe a second.

SVT-AV1 holds no bit rate in frames as small as those of ``--quick``, so it is given a quality."""
RATE = 30
LABELS = tuple("abcdefgh")


def clip_of(quick: bool) -> ClipSpec:
    return ClipSpec(frames=8, resize=36, crop=(32, 32)) if quick else ClipSpec(frames=8, resize=256, crop=(224, 224))


def network(role: str, quick: bool) -> VideoClassifier:
    """A teacher or student with random weights."""
    if quick:
        spec = ModelSpec("tsm-tiny", width=8 if role == "teacher" else 4)
    else:
        spec = ModelSpec("tsm-resnet50" if role == "teacher" else "tsm-mobilenetv2")
    return build_model(spec, len(LABELS), clip_of(quick))


def moving(frames: int, height: int, width: int, seed: int) -> NDArray[np.uint8]:
    """(frames, height, width, 3) uint8 RGB: waves with noise that drift, so that no codec has it too easy."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    fy, fx = rng.uniform(0.01, 0.06, (2, 3)).astype(np.float32)
    waves = 127 + 100 * np.sin(y[..., None] * fy + x[..., None] * fx) + rng.normal(0, 4, (height, width, 3))
    picture, (down, right) = waves.clip(0, 255).astype(np.uint8), rng.integers(1, 6, 2)
    return np.stack([np.roll(picture, (t * down, t * right), (0, 1)) for t in range(frames)])


def written(folder: Path, codecs: Iterable[str], height: int, width: int, frames: int, files: int) -> list[Clip]:
    """As many clips of each codec, encoded on all CPUs, the codecs one after the other."""
    folder.mkdir(parents=True, exist_ok=True)

    def make(number: int, codec: str, pixels: NDArray[np.uint8]) -> Clip:
        path = folder / f"{codec}-{height}-{number}{ENCODERS[codec][1]}"
        write(path, codec, pixels)
        info = probe(path)
        label = LABELS[number % len(LABELS)]
        return Clip(
            path, label, "train", info.codec, info.height, info.width, info.rotation, info.bit_depth, info.times_s
        )

    videos = [moving(frames, height, width, number) for number in range(files)]
    with ThreadPoolExecutor() as pool:
        made = [pool.submit(make, number, codec, video) for codec in codecs for number, video in enumerate(videos)]
        return [clip.result() for clip in made]


def write(path: Path, codec: str, pixels: NDArray[np.uint8]) -> None:
    """Encodes (frames, height, width, 3) uint8 RGB as 4:2:0 of one keyframe a second."""
    encoder, _, options = ENCODERS[codec]
    with av.open(str(path), "w") as container:
        stream = cast(VideoStream, container.add_stream(encoder, rate=RATE, options=options))
        stream.height, stream.width = pixels.shape[1:3]
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.bit_rate = 4_000_000
        for frame in pixels:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
