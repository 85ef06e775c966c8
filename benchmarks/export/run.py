"""What the export stage reaches on a finished run: every proof beside its limit, latencies, and engine build times.

python benchmarks/export/run.py runs/motion
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import click

from cpd_export.engine_file import make_engine
from cpd_export.flavours import BuildOptions


@click.command()
@click.argument("run_dir", type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(run_dir: Path) -> None:
    """Prints a table of export.json, then builds every ONNX file's engine twice; the second may use a timing cache."""
    summary = json.loads((run_dir / "export/export.json").read_text())
    for file in [*summary["files"], *summary["streams"]]:
        latency = f"{file['latency_ms']['p50']:.2f} ms" if file["latency_ms"] else ""
        notes = "recommended" if file["recommended"] else file["reason"]
        print(f"{file['path']:28} {file['status']:8} {file['size_bytes'] / 1e6:.2f} MB {latency:>10} {notes}")
        for proof in file["proofs"]:
            value = "none" if proof["value"] is None else f"{proof['value']:.3g}"
            limit = "" if proof["limit"] is None else f"limit {proof['limit']:.3g}"
            notes = " to ".join(f"{end:.3g}" for end in proof.get("interval", [])) or proof.get("detail", "")
            print(f"    {proof['name']:48} {value:>10}  {limit:14} {proof['status']:12} {notes}")
    for file in summary["files"]:
        if file["runtime"] == "onnxruntime" and file["status"] == "built":
            print(f"{file['path']}: engine built in {' and then '.join(build_times(run_dir / file['path']))}")


def build_times(onnx: Path) -> list[str]:
    """Seconds of two builds in a folder of their own."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / onnx.name
        copy.write_bytes(onnx.read_bytes())
        times = []
        for _ in range(2):
            start_s = time.perf_counter()
            make_engine(copy, copy.with_suffix(".trt"), BuildOptions())
            times.append(f"{time.perf_counter() - start_s:.2f} s")
    return times


if __name__ == "__main__":
    main()
