"""Which TensorRT is chosen, and what is refused before anything is built."""

from __future__ import annotations

import pytest

from cpd.config import Export
from cpd.errors import ExportError
from cpd.manifest import Precision
from cpd_export import flavours
from cpd_export.flavours import (
    CURRENT,
    FLAVOURS,
    MOST,
    BuildOptions,
    check_options,
    choose_flavour,
    for_this_machine,
)
from cpd_export.gpu import Gpu

RTX = FLAVOURS["tensorrt_rtx"]
OPTIONS = BuildOptions(max_batch=4)


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        ("tensorrt_rtx", BuildOptions(version_compatible=True), "tensorrt_rtx has no version_compatible engines"),
        ("tensorrt_rtx", BuildOptions(hardware_compatible=True), "tensorrt_rtx has no hardware_compatible engines"),
        ("tensorrt_rtx", BuildOptions(compute_capabilities=("9.0",)), "compute capability 9.0 .*8.9"),
        ("tensorrt_rtx", BuildOptions(compute_capabilities=("8.9", CURRENT)), "builds for current alone, .*8.9, 12.0"),
        ("tensorrt", BuildOptions(compute_capabilities=("8.9",)), "for the GPU of this machine"),
        ("tensorrt", BuildOptions(compute_capabilities=(CURRENT,)), "for the GPU of this machine"),
    ],
)
def test_what_a_flavour_cannot_do_is_said_before_building(module: str, options: BuildOptions, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        check_options(FLAVOURS[module], options)


def test_without_a_gpu_the_one_at_hand_is_no_target(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flavours, "first_gpu", lambda: None)
    with pytest.raises(ExportError, match=r"current where there is a GPU .*name those to build for: 7\.5"):
        check_options(RTX, BuildOptions(compute_capabilities=(CURRENT,)))


def test_what_a_flavour_can_do_is_allowed() -> None:
    check_options(FLAVOURS["tensorrt"], BuildOptions(version_compatible=True, hardware_compatible=True))
    check_options(RTX, BuildOptions(compute_capabilities=RTX.targets), "fp16")


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_gpu_without_matrix_products_in_fp32_is_named(precision: Precision) -> None:
    with pytest.raises(ExportError, match=rf"no {precision} engines for compute capability 7\.5"):
        check_options(RTX, BuildOptions(compute_capabilities=("8.9", "7.5")), precision)


def test_a_gpu_too_old_for_compatible_engines_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    options = BuildOptions(hardware_compatible=True)
    monkeypatch.setattr(flavours, "first_gpu", lambda: Gpu("a Turing GPU", "7.5"))
    with pytest.raises(ExportError, match=r"capability 8\.0 on, and this is a Turing GPU of 7\.5"):
        check_options(FLAVOURS["tensorrt"], options)
    monkeypatch.setattr(flavours, "first_gpu", lambda: Gpu("a Hopper GPU", "9.0"))
    check_options(FLAVOURS["tensorrt"], options)
    check_options(RTX, BuildOptions(compute_capabilities=(CURRENT,)))


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("tensorrt_lean", "tensorrt_lean runs engines and cannot build them"),
        ("openvino", "openvino is no TensorRT known here .*tensorrt_rtx"),
    ],
)
def test_a_flavour_that_cannot_build_is_refused(module: str, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        choose_flavour(OPTIONS, module)


def test_full_tensorrt_is_chosen_where_it_can_build_and_rtx_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flavours.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(flavours, "first_gpu", lambda: Gpu("a GPU", "8.9"))
    assert choose_flavour(OPTIONS).module == "tensorrt"
    monkeypatch.setattr(flavours, "first_gpu", lambda: None)
    assert choose_flavour(OPTIONS).module == "tensorrt_rtx"
    with pytest.raises(ExportError, match="tensorrt builds on a GPU, and this machine has none"):
        choose_flavour(OPTIONS, "tensorrt")


def test_of_two_that_can_build_the_first_that_has_the_options_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flavours.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(flavours, "first_gpu", lambda: Gpu("a GPU", "8.9"))
    named = BuildOptions(compute_capabilities=("8.9",))
    assert choose_flavour(named).module == "tensorrt_rtx"
    assert choose_flavour(BuildOptions(version_compatible=True)).module == "tensorrt"
    with pytest.raises(ExportError, match=r"tensorrt cannot be told to build for compute capability 8\.9"):
        choose_flavour(named, "tensorrt")
    neither = BuildOptions(version_compatible=True, compute_capabilities=("8.9",))
    with pytest.raises(ExportError, match=r"tensorrt cannot be told to build for compute capability 8\.9"):
        choose_flavour(neither)


def test_without_any_tensorrt_every_reason_and_the_remedy_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flavours.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ExportError) as raised:
        choose_flavour(OPTIONS)
    for part in ("tensorrt is not installed", "tensorrt_rtx is not installed", "pip install tensorrt_rtx_cu13"):
        assert part in str(raised.value)


@pytest.mark.parametrize("values", [{"max_batch": 0}, {"workspace_bytes": -1}, {"max_batch": "8"}])
def test_impossible_options_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        BuildOptions(**values)  # type: ignore[arg-type]


def test_bounds_are_those_of_the_configuration() -> None:
    for name, most in MOST.items():
        Export.model_validate({name: most})
        with pytest.raises(ValueError, match=f"{most}"):
            Export.model_validate({name: most + 1})
        with pytest.raises(ValueError, match=f"at most {most}"):
            BuildOptions(**{name: most + 1})
    with pytest.raises(ValueError, match="compute_capabilities must differ"):
        BuildOptions(compute_capabilities=("8.9", "8.9"))


def test_an_engine_is_built_again_for_the_gpu_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flavours, "first_gpu", lambda: Gpu("a Hopper GPU", "9.0"))
    assert for_this_machine(RTX, OPTIONS).compute_capabilities == (CURRENT,)
    options = BuildOptions(version_compatible=True, hardware_compatible=True)
    assert for_this_machine(FLAVOURS["tensorrt"], options) == options
    monkeypatch.setattr(flavours, "first_gpu", lambda: None)
    assert for_this_machine(RTX, OPTIONS).compute_capabilities == ()
