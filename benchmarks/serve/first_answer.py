"""First answer for one clip, whole process, and its peak memory: cpd-serve, a minimal script, and torch, in turns.

    python benchmarks/serve/first_answer.py runs/motion

The programs run one after another in random order, round after round, so that they share what disturbs the machine;
ratios are taken within a round.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from cpd.dataset import read_clips
from cpd.errors import CpdError
from cpd.video import probe
from cpd_serve.environment import cpu_name
from cpd_serve.runner import open_runner

HERE = Path(__file__).parent
LAUNCHER = """
import os, sys, time
start = time.perf_counter()
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ,
                     file_actions=[(os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0)])
_, status, usage = os.wait4(pid, 0)
print(time.perf_counter() - start, usage.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""
"""Starts a program from a small process: Linux counts the memory of the process that starts it as its own."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--video", type=Path, help="default: the first test clip of the run")
    arguments = parser.parse_args()
    programs = commands(
        arguments.run_dir, arguments.video or read_clips(arguments.run_dir / "data/clips.csv", "test")[0].path
    )
    seconds = {name: np.empty(arguments.rounds) for name in programs}
    peaks_mib = {}
    order = np.random.default_rng(0)
    for name, command in programs.items():
        peaks_mib[name] = measure(command)[1]  # files enter the page cache
    for round_number in range(arguments.rounds):
        for name in order.permutation(list(programs)):
            seconds[name][round_number], peaks_mib[name] = measure(programs[name])
    report(seconds, peaks_mib)


def commands(run_dir: Path, video: Path) -> dict[str, list[str]]:
    """The programs that are compared."""
    engine, bin_dir = run_dir / "export/student.onnx", Path(sys.executable).parent
    with open_runner(engine) as runner:
        spec = runner.manifest.clip
    shown = probe(video)
    known = [spec.frames, *spec.resized_size(shown.height, shown.width), *spec.crop]
    return {
        "minimal": [sys.executable, str(HERE / "minimal.py"), str(engine), str(video), *map(str, known)],
        "cpd-serve": [str(bin_dir / "cpd-serve"), "--engine", str(engine), "--video", str(video)],
        "torch": [
            sys.executable,
            str(HERE / "with_torch.py"),
            str(run_dir / "student/student.safetensors"),
            str(video),
        ],
    }


def measure(command: list[str]) -> tuple[float, float]:
    """Seconds until the process has ended, and its peak memory in MiB."""
    answer = subprocess.run([sys.executable, "-S", "-c", LAUNCHER, *command], capture_output=True, text=True)
    if answer.returncode:
        raise SystemExit(f"{' '.join(command)} failed: {answer.stderr}")
    seconds, peak_kib = map(float, answer.stdout.split())
    return seconds, peak_kib / 1024


def report(seconds: dict[str, np.ndarray], peaks_mib: dict[str, float]) -> None:
    """Prints a table in Markdown."""
    print(f"{cpu_name()}, {os.cpu_count()} CPUs, {len(seconds['minimal'])} rounds\n")
    print("| program | median s | fastest s | over minimal (median of rounds) | over cpd-serve | peak MiB |")
    print("|---|---|---|---|---|---|")
    for name, values in seconds.items():
        over = [float(np.median(values / seconds[base])) for base in ("minimal", "cpd-serve")]
        print(
            f"| {name} | {np.median(values):.3f} | {values.min():.3f} | {over[0]:.2f} | {over[1]:.2f}"
            f" | {peaks_mib[name]:.0f} |"
        )


if __name__ == "__main__":
    try:
        main()
    except CpdError as error:
        sys.exit(f"error: {error}")
