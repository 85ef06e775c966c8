"""Sections of a pipeline.yaml that say how networks are trained and distilled."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from cpd.config.section import MOST, Count, Fraction, Mistake, NonNegative, Positive, Section
from cpd.limits import MAX_BATCH

MODELS = (
    "tsm-tiny", "tsn-tiny",
    "tsm-resnet18", "tsm-resnet34", "tsm-resnet50", "tsm-mobilenetv2",
    "tsn-resnet18", "tsn-resnet34", "tsn-resnet50", "tsn-mobilenetv2",
)  # fmt: skip


Part = Annotated[float, Field(ge=0, lt=1)]
"""Of something of which a rest must remain."""


class Model(Section):
    """One network and how it is trained."""

    model: Literal[MODELS] = Field("tsm-tiny", description="Temporal model and backbone.")  # type: ignore[valid-type]
    width: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        None, description="Channels of the first stage (tiny models)."
    )
    blocks: Annotated[int, Field(ge=1, le=64)] | None = Field(
        None, description="Residual blocks in each of the four stages (tiny models)."
    )
    checkpoint: Path | None = Field(
        None, description="Weights to start from: safetensors, or .pth (read weights_only). Relative as data.folder is."
    )
    shift_fraction: Fraction = Field(0.25, description="Share of channels a TSM shifts, half each way.")
    causal: bool = Field(
        False, description="Shift from earlier frames alone (online TSM): exports a graph that runs frame by frame too."
    )
    dropout: Part = Field(0.0, description="Share of features dropped before the classifier while training.")
    epochs: Annotated[int, Field(ge=0, le=int(MOST))] = Field(25, description="0 uses the checkpoint as it is.")
    batch_size: Annotated[int, Field(ge=1, le=MAX_BATCH)] = Field(32, description="Clips in a training step.")
    learning_rate: Positive = Field(2e-3, description="Peak of the schedule.")
    weight_decay: NonNegative = Field(0.05, description="AdamW's decoupled decay of weights.")
    label_smoothing: Part = Field(
        0.0, description="Probability moved from the true label to all labels; a teacher's, in its first generation."
    )
    mixup: NonNegative = Field(
        0.0, description="Blend pairs of clips, and their labels, by shares drawn from Beta(m, m)."
    )
    generations: Count = Field(
        1,
        description="Train anew as often as this, each time from the answers of the one before "
        "(born-again networks); a teacher's alone.",
    )

    def mistakes(self) -> Iterator[Mistake]:
        unused = [key for key in ("width", "blocks") if getattr(self, key) is not None]
        if unused and not self.model.endswith("-tiny"):
            yield (*unused, "model"), f"width and blocks belong to tiny models, not to {self.model}"
        if self.causal and not self.model.startswith("tsm-"):
            yield ("causal", "model"), f"causal belongs to tsm models, not to {self.model}: it has no shift"


class Spectrum(Section):
    """Feature spectrum distillation: match the temporal frequency spectrum of each stage's features."""

    weight: NonNegative = Field(0.03, description="0 switches the term off.")
    form: Literal["amplitude", "log-amplitude", "complex"] = Field(
        "amplitude", description="What of the spectrum is compared; complex counts phase too."
    )
    align: Literal["auto", "attention", "adapter", "channels"] = Field(
        "auto",
        description="How both are brought to one shape: attention over channels, a learned adapter, or the teacher's "
        "channels that the student started from (parameters.start: fitted, networks of one family). auto is channels "
        "where it did, and else attention.",
    )
    over: Literal["time", "space-time"] = Field(
        "space-time", description="Frequencies of each position's course, or of a clip's motion, wherever it is."
    )
    dc: bool = Field(True, description="Whether the zero-frequency bin counts.")
    scale: Literal["clip", "bin"] = Field(
        "clip", description="What is scaled to unit length: the spectrum of a clip, or each of its bins by itself."
    )
    bin_weights: Annotated[tuple[NonNegative, ...], Field(min_length=1)] | None = Field(
        None,
        description="How much each temporal frequency counts, from the zero frequency on (the first there is without "
        "dc): clip.frames // 2 + 1 numbers, one less without dc; all alike by default.",
    )
    evidence: NonNegative = Field(
        0.0, description="Weight of the spectrum of each frame's logits: when the evidence for each class comes."
    )

    def mistakes(self) -> Iterator[Mistake]:
        if self.bin_weights is not None and not any(self.bin_weights):
            yield ("bin_weights",), "bin_weights are all 0, so nothing of the spectrum counts"


class Parameters(Section):
    """Parameter distribution distillation: match the frequency distribution of the kernels."""

    weight: NonNegative = Field(0.0, description="0 switches the term off.")
    form: Literal["energy", "quantiles"] = Field(
        "energy", description="Share of energy at each kernel frequency, or the spread of coefficients at each."
    )
    decay: bool = Field(False, description="Let the weight fall to zero over the training.")
    start: Literal["auto", "random", "energy", "teacher", "fitted"] = Field(
        "auto",
        description="The student's first kernels: random; random with the teacher's share of energy at each frequency; "
        "a sample of its own, every so many channels; or fitted to its answers, layer by layer. auto is fitted, unless "
        "the student has a checkpoint.",
    )


TERM = "term"
Weight = Annotated[NonNegative, TERM]
"""Of a term of the loss that has the name of its field."""


class Distill(Section):
    """How the student learns from the teacher."""

    cross_entropy: Weight = Field(0.1, description="Weight of the true labels.")
    logits: Weight = Field(0.9, description="Weight of the teacher's logits (Hinton KD); 0 switches it off.")
    temperature: Annotated[float, Field(ge=0.01, le=MOST)] = Field(
        4.0, description="Softens both sets of logits before they are compared."
    )
    spectrum: Spectrum = Field(Spectrum(), description="Feature spectrum distillation.")
    parameters: Parameters = Field(Parameters(), description="Parameter distribution distillation.")
    attention: Weight = Field(0.0, description="Weight of attention transfer.")
    fitnet: Weight = Field(0.0, description="Weight of FitNet's feature matching.")
    dist: Weight = Field(0.0, description="Weight of DIST's relation matching.")
    relational: Weight = Field(0.0, description="Weight of RKD's distances between clips.")
    spatial_spectrum: Weight = Field(0.0, description="Weight of spatial spectrum matching, as SpectralKD.")
    views: Annotated[int, Field(ge=0, le=int(MOST))] = Field(
        8,
        description="Random views of each clip, met again after as many epochs, so that the teacher's answers can be "
        "kept; 0 draws anew every epoch and asks every time.",
    )
    cache_gb: NonNegative = Field(1.0, description="Memory for the teacher's answers.")
    collaboration: Literal["fixed", "learned", "confidence", "sampled"] = Field(
        "learned",
        description="Weighting: as given; learned noise for each term; each clip by the teacher's confidence; "
        "or one distillation term drawn at each step.",
    )

    def mistakes(self) -> Iterator[Mistake]:
        on = {name for name, weight in self.weights.items() if weight > 0}
        if not on:
            yield tuple(self.weights), "every weight is 0, so there is nothing to learn"
        if self.collaboration == "sampled" and on == {"cross_entropy"}:
            yield (
                ("collaboration", *self.weights),
                "collaboration: sampled draws one of the teacher's terms, and all of them are 0",
            )
        if self.spectrum.align == "channels" and self.parameters.start in ("random", "energy"):
            yield (
                ("spectrum.align", "parameters.start"),
                "spectrum.align: channels needs parameters.start: fitted (or teacher), which makes channels correspond",
            )

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each term by its name; 0 is off."""
        own = {name: getattr(self, name) for name, field in Distill.model_fields.items() if TERM in field.metadata}
        parts = {"spectrum": self.spectrum.weight, "evidence": self.spectrum.evidence}
        return own | parts | {"parameters": self.parameters.weight}
