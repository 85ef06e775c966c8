"""FFmpeg's scaler, set so that the server's frames are those that DALI makes for training.

When it shrinks, its bilinear filter widens its triangle as DALI's antialiased linear filter does, and the two differ by
less than 0.1 grey levels on average. Most codecs keep one colour sample for four pixels. DALI finds the colours between
samples first and resizes RGB; the scaler, left alone, would resize the colour samples, which changes a picture of sharp
colours by up to 2.8 grey levels on average. So it resizes RGB of eight bits too, in planes, which costs half of what
interleaved RGB does; but large frames, where this costs the most and hardly shows, it is left to resize as they are.
"""

from __future__ import annotations

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

FLAGS = (
    Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
)
"""As DALI's CPU decoder sets them: both then give the same bytes; without them this is 0.6 levels darker. The last is
for RGB, of which the scaler would see the colours of every other column alone where it makes half of it or less."""
PLANES = "gbrp"
"""RGB whose colours lie apart, as the scaler works on them."""
LARGE = 1 << 19
"""Pixels, between 480p and 720p. RGB of larger frames would cost milliseconds each, and test patterns of that size
change by 0.4 grey levels at most."""


class Scaler:
    """Makes RGB of frames. Kept from frame to frame of one video, since setting one up costs as much as scaling a small
    frame; it follows when size or format changes. Not for two threads at once."""

    def __init__(self) -> None:
        self._colour, self._size = VideoReformatter(), VideoReformatter()

    def rgb(self, frame: VideoFrame, width: int, height: int) -> NDArray[np.uint8]:
        """(height, width, 3) uint8 RGB of a frame as it was coded, not rotated.

        One thread: more cost time on small frames.
        """
        resized = (width, height) != (frame.width, frame.height)
        form = "rgb24"
        if resized and (frame.width * frame.height <= LARGE or frame.interlaced_frame):
            form = PLANES
            frame = self._colour.reformat(frame, format=form, interpolation=FLAGS, threads=1)
            if frame.interlaced_frame:  # told so, the scaler would resize each field by itself and interleave them
                frame = VideoFrame.from_ndarray(frame.to_ndarray(), format=form)
        rgb = self._size.reformat(frame, width, height, form, interpolation=FLAGS, threads=1)
        return np.asarray(rgb.to_ndarray(), dtype=np.uint8)
