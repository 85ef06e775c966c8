"""The typed pipeline.yaml. Defaults live here alone; ``cpd.config_file`` reads a file into these types.

The descriptions are what an editor shows beside a key (``cpd-pipeline schema``), so each says what a value does.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from cpd.clip import IMAGENET_MEAN, IMAGENET_STD, ClipSpec

Fraction = Annotated[float, Field(ge=0, le=1)]
MOST = 1e9
"""Of any number: larger ones overflow somewhere in the libraries that take them."""
Positive = Annotated[float, Field(gt=0, le=MOST)]
NonNegative = Annotated[float, Field(ge=0, le=MOST)]
Count = Annotated[int, Field(ge=1, le=int(MOST))]

NAME_PATTERN = "^[A-Za-z0-9][A-Za-z0-9._-]*$"


def _checked_name(name: str) -> str:
    if not re.fullmatch(NAME_PATTERN, name):
        raise ValueError(
            f"must start with a letter or digit and hold only letters, digits, '.', '_', '-', got {name!r}"
        )
    return name


Name = Annotated[str, AfterValidator(_checked_name), Field(json_schema_extra={"pattern": NAME_PATTERN})]

MODELS = (
    "tsm-tiny", "tsn-tiny",
    "tsm-resnet18", "tsm-resnet34", "tsm-resnet50", "tsm-mobilenetv2",
    "tsn-resnet18", "tsn-resnet34", "tsn-resnet50", "tsn-mobilenetv2",
)  # fmt: skip


class Section(BaseModel):
    """A part of pipeline.yaml: unknown keys are errors, values never change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Rendered(Section):
    """Clips the project renders itself: eight classes that differ by motion alone."""

    train: Count = Field(96, description="Training clips per class.")
    validation: Count = Field(16, description="Validation clips per class.")
    test: Count = Field(40, description="Test clips per class.")
    size: Annotated[int, Field(ge=32)] = Field(64, description="Height and width in pixels.")


class Data(Section):
    """Where the clips come from: exactly one of rendered, folder or list."""

    rendered: Rendered | None = Field(None, description="Render the clips; needs nothing from outside.")
    folder: Path | None = Field(
        None,
        description="A folder of class folders, or of train/validation/test folders of class folders. "
        "Relative paths start at pipeline.yaml's folder if they exist there, otherwise at the current one.",
    )
    list: Path | None = Field(
        None,
        description="A list file, or a folder of list files where the format has several. Relative as folder is.",
    )
    format: Literal["csv", "kinetics", "something-something", "jester"] = Field(
        "csv", description="Format of the list: csv has the columns path, label, split (and, if any, group)."
    )
    root: Path | None = Field(
        None, description="Folder that paths in the list start from; default: the list's own. Relative as folder is."
    )
    validation_fraction: Fraction = Field(
        0.15,
        description="Taken from training, by group where the list has groups, if there is no validation split.",
    )
    train_on_validation: bool = Field(
        False,
        description="Once the settings are chosen: train on the validation clips too, and keep the last epoch, since "
        "no clips are left to choose it by.",
    )
    test_fraction: Fraction = Field(0.2, description="Taken likewise if there is no test split.")
    max_broken_fraction: Fraction = Field(0.05, description="More unreadable clips than this fail the run.")
    cache_gb: NonNegative = Field(2.0, description="Memory for decoded, resized clips; 0 decodes anew every epoch.")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        sources = [name for name in ("rendered", "folder", "list") if getattr(self, name) is not None]
        if len(sources) != 1:
            raise ValueError(f"name exactly one of rendered, folder or list, got {' and '.join(sources) or 'none'}")
        if self.validation_fraction + self.test_fraction >= 1:
            raise ValueError("validation_fraction and test_fraction leave nothing to train on")
        return self


class ClipSection(Section):
    """What both models see of a video; it travels inside every exported model."""

    frames: Count = Field(8, description="Frames in a clip, one from each of as many equal segments of the video.")
    resize: Count | tuple[Count, Count] = Field(128, description="Short side, or exact [height, width].")
    crop: tuple[Count, Count] = Field((112, 112), description="[height, width] the model sees.")
    mean: tuple[float, float, float] = Field(IMAGENET_MEAN, description="Mean of R, G, B in 0..1; default ImageNet's.")
    std: tuple[Positive, Positive, Positive] = Field(
        IMAGENET_STD, description="Standard deviation of R, G, B in 0..1; default ImageNet's."
    )
    normalise: Literal["dataset", "clip"] = Field(
        "dataset",
        description="By mean and std above, or each clip by its own mean and standard deviation, so that light, "
        "exposure and skin tell nothing.",
    )
    colour: Literal["rgb", "grey", "motion"] = Field(
        "rgb",
        description="grey hides colours from the model; motion shows it brightness, its difference from the clip's "
        "mean at each pixel, and its change until the next frame.",
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.normalise == "clip" and {"mean", "std"} & self.model_fields_set:
            raise ValueError("mean and std are not used where normalise is clip")
        self.spec()
        return self

    def spec(self) -> ClipSpec:
        return ClipSpec(
            frames=self.frames,
            resize=self.resize,
            crop=self.crop,
            mean=self.mean,
            std=self.std,
            normalise=self.normalise,
            colour=self.colour,
        )


class Augment(Section):
    """How training clips are varied; evaluation never is."""

    flip: bool = Field(False, description="Mirror half of the clips.")
    flip_labels: dict[str, str] = Field(
        {}, description="Label of a mirrored clip where it changes, such as left: right."
    )
    crop_scale: tuple[Fraction, Fraction] = Field(
        (1.0, 1.0),
        description="Smallest and largest side of the random crop, as a fraction of the largest that fits.",
    )
    brightness: Fraction = Field(0.0, description="Largest relative change of brightness.")
    contrast: Fraction = Field(0.0, description="Largest relative change of contrast.")
    freeze: Annotated[int, Field(ge=0)] = Field(
        0, description="Longest run of frames that stand still, at a random place of the clip (time masking)."
    )
    erase: Fraction = Field(
        0.0, description="Share of clips in which a rectangle of a fifth to half of each side is grey (random erasing)."
    )

    @model_validator(mode="after")
    def _labels_of_mirrored_clips(self) -> Self:
        if self.flip_labels and not self.flip:
            raise ValueError("flip_labels needs flip: true, since no clip is mirrored without it")
        return self

    @model_validator(mode="after")
    def _scale_is_a_range(self) -> Self:
        smallest, largest = self.crop_scale
        if not 0 < smallest <= largest:
            raise ValueError(f"crop_scale must be [smallest, largest], above 0, got [{smallest}, {largest}]")
        return self


class Model(Section):
    """One network and how it is trained."""

    model: Literal[MODELS] = Field("tsm-tiny", description="Temporal model and backbone.")  # type: ignore[valid-type]
    width: Count | None = Field(None, description="Channels of the first stage (tiny models).")
    blocks: Count | None = Field(None, description="Residual blocks in each of the four stages (tiny models).")
    checkpoint: Path | None = Field(
        None, description="Weights to start from: safetensors, or .pth (read weights_only). Relative as data.folder is."
    )
    shift_fraction: Fraction = Field(0.25, description="Share of channels a TSM shifts, half each way.")
    causal: bool = Field(
        False, description="Shift from earlier frames alone (online TSM): exports a graph that runs frame by frame too."
    )
    dropout: Fraction = Field(0.0, description="Share of features dropped before the classifier while training.")
    epochs: Annotated[int, Field(ge=0)] = Field(25, description="0 uses the checkpoint as it is.")
    batch_size: Count = Field(32, description="Clips in a training step.")
    learning_rate: Positive = Field(2e-3, description="Peak of the schedule.")
    weight_decay: NonNegative = Field(0.05, description="AdamW's decoupled decay of weights.")
    label_smoothing: Fraction = Field(
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

    @model_validator(mode="after")
    def _tiny_only(self) -> Self:
        if not self.model.endswith("-tiny") and (self.width is not None or self.blocks is not None):
            raise ValueError(f"width and blocks belong to tiny models, not to {self.model}")
        if self.epochs == 0 and self.checkpoint is None:
            raise ValueError("training for 0 epochs needs a checkpoint")
        if self.causal and not self.model.startswith("tsm-"):
            raise ValueError(f"causal belongs to tsm models, not to {self.model}: it has no shift")
        return self


class Spectrum(Section):
    """Feature spectrum distillation: match the temporal frequency spectrum of each stage's features."""

    weight: NonNegative = Field(0.1, description="0 switches the term off.")
    form: Literal["amplitude", "log-amplitude", "complex"] = Field(
        "amplitude", description="What of the spectrum is compared; complex counts phase too."
    )
    align: Literal["attention", "adapter", "channels"] = Field(
        "attention",
        description="How both are brought to one shape: attention over channels, a learned adapter, or the teacher's "
        "channels that the student started from (parameters.start: teacher).",
    )
    over: Literal["time", "space-time"] = Field(
        "space-time", description="Frequencies of each position's course, or of a clip's motion, wherever it is."
    )
    dc: bool = Field(True, description="Whether the zero-frequency bin counts.")
    scale: Literal["clip", "bin"] = Field(
        "clip", description="What is scaled to unit length: the spectrum of a clip, or each of its bins by itself."
    )
    evidence: NonNegative = Field(
        0.0, description="Weight of the spectrum of each frame's logits: when the evidence for each class comes."
    )


class Parameters(Section):
    """Parameter distribution distillation: match the frequency distribution of the kernels."""

    weight: NonNegative = Field(0.0, description="0 switches the term off.")
    form: Literal["energy", "quantiles"] = Field(
        "energy", description="Share of energy at each kernel frequency, or the spread of coefficients at each."
    )
    decay: bool = Field(False, description="Let the weight fall to zero over the training.")
    start: Literal["auto", "random", "energy", "teacher"] = Field(
        "auto",
        description="The student's first kernels: random; random with the teacher's share of energy at each frequency; "
        "or a sample of the teacher's own, every so many channels. auto is teacher where both are of one family and "
        "the student has no checkpoint, else random.",
    )


TERM = "term"
Weight = Annotated[NonNegative, TERM]
"""Of a term of the loss that has the name of its field."""


class Distill(Section):
    """How the student learns from the teacher."""

    cross_entropy: Weight = Field(0.1, description="Weight of the true labels.")
    logits: Weight = Field(0.9, description="Weight of the teacher's logits (Hinton KD); 0 switches it off.")
    temperature: Positive = Field(4.0, description="Softens both sets of logits before they are compared.")
    spectrum: Spectrum = Field(Spectrum(), description="Feature spectrum distillation.")
    parameters: Parameters = Field(Parameters(), description="Parameter distribution distillation.")
    attention: Weight = Field(0.0, description="Weight of attention transfer.")
    fitnet: Weight = Field(0.0, description="Weight of FitNet's feature matching.")
    dist: Weight = Field(0.0, description="Weight of DIST's relation matching.")
    relational: Weight = Field(0.0, description="Weight of RKD's distances between clips.")
    spatial_spectrum: Weight = Field(0.0, description="Weight of spatial spectrum matching, as SpectralKD.")
    views: Annotated[int, Field(ge=0)] = Field(
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

    @model_validator(mode="after")
    def _something_to_learn(self) -> Self:
        on = {name for name, weight in self.weights.items() if weight > 0}
        if not on:
            raise ValueError("every weight is 0, so there is nothing to learn")
        if self.collaboration == "sampled" and on == {"cross_entropy"}:
            raise ValueError("collaboration: sampled draws one of the teacher's terms, and all of them are 0")
        return self

    @model_validator(mode="after")
    def _channels_that_correspond(self) -> Self:
        if self.spectrum.align == "channels" and self.parameters.start != "teacher":
            raise ValueError(
                "spectrum.align: channels needs parameters.start: teacher, which makes channels correspond"
            )
        if self.spectrum.align == "channels" and self.fitnet:
            raise ValueError(
                "spectrum.align: channels and fitnet need different channels of the teacher: use one of them"
            )
        return self

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each term by its name; 0 is off."""
        own = {name: getattr(self, name) for name, field in Distill.model_fields.items() if TERM in field.metadata}
        parts = {"spectrum": self.spectrum.weight, "evidence": self.spectrum.evidence}
        return own | parts | {"parameters": self.parameters.weight}


class Export(Section):
    """What is made of the trained models."""

    opset: Annotated[int, Field(ge=18, le=25)] = Field(
        18, description="ONNX operator set of the exported graphs; TensorRT 10 reads up to 20, TensorRT 11 up to 25."
    )
    precisions: tuple[Literal["fp32", "fp16", "int8"], ...] = Field(
        ("fp32", "fp16", "int8"), description="Student graphs to make; fp32 is the one the others are made from."
    )
    calibration_clips: Count = Field(64, description="Training clips that show int8 which values occur.")
    engine: bool = Field(True, description="Build .trt files with tensorrt, or else tensorrt_rtx, where installed.")
    max_batch: Annotated[int, Field(ge=1, le=1 << 16)] = Field(8, description="Largest batch an engine accepts.")
    workspace_bytes: Annotated[int, Field(ge=1, le=1 << 40)] = Field(
        1 << 30, description="Scratch memory an engine may use."
    )
    version_compatible: bool = Field(False, description="Engines load in later TensorRT versions too (tensorrt).")
    hardware_compatible: bool = Field(False, description="Engines run on GPUs from Ampere on (tensorrt).")
    compute_capabilities: tuple[Annotated[str, Field(pattern=r"^(\d+\.\d|current)$")], ...] = Field(
        (),
        description="GPUs that engines are built for, such as '8.9', or 'current' for the one here (tensorrt_rtx); "
        "default: all it knows from 8.0 on.",
    )

    @model_validator(mode="after")
    def _that_fit_together(self) -> Self:
        if "fp32" not in self.precisions:
            raise ValueError("precisions must name fp32, since the others are made from it")
        if len(set(self.compute_capabilities)) != len(self.compute_capabilities):
            raise ValueError("compute_capabilities must differ")
        return self


class Gates(Section):
    """What the student must reach; a gate left out is not checked. Each is decided with its confidence interval."""

    top1_min: Fraction | None = Field(None, description="Student's top-1 on the test clips.")
    top1_retained_min: NonNegative | None = Field(None, description="Student's top-1 over teacher's top-1.")
    agreement_min: Fraction | None = Field(None, description="Share of clips where student and teacher agree.")
    logit_difference_max: Positive | None = Field(1e-4, description="Largest torch to ONNX difference (fp32).")
    speedup_min: Positive | None = Field(None, description="Teacher's median latency over the student's, same runtime.")
    latency_p50_ms_max: Positive | None = Field(None, description="Student's median latency for one clip.")
    latency_p99_ms_max: Positive | None = Field(None, description="Student's 99th percentile latency for one clip.")


class Validate(Section):
    """How the verdict is reached."""

    latency_runs: Count = Field(200, description="Timed runs of each engine, in turns, after warm-up.")
    gates: Gates = Field(Gates(), description="What the verdict asks of the student.")


class Pipeline(Section):
    """A whole pipeline.yaml."""

    name: Name = Field(description="What this run is called; names its folder.")
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] = Field(
        0, description="Of every random choice; two CPU runs then agree."
    )
    output: Path | None = Field(None, description="Run folder, relative to the current folder; default runs/<name>.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where to train and measure; auto takes a GPU.")
    precision: Literal["auto", "fp32", "bf16", "fastest"] = Field(
        "auto",
        description="Arithmetic of the networks in training: auto is bf16 on a GPU and fp32 on a CPU; fastest is bf16 "
        "on a CPU too if it has instructions for it (AVX512-BF16, AMX), which nearly halves a large teacher's time.",
    )
    data: Data
    clip: ClipSection = Field(ClipSection(), description="What both models see of a video.")
    augment: Augment = Field(Augment(), description="How training clips are varied.")
    teacher: Model = Field(description="The large network to learn from.")
    student: Model = Field(description="The small network to ship.")
    distill: Distill = Field(Distill(), description="How the student learns from the teacher.")
    export: Export = Field(Export(), description="What is made of the trained models.")
    validate_: Validate = Field(Validate(), alias="validate", description="How the verdict is reached.")

    @model_validator(mode="after")
    def _streams_know_no_clip(self) -> Self:
        if self.student.causal and self.clip.normalise == "clip":
            raise ValueError("student.causal runs frame by frame, which clip.normalise: clip does not allow")
        return self

    @model_validator(mode="after")
    def _a_still_has_no_spectrum(self) -> Self:
        if self.clip.frames == 1 and self.distill.spectrum.weight > 0 and not self.distill.spectrum.dc:
            raise ValueError("distill.spectrum.dc: false leaves nothing of a clip of one frame")
        return self

    @model_validator(mode="after")
    def _a_teacher_alone(self) -> Self:
        start = self.distill.parameters.start
        if self.student.checkpoint is not None and start in ("teacher", "energy"):
            raise ValueError(f"distill.parameters.start: {start} would undo student.checkpoint: use one of them")
        if self.student.epochs == 0:
            raise ValueError("student.epochs must be 1 at least, or nothing would be distilled")
        if self.student.generations != 1:
            raise ValueError("student.generations must be 1: only the teacher has no teacher")
        if self.student.label_smoothing:
            raise ValueError("student.label_smoothing must be 0: a student's labels are softened by its teacher")
        if self.teacher.generations != 1 and self.teacher.epochs == 0:
            raise ValueError("teacher.generations must be 1 where teacher.epochs is 0, since nothing is trained")
        return self

    @property
    def run_dir(self) -> Path:
        return self.output or Path("runs") / self.name
