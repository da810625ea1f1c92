"""kohya's configurations on the command line and as a page of the wizard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lyctui.cli.program import app as cli
from lyctui.screens.goal import NO_PRESET
from lyctui.screens.imported import ImportScreen
from lyctui.screens.welcome import WelcomeScreen
from lyctui.widgets.lines import Lines
from lyctui.widgets.menu import Menu
from lyctui.widgets.path_input import PathInput
from tests.lyctui.test_wizard_pages import App, machine, page_of_app
from tests.lyctui.wizard_parts import until

__all__ = ["machine"]

FILES = Path(__file__).parents[1] / "engine" / "kohya" / "files"
GUI = FILES / "gui_new_lokr.json"


def run(*words: str) -> Any:
    return CliRunner().invoke(cli, list(words))


def test_import_says_every_key_and_writes_a_recipe_that_train_reads(tmp_path: Path) -> None:
    out = tmp_path / "run.toml"
    done = run("import", str(GUI), "-o", str(out))
    assert done.exit_code == 0, done.output
    written = json.loads(GUI.read_text())
    shown = done.output.replace("…", "")
    assert all(key[:33] in shown for key in written)
    assert "never_shown" not in done.output
    assert "train it: lyctui train" in done.output
    from engine.settings.toml import read_recipe

    assert read_recipe(out).network.algorithm == "lokr"


def test_import_never_writes_over_a_file(tmp_path: Path) -> None:
    out = tmp_path / "run.toml"
    out.write_text("mine")
    done = run("import", str(GUI), "-o", str(out))
    assert (done.exit_code, out.read_text()) == (2, "mine")


def test_import_as_objects(tmp_path: Path) -> None:
    done = run("import", str(GUI), "--json")
    rows = [json.loads(line) for line in done.output.splitlines()]
    assert {row["status"] for row in rows[:-1]} <= {
        "taken", "translated", "no effect", "unsupported", "unknown", "default",
    }  # fmt: skip
    assert rows[-1]["imported"]["recipe"]["train"]["epochs"] == 12
    assert rows[-1]["written"] is None


@pytest.mark.parametrize("text", ["{", '{"LoRA_type": "Standard", "epoch": "many"}'])
def test_what_cannot_be_imported_is_a_wrong_call(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    assert run("import", str(path)).exit_code == 2


def test_export_writes_the_command_and_its_files(tmp_path: Path) -> None:
    recipe, out = tmp_path / "run.toml", tmp_path / "cmd.sh"
    assert run("import", str(FILES / "one_folder.toml"), "-o", str(recipe)).exit_code == 0
    done = run("export", str(recipe), "-o", str(out))
    assert done.exit_code == 0, done.output
    assert f"--dataset_config={tmp_path / 'cmd-dataset.toml'}\n" in out.read_text()
    assert "num_repeats = 3" in (tmp_path / "cmd-dataset.toml").read_text()
    assert run("export", str(recipe), "-o", str(out)).exit_code == 2
    again = run("import", str(out), "--json")
    last = json.loads(again.output.splitlines()[-1])["imported"]["recipe"]
    assert (last["data"]["repeats"], last["data"]["trigger"]) == (3, "zwx")
    assert "accelerate launch" in json.loads(run("export", str(recipe), "--json").output)["command"]


async def test_a_configuration_leads_into_the_wizard(tmp_path: Path) -> None:
    app: Any = App(WelcomeScreen)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.screen.query_one(Menu).rows)
        rows = app.screen.query_one(Menu).rows
        await pilot.press(str([row.key for row in rows].index("import") + 1))
        await until(pilot, lambda: isinstance(app.screen, ImportScreen))
        report = app.screen.query_one("#facts", Lines)
        app.screen.query_one(PathInput).value = str(tmp_path / "none.json")
        await pilot.press("enter")
        await until(pilot, lambda: "no such file" in report.plain)
        app.screen.query_one(PathInput).value = str(GUI)
        app.screen.query_one(PathInput).focus()
        await pilot.press("enter")
        await until(pilot, lambda: "kohya_ss GUI" in report.plain)
        assert "shuffle_captoin" in report.plain
        assert "never_shown" not in report.plain
        assert all(len(line) <= 78 for line in report.plain.splitlines())
        await pilot.press("ctrl+n")
        await until(pilot, lambda: page_of_app(app) == "goal")
        assert app.screen.wizard.effective("network.algorithm") == "lokr"
        assert app.screen.wizard.effective("optim.d_coef") == 1.5
        await pilot.press("ctrl+n")
        await until(pilot, lambda: page_of_app(app) == "model")
        draft = app.screen.wizard.draft
        assert (draft.preset, draft.preset_values) == (NO_PRESET, {}), "no goal adds to the file"
