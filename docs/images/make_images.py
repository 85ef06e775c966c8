"""Draws the README's picture: the top of a report, as headless Chromium shows it.

make images                                                     # of runs/motion
python docs/images/make_images.py runs/miracl/report.html
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WIDTH, HEIGHT = 1080, 1140
"""CSS pixels; about the verdict, the gates and the models."""


def screenshot(page: Path, image: Path) -> None:
    """Writes ``image`` (PNG, two pixels for each CSS pixel) of the top of a page."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit(f"error: none of {', '.join(BROWSERS)} is installed")
    with tempfile.TemporaryDirectory() as profile:
        options = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--disable-background-networking",
        ]
        options += ["--no-first-run", f"--user-data-dir={profile}", f"--window-size={WIDTH},{HEIGHT}"]
        options += ["--force-device-scale-factor=2", f"--screenshot={image}"]
        subprocess.run([browser, *options, page.resolve().as_uri()], check=True, capture_output=True, timeout=120)


if __name__ == "__main__":
    report = Path(sys.argv[1])
    if not report.is_file():
        sys.exit(f"error: {report}: no such file (cpd-pipeline run writes it at its end)")
    screenshot(report, Path(__file__).with_name("report.png"))
