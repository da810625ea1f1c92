"""The results page tells what was found in the finished file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.events import Proved
from engine.snapshot import Snapshot
from lyctui import report
from lyctui.app import LyctuiApp
from lyctui.screens.results import ResultsScreen, onward_lines, result_lines
from lyctui.text import signs
from lyctui.widgets.lines import Lines

FINDINGS = (
    "648 tensors, all known to ComfyUI, A1111, Forge, diffusers, lycoris-lora, kohya's lora.py",
    "shapes fit 216 layers, each there once",
    "finite, not zero",
    "every layer is changed as in training, to 0.033 %",
    "same picture as in training: largest difference 1 of 255; the file changes it by up to 71 of 255",
)
PROOF = Proved("vexilo_v1.safetensors", 6, True, FINDINGS)
FAULT = "2 layers changed otherwise than in training, by 140 % at most: unet mid_block.\x1b[31m"


def lines_of(*proofs: Proved, **changed: Any) -> list[str]:
    snapshot = replace(Snapshot("vexilo_v1", "finished"), proofs=proofs, **changed)
    folder = Path("vexilo_v1")
    both = [*result_lines(snapshot, folder, signs()), *onward_lines(snapshot, folder, signs())]
    lines = report.folded(both, 76)
    return ["".join(words for words, _ in line) for line in lines]


def test_a_sound_file_is_said_at_once_and_every_finding_has_a_line_below() -> None:
    lines = lines_of(PROOF)
    said = next(place for place, line in enumerate(lines) if line.startswith("✓ Checked: loads"))
    assert said < lines.index("Checked  loaded again into the base model")
    assert "Checked  loaded again into the base model" in lines
    assert "✓ finite, not zero" in lines
    assert sum(line.startswith("✓ ") for line in lines) == len(FINDINGS) + 2
    assert all(len(line) <= 76 for line in lines)


def test_what_is_wrong_comes_first_and_cannot_steer_the_terminal() -> None:
    bad = replace(PROOF, good=False, findings=FINDINGS[:3], faults=(FAULT,))
    lines = lines_of(bad)
    place = lines.index("Checked  loaded again into the base model")
    assert lines[place + 1].startswith("✗ 2 layers changed otherwise than in training")
    assert "\x1b" not in "".join(lines)


@pytest.mark.parametrize("changed", [{}, {"proofs": (PROOF,), "state": "running"}])
def test_runs_that_did_not_look_say_nothing(changed: dict[str, Any]) -> None:
    snapshot = replace(Snapshot("vexilo_v1", "finished"), **changed)
    folder = Path("vexilo_v1")
    lines = [*result_lines(snapshot, folder, signs()), *onward_lines(snapshot, folder, signs())]
    assert not any("Checked" in words for line in lines for words, _ in line)


async def until(pilot: Any, condition: Callable[[], bool]) -> None:
    for _ in range(3000):
        # A screen may be on top before its widgets are there.
        if pilot.app.screen.is_mounted and condition():
            return
        await pilot.pause(0.02)
    raise AssertionError("waited too long")


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
async def test_the_page_shows_it_beside_the_files(toy_run: Any, size: tuple[int, int]) -> None:
    run = toy_run(steps=6, seconds=0.0)
    run.start()
    assert run.wait(10)
    run.session.emit(PROOF)
    app = LyctuiApp(run=run)
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: isinstance(app.screen, ResultsScreen))
        shown = app.screen.query_one
        await until(pilot, lambda: "✓ Checked: loads in" in shown("#results", Lines).plain)
        assert "✓ finite, not zero" in shown("#onward", Lines).plain
