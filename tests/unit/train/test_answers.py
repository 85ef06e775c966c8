"""What a teacher said, kept for views that come again."""

import pytest
import torch

from cpd.clip import ClipSpec
from cpd_train.answers import Memory, Teacher
from cpd_train.loader import Batch
from cpd_train.losses.spectrum import attention_maps, pool_to
from cpd_train.models import ModelSpec, build_model
from cpd_train.terms import half

CLIP = ClipSpec(frames=4, resize=(40, 40), crop=(32, 32))
GRIDS = [(16, 8), (64, 2), (4, 4), (1, 1)]
"""Of a student: finer than the teacher's, coarser, or one in each direction."""


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build_model(ModelSpec("tsm-tiny", 4, 1), 3, CLIP).train()


def batch(*clips):
    """Clips of these numbers, each with a view of its own."""
    frames = [
        torch.randint(0, 256, CLIP.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(clip))
        for clip in clips
    ]
    return Batch(torch.stack(frames), torch.zeros(len(clips), 3), [(clip, 0) for clip in clips])


def test_from_the_first_answer_without_room_on_none_is_kept():
    memory = Memory(100)
    for clip in (0, 1, 2):
        memory.put((clip, 0), {"logits": [torch.zeros(10)]})
    memory.put((1, 0), {"logits": [torch.ones(10)]})
    memory.put((3, 0), {"logits": [torch.zeros(1)]})
    kept = [memory.get((clip, 0), ["logits"]) for clip in range(4)]
    assert [parts is not None for parts in kept] == [True, True, False, False]
    assert not kept[1]["logits"][0].any(), "what is kept stays"
    assert not memory.has_room


def test_what_is_kept_already_takes_no_further_room():
    memory = Memory(40)
    for _ in range(2):
        memory.put((0, 0), {"logits": [torch.zeros(5)]})
    memory.put((1, 0), {"logits": [torch.zeros(5)]})
    assert memory.get((1, 0), ["logits"]) is not None


def test_an_answer_is_known_under_all_its_keys_or_not_at_all():
    memory = Memory(100)
    memory.put((0, 0), {"logits": [torch.zeros(1)]})
    assert memory.get((0, 0), ["logits", "maps"]) is None
    memory.put((0, 0), {"maps": [torch.zeros(1)]})
    assert memory.get((0, 0), ["logits", "maps"]).keys() == {"logits", "maps"}


@pytest.mark.parametrize("room_bytes", [0, 10**6])
def test_answers_are_the_models_whichever_clips_are_known(model, room_bytes):
    ask = Teacher(model, GRIDS, Memory(room_bytes), "fp32", ["maps"])
    for clips in ((0, 1), (2, 1, 3, 0), (3, 2)):
        given = batch(*clips)
        answer = ask(given)
        with torch.no_grad():
            features = model.eval().with_features(given.frames)
        torch.testing.assert_close(answer.logits, features.logits)
        torch.testing.assert_close(answer.embedding, features.stages[-1].mean((1, 3, 4)))
        assert (answer.features, answer.spectra) == ([], [])
        for maps, stage, grid in zip(answer.maps, features.stages, GRIDS, strict=True):
            size = (min(stage.shape[3], grid[0]), min(stage.shape[4], grid[1]))
            torch.testing.assert_close(maps, pool_to(attention_maps(stage), size))


ONE_BYTES = 4 * (4 * 3 + 32)
"""Of an answer without maps: logits of four frames, and an embedding."""


@pytest.mark.parametrize(("room_bytes", "asked_for"), [(10**6, [2, 2]), (2 * ONE_BYTES, [2, 2, 2])])
def test_a_teacher_learns_nothing_and_is_asked_for_what_is_new_alone(model, monkeypatch, room_bytes, asked_for):
    ask, asked = Teacher(model, GRIDS, Memory(room_bytes), "fp32"), []
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    with_features = model.with_features
    monkeypatch.setattr(model, "with_features", lambda frames: asked.append(len(frames)) or with_features(frames))
    for clips in ((0, 1), (2, 1, 3, 0), (3, 2, 1)):
        ask(batch(*clips))
    assert asked == asked_for


def test_a_kept_answer_holds_no_more_than_itself(model):
    memory = Memory(10**6)
    Teacher(model, GRIDS, memory, "fp32")(batch(0, 1, 2))
    logits, embedding = memory.get((1, 0), ["logits"])["logits"]
    assert [part.untyped_storage().nbytes() for part in (logits, embedding)] == [4 * 4 * 3, 4 * 32]


def test_half_a_grid_is_rounded_up():
    assert [half(grid) for grid in ((7, 4), (4, 7), (1, 1))] == [(4, 2), (2, 4), (1, 1)]
