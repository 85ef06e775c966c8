"""What the video decoder of this GPU reads, asked of the driver, so that no clip is given to it that it refuses.

NVDEC has a smallest size as well as a largest, different ones for each codec and generation of GPU, and DALI fails on a
clip outside them. A GPU without NVDEC (some data-centre parts, MIG slices, containers without the ``video`` driver
capability) reads nothing. Structures and numbers are those of cuviddec.h of NVIDIA's Video Codec SDK.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch

from cpd.container import NVDEC_LIBRARY

CODECS = {"mpeg4": 2, "h264": 4, "mjpeg": 5, "hevc": 8, "vp8": 9, "vp9": 10, "av1": 11, "libdav1d": 11}
"""FFmpeg's name, of those ``fn.decoders.video`` of DALI 2.4 gives to NVDEC -> cudaVideoCodec."""
CHROMA_420 = 1
STEP = 2
"""Of the sizes that NVDEC puts out (ulTargetWidth); of odd ones DALI 2.4 takes the colours from the wrong rows."""


class _Caps(ctypes.Structure):
    """CUVIDDECODECAPS."""

    _fields_ = (
        ("codec", ctypes.c_int),
        ("chroma", ctypes.c_int),
        ("bit_depth_minus_8", ctypes.c_uint),
        ("reserved1", ctypes.c_uint * 3),
        ("supported", ctypes.c_ubyte),
        ("decoders", ctypes.c_ubyte),
        ("output_formats", ctypes.c_ushort),
        ("max_width", ctypes.c_uint),
        ("max_height", ctypes.c_uint),
        ("max_macroblocks", ctypes.c_uint),
        ("min_width", ctypes.c_ushort),
        ("min_height", ctypes.c_ushort),
        ("histogram", ctypes.c_ubyte * 4),
        ("reserved3", ctypes.c_uint * 10),
    )


@dataclass(frozen=True, slots=True)
class Range:
    """The sizes of one codec, in pixels."""

    smallest: tuple[int, int]
    """(height, width)."""
    largest: tuple[int, int]
    macroblocks: int
    """Most blocks of 16 x 16 pixels in a frame."""
    step: int = 1
    """Height and width are multiples of it."""

    def holds(self, height: int, width: int) -> bool:
        """Whether frames of this size, in pixels, are among them."""
        return (
            height % self.step == width % self.step == 0
            and self.smallest[0] <= height <= self.largest[0]
            and self.smallest[1] <= width <= self.largest[1]
            and height * width // 256 <= self.macroblocks
        )


def readable(device: torch.device) -> dict[str, Range]:
    """What the GPU decodes of 8-bit 4:2:0 video, by FFmpeg's codec name; nothing where it cannot decode at all."""
    try:
        library = ctypes.CDLL(NVDEC_LIBRARY)
    except OSError:
        return {}
    torch.zeros(1, device=device)  # the question is answered for the CUDA context of this thread
    found = {}
    for name, codec in CODECS.items():
        caps = _Caps(codec=codec, chroma=CHROMA_420)
        if library.cuvidGetDecoderCaps(ctypes.byref(caps)) == 0 and caps.supported:
            found[name] = Range(
                (caps.min_height, caps.min_width), (caps.max_height, caps.max_width), caps.max_macroblocks, STEP
            )
    return found
