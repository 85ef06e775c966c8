"""int8: a Q/DQ graph calibrated on training clips, its choices made by the damage they do to held-out clips.

Quantised are the tensors that flow between operators (symmetric, per tensor) and the weights (symmetric, per output
channel). Biases stay in float, since TensorRT refuses int32 ones, and so does what comes before the first convolution:
a clip's own mean and spread in 8 bits would be off by a percent. Three choices are measured rather than believed: how
the range of a tensor is found, whether weights use eight or seven bits, and which layers stay in float.

Seven bits are no loss of precision alone: on x86 without VNNI, products of 8-bit weights and activations are added in
16 bits and saturate, which on such a machine does far more damage than the lost bit.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import tempfile
import warnings
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # its stubs are a package of their own
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.quant_utils import add_pre_process_metadata

from cpd.dataset import evenly
from cpd.errors import ExportError, reason_of
from cpd.metrics import Logits, agreement, kl_divergence
from cpd.progress import track
from cpd_export.graph import opset_of, preprocessing, tidy
from cpd_export.proofs import Frames
from cpd_export.session import OnnxSession

CALIBRATORS = {
    "minmax": CalibrationMethod.MinMax,
    "percentile": CalibrationMethod.Percentile,
    "entropy": CalibrationMethod.Entropy,
}
PERCENTILE = 99.99
LAYER_OPS = ("Conv", "Gemm", "MatMul")
"""The operators with weights; each is a layer of the sensitivity search."""
AGREEMENT_MIN = 0.99
"""Fraction of held-out clips on which int8 and fp32 must name the same class: their accuracies can then differ by one
point at most. The worst layers stay in float until it is reached."""
FLOAT_LAYERS_MAX = 0.5
"""Fraction of the layers that may stay in float: beyond it the file is int8 in name only."""
BATCH = 8
SEARCH_FLOPS = 2e11
"""Work of the sensitivity search, from which follows on how many clips each layer is judged: a large model takes
longer, not forever, and the choice does not depend on how busy the machine is."""
LONE_PAIRS_FAIL_FROM = 21
"""First opset in which onnxruntime may not load a layer quantised alone; see ``OnnxSession``'s ``signed``."""
SEARCH_CLIPS = (4, 32)
"""Fewest and most clips that judge a layer."""


@dataclass(frozen=True, slots=True)
class Choice:
    """How a graph is quantised."""

    calibrator: str
    """A key of CALIBRATORS."""
    weight_bits: int
    """8 or 7."""
    float_layers: tuple[str, ...] = ()
    """Names of the layers that stay in float."""


@dataclass(frozen=True, slots=True)
class Damage:
    """What quantisation did to held-out clips."""

    divergence: float
    """Mean Kullback-Leibler divergence from fp32's distribution, in nats."""
    agreement: float
    """Fraction of clips with fp32's label."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One choice that was measured."""

    choice: Choice
    damage: Damage

    def to_dict(self) -> dict[str, Any]:
        return {
            "calibrator": self.choice.calibrator,
            "weight_bits": self.choice.weight_bits,
            "float_layers": list(self.choice.float_layers),
            "divergence_nats": self.damage.divergence,
            "agreement": self.damage.agreement,
        }


@dataclass(frozen=True, slots=True)
class Quantised:
    """The best int8 graph and how it was found."""

    graph: onnx.ModelProto
    best: Trial
    trials: list[Trial]
    layers: dict[str, Damage]
    """Damage of each layer quantised alone, worst first."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "chosen": self.best.to_dict(),
            "trials": [trial.to_dict() for trial in self.trials],
            "layers": [
                {"layer": name, "divergence_nats": damage.divergence, "agreement": damage.agreement}
                for name, damage in self.layers.items()
            ],
        }


def quantise(graph: onnx.ModelProto, calibration: Frames, held_out: Frames, flops: int) -> Quantised:
    """Finds the least harmful int8 form of an fp32 graph.

    Args:
        graph: from ``export_graph``.
        calibration: training clips that show which values occur; whole batches of them are used.
        held_out: other clips, by which choices are judged.
        flops: of one clip, two for a multiply-add.
    """
    with scratch() as folder:
        source = _Source(graph, calibration, folder)
        want = OnnxSession(graph.SerializeToString(), "fp32").logits(held_out)
        judge = _judge(held_out, want)
        choices = [Choice(name, bits) for name, bits in itertools.product(CALIBRATORS, (8, 7))]
        trials = []
        for choice in track(choices, "calibrating int8", unit="way"):
            try:
                trials.append(Trial(choice, judge(source.quantised(choice))))
            except ValueError as error:  # of a histogram: clips so alike leave it no room between their means
                if "Too many bins" not in str(error):
                    raise
                left_out = f"{choice.calibrator} of {choice.weight_bits} bits"
                warnings.warn(f"int8 does without {left_out}: {error}", stacklevel=2)
        best = min(trials, key=_harm)
        layers = _sensitivity(source, best.choice, held_out, want, flops)
        for count in range(1, int(len(layers) * FLOAT_LAYERS_MAX) + 1):
            if best.damage.agreement >= AGREEMENT_MIN:
                break
            choice = Choice(best.choice.calibrator, best.choice.weight_bits, tuple(layers)[:count])
            trials.append(Trial(choice, judge(source.quantised(choice))))
            best = min(best, trials[-1], key=_harm)
        graph = tidy(onnx.load_from_string(source.quantised(best.choice)))
        return Quantised(graph, best, trials, layers)


def quantise_as(graph: onnx.ModelProto, calibration: Frames, choice: Choice) -> onnx.ModelProto:
    """The int8 form of an fp32 graph by one choice, which nothing is measured for.

    Args:
        graph: from ``export_graph``.
        calibration: clips that show which values occur.
        choice: how to quantise.
    """
    with scratch() as folder:
        source = _Source(graph, calibration, folder)
        return tidy(onnx.load_from_string(source.quantised(choice)))


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder for what onnxruntime writes on the way; where that fails, onnx is told when it reads half a file again.

    Raises:
        ExportError: it cannot be written in full.
    """
    with tempfile.TemporaryDirectory(prefix="cpd-int8-") as folder:
        try:
            yield Path(folder)
        except (OSError, DecodeError) as error:
            reason = reason_of(error) if isinstance(error, OSError) else "a file in it was cut off"
            raise ExportError(
                f"int8: {folder} cannot be written: {reason}", "free some space there, or set TMPDIR to another folder"
            ) from error


def layer_names(graph: onnx.ModelProto) -> dict[str, str]:
    """The layers of a graph: their name, which is that of their weights, and the node that computes each."""
    return {node.input[1].removesuffix(".weight"): node.name for node in graph.graph.node if node.op_type in LAYER_OPS}


def _harm(trial: Trial) -> tuple[bool, float]:
    """Enough agreement comes first, then the least divergence."""
    return trial.damage.agreement < AGREEMENT_MIN, trial.damage.divergence


def _judge(frames: Frames, want: Logits, signed: bool = False) -> Callable[[bytes], Damage]:
    def judge(model: bytes) -> Damage:
        session = OnnxSession(model, "int8", signed=signed)
        got = np.concatenate([session.logits(frames[at : at + BATCH]) for at in range(0, len(frames), BATCH)])
        return Damage(float(kl_divergence(want, got).mean()), float(agreement(want, got).mean()))

    return judge


def _sensitivity(source: _Source, choice: Choice, frames: Frames, want: Logits, flops: int) -> dict[str, Damage]:
    """The damage of each layer quantised alone, worst first."""
    names = source.layers
    fewest, most = SEARCH_CLIPS
    clips = min(most, max(fewest, int(SEARCH_FLOPS / max(1, flops * len(names)))))
    chosen = evenly(range(len(frames)), clips)
    judge = _judge(frames[chosen], want[chosen], signed=source.opset >= LONE_PAIRS_FAIL_FROM)
    damages = {
        name: judge(source.quantised(choice, only=[node]))
        for name, node in track(names.items(), "int8 sensitivity", total=len(names), unit="layer")
    }
    return dict(sorted(damages.items(), key=lambda item: -item[1].divergence))


class _Source:
    """An fp32 graph with its calibration clips; tensor ranges are found once for each calibrator."""

    def __init__(self, graph: onnx.ModelProto, calibration: Frames, folder: Path) -> None:
        self._folder, self._calibration = folder, calibration
        self.layers, self.opset = layer_names(graph), opset_of(graph)
        self._always_float = [node.name for node in preprocessing(graph)[1]]
        named = onnx.shape_inference.infer_shapes(graph)
        add_pre_process_metadata(named)  # the exporter has optimised the graph already
        self._path = folder / "fp32.onnx"
        onnx.save(named, self._path)

    def quantised(self, choice: Choice, only: Collection[str] = ()) -> bytes:
        """The int8 graph of a choice, or one in which the named nodes alone are quantised."""
        target = self._folder / "int8.onnx"
        with contextlib.redirect_stdout(io.StringIO()):  # the calibrators print their progress
            quantize_static(
                self._path,
                target,
                _Reader(self._calibration),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                reduce_range=choice.weight_bits == 7,
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
                nodes_to_quantize=list(only),
                nodes_to_exclude=[*self._always_float, *(self.layers[name] for name in choice.float_layers)],
                calibrate_method=CALIBRATORS[choice.calibrator],
                calibration_cache_path=self._folder / f"{choice.calibrator}.json",
                extra_options={
                    "ActivationSymmetric": True,
                    "WeightSymmetric": True,
                    "QuantizeBias": False,
                    "CalibPercentile": PERCENTILE,
                    "CalibStridedMinMax": 1,
                },
            )
        return target.read_bytes()


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime is not typed
    """Whole batches of clips, of which the calibrator asks for a range at a time, so that it never holds them all."""

    def __init__(self, frames: Frames) -> None:
        size = min(BATCH, len(frames))
        self._batches = [frames[at : at + size] for at in range(0, len(frames) - size + 1, size)]
        self._range: Iterator[Frames] = iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)

    def set_range(self, start_index: int, end_index: int) -> None:
        self._range = iter(self._batches[start_index:end_index])

    def get_next(self) -> dict[str, Frames] | None:
        batch = next(self._range, None)
        return None if batch is None else {"frames": batch}
