"""Proofs against known values: what passes, what fails and what decides nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper

from cpd.clip import ClipSpec
from cpd.dataset import Clip, evenly
from cpd_export.proofs import (
    BATCH,
    Outputs,
    Proof,
    accuracy,
    at_least,
    at_most,
    failures,
    faithfulness,
    measured,
    misses_by_chance,
    paired_difference,
    parity,
    predict_all,
    share_at_least,
)
from cpd_export.support import support
from cpd_export.timing import CALLS, ROUNDS, in_turns, is_faster, percentiles_ms

LABELS = np.array([0, 1] * 100)


def outputs(logits: np.ndarray) -> Outputs:  # type: ignore[type-arg]
    again = logits[evenly(range(len(logits)), BATCH)]
    return Outputs(logits, again, again)


def one_hot(classes: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    return np.eye(2, dtype=np.float32)[classes]


def test_no_number_passes_nothing() -> None:
    assert [
        proof.status for proof in (at_most("a", math.nan, 1), at_least("a", math.nan, 0), measured("a", math.inf))
    ] == ["fail"] * 3
    assert json.loads(json.dumps(at_most("a", math.nan, 1).to_dict(), allow_nan=False))["value"] is None


def test_parity_sees_every_way_to_differ() -> None:
    logits = one_hot(LABELS)
    for field, named in (("logits", ""), ("single", ", clips one by one"), ("reversed", ", frames in reverse")):
        other = {name: getattr(outputs(logits), name).copy() for name in ("logits", "single", "reversed")}
        other[field][3, 0] += 1e-3
        failed = [proof.name for proof in parity(outputs(logits), Outputs(**other)) if proof.status == "fail"]
        assert failed == [f"torch = onnxruntime{named}"]
    other = outputs(one_hot(np.append(1 - LABELS[:1], LABELS[1:])))
    assert "same top-1 as torch" in [proof.name for proof in parity(outputs(logits), other) if proof.status == "fail"]
    assert all(proof.status == "pass" for proof in parity(outputs(logits), outputs(logits)))


@pytest.mark.parametrize("frames", [1, 3])
def test_torch_takes_frames_in_reverse_of_clips_of_any_length(write_video: Callable[..., Path], frames: int) -> None:
    def first_frames(clips: NDArray[np.uint8]) -> NDArray[np.float32]:
        return torch.from_numpy(clips)[:, 0].float().mean(1).mean(1).numpy()

    pixels = np.repeat(np.array([40, 120, 200], np.uint8), 32 * 32 * 3).reshape(3, 32, 32, 3)
    clip = Clip(write_video(pixels), "left", "test", "mjpeg", 32, 32, 0, 8, np.arange(3.0))
    answers = predict_all({"first": first_frames}, [clip], ClipSpec(frames=frames, resize=32, crop=(32, 32)))["first"]
    assert (answers.reversed > answers.logits + 50).all() == (frames > 1)


def test_clips_are_shown_in_batches_and_some_from_all_of_them_alone_and_backwards(
    write_video: Callable[..., Path],
) -> None:
    def seen(clips: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.array([[len(clips), clip.mean() > 100] for clip in clips], np.float32)

    dark, bright = (write_video(np.full((3, 32, 32, 3), grey, np.uint8), name=f"{grey}.avi") for grey in (40, 200))
    clips = [Clip(path, "left", "test", "mjpeg", 32, 32, 0, 8, np.arange(3.0)) for path in [dark] * 10 + [bright] * 10]
    answers = predict_all({"seen": seen}, clips, ClipSpec(frames=3, resize=32, crop=(32, 32)))["seen"]
    assert answers.logits.tolist() == [[16, 0]] * 10 + [[16, 1]] * 6 + [[4, 1]] * 4
    assert answers.single.tolist() == [[1, 0]] * 8 + [[1, 1]] * 8
    assert answers.reversed.tolist() == [[16, 0]] * 8 + [[16, 1]] * 8


def test_accuracy_counts_the_first_and_the_first_five() -> None:
    logits = np.tile(np.arange(6, 0, -1, dtype=np.float32), (4, 1))
    assert accuracy(logits, np.array([0, 4, 5, 5])) == {"top1": 0.25, "top5": 0.5}


def test_paired_difference_is_bonett_and_prices() -> None:
    one, other = np.zeros(100, bool), np.zeros(100, bool)
    one[:12], other[8:20] = True, True  # 8 ways each: four are shared
    value, (low, high) = paired_difference(one, other)
    p = 9 / 102
    half = 1.959963984540054 * math.sqrt(2 * p / 102)
    assert value == 0
    assert (low, high) == pytest.approx((-half, half))
    value, ends = paired_difference(one, np.zeros(100, bool))
    centre = 12 / 102
    half = 1.959963984540054 * math.sqrt((14 / 102 - centre**2) / 102)
    assert (value, ends) == (0.12, pytest.approx((centre - half, centre + half)))
    single = np.array([True])
    assert paired_difference(single, ~single) == (1, (pytest.approx(-0.734, abs=1e-3), 1))
    assert paired_difference(~single, single) == (-1, (-1, pytest.approx(0.734, abs=1e-3)))
    value, (low, high) = paired_difference(one, one)
    assert value == 0
    assert low < 0 < high, "no difference seen is no proof of none"


@pytest.mark.parametrize(
    ("wrong", "status"), [(0, "pass"), (2, "pass"), (3, "inconclusive"), (8, "inconclusive"), (9, "fail"), (60, "fail")]
)
def test_int8_is_held_to_its_accuracy(wrong: int, status: str) -> None:
    worse = LABELS.copy()
    worse[:wrong] = 1 - worse[:wrong]
    proofs = {p.name: p for p in faithfulness(outputs(one_hot(LABELS)), outputs(one_hot(worse)), LABELS, "int8")}
    lost = proofs["top-1 lost against fp32"]
    assert (lost.value, lost.status) == (pytest.approx(wrong / 200), status)
    assert lost.interval is not None
    assert lost.interval[0] < lost.value < lost.interval[1]


def test_fp16_is_held_to_its_agreement_and_to_being_numbers() -> None:
    worse = LABELS.copy()
    worse[:40] = 1 - worse[:40]
    proofs = faithfulness(outputs(one_hot(LABELS)), outputs(one_hot(worse)), LABELS, "fp16")
    assert [proof.status for proof in proofs][1] == "fail"
    many = np.tile(LABELS, 20)
    worse = np.append(1 - many[:40], many[40:])  # of 4000: a hundredth
    proofs = faithfulness(outputs(one_hot(many)), outputs(one_hot(worse)), many, "fp16")
    assert [proof.status for proof in proofs][1] == "fail"
    overflown = one_hot(LABELS)
    overflown[0, 0] = np.nan
    told = failures(faithfulness(outputs(one_hot(LABELS)), outputs(overflown), LABELS, "fp16"))
    assert told.startswith("largest logit difference to fp32: not a finite number")


def test_too_few_clips_decide_nothing() -> None:
    holds = np.ones(20, bool)
    holds[0] = False
    assert share_at_least("a", holds, 0.995).status == "inconclusive"
    assert share_at_least("a", np.repeat(holds, 100), 0.995).status == "fail"
    assert failures([share_at_least("a", holds, 0.995)]) == ""


@pytest.mark.parametrize(("misses", "status"), [(1, "pass"), (3, "inconclusive"), (4, "fail")])
def test_a_share_fails_where_one_in_forty_would_miss_so_often_by_chance(misses: int, status: str) -> None:
    holds = np.arange(200) >= misses  # for which chance has 8 and 2 percent
    assert share_at_least("a", holds, 0.995).status == status


def test_misses_by_chance_are_the_binomial_tail() -> None:
    binom = pytest.importorskip("scipy.stats").binom
    for clips, misses, rate in ((20, 1, 0.005), (500, 8, 0.005), (320, 0, 0.01), (4000, 30, 0.005)):
        assert misses_by_chance(clips, misses, rate) == pytest.approx(binom.sf(misses - 1, clips, rate), abs=1e-9)


def graph(nodes: list[onnx.NodeProto], opset: int = 18) -> onnx.ModelProto:
    return helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("frames", TensorProto.UINT8, ["batch", 4])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 4])],
        ),
        opset_imports=[helper.make_opsetid("", opset)],
    )


def test_what_a_target_lacks_is_named() -> None:
    cast = helper.make_node("Cast", ["frames"], ["logits"], to=TensorProto.FLOAT)
    assert all(proof.status == "pass" for proof in support(graph([cast])))
    (ten, eleven) = support(graph([cast], opset=23))
    assert (ten.status, eleven.status) == ("fail", "pass")
    assert ten.detail == "opset 23, it reads up to 20"
    counted = helper.make_node("Range", ["zero", "count", "one"], ["indices"])
    assert all(proof.status == "pass" for proof in support(graph([cast, counted])))
    for node, named in (
        (helper.make_node("Det", ["frames"], ["logits"]), "operator Det"),
        (
            helper.make_node("QLinearConv", ["frames"], ["logits"], domain="com.microsoft"),
            "operator com.microsoft.QLinearConv",
        ),
        (helper.make_node("Reshape", ["frames", "s"], ["logits"]), "uint8 into Reshape"),
    ):
        proof = support(graph([node]))[1]
        assert (proof.status, proof.detail) == ("fail", named)


def test_latency_is_taken_in_turns() -> None:
    calls: list[str] = []
    times_s = in_turns({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")})
    assert times_s["a"].shape == (ROUNDS, CALLS)
    assert calls.count("a") == calls.count("b") == (ROUNDS + 1) * (CALLS + 1)
    assert set(percentiles_ms(times_s["a"])) == {"p50", "p90"}


def test_only_what_is_faster_beyond_the_noise_is_faster() -> None:
    noise = np.random.default_rng(0).normal(1, 0.1, (ROUNDS, CALLS))
    assert is_faster(noise * 0.7, noise)
    assert not is_faster(noise, noise * 0.7)
    assert not is_faster(noise, np.roll(noise, 5))


def test_a_proof_says_what_it_needs_to() -> None:
    assert Proof("a", 0.5, 1.0, "pass", (0.4, 0.6)).to_dict() == {
        "name": "a", "value": 0.5, "limit": 1.0, "status": "pass", "interval": (0.4, 0.6),
    }  # fmt: skip
