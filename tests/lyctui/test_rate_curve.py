"""The curve on the training page is that of the run: its height, its warmup, its restarts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.hardware import Hardware
from engine.plan import Facts, Plan, plan
from engine.settings.check import parse
from lyctui.fields import form_field
from lyctui.screens.training import TrainingPage
from lyctui.widgets.rate_curve import ROWS, rate_lines
from tests.lyctui.wizard_parts import filled_draft, pictures, settled


def planned(steps: int = 300, **sections: dict[str, Any]) -> Plan:
    facts = Facts(Hardware((), 2, 2**34, 2**33), drawn_seed=1)
    return replace(plan(parse(sections), facts), steps=steps)


def drawn(made: Plan, width: int = 70) -> list[str]:
    lines = rate_lines(made, width, ascii_only=True)
    return ["".join(part for part, _ in line) for line in lines]


def heights(made: Plan) -> list[int]:
    """Highest row of each column of the plot, 0 at the top."""
    rows = [line[10:] for line in drawn(made)[:ROWS]]
    return [min(row for row in range(ROWS) if rows[row][x] == "*") for x in range(len(rows[0]))]


def test_the_curve_begins_with_the_warmup_and_falls_to_nothing():
    made = planned(optim={"lr": 2e-4}, schedule={"warmup_percent": 20.0})
    rows, columns = drawn(made), heights(made)
    assert rows[0].startswith("    2e-4 +") and rows[ROWS - 1].startswith("       0 +")
    assert columns[0] == ROWS - 1 and columns[len(columns) // 5 + 1] == 0
    assert columns[-1] == ROWS - 1
    assert rows[ROWS].split("·")[0].strip() == "cosine" and "warmup 60" in rows[ROWS]


@pytest.mark.parametrize(("cycles", "jumps"), [(1, 0), (3, 2)])
def test_every_restart_is_seen(cycles, jumps):
    schedule = {"scheduler": "cosine_with_restarts", "cycles": cycles, "warmup_steps": 0}
    columns = heights(planned(schedule=schedule))
    rises = [x for x in range(1, len(columns)) if columns[x] == 0 < columns[x - 1]]
    assert len(rises) == jumps


def test_a_constant_rate_is_flat_and_the_end_of_the_text_encoder_is_told():
    made = planned(
        schedule={"scheduler": "constant", "warmup_percent": 0.0}, optim={"te_stop_percent": 50.0}
    )
    assert set(heights(made)) == {0}
    assert "text encoder to 150" in drawn(made)[ROWS]


def test_what_follows_no_curve_says_so():
    assert "relative steps" in drawn(planned(optim={"optimizer": "adafactor"}))[0]


def test_nothing_is_drawn_while_the_steps_are_not_known_or_there_is_no_room():
    assert drawn(planned(steps=0)) == []
    assert rate_lines(None, 70, ascii_only=False) == []
    assert drawn(planned(), width=30) == []


def test_every_line_fits_and_braille_is_used_where_it_can_be():
    lines = rate_lines(planned(), 64, ascii_only=False)
    texts = ["".join(part for part, _ in line) for line in lines]
    assert max(map(len, texts)) <= 64
    assert any(0x2800 < ord(sign) < 0x2900 for sign in texts[0])


def test_a_field_without_effect_says_why_and_is_quiet_once_it_has_one(
    base: Path, tmp_path: Path
) -> None:
    wizard = settled(filled_draft(base, pictures(tmp_path / "pictures")))
    page = TrainingPage(wizard)
    cycles = form_field("schedule.cycles")
    assert page.look(cycles).note.startswith("no effect: it belongs to the schedule cosine_with")
    assert "It has no effect now: it belongs" in page.short_help(cycles)
    wizard.set("schedule.scheduler", "cosine_with_restarts")
    assert wizard.settle()
    assert "no effect" not in page.look(cycles).note + page.short_help(cycles)
