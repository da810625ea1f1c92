"""The numbered questions: same draft, same recipe, no screen."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from engine.settings import Recipe
from lyctui import plain_wizard
from lyctui.draft import Draft, list_drafts
from lyctui.screens.welcome import Machine
from tests.lyctui.wizard_parts import NO_GPU, filled_draft, pictures


class Started:
    """What the wizard would have started."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self.recipe = recipe
        self.folder = folder


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Started]:
    made: list[Started] = []

    def open_run(recipe: Recipe, origins: Any = None) -> Started:
        made.append(Started(recipe, tmp_path / "run"))
        return made[-1]

    monkeypatch.setattr(plain_wizard, "open_run", open_run)
    monkeypatch.setattr("lyctui.plain_monitor.follow", lambda run: 0)
    monkeypatch.setattr("lyctui.wizard.Wizard.warm_up", lambda self: None)
    monkeypatch.setattr("engine.hardware.read_hardware", lambda: NO_GPU)
    monkeypatch.setattr(
        "lyctui.screens.welcome.read_machine", lambda: Machine(NO_GPU, 10**11, tmp_path)
    )
    return made


def talk(*answers: str, draft: Draft | None = None) -> tuple[int, str]:
    out = io.StringIO()
    code = plain_wizard.ask_plain(io.StringIO("".join(f"{one}\n" for one in answers)), out, draft)
    return code, out.getvalue()


def test_enter_takes_what_is_recommended_to_the_end(
    runs: list[Started], base: Path, tmp_path: Path
) -> None:
    folder = pictures(tmp_path / "emblem")
    answers = ["1", "1", str(base), "", str(folder), "vexilo", "emblem", "3", *[""] * 40]
    # Enter never starts: the last question has no recommended answer.
    code, said = talk(*answers)
    assert code == 2 and runs == []
    assert "Start training" in said and "÷ batch" in said
    draft = list_drafts().drafts[0]
    assert draft.value("data.repeats") == 3 and draft.value("data.trigger") == "vexilo"


def test_answers_make_the_same_recipe_as_the_draft(
    runs: list[Started], base: Path, tmp_path: Path
) -> None:
    draft = filled_draft(base, pictures(tmp_path / "emblem"))
    draft.page = "review"
    code, said = talk("1", draft=draft)
    assert code == 0, said
    recipe = runs[0].recipe
    assert recipe.data.trigger == "vexilo" and recipe.train.seed is not None
    assert list_drafts().drafts == ()


def test_a_wrong_answer_is_asked_again_and_said_why(
    runs: list[Started], base: Path, tmp_path: Path
) -> None:
    draft = filled_draft(base, pictures(tmp_path / "emblem"))
    draft.page = "training"
    code, said = talk("many", "900", "2", "?", "<", "quit", draft=draft)
    assert code == 0
    assert "Batch size must be a whole number (you wrote 'many')." in said
    assert "900" in said.split("Error:")[2]
    assert list_drafts().drafts[0].value("train.batch_size") == 2
    assert "draft is kept" in said


def test_all_settings_can_be_asked(runs: list[Started], base: Path, tmp_path: Path) -> None:
    draft = filled_draft(base, pictures(tmp_path / "emblem"))
    draft.page = "samples"
    _, said = talk("more", *[""] * 40, "quit", draft=draft)
    assert "Bit-exact on the GPU" in said


def test_broken_pictures_are_named_and_the_page_asked_again(
    runs: list[Started], base: Path, tmp_path: Path
) -> None:
    folder = pictures(tmp_path / "emblem")
    (folder / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")
    draft = filled_draft(base, folder)
    draft.page = "dataset"
    _, said = talk(*[""] * 6, "quit", draft=draft)
    assert "cut.jpg" in said
    assert said.count("1 of 6. Pictures") == 2


def test_nothing_in_it_is_obeyed_by_a_terminal(
    runs: list[Started], base: Path, tmp_path: Path
) -> None:
    draft = filled_draft(base, pictures(tmp_path / "emblem"))
    draft.set("data.trigger", "evil\x1b[2Jword")
    draft.page = "review"
    _, said = talk("quit", draft=draft)
    assert "\x1b" not in said and "evil" in said


def test_save_only_starts_nothing(runs: list[Started], base: Path, tmp_path: Path) -> None:
    draft = filled_draft(base, pictures(tmp_path / "emblem"))
    draft.page = "review"
    code, said = talk("2", draft=draft)
    assert code == 0 and runs == []
    path = Path(said.rpartition("lyctui train ")[2].strip())
    assert path.is_file()


def network_draft(base: Path, folder: Path, **answers: Any) -> Draft:
    """A draft that is at the network page."""
    draft = filled_draft(base, pictures(folder))
    for path, value in answers.items():
        draft.set(path.replace("__", "."), value)
    draft.page = "network"
    return draft


def test_the_table_of_algorithms_is_told_in_lines(
    runs: list[Started], base: Path, tmp_path: Path
) -> None:
    _, said = talk("", "quit", draft=network_draft(base, tmp_path / "p"))
    rows = [line for line in said.splitlines() if "; loads in " in line]
    assert len(rows) == 11
    assert rows[0].startswith(
        "  1. LoRA: start here; fidelity 2 and flexibility 2 of 4 (guide 003)"
    )
    assert "speed 1.00; loads in ComfyUI, A1111, Forge, diffusers and LyCORIS." in rows[0]
    assert "no guide compares it" in rows[8] and "not Forge and diffusers" in rows[8]
    assert "Alpha / rank = 16 / 32 = 0.50" in said, "what the chosen one comes to"
    assert "★" not in said


def test_advice_is_a_numbered_list_and_is_taken_at_once(
    runs: list[Started], base: Path, tmp_path: Path
) -> None:
    draft = network_draft(base, tmp_path / "p")
    _, said = talk("12", "1", "1", "", "quit", draft=draft)
    assert "  1. Learnt too little: details are missing" in said
    assert "1. LoKr, factor 8, full rank. Guide 003: " in said and "file " in said
    assert "Taken: LoKr, factor 8, full rank." in said
    assert "Algorithm [4]:" in said, "the table follows, with the new choice"
    assert list_drafts().drafts[0].value("network.factor") == 8


def test_advice_can_be_left_without_a_change(
    runs: list[Started], base: Path, tmp_path: Path
) -> None:
    draft = network_draft(base, tmp_path / "p")
    _, said = talk("12", "2", "", "12", "<", "", "quit", draft=draft)
    assert said.count("Algorithm [1]:") == 3 and "Taken" not in said


def test_conflicts_are_lines_with_what_to_do(
    runs: list[Started], base: Path, tmp_path: Path
) -> None:
    draft = network_draft(base, tmp_path / "p", network__dora="output")
    _, said = talk("", "quit", draft=draft)
    assert "Note: DoRA output: " in said and "DoRA input suits" in said
    other = network_draft(base, tmp_path / "q", network__algorithm="dylora", network__block_size=5)
    _, said = talk("", "quit", draft=other)
    assert "Not now: DyLoRA draws 5 ranks at a time" in said
    assert "Error: DyLoRA draws 5 ranks at a time" in said and "125 or 130" in said
