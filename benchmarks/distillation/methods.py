"""The ways to distil that are compared, each as the ``distill:`` section of a pipeline.yaml with one weight to search.

Every rival stands on KD, as the method does, so that what differs is the one term it adds. Each has three weights to
choose from, half a power of ten apart around the size at which its term weighs about as much as KD's, and another
wherever the best so far was the first or the last.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Section = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Method:
    """A family of ``distill:`` sections."""

    section: Callable[[float], Section]
    """Of a weight; over the pipeline's own ``distill`` section."""
    weights: tuple[float, ...] = ()
    """To choose from on the validation split."""
    weight_of: str = ""
    """The method whose weight it takes instead: what is left of that one without a part."""


def _on_kd(**terms: Any) -> Section:
    off = {"spectrum": {"weight": 0}, "parameters": {"weight": 0, "start": "random"}, "collaboration": "fixed"}
    return off | terms


def _rival(name: str) -> Callable[[float], Section]:
    return lambda weight: _on_kd(**{name: weight})


def _started(name: str, start: str = "teacher") -> Callable[[float], Section]:
    """A rival whose kernels start from the teacher's too."""
    return lambda weight: _on_kd(**{name: weight}, parameters={"weight": 0, "start": start})


def _spectrum(
    start: str = "random", collaboration: str = "fixed", over: str = "time", **form: Any
) -> Callable[[float], Section]:
    """KD and the feature spectrum in one form or another."""
    return lambda weight: _on_kd(
        spectrum={"weight": weight, "over": over, **form},
        parameters={"weight": 0, "start": start},
        collaboration=collaboration,
    )


def _method(start: str = "fitted", collaboration: str = "learned", **form: Any) -> Callable[[float], Section]:
    return _spectrum(start, collaboration, over="space-time", **{"align": "auto", **form})


def _unfitted(collaboration: str = "learned", **form: Any) -> Callable[[float], Section]:
    """The method's form of before: its kernels start as a sample of the teacher's, and attention maps are compared."""
    return _method("teacher", collaboration, align="attention", **form)


def _maps(collaboration: str = "fixed", **form: Any) -> Callable[[float], Section]:
    """The spectrum of attention maps with its phases, whose distances are those of the maps (Parseval).

    So with even bins it is attention transfer, whether it is over time or, as *of maps with phases*, over space too.
    """
    return _spectrum("fitted", collaboration, align="attention", form="complex", **form)


METHODS = {
    "ce": Method(lambda _: _on_kd(cross_entropy=1, logits=0), (1,)),
    "kd": Method(lambda weight: _on_kd(cross_entropy=1 - weight, logits=weight), (0.3, 0.5, 0.7, 0.9)),
    "fitnet": Method(_rival("fitnet"), (0.1, 0.3, 1, 3, 10)),
    "attention": Method(_rival("attention"), (0.3, 1, 3, 10)),
    "dist": Method(_rival("dist"), (0.3, 1, 3, 10)),
    "relational": Method(_rival("relational"), (1, 3, 10, 30)),
    "spatial_spectrum": Method(_rival("spatial_spectrum"), (0.03, 0.1, 0.3, 1, 3, 10)),
    "method": Method(_method(), (0.03, 0.1, 0.3, 1)),
    "method without spectrum": Method(lambda _: _method()(0), weight_of="method"),
    "method without parameters": Method(_method(start="random"), weight_of="method"),
    "method without collaboration": Method(_method(collaboration="fixed"), (0.3, 1, 3, 10)),
}
"""The comparison: the student alone, the rivals, the method, and the method without each of its parts."""

FORMS = {
    "spectrum over time": Method(_spectrum(), (3, 10, 30)),
    "spectrum over time, by bin": Method(_spectrum(scale="bin"), (1, 3, 10)),
    "spectrum over space-time": Method(_spectrum(over="space-time"), (1,)),
    "start": Method(_spectrum("teacher"), (0,)),
    "start, energy": Method(_spectrum("energy"), (0,)),
    "start, spectrum over time": Method(_spectrum("teacher"), (1, 3, 10)),
    "start, attention": Method(_started("attention"), weight_of="attention"),
    "start, spatial_spectrum": Method(_started("spatial_spectrum"), weight_of="spatial_spectrum"),
    "start, spectrum of channels": Method(_spectrum("teacher", align="channels"), (0.1, 0.3, 1)),
    "start, spectrum over time, evidence": Method(lambda weight: _spectrum("teacher", evidence=weight)(1), (0.3, 1)),
    "fitted, attention": Method(_started("attention", "fitted"), weight_of="attention"),
    "fitted, kd": Method(_maps(), (0,)),
    "fitted, maps": Method(_maps(), (0.3, 1, 3)),
    "fitted, maps, low-pass": Method(_maps(bin_weights=[1, 0.71, 0.5, 0.35, 0.25]), (0.3, 1, 3)),
    "fitted, maps, high-pass": Method(_maps(bin_weights=[0.35, 1, 1, 1, 1]), (0.3, 1, 3)),
    "fitted, maps, learned": Method(_maps("learned"), (0.1, 0.3, 1)),
    "fitted, maps, confidence": Method(_maps("confidence"), (0.3, 1, 3)),
    "method, with phases": Method(_method(form="complex"), (0.03,)),
    "method, of maps": Method(_method(align="attention"), (0.03, 0.1)),
    "method, of maps with phases": Method(_method(form="complex", align="attention"), (0.3, 1)),
    "unfitted": Method(_unfitted(), (0.03, 0.1, 0.3, 1)),
    "unfitted without spectrum": Method(lambda _: _unfitted()(0), weight_of="unfitted"),
    "unfitted without parameters": Method(_method("random"), weight_of="unfitted"),
    "unfitted without collaboration": Method(_unfitted("fixed"), (0.3, 1, 3, 10)),
    "method, energy": Method(
        lambda weight: _unfitted()(0.1) | {"parameters": {"weight": weight, "start": "teacher"}}, (0.01, 0.1)
    ),
    "method, quantiles": Method(
        lambda weight: _unfitted()(0.1) | {"parameters": {"weight": weight, "start": "teacher", "form": "quantiles"}},
        (0.01, 0.1),
    ),
    "method, no spectrum": Method(_unfitted(), (0,)),
    "method, complex": Method(_unfitted(form="complex"), (0.1, 0.3, 1, 3)),
    "method, confidence": Method(_unfitted(collaboration="confidence"), (1,)),
    "method, sampled": Method(_unfitted(collaboration="sampled"), (1,)),
}
"""Other forms of the method's parts, most of them of the form of before, and the best rivals with one of them."""
