"""The ways to distil that are compared, each as the ``distill:`` section of a pipeline.yaml with one weight to search.

Every rival stands on KD, as the method does, so that what differs is the one term it adds. Each has three weights to
choose from, half a power of ten apart around the size at which its term weighs about as much as KD's.
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
    return {"spectrum": {"weight": 0}, "parameters": {"weight": 0}} | terms


def _rival(name: str) -> Callable[[float], Section]:
    return lambda weight: _on_kd(**{name: weight})


def _spectrum(**form: Any) -> Callable[[float], Section]:
    return lambda weight: _on_kd(spectrum={"weight": weight, **form})


START = {"parameters": {"weight": 0, "start": "teacher"}}


def _sampled(**form: Any) -> Callable[[float], Section]:
    parameters = START["parameters"] | form
    return lambda weight: _on_kd(spectrum={"weight": weight}, parameters=parameters)


def _sampled_and(form: str) -> Callable[[float], Section]:
    return lambda weight: _sampled(weight=weight, form=form)(1)


def _channels(spectrum: Section | None = None, **parameters: Any) -> Callable[[float], Section]:
    return lambda weight: _on_kd(
        spectrum={"weight": weight, "align": "channels"} | (spectrum or {}), parameters=START["parameters"] | parameters
    )


def _space_time(**parameters: Any) -> Callable[[float], Section]:
    return lambda weight: _on_kd(
        spectrum={"weight": weight, "over": "space-time"},
        parameters=START["parameters"] | parameters,
        collaboration="learned",
    )


METHODS = {
    "ce": Method(lambda _: _on_kd(cross_entropy=1, logits=0), (1,)),
    "kd": Method(lambda weight: _on_kd(cross_entropy=1 - weight, logits=weight), (0.5, 0.7, 0.9)),
    "fitnet": Method(_rival("fitnet"), (0.3, 1, 3, 10)),
    "attention": Method(_rival("attention"), (1, 3, 10)),
    "dist": Method(_rival("dist"), (0.3, 1, 3, 10)),
    "relational": Method(_rival("relational"), (3, 10, 30)),
    "spatial_spectrum": Method(_rival("spatial_spectrum"), (1, 3, 10)),
    "spectrum": Method(_spectrum(), (1, 3, 10, 30)),
    "spectrum, by bin": Method(_spectrum(scale="bin"), (1, 3, 10)),
    "start, energy": Method(_sampled(start="energy"), (1,)),
    "start alone": Method(_sampled(), (0,)),
    "start, teacher": Method(_sampled(), (0.3, 1, 3, 10)),
    "start, teacher; by bin": Method(
        lambda weight: _on_kd(spectrum={"weight": weight, "scale": "bin"}, **START), (0.3, 1)
    ),
    "start, teacher; log": Method(
        lambda weight: _on_kd(spectrum={"weight": weight, "form": "log-amplitude"}, **START), (1,)
    ),
    "start, teacher; without DC": Method(
        lambda weight: _on_kd(spectrum={"weight": weight, "dc": False}, **START), (1,)
    ),
    "channels": Method(_channels(), (0.1, 0.3, 1)),
    "channels, complex": Method(_channels({"form": "complex"}), (0.3,)),
    "channels, by bin": Method(_channels({"scale": "bin"}), (0.3,)),
    "space-time": Method(_spectrum(over="space-time"), (1,)),
    "method": Method(_space_time(), (0.1, 0.3, 1)),
    "method without spectrum": Method(lambda _: _space_time()(0), weight_of="method"),
    "method without parameters": Method(_space_time(start="random"), weight_of="method"),
    "method without collaboration": Method(
        lambda weight: _space_time()(weight) | {"collaboration": "fixed"}, (0.3, 1, 3)
    ),
    "evidence, attention": Method(lambda weight: _on_kd(spectrum={"weight": 1, "evidence": weight}, **START), (0.3,)),
    "evidence": Method(lambda weight: _channels({"evidence": weight})(0.3), (0.3,)),
    "parameters, energy": Method(lambda weight: _channels(weight=weight, form="energy")(0.3), (0.05, 0.5)),
    "parameters, quantiles": Method(lambda weight: _channels(weight=weight, form="quantiles")(0.3), (0.01, 0.1)),
    "fading": Method(_channels({"decay": True}), (0.3, 1, 3)),
    "confidence": Method(lambda weight: _space_time()(weight) | {"collaboration": "confidence"}, (0.3,)),
    "sampled": Method(lambda weight: _space_time()(weight) | {"collaboration": "sampled"}, (0.3,)),
}
