"""What a plan says about the file in words: who loads it, and what is partial about that."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from engine.networks.consumers import TITLES, Consumer, Verdict
from engine.plan import Plan, plan
from engine.planning.facts import Facts
from engine.settings import Recipe
from engine.settings.network import Ia3, Lora, Network
from lyctui.readers import loading_words
from lyctui.report import plain
from lyctui.screens.summary import cost_lines
from lyctui.text import UNICODE_SIGNS, cells
from lyctui.verbs.plan import plan_lines
from tests.lyctui.wizard_parts import NO_GPU

if TYPE_CHECKING:
    from lyctui.wizard import Wizard


def planned(network: Network) -> Plan:
    return plan(Recipe(network=network), Facts(hardware=NO_GPU, drawn_seed=1))


def loads_line(network: Network) -> str:
    (line,) = [line for line in plan_lines(planned(network)) if line.startswith("Loads in")]
    return line


def test_the_plan_has_one_line_for_all_six_programs() -> None:
    everywhere = "ComfyUI, A1111, Forge, diffusers, LyCORIS and kohya's lora.py."
    assert loads_line(Lora()) == f"Loads in  {everywhere}"
    assert loads_line(Ia3()).startswith("Loads in  A1111; not ComfyUI,")


def test_what_is_partial_is_told_with_the_reason() -> None:
    line = loads_line(Lora(dora="output"))
    assert "in part ComfyUI, Forge and diffusers; not A1111" in line
    assert "ComfyUI and Forge: divides by the norm of the base weight alone" in line
    assert "noise" not in line, "what is not read at all needs no reason here"


@pytest.mark.parametrize("width", [60, 76, 100])
def test_the_review_folds_the_line_under_its_title(width: int) -> None:
    page = SimpleNamespace(plan=planned(Lora(dora="output")), looking_at="")
    wizard = cast("Wizard", page)
    shown = [plain(line) for line in cost_lines(wizard, UNICODE_SIGNS, width)]

    first = next(number for number, line in enumerate(shown) if "Loads in" in line)
    assert shown[first].startswith("  Loads in ") and shown[first + 1].startswith(" " * 11)
    assert all(cells(line) <= width for line in shown[first : first + 3])


def test_programs_of_all_levels_are_joined_into_one_sentence() -> None:
    found: dict[Consumer, Verdict] = dict.fromkeys(TITLES, Verdict("no", "refuses the file"))
    found |= {"comfyui": Verdict("yes", ""), "forge": Verdict("partly", "leaves out the norms")}

    assert loading_words(found) == (
        "ComfyUI; in part Forge; not A1111, diffusers, LyCORIS and kohya's lora.py. "
        "Forge leaves out the norms."
    )
