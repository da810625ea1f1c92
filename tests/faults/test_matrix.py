"""Every algorithm with every optimizer in every precision: killed in a step and resumed, nothing is lost."""

from __future__ import annotations

import random
from functools import lru_cache
from pathlib import Path

import pytest

from tests.faults import points
from tests.faults.golden import Golden
from tests.faults.matrix import Case, all_cases, covering, draw_data
from tests.faults.points import Point
from tests.faults.table import Ledger

pytestmark = pytest.mark.slow

CASES = all_cases()
SHORT = 16
"""Cases of the short form."""
CHEAP = [
    case
    for case in CASES
    if case.precision in ("fp32", "network-bf16") or case.form in ("lora", "lokr-full")
]
"""Half precision of the base is slow on a CPU: in the short form few algorithms are tried in it."""


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
    """Kill a run of the case where it was drawn, resume it and compare; `short`: three steps, one death."""
    recipe = case.recipe(root, demo_base(root / "base"))
    instants = drawn_points(case)
    if short:
        instants = drawn_points(case, 3)[:1]
        train = recipe.train.model_copy(update={"max_steps": 3})
        save = recipe.save.model_copy(update={"state_minutes": 1e-6})
        recipe = recipe.model_copy(update={"train": train, "save": save})
    with ledger.fault("matrix", f"{case}, {', '.join(map(str, instants))}") as lost:
        golden = Golden(recipe, root, keep_base=True)
        folder = golden.new_run()
        for number, point in enumerate(instants):
            end = golden.job(folder, point.plant, resume=number > 0).run()
            assert end.killed, end.said()
        golden.resumed(folder)
        lost += golden.differences(folder, deaths=len(instants))


@pytest.mark.parametrize("case", covering(CHEAP, SHORT), ids=str)
def test_a_covering_part_of_the_matrix(case: Case, root: Path, ledger: Ledger) -> None:
    survives(case, root, ledger, short=True)


@pytest.mark.faults_long
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_whole_matrix(case: Case, root: Path, ledger: Ledger) -> None:
    survives(case, root, ledger, short=False)
