"""A process that labels the clips it is told of, one a line: ``python -m cpd_serve.http.worker ENGINE``.

The HTTP service decodes nothing itself. A clip that crashes or hangs a decoder takes this process with it, and the
service starts another.

It writes ``{"ready": true}`` once the model is loaded, or ``{"failed": "..."}``. Then each line read is
``{"path": ..., "name": ..., "top_k": ..., "views": ..., "part_s": ..., "max_duration_s": ...}``, for which two are
written: ``{"begun": true}`` at once, and the answer as ``cpd-serve --json --explain`` gives it, with ``error`` where
there is none.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from cpd.errors import CpdError, VideoError
from cpd.video import duration_s
from cpd_serve.labelling import Question, failed, label_video
from cpd_serve.orphans import end_with_parent
from cpd_serve.runner import Runner, open_runner


def main(engine: str, provider: str | None) -> None:
    """Answers every line of stdin until it ends."""
    end_with_parent()
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints goes to stderr, not between the answers
    try:
        with open_runner(engine, provider, threads=1) as runner:
            print(json.dumps({"ready": True}), file=answers)
            for line in sys.stdin:
                print(json.dumps({"begun": True}), file=answers)
                print(json.dumps(answer(runner, json.loads(line))), file=answers)
    except CpdError as error:
        print(json.dumps({"failed": str(error)}), file=answers)


def answer(runner: Runner, asked: dict[str, Any]) -> dict[str, Any]:
    """The answer for one clip; its name stands wherever its path would."""
    path, name = Path(asked["path"]), asked["name"]
    try:
        length_s = duration_s(path)
        if length_s > asked["max_duration_s"]:
            raise VideoError(f"{path}: takes {length_s:.0f} s, and the limit is {asked['max_duration_s']:g} s")
        found = label_video(runner, path, Question(asked["top_k"], asked["views"], asked["part_s"]))
    except CpdError as error:
        found = failed(path, str(error).replace(str(path), name))
    return found.to_dict(runner, explain=True) | {"video": name}


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None)
