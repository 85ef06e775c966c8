"""What the measurements were made on."""

from __future__ import annotations

import platform
from pathlib import Path

from cpd_serve.environment import cpu_name


def test_a_processor_is_told_by_its_name_or_by_its_board(tmp_path: Path) -> None:
    assert cpu_name(tmp_path) == (platform.processor() or platform.machine())
    (tmp_path / "proc/device-tree").mkdir(parents=True)
    (tmp_path / "proc/cpuinfo").write_text("processor\t: 0\nBogoMIPS\t: 108.00\n")
    (tmp_path / "proc/device-tree/model").write_text("Raspberry Pi 5 Model B Rev 1.0\0")
    assert cpu_name(tmp_path) == "Raspberry Pi 5 Model B Rev 1.0"
    (tmp_path / "proc/cpuinfo").write_text("model name\t: Some CPU @ 2.1 GHz\n\nmodel name\t: another\n")
    assert cpu_name(tmp_path) == "Some CPU @ 2.1 GHz"
