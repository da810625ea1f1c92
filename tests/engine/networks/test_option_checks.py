"""Options that modules cannot follow, told from planned shapes alone."""

from dataclasses import dataclass

import pytest

from engine.errors import Problem, RecipeError
from engine.networks.choice import Choice, Dropouts
from engine.networks.option_checks import check_options
from engine.networks.overrides import Override
from engine.networks.shapes import planned_layers, with_shapes


@dataclass(frozen=True)
class Plan:
    path: str
    out: int
    in_: int
    component: str = "unet"
    kernel: tuple[int, ...] = ()
    classes: tuple[str, ...] = ("Transformer2DModel",)
    kind: str = "linear"
    bias: bool = True


SMALL, LARGE = Plan("small", 8, 8), Plan("large", 64, 64)


def notes(choice: Choice, *layers: Plan) -> list[str]:
    return check_options(with_shapes(planned_layers(layers, choice)), choice)


def problems(choice: Choice, *layers: Plan) -> tuple[Problem, ...]:
    with pytest.raises(RecipeError) as caught:
        notes(choice, *layers)
    return caught.value.problems


def test_a_network_that_follows_everything_is_left_in_peace():
    choice = Choice("lokr", 3, 1.0, rs_lora=True, dropouts=Dropouts(rank=0.1))
    assert notes(choice, LARGE) == []
    assert notes(Choice("lora", 100, 1.0, rs_lora=True, dropouts=Dropouts(rank=0.1)), SMALL) == []
    assert notes(Choice("lokr", "full", 1.0), SMALL, LARGE) == []


def test_scale_and_dropout_of_ranks_that_are_not_there_are_refused_together():
    choice = Choice("lokr", 100, 1.0, rs_lora=True, dropouts=Dropouts(rank=0.1))
    scale, dropout = problems(choice, SMALL, LARGE)

    assert (scale.path, dropout.path) == ("network.rs_lora", "network.rank_dropout")
    assert "2 modules" in scale.what and scale.where == "small, large"


def test_a_scale_is_judged_by_what_was_chosen_for_the_layer():
    switched_off = Override("small", options={"rs_lora": False})
    choice = Choice("lokr", 3, 1.0, rs_lora=True, overrides=(switched_off,))
    assert "no longer limits 1 module," in notes(choice, SMALL, LARGE)[0]

    switched_on = Override("small", options={"rs_lora": True})
    (problem,) = problems(Choice("lokr", 3, 1.0, overrides=(switched_on,)), SMALL, LARGE)
    assert problem.path == "network.overrides" and problem.where == "small"


def test_where_the_rest_is_served_it_is_a_note():
    (note,) = notes(Choice("lokr", 3, 1.0), SMALL, LARGE)
    assert note == "The rank no longer limits 1 module, both factors are full: small."
    (note,) = notes(Choice("lokr", 3, 1.0, dropouts=Dropouts(rank=0.1)), SMALL, LARGE)
    assert note.startswith("Rank dropout does not apply to 1 module,")
    many = [Plan(f"small_{number}", 8, 8) for number in range(5)]
    assert "small_0 and 4 more" in notes(Choice("lokr", 3, 1.0), *many, LARGE)[0]


def test_splitting_both_factors_is_noted_where_no_first_factor_is_large_enough():
    def asked(rank: int, factor: int) -> list[str]:
        choice = Choice("lokr", rank, 1.0, factor=factor, decompose_both=True)
        return [note for note in notes(choice, LARGE) if "Splitting both factors" in note]

    assert len(asked(4, 8)) == 1
    assert asked(3, 8) == []
