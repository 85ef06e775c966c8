"""A day of 25 frames a second through ``cpd-serve --stream``, as fast as it goes: does its memory stay flat?

    python benchmarks/serve/endless_stream.py runs/motion --hours 24

The day is one file, whose packets are those of a few seconds of video again and again with the clock going on: a real
decoder, scaler, model and smoother see every frame, and only the waiting between frames is left out. The memory of the
process is read while it runs. Its growth is that from the end of the first hour to the highest of the last hour, the
first hour being what it takes to fill windows, caches and the allocator.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from cpd_serve.environment import cpu_name

RATE = 25
SIZE = 64
LOOP_FRAMES = 250
MAX_HOURS = 48.0
SAMPLE_S = 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--hours", type=float, default=24.0, help="simulated")
    parser.add_argument("--engine", default="student.onnx", help="in the run's export folder")
    arguments = parser.parse_args()
    hours = min(arguments.hours, MAX_HOURS)
    with tempfile.TemporaryDirectory() as folder:
        day = Path(folder, "day.ts")
        write_day(day, round(hours * 3600 * RATE))
        command = [str(Path(sys.executable).with_name("cpd-serve")), "--engine"]
        command += [str(arguments.run_dir / "export" / arguments.engine), "--stream", str(day)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            events: list[dict[str, object]] = []
            assert process.stdout is not None
            lines = process.stdout
            reader = threading.Thread(target=lambda: events.extend(map(json.loads, lines)))
            reader.start()
            resident_mib = []
            while process.poll() is None:
                resident_mib.append(resident_kib(process.pid) / 1024)
                time.sleep(SAMPLE_S)
            reader.join()
    if process.returncode:
        sys.exit(process.returncode)
    report(np.asarray(resident_mib[:-1]), events, hours)


def write_day(path: Path, frames: int) -> None:
    """A square that wanders over noise, for so many frames."""
    noise = np.random.default_rng(0).integers(0, 60, (SIZE, SIZE, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=RATE, width=SIZE, height=SIZE, pix_fmt="yuv420p")
        stream.codec_context.gop_size = RATE
        packets = []
        for number in range(LOOP_FRAMES):
            pixels = noise.copy()
            left = number * (SIZE - 16) // LOOP_FRAMES
            pixels[24:40, left : left + 16] = 230
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            packets += stream.encode(frame)
        packets += stream.encode(None)
        contents = [(bytes(packet), packet.is_keyframe) for packet in packets]
        for number in range(frames):
            content, keyframe = contents[number % LOOP_FRAMES]
            packet = av.Packet(content)
            packet.stream, packet.time_base = stream, Fraction(1, RATE)
            packet.pts = packet.dts = number
            packet.is_keyframe = keyframe
            container.mux_one(packet)


def resident_kib(pid: int) -> int:
    """Resident memory of a process, without the file pages it maps; 0 where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("RssAnon:")), 0)


def report(resident_mib: np.ndarray, events: list[dict[str, object]], hours: float) -> None:
    """Prints what it took, and how much more at the end than after the first hour."""
    (end,) = (event for event in events if event["event"] == "end")
    by = events[0]["by"]
    print(f"{cpu_name()}, {os.cpu_count()} CPUs, by {by}, {hours:g} h of {RATE} frames a second\n")
    print(f"frames {end['frames']}, dropped {end['dropped']}, answers {end['answers']}, reason {end['reason']!r}")
    print(f"took {end['seconds']:.0f} s, {end['fps']:.0f} frames a second, could sustain {end['sustainable_fps']:.0f}")
    if hours < 2:
        print("fewer than two hours: no growth to speak of")
        return
    hour = len(resident_mib) / hours
    first, last = resident_mib[int(hour)], resident_mib[-int(hour) :].max()
    print(f"private memory after the first hour {first:.2f} MiB, highest of the last {last:.2f} MiB")
    print(f"growth {last / first - 1:+.2%}")


if __name__ == "__main__":
    main()
