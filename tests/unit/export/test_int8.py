"""The search for the least harmful int8 form, of quantisations whose damage is written down."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import onnx
import pytest

from cpd_export import int8
from cpd_export.int8 import Choice, Damage, Quantised, quantise

ALONE = {"a": 0.1, "b": 0.5, "c": 0.2, "d": 0.01}
"""Divergence of each layer quantised alone."""
FRAMES = np.arange(40, dtype=np.uint8)


@pytest.fixture
def search(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Quantised]:
    """``quantise`` where ``damage`` tells what a choice does; what judged each layer is noted in ``judged``."""

    def run(
        damage: Callable[[Choice], Damage], flops: int = 1, opset: int = 18, judged: list[Any] | None = None
    ) -> Quantised:
        class Source:
            def __init__(self, *_: object) -> None:
                self.layers, self.opset = {name: f"node of {name}" for name in ALONE}, opset

            def quantised(self, choice: Choice, only: Collection[str] = ()) -> bytes:
                return json.dumps([choice.calibrator, choice.weight_bits, choice.float_layers, list(only)]).encode()

        def judge(frames: Any, want: Any, signed: bool = False) -> Callable[[bytes], Damage]:
            def of(model: bytes) -> Damage:
                calibrator, bits, float_layers, only = json.loads(model)
                if not only:
                    return damage(Choice(calibrator, bits, tuple(float_layers)))
                if judged is not None:
                    judged.append((frames.tolist(), want.tolist(), signed))
                return Damage(ALONE[only[0].removeprefix("node of ")], 1.0)

            return of

        session = type("Session", (), {"__init__": lambda *_: None, "logits": lambda _, frames: -frames.astype(int)})
        for name, stand_in in (("_Source", Source), ("_judge", judge), ("OnnxSession", session)):
            monkeypatch.setattr(int8, name, stand_in)
        monkeypatch.setattr(onnx, "load_from_string", lambda data: data)
        monkeypatch.setattr(int8, "tidy", lambda graph: graph)
        return quantise(onnx.ModelProto(), FRAMES, FRAMES, flops)

    return run


def test_enough_agreement_comes_before_the_least_divergence(search: Callable[..., Quantised]) -> None:
    told = {("minmax", 8): Damage(0.1, 0.98), ("entropy", 7): Damage(0.3, 0.99), ("entropy", 8): Damage(0.4, 1.0)}
    found = search(lambda choice: told.get((choice.calibrator, choice.weight_bits), Damage(0.2, 0.9)))
    assert found.best.choice == Choice("entropy", 7)
    assert len(found.trials) == 6
    assert json.loads(found.graph) == ["entropy", 7, [], []]  # type: ignore[arg-type]


def test_the_worst_layers_stay_in_float_until_enough_clips_agree(search: Callable[..., Quantised]) -> None:
    def damage(choice: Choice) -> Damage:
        count = len(choice.float_layers)
        return Damage(1 - 0.1 * count - 0.01 * choice.weight_bits, 0.97 + 0.01 * count)

    found = search(damage)
    assert list(found.layers) == ["b", "c", "a", "d"]
    assert [trial.choice.float_layers for trial in found.trials[6:]] == [("b",), ("b", "c")]
    assert found.best.choice == Choice("minmax", 8, ("b", "c"))


def test_half_of_the_layers_at_most_stay_in_float(search: Callable[..., Quantised]) -> None:
    found = search(lambda choice: Damage({0: 0.3, 1: 0.1, 2: 0.2}[len(choice.float_layers)], 0.5))
    assert len(found.trials) == 6 + 2
    assert found.best.choice == Choice("minmax", 8, ("b",)), "the least harmful, not the last"


@pytest.mark.parametrize(
    ("flops", "opset", "clips", "signed"),
    [(10**10, 18, 5, False), (10**6, 20, 32, False), (10**13, 21, 4, True), (0, 18, 32, False)],
)
def test_a_layer_is_judged_by_as_many_clips_as_there_is_work_for(
    search: Callable[..., Quantised], flops: int, opset: int, clips: int, signed: bool
) -> None:
    judged: list[Any] = []
    search(lambda _: Damage(0.1, 1.0), flops=flops, opset=opset, judged=judged)
    assert len(judged) == len(ALONE)
    for frames, want, with_signs in judged:
        assert (len(frames), with_signs) == (clips, signed)
        assert want == [-frame for frame in frames]


def test_calibration_is_shown_whole_batches_and_a_range_of_them() -> None:
    reader = int8._Reader(FRAMES[: 2 * int8.BATCH + 3])
    batches = list(iter(reader.get_next, None))
    assert [batch["frames"].tolist() for batch in batches] == FRAMES[: 2 * int8.BATCH].reshape(2, -1).tolist()
    assert len(reader) == 2
    reader.set_range(1, 2)
    assert [batch["frames"][0] for batch in iter(reader.get_next, None)] == [int8.BATCH]
    few = int8._Reader(FRAMES[:3])
    assert [batch["frames"].tolist() for batch in iter(few.get_next, None)] == [[0, 1, 2]]
