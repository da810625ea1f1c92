"""`lyctui sample` and the contact sheet of the results page."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from engine.sheet.values import Sheet
from lyctui.app import LyctuiApp
from lyctui.cli.program import app
from lyctui.monitor import WatchedRun
from lyctui.pictures import Pictures
from lyctui.screens.results import ResultsScreen
from lyctui.screens.sheet import SheetScreen
from lyctui.widgets.lines import Lines
from lyctui.widgets.sheet import band_title, bands, missing_lines, print_sheet
from tests.sheet_run import write_sheet_run

RUNNER = CliRunner()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write_sheet_run(tmp_path_factory.mktemp("sheet"))


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """One cache for all of these tests: what was painted once is not painted again."""
    place = tmp_path_factory.getbasetemp() / "sheet-cache"
    monkeypatch.setenv("LYCTUI_CACHE", str(place))


def call(*arguments: object) -> Any:
    return RUNNER.invoke(app, ["sample", *map(str, arguments)])


def objects(done: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_run_as_objects(run: Path) -> None:
    done = call(run, "--json", "--device", "cpu")
    assert done.exit_code == 0, done.output
    *cells, last = objects(done)
    assert [(cell["epoch"], cell["strength"]) for cell in cells[::2]] == [
        (1, 0.6),
        (1, 1.0),
        (2, 0.6),
        (2, 1.0),
    ]
    assert all(Path(cell["picture"]).is_file() for cell in cells)
    summary = last["summary"]
    assert summary["pictures"] == 8
    assert Path(summary["html"]) == run / "samples" / "sheet.html"
    assert Path(summary["grid"]).is_file()


def test_a_file_in_words_with_pictures_of_its_own(run: Path, tmp_path: Path) -> None:
    file = shutil.copy(run / "small.safetensors", tmp_path / "mine.safetensors")
    out = tmp_path / "out"
    given = (file, "--run", run, "--strengths", "1", "--out", out, "--prompt", "a --s 1 --d 4")
    done = call(*given)
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in out.iterdir()) == [
        "mine_x_1_0_4.png",
        "sheet.html",
        "sheet.png",
    ]
    assert f"page       {out / 'sheet.html'}" in done.stdout.replace("\n", " ")
    assert call(file, "--model", run.parent.parent / "tiny.safetensors").exit_code == 0
    assert (tmp_path / "mine-sheet.html").is_file()


@pytest.mark.parametrize(
    ("given", "code", "words"),
    [
        (("nowhere.safetensors",), 3, "There is no such file"),
        (("nowhere",), 2, "No run named"),
        (("{run}", "{file}"), 2, "cannot be mixed"),
        (("{file}", "--strengths", "much"), 2, "no strengths"),
        (("{file}", "--prompt", "a --w 3"), 2, "--prompt, line 1, column 3"),
        (("{file}", "--html", "{file}"), 2, "there already"),
        (("{file}", "--model", "{file}"), 3, ""),
        (("{file}", "--steps", "0", "--guidance", "99"), 2, "guidance must be"),
    ],
)
def test_wrong_calls_have_their_code(
    run: Path, given: tuple[str, ...], code: int, words: str
) -> None:
    names = {"run": str(run), "file": str(run / "small.safetensors")}
    done = call(*(part.format(**names) for part in given), "--json")
    assert done.exit_code == code, done.output
    told = objects(done)
    assert all("error" in one for one in told)
    assert words in " ".join(f"{one['where']} {one['what']}" for one in told)


async def until(pilot: Any, ready: Any) -> None:
    while not ready():
        await pilot.pause(0.02)


@pytest.mark.parametrize(("size", "drawn"), [((80, 24), True), ((120, 40), False)])
async def test_the_results_page_makes_the_sheet(
    run: Path, size: tuple[int, int], drawn: bool
) -> None:
    app = LyctuiApp()
    app.pictures = Pictures("cells" if drawn else "off")
    async with app.run_test(size=size) as pilot:
        view = WatchedRun(run)
        screen = ResultsScreen(view)
        screen._snapshot = screen._snapshot.__class__(files=(str(run / "small.safetensors"),))
        app.push_screen(screen)
        await until(pilot, lambda: app.screen is screen)
        screen.refresh_bindings()
        await pilot.press("c")
        await until(pilot, lambda: isinstance(app.screen, SheetScreen))
        await until(pilot, lambda: len(app.screen.query(".band")) == 4)
        await until(pilot, lambda: app.screen.query_one("#head", Lines).plain != "")
        told = app.screen.query_one("#head", Lines).plain
        assert "sheet.html" in told.replace("\n", "") and "2  <script>" in told
        paths = [lines.plain for lines in app.screen.query(".band Lines").results(Lines)]
        assert all(".png" in words for words in paths) and bool(paths) is not drawn
        await pilot.press("escape")
        await until(pilot, lambda: app.screen is screen)


def test_the_sheet_in_a_terminal(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from lyctui.sheet_work import sheet_work

    work = sheet_work(run)
    work.start()
    assert work.wait(60) and isinstance(work.result, Sheet)
    assert work.closing_line().endswith("sheet.html.")
    print_sheet(work.result)
    told = capsys.readouterr().out
    assert told.startswith("1  vexilo emblem\n2  <script>") and "epoch 2 × 1" in told
    assert "▀" * 36 in told
    narrow, columns = bands(work.result, 30)
    assert columns == 30 and len(narrow) == 8, "one prompt a band where two do not fit"


def test_a_picture_that_was_not_made_moves_no_other(run: Path) -> None:
    from lyctui.sheet_work import sheet_work

    work = sheet_work(run)
    work.start()
    assert work.wait(60) and isinstance(work.result, Sheet)
    sheet = work.result
    first = sheet.rows[0]
    gone = replace(first.cells[0], path=None, note="There was not enough memory.")
    rows = (replace(first, cells=(gone, first.cells[1])), *sheet.rows[1:])
    found, _ = bands(replace(sheet, rows=rows), 80)
    assert band_title(found[0], sheet, 36) == "epoch 1 × 0.6, prompt 2"
    assert missing_lines(found[0]) == ["prompt 1: There was not enough memory."]
    assert band_title(found[1], sheet, 36) == "epoch 1 × 1" and missing_lines(found[1]) == []
