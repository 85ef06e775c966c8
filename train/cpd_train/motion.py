"""The default data set: rendered clips whose eight classes differ by motion alone.

A clip shows four things, one in each quadrant, in random places and colours: a texture that drifts, a wedge that turns,
a disc that grows and a ball that swings. Each passes through the same eight states. The thing that names the class does
so in order; the other three jump through theirs in a random order.

Why a single frame, or all frames shuffled, tell nothing: number a clip's eight moments by the state of any one thing.
What is left of the clip is which states of the other three go with it, and that is three independent uniform random
permutations, whichever thing was the ordered one (composing a fixed permutation with a uniform one gives a uniform
one). The set of frames therefore has the same distribution in all eight classes, and the best any model can do on
shuffled frames is 1/8. It holds for clips sampled at eight frames or a multiple of it.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

STATES = 8
FRAMES_PER_STATE = 2
RATE = 16
"""Frames a second; a clip lasts one second."""

Image = NDArray[np.float64]
"""(height, width) coverage or (height, width, 3) colour, 0 to 1."""

# label -> (which thing moves in order, and how many states it advances at each moment)
MOTIONS: dict[str, tuple[int, int]] = {
    "drift_left": (0, +1),
    "drift_right": (0, -1),
    "turn_clockwise": (1, +1),
    "turn_counterclockwise": (1, -1),
    "grow": (2, +1),
    "shrink": (2, -1),
    "swing_slow": (3, +1),
    "swing_fast": (3, +3),
}
MIRRORED = {
    "drift_left": "drift_right",
    "drift_right": "drift_left",
    "turn_clockwise": "turn_counterclockwise",
    "turn_counterclockwise": "turn_clockwise",
}
"""What a mirrored clip shows; one of the other classes shows its own."""

INKS = ((0.9, 0.8, 0.2), (0.9, 0.3, 0.3), (0.3, 0.85, 0.4), (0.4, 0.6, 1.0))
"""RGB, 0 to 1, of the texture, the wedge, the disc and the ball."""


def render_clip(label: str, size: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """One clip of a class.

    Args:
        label: a key of ``MOTIONS``.
        size: height and width in pixels, even.
        rng: draws places, colours, textures, starting states and the order of what jumps.

    Returns:
        (STATES * FRAMES_PER_STATE, size, size, 3) uint8 RGB.
    """
    half = size // 2
    things = [_texture(half, rng), _wedge(half, rng), _disc(half, rng), _ball(half, rng)]
    orders = state_orders(label, rng)
    places = rng.permutation(4)
    frames = np.empty((STATES, size, size, 3))
    for thing, (draw, order, place) in enumerate(zip(things, orders, places, strict=True)):
        ink, paper = _two_colours(thing, rng)
        for moment, state in enumerate(order):
            coverage = draw(int(state))[..., None]
            top, left = half * (place // 2), half * (place % 2)
            frames[moment, top : top + half, left : left + half] = coverage * ink + (1 - coverage) * paper
    noisy = frames + rng.normal(0, 0.02, frames.shape)
    return np.repeat((noisy.clip(0, 1) * 255).round().astype(np.uint8), FRAMES_PER_STATE, axis=0)


def state_orders(label: str, rng: np.random.Generator) -> NDArray[np.int64]:
    """(4 things, STATES moments): the state of each thing at each moment of a clip of a class."""
    ordered, step = MOTIONS[label]
    orders = np.stack([rng.permutation(STATES) for _ in range(4)])
    orders[ordered] = (rng.integers(STATES) + step * np.arange(STATES)) % STATES
    return orders


def write_video(path: Path, frames: NDArray[np.uint8]) -> None:
    """Encodes (n, height, width, 3) uint8 RGB as Motion JPEG, which keeps every frame free of its neighbours."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=RATE, options={"qscale": "3"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuvj420p"
        stream.time_base = Fraction(1, RATE)
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def _grid(half: int) -> tuple[Image, Image]:
    """Pixel centres of a quadrant, y and x from -1 to 1."""
    axis = (np.arange(half) + 0.5) / half * 2 - 1
    return axis[:, None] + 0 * axis, axis + 0 * axis[:, None]


def _texture(half: int, rng: np.random.Generator) -> Callable[[int], Image]:
    """A random periodic pattern that scrolls sideways by an eighth of its period for each state."""
    y, x = _grid(half)
    waves = [
        (rng.uniform(0, 2 * np.pi), int(rng.integers(-1, 2)), cycles, rng.uniform(0.5, 1.0)) for cycles in (1, 1, 2)
    ]

    def draw(state: int) -> Image:
        shift = 2 * state / STATES
        total = sum(
            weight * np.sin(np.pi * (cycles * (x + shift) + across * y) + phase)
            for phase, across, cycles, weight in waves
        )
        return np.asarray(1 / (1 + np.exp(-4 * total)))

    return draw


def _wedge(half: int, rng: np.random.Generator) -> Callable[[int], Image]:
    """A sector of a disc that turns by an eighth of a circle for each state."""
    y, x = _grid(half)
    radius, opening, phase = rng.uniform(0.7, 0.95), rng.uniform(0.6, 1.2), rng.uniform(0, 2 * np.pi)

    def draw(state: int) -> Image:
        angle = np.angle(np.exp(1j * (np.arctan2(y, x) - phase - 2 * np.pi * state / STATES)))
        return _edge(radius - np.hypot(x, y), half) * _edge((opening - np.abs(angle)) * np.hypot(x, y), half)

    return draw


def _disc(half: int, rng: np.random.Generator) -> Callable[[int], Image]:
    """A disc whose radius takes one of eight steps."""
    y, x = _grid(half)
    centre_y, centre_x = rng.uniform(-0.15, 0.15, 2)
    smallest, largest = rng.uniform(0.1, 0.2), rng.uniform(0.75, 0.9)

    def draw(state: int) -> Image:
        radius = smallest + (largest - smallest) * state / (STATES - 1)
        return _edge(radius - np.hypot(x - centre_x, y - centre_y), half)

    return draw


def _ball(half: int, rng: np.random.Generator) -> Callable[[int], Image]:
    """A ball on a path through the middle, at the sine of its state."""
    y, x = _grid(half)
    angle, radius, phase = rng.uniform(0, np.pi), rng.uniform(0.2, 0.3), rng.uniform(0, 2 * np.pi)

    def draw(state: int) -> Image:
        position = 0.6 * np.sin(2 * np.pi * state / STATES + phase)
        return _edge(radius - np.hypot(x - position * np.cos(angle), y - position * np.sin(angle)), half)

    return draw


def _edge(inside: Image, half: int) -> Image:
    """Coverage of each pixel from its signed distance to an edge, smooth over one pixel."""
    return np.asarray((inside * half / 2 + 0.5).clip(0, 1))


def _two_colours(thing: int, rng: np.random.Generator) -> tuple[Image, Image]:
    """The ink of a thing, always near its own hue, and a dark paper."""
    return (np.array(INKS[thing]) + rng.uniform(-0.1, 0.1, 3)).clip(0, 1), rng.uniform(0, 0.25, 3)
