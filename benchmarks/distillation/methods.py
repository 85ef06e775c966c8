"""The ways to distil that are compared, each as the ``distill:`` section of a pipeline.yaml.

Every rival stands on KD, as the method does, so that what differs is the one term it adds. Its weight is a first guess,
the same order of magnitude for all; a search on the validation split is still to be done.
"""

from __future__ import annotations

from typing import Any

OFF: dict[str, Any] = {"spectrum": {"weight": 0}, "parameters": {"weight": 0}}

METHODS: dict[str, dict[str, Any]] = {
    "ce": OFF | {"cross_entropy": 1, "logits": 0},
    "kd": OFF,
    "fitnet": OFF | {"fitnet": 1},
    "attention": OFF | {"attention": 10},
    "dist": OFF | {"dist": 1},
    "relational": OFF | {"relational": 10},
    "spatial_spectrum": OFF | {"spatial_spectrum": 10},
    "spectrum": OFF | {"spectrum": {"weight": 10}},
    "spectrum+parameters": {"spectrum": {"weight": 10}, "parameters": {"weight": 0.05}},
    "spectrum+parameters, learned": {
        "spectrum": {"weight": 10}, "parameters": {"weight": 0.05}, "collaboration": "learned",
    },
    "spectrum+parameters, confidence": {
        "spectrum": {"weight": 10}, "parameters": {"weight": 0.05}, "collaboration": "confidence",
    },
    "spectrum+parameters, sampled": {
        "spectrum": {"weight": 10}, "parameters": {"weight": 0.05}, "collaboration": "sampled",
    },
}  # fmt: skip
