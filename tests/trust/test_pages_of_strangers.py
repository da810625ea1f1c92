"""The wizard, the tools and the contact sheet over files of strangers: shown as written, never obeyed."""

from __future__ import annotations

import io
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from engine.hardware import GIB, Hardware
from engine.sampling import Shot
from engine.sheet.page import page_of
from engine.sheet.values import Cell, Row, Sheet
from lyctui import plain_wizard
from lyctui.app import LyctuiApp
from lyctui.demo.asset import unpack_base
from lyctui.draft import Draft
from lyctui.screens.pages import make_page
from lyctui.screens.tools_form import ToolFormScreen
from lyctui.steps import NAMES
from lyctui.tool_forms import TOOLS, ToolDraft
from lyctui.wizard import Wizard
from tests.trust.hostile import HOSTILE, MARK, NAME, OBEYED, assert_harmless, screen_text
from tests.trust.test_texts_of_strangers import SIZE, hostile_folder, hostile_network, until

MACHINE = Hardware(gpus=(), cores=2, ram_total=24 * GIB, ram_free=20 * GIB)


@pytest.fixture(scope="module")
def hostile_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model whose name and words are hostile."""
    folder = tmp_path_factory.mktemp("base")
    tensors = load_file(unpack_base(folder))
    path = folder / f"{NAME}.safetensors"
    save_file(tensors, path, {"modelspec.title": HOSTILE, "modelspec.prediction_type": HOSTILE})
    return path


@pytest.fixture
def draft(hostile_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Draft:
    """Answers that name hostile files, and are hostile wherever a text is asked for."""
    monkeypatch.setattr("lyctui.wizard.Wizard.warm_up", lambda self: None)
    made = Draft()
    made.set("model.path", hostile_base)
    folder = hostile_folder(tmp_path / f"data{NAME}")
    for refused in [*folder.rglob("cut*"), *folder.rglob("link*")]:
        refused.unlink()
    made.set("data.folder", folder)
    made.set("data.trigger", NAME)
    made.set("data.class_word", NAME)
    made.set("sample.prompts", [HOSTILE])
    made.set("save.author", HOSTILE)
    made.set("run.wandb_project", HOSTILE)
    return made


def assert_inert(app: LyctuiApp) -> None:
    """As `assert_harmless`, where a row may end within the text: markup makes something to click on."""
    assert OBEYED.search(screen_text(app)) is None
    for row in app.screen._compositor.render_strips():
        for segment in row:
            assert not (segment.style and "@click" in segment.style.meta), segment


@pytest.mark.slow
async def test_every_page_of_the_wizard(draft: Draft) -> None:
    wizard = Wizard(draft, hardware=MACHINE)
    wizard.begin()
    assert wizard.settle()
    app = LyctuiApp(lambda: make_page(NAMES[0], wizard))
    told = set()
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: "GOAL" in screen_text(app))
        for name in NAMES:
            page = make_page(name, wizard)
            app.push_screen(page)
            await until(pilot, lambda: app.screen is page and app.focused is not None)  # noqa: B023
            for key in ("", "ctrl+t"):
                await pilot.press(*filter(None, [key]))
                await app.workers.wait_for_complete()
                await pilot.pause()
                assert_inert(app)
                told |= {name} if MARK in screen_text(app) else set()
    assert told >= {"dataset", "samples", "review"}, told


def test_the_wizard_as_questions(draft: Draft, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.hardware.read_hardware", lambda: MACHINE)
    out = io.StringIO()
    answers = "".join(f"{one}\n" for one in (*["more"] * 3, "[bold]?", *[""] * 200))
    plain_wizard.ask_plain(io.StringIO(answers), out, draft)
    assert_harmless(out.getvalue())


@pytest.mark.parametrize("key", [tool.key for tool in TOOLS])
async def test_every_tool(key: str, hostile_base: Path, tmp_path: Path) -> None:
    network = hostile_network(tmp_path / f"{NAME}.safetensors")
    (tool,) = [each for each in TOOLS if each.key == key]
    texts = dict.fromkeys(("file", "network", "source", "output"), str(network))
    texts |= dict.fromkeys(("base", "model", "tuned", "original"), str(hostile_base))
    app = LyctuiApp(lambda: ToolFormScreen(ToolDraft(tool, texts, [(str(network), "1")])))
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: isinstance(app.screen, ToolFormScreen) and app.focused)
        form: Any = app.screen
        await until(pilot, lambda: not form._reader.busy)
        await pilot.press("ctrl+n")
        await pilot.pause()
        assert_harmless(screen_text(app))


class Page(HTMLParser):
    """Which elements a page has, and what a reader sees of it."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: set[str] = set()
        self.attributes: set[str] = set()
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.seen += [value or "" for name, value in attrs if name in ("alt", "title")]

    def handle_data(self, data: str) -> None:
        self.seen.append(data)


def test_the_page_of_a_contact_sheet(tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(picture)
    text = HOSTILE + "\" onload='x' --><img src=x>"
    shot = Shot(text, text, 8, 8, 1, 1, 1.0, 1)
    cells = (Cell(shot, picture), Cell(shot, None, text))
    sheet = Sheet(
        title=text, base=text, columns=(text, text), rows=(Row(text, None, 1.0, cells),),
        left_out=(text,),
    )  # fmt: skip
    page = Page()
    body = page_of(sheet)
    page.feed(body)
    assert OBEYED.search(body) is None
    assert "script" not in page.elements
    assert not {name for name in page.attributes if name.startswith("on")}
    assert body.count("<img ") == 1
    assert sum("<script>" in words for words in page.seen) >= 6, "it is shown as it is written"
    assert json.dumps(HOSTILE)[1:10] in json.dumps(page.seen)
