"""Algorithms with optimizers in precisions: killed in a step and resumed, nothing is lost."""

from __future__ import annotations

import random
from functools import lru_cache
from pathlib import Path

import pytest

from tests.faults import points
from tests.faults.golden import Golden
from tests.faults.matrix import (
    EXTRAS,
    FAMILIES,
    FORMS,
    PRECISIONS,
    Case,
    all_cases,
    draw_data,
    every_pair,
    every_value,
    pairs,
    refused,
    values,
)
from tests.faults.points import Point
from tests.faults.table import Ledger, Length, length_of
from tests.tiny import write_tiny_sd1

pytestmark = [pytest.mark.slow, pytest.mark.fault("matrix")]

STEPS = 2
"""Of the short form."""


def cases_of(length: Length) -> list[Case]:
    """What runs: every value, every pair of values, or the whole product."""
    if length == "short":
        return every_value(all_cases())
    return every_pair(all_cases()) if length == "long" else all_cases()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The cases depend on how long the tests may take."""
    if "case" in metafunc.fixturenames:
        cases = cases_of(length_of(metafunc.config))
        metafunc.parametrize("case", cases, ids=list(map(str, cases)))


def test_the_short_form_has_every_value_and_the_long_one_every_pair() -> None:
    every = all_cases()
    short, long = every_value(every), every_pair(every)
    found = set().union(*map(values, short))
    wanted = {"form": FORMS, "family": FAMILIES, "precision": PRECISIONS,
              "extra": map(str, range(len(EXTRAS)))}  # fmt: skip
    assert found == {(kind, value) for kind, own in wanted.items() for value in own}
    assert len(short) == len(FORMS)
    assert set().union(*map(pairs, long)) == set().union(*map(pairs, every))
    # No pair is missing but one that the settings refuse with whatever third value.
    for form in FORMS:
        for family in FAMILIES:
            for precision in PRECISIONS:
                cases = [Case(form, family, precision, extra) for extra in range(len(EXTRAS))]
                if not all(map(refused, cases)):
                    assert any(case in every for case in cases)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("matrix")
    draw_data(made)
    return made


@lru_cache(maxsize=1)
def demo_base(folder: Path) -> Path:
    """The demo's base model, unpacked."""
    from lyctui.demo.asset import unpack_base

    return unpack_base(folder)


@lru_cache(maxsize=1)
def tiny_base(folder: Path) -> Path:
    """One that paints nothing and is fast."""
    folder.mkdir()
    return write_tiny_sd1(folder / "tiny.safetensors")


def drawn_points(case: Case, longest: int = 4) -> list[Point]:
    """One or two instants: in any step of the run, then in the first one of its resume."""
    rng = random.Random(case.seed)
    steps = 2 if "validation" in str(case.sections(Path())["data"]) else 4 // case.micro_batches
    steps = min(steps, longest)
    passes = steps * case.micro_batches
    found = []
    for most_steps, most in ((steps, passes), (1, case.micro_batches)):
        found.append(
            rng.choice(
                [
                    points.forward(rng.randint(1, most), after=rng.random() < 0.5),
                    points.in_backward(rng.randint(1, most)),
                    points.between_batches(rng.randint(1, most)),
                    points.update(rng.randint(1, most_steps), after=rng.random() < 0.5),
                ]
            )
        )
    return found[: rng.choice((1, 2))]


def survives(case: Case, root: Path, ledger: Ledger, *, short: bool) -> None:
    """Kill a run of the case where it was drawn, resume it and compare; `short`: two steps, one death."""
    instants = drawn_points(case)
    if short:
        recipe = case.recipe(root, tiny_base(root / "tiny"))
        instants = drawn_points(case, STEPS)[:1]
        data = recipe.data.model_copy(update={"resolution": (64, 64)})
        train = recipe.train.model_copy(update={"max_steps": STEPS})
        save = recipe.save.model_copy(update={"state_minutes": 1e-6})
        recipe = recipe.model_copy(update={"data": data, "train": train, "save": save})
    else:
        recipe = case.recipe(root, demo_base(root / "base"))
    with ledger.fault("matrix", f"{case}, {', '.join(map(str, instants))}") as lost:
        golden = Golden(recipe, root, keep_base=True, prove=not short)
        folder = golden.new_run()
        for number, point in enumerate(instants):
            end = golden.job(folder, point.plant, resume=number > 0).run()
            assert end.killed, end.said()
        golden.resumed(folder)
        lost += golden.differences(folder, deaths=len(instants))


def test_the_matrix(case: Case, root: Path, ledger: Ledger, pytestconfig: pytest.Config) -> None:
    survives(case, root, ledger, short=length_of(pytestconfig) == "short")
