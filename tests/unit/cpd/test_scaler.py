"""The server's scaler resizes colours as DALI does: between samples first, then with the brightness."""

from __future__ import annotations

import io

import av
import numpy as np
import pytest
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from cpd.scaler import FLAGS, Scaler

HEIGHT, WIDTH = 96, 128


def sharp_colours(form: str) -> VideoFrame:
    """Blocks of random saturated colours, five pixels wide, so that their edges fall between colour samples."""
    corners = np.random.default_rng(0).integers(0, 2, (20, 26, 3), dtype=np.uint8) * 255
    pixels = np.ascontiguousarray(corners.repeat(5, 0).repeat(5, 1)[:HEIGHT, :WIDTH])
    return av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=form, interpolation=FLAGS)


def rgb_first(frame: VideoFrame, width: int, height: int) -> NDArray[np.uint8]:
    """As DALI does it: RGB of the full size, which is then resized."""
    rgb = frame.reformat(format="rgb24", interpolation=FLAGS)
    pixels: NDArray[np.uint8] = rgb.reformat(width=width, height=height, interpolation=FLAGS).to_ndarray()
    return pixels


def apart(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Mean difference in grey levels."""
    return float(np.abs(a.astype(np.int16) - b).mean())


@pytest.mark.parametrize("form", ["nv12", "yuv420p", "yuv420p10le", "yuv422p", "yuv440p", "yuvj420p", "yuvj422p"])
@pytest.mark.parametrize(("width", "height"), [(96, 72), (48, 36), (40, 30), (192, 144), (128, 96)])
def test_resized_as_rgb_would_be(form: str, width: int, height: int) -> None:
    frame = sharp_colours(form)
    pixels = Scaler().rgb(frame, width, height)
    assert pixels.shape == (height, width, 3)
    straight = frame.reformat(width=width, height=height, format="rgb24", interpolation=FLAGS).to_ndarray()
    want = rgb_first(frame, width, height)
    if (width, height) == (WIDTH, HEIGHT):
        np.testing.assert_array_equal(pixels, want)
    else:
        assert apart(pixels, want) < 0.25 * apart(straight, want)


@pytest.mark.parametrize("form", ["rgb24", "gbrp", "bgra"])
def test_half_of_a_picture_has_the_colours_of_all_its_pixels(form: str) -> None:
    """By the antialiased linear filter, written out: DALI's and torch's, too."""
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=form)
    want = pixels.astype(float)
    for _ in range(2):  # down, then right
        around = np.pad(want, ((1, 1), (0, 0), (0, 0)), "edge")
        want = (around[:-2:2] + 3 * around[1:-1:2] + 3 * around[2::2][: len(want) // 2] + around[3::2]) / 8
        want = want.transpose(1, 0, 2)
    halved = Scaler().rgb(frame, WIDTH // 2, HEIGHT // 2)
    assert np.abs(halved - want)[1:-1, 1:-1].mean() < 0.5


@pytest.mark.parametrize("colour_range", ["mpeg", "jpeg"])
@pytest.mark.parametrize("form", ["yuv420p", "yuvj420p"])
def test_resizing_keeps_range_and_matrix(form: str, colour_range: str) -> None:
    frame = av.VideoFrame.from_ndarray(np.full((HEIGHT, WIDTH, 3), (200, 90, 30), np.uint8), format="rgb24").reformat(
        format=form, interpolation=FLAGS, dst_colorspace="itu709"
    )
    frame.colorspace, frame.color_range = 1, {"mpeg": 1, "jpeg": 2}[colour_range]
    one_colour = frame.reformat(format="rgb24", interpolation=FLAGS).to_ndarray()[0, 0].astype(int)
    assert np.abs(Scaler().rgb(frame, 96, 72).astype(int) - one_colour).max() <= 1


def interlaced_frame() -> VideoFrame:
    """As camcorders, DVDs and television give it."""
    file = io.BytesIO()
    with av.open(file, "w", format="mpegts") as container:
        stream = container.add_stream("mpeg2video", rate=25, options={"flags": "+ildct+ilme", "qscale": "2"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        container.mux(stream.encode(sharp_colours("yuv420p")))
        container.mux(stream.encode(None))
    with av.open(io.BytesIO(file.getvalue())) as container:
        return next(container.decode(video=0))


@pytest.mark.parametrize("large", [1 << 19, 0])
def test_an_interlaced_frame_is_resized_whole(large: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cpd.scaler.LARGE", large)
    frame = interlaced_frame()
    assert frame.interlaced_frame
    whole = VideoFrame.from_ndarray(frame.reformat(format="rgb24", interpolation=FLAGS).to_ndarray(), format="rgb24")
    assert apart(Scaler().rgb(frame, 48, 36), rgb_first(whole, 48, 36)) < 0.5
