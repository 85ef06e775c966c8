"""Where onnxruntime has put the operators of a graph: a provider that it lists need not run any."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from cpd.errors import EngineError

RECORD = "session.record_ep_graph_assignment_info"
"""Key of a session's options that has it note what ``get_provider_graph_assignment_info`` tells."""


def check_placement(path: Path, session: Any, provider: str) -> None:
    """Warns where most operators are not on the provider asked for; an onnxruntime too old to tell is believed.

    Args:
        path: of the graph, for messages.
        session: made with ``RECORD`` set to 1.
        provider: full name of the one asked for.

    Raises:
        EngineError: none is.
    """
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return
    counts = Counter[str]()
    for part in session.get_provider_graph_assignment_info():
        counts[part.ep_name] += len(part.get_nodes())
    taken = counts.pop(provider, 0)
    if not counts:
        return
    elsewhere = " and ".join(f"{count} on {name}" for name, count in counts.items())
    if taken == 0:
        raise EngineError(f"{path}: {provider} runs none of its operators ({elsewhere})", "use --provider cpu")
    if taken < counts.total():  # onnxruntime puts small ones, of shapes, on the CPU on purpose
        warnings.warn(f"{path}: {provider} runs {taken} of its operators, and {elsewhere} run elsewhere", stacklevel=3)
