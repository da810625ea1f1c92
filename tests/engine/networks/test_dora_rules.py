"""Magnitudes belong to all modules of a component or to none, and to one axis."""

from engine.networks.dora_rules import mixed_dora

LORA = {"lora_up.weight": (6, 2), "lora_down.weight": (2, 4), "alpha": ()}
INPUT = LORA | {"dora_scale": (1, 4)}
OUTPUT = LORA | {"dora_scale": (6, 1)}
NORM = {"w_norm": (4,), "b_norm": (4,)}


def test_all_or_none_of_a_component_is_fine():
    assert mixed_dora({"unet": {"a": INPUT, "b": INPUT}, "te": {"c": LORA}}) == []
    assert mixed_dora({"unet": {"a": OUTPUT, "n": NORM}}) == []


def test_modules_without_magnitudes_are_named():
    (problem,) = mixed_dora({"unet": {"a": INPUT, "b": LORA, "c": LORA}, "te": {"d": INPUT}})

    assert "2 of 3 modules of unet" in problem.what
    assert problem.where == "b, c"


def test_two_axes_in_one_component_are_named_and_two_components_may_differ():
    (problem,) = mixed_dora({"unet": {"a": INPUT, "b": INPUT, "c": OUTPUT}})

    assert "2 modules" in problem.what
    assert problem.where == "c"
    assert mixed_dora({"unet": {"a": INPUT}, "te": {"c": OUTPUT}}) == []
