"""Which packages a file or a measurement was made with."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress


def installed(packages: Iterable[str]) -> dict[str, str]:
    """Versions of those of these distributions that are installed, in their order."""
    from importlib import metadata  # a command that only shows its help needs none of this

    versions = {}
    for package in packages:
        with suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions
