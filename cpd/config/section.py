"""What all sections of a pipeline.yaml are made of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(ge=0, le=1)]
MOST = 1e9
"""Of any number: larger ones overflow somewhere in the libraries that take them."""
Positive = Annotated[float, Field(gt=0, le=MOST)]
NonNegative = Annotated[float, Field(ge=0, le=MOST)]
Count = Annotated[int, Field(ge=1, le=int(MOST))]

Mistake = tuple[tuple[str | tuple[str, ...], ...], str]
"""The keys that a rule looks at, dotted or as their steps, the one to change first; and what is wrong with them."""


class Section(BaseModel):
    """A part of pipeline.yaml: unknown keys are errors, values never change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def mistakes(self) -> Iterator[Mistake]:
        """What is wrong with several of its keys together, where each by itself is right.

        A rule names every key it looks at: a file with another mistake in one of them is not held to it.
        """
        yield from ()

    @model_validator(mode="after")
    def _without_mistakes(self) -> Self:
        for _, text in self.mistakes():
            raise ValueError(text)
        return self
