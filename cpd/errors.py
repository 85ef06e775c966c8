"""Every error a user can cause, each with its remedy and the exit code of the command that meets it.

    CpdError                 1   one line and its remedy on stderr, no traceback
    ├── ConfigError          2   every problem of a pipeline.yaml at once
    ├── DataError            1   a data set that cannot be used
    │   └── VideoError       1   one video that cannot be read
    ├── BusyError            1   another run holds the folder
    ├── TrainingError        1   a loss that is not finite, teacher and student that do not fit
    ├── ExportError          1   a graph that cannot be exported or is not equal to its source
    └── EngineError          1   an engine that cannot be loaded or run here
        └── EngineMismatchError  1   an engine built for something else

Anything that is not a ``CpdError`` is a bug and keeps its traceback.
"""

from __future__ import annotations

from pathlib import Path


def install(extra: str) -> str:
    """The command that installs this project with one of its extras; it is on no package index to be found by name."""
    import shlex  # a server that starts well needs none of this

    checkout = Path(__file__).parents[1]
    if (checkout / "pyproject.toml").is_file():
        return f"pip install {shlex.quote(f'{checkout}[{extra}]')}"
    return f"pip install '.[{extra}]' in a checkout of cpd, or its wheel: pip install 'FILE.whl[{extra}]'"


def reason_of(error: OSError) -> str:
    """The system's words for an error, without the path and the number around them: no space left on device."""
    return (error.strerror or str(error)).lower()


class CpdError(Exception):
    """Something the user can mend. ``remedy`` says how, in one sentence."""

    exit_code = 1

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message} ({self.remedy})" if self.remedy else message


class ConfigError(CpdError):
    """A pipeline.yaml that does not say what to do; ``problems`` holds one line each."""

    exit_code = 2

    def __init__(self, problems: list[str], remedy: str = "") -> None:
        super().__init__("\n".join(problems), remedy)
        self.problems = problems


class DataError(CpdError):
    """A data set that cannot be used."""


class VideoError(DataError):
    """One video that cannot be read."""


class BusyError(CpdError):
    """The run folder is in use by another run."""


class TrainingError(CpdError):
    """Training that cannot start or must stop."""


class ExportError(CpdError):
    """A graph that cannot be exported, or that is not equal to what it was made from."""


class EngineError(CpdError):
    """An engine that cannot be loaded or run here."""


class EngineMismatchError(EngineError):
    """An engine built for another runtime, version or GPU."""
