"""The network page driven with keys: table, advice, consequences, conflicts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Footer, Static

import lyctui.app
from lyctui import text
from lyctui.algorithms import ABOUT
from lyctui.app import LyctuiApp
from lyctui.draft import Draft
from lyctui.network_numbers import Numbers
from lyctui.screens.advice import AdviceScreen, Changes
from lyctui.screens.help import HelpScreen
from lyctui.screens.network import NetworkPage
from lyctui.widgets.guide_panel import GuidePanel
from lyctui.widgets.lines import Lines
from lyctui.widgets.menu import Menu
from lyctui.wizard import Wizard
from tests.lyctui.wizard_parts import field, filled_draft, pictures, settled, until

SIZE = (80, 24)


class App(LyctuiApp):
    """The real app with the network page first."""

    CSS_PATH = Path(lyctui.app.__file__).parent / "styles" / "app.tcss"

    def __init__(self, wizard: Wizard) -> None:
        super().__init__(lambda: NetworkPage(wizard))


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr("lyctui.wizard.Wizard.warm_up", lambda self: None)


def drafted(**answers: Any) -> Wizard:
    draft = Draft()
    for path, value in answers.items():
        draft.set(path.replace("__", "."), value)
    return settled(draft)


def page_of(pilot: Pilot[int]) -> NetworkPage:
    page = pilot.app.screen_stack[1]
    assert isinstance(page, NetworkPage)
    return page


def counted(pilot: Pilot[int]) -> Callable[[], bool]:
    """Whether the page shows numbers, with the table focused."""

    def ready() -> bool:
        screens = [one for one in pilot.app.screen_stack if isinstance(one, NetworkPage)]
        whole = screens and len(screens[0].measured.outcomes) == len(ABOUT)
        return bool(whole and screens[0].focused is not None)

    return ready


def table(pilot: Pilot[int]) -> dict[str, str]:
    """What each row of the table says."""
    return {row.key: f"{row.title} {row.note}" for row in page_of(pilot).query_one(Menu).rows}


def lines(pilot: Pilot[int], name: str) -> str:
    return page_of(pilot).query_one(f"#{name}", Lines).plain


def now_of(pilot: Pilot[int]) -> Numbers | None:
    page = page_of(pilot)
    found = page.measured.outcomes.get(page.wizard.draft.algorithm)
    return found if isinstance(found, Numbers) else None


async def test_all_algorithms_stand_in_the_table_with_their_numbers() -> None:
    app = App(drafted())
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, counted(pilot))
        rows = table(pilot)
        assert len(rows) == 11
        assert "★★   ★★" in rows["lora"] and "37.9 MB" in rows["lora"]
        assert "1.00 CAFDL" in rows["lora"] and "–    –" in rows["boft"]
        assert rows["t-lora"].endswith("----L")
        assert "… 5 below" in lines(pilot, "below")
        assert "C ComfyUI" in lines(pilot, "below")
        menu = page_of(pilot).query_one(Menu)
        assert menu.size.height == 6 and menu.max_scroll_x == 0
        for _ in range(10):
            await pilot.press("down")
        await until(pilot, lambda: "… 5 above" in lines(pilot, "below"))
        assert page_of(pilot).query_one(GuidePanel).said.startswith("T-LoRA uses fewer ranks")


def fits(widget: Lines) -> bool:
    return all(text.cells(line.rstrip()) <= widget.size.width for line in widget.plain.split("\n"))


@pytest.mark.parametrize("size", [(80, 24), (60, 16), (120, 40)])
async def test_nothing_is_cut_at_any_size(size: tuple[int, int]) -> None:
    app = App(drafted(network__algorithm="lokr", network__rank=200))
    async with app.run_test(size=size) as pilot:
        await until(pilot, counted(pilot))
        page = page_of(pilot)
        menu = page.query_one(Menu)
        for row in menu.rows:
            assert "…" not in row.note or size[0] < 80, row
            assert text.cells(row.note) + 15 <= menu.scrollable_content_region.width
        # Lines are broken anew once a widget knows its width.
        shown = [page.query_one(f"#{name}", Lines) for name in ("heads", "below", "means")]
        await until(pilot, lambda: all(fits(widget) for widget in shown))
        assert page.query_one("#form").size.height >= 2, "fields can be reached"
        if size == (120, 40):
            assert menu.size.height == 11 and "above" not in lines(pilot, "below")
            assert "parameters" in lines(pilot, "heads") and "192+72" in table(pilot)["lora"]


async def test_the_keys_of_the_advice_are_in_the_footer_and_the_palette() -> None:
    app = App(drafted())
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, counted(pilot))
        shown = {binding.binding.id for binding in app.screen.active_bindings.values()}
        assert {"network.little", "network.well", "network.advice"} <= shown
        footer = app.screen.query_one(Footer)
        keys = list(footer.query("FooterKey"))
        assert keys and all(one.region.right <= SIZE[0] for one in keys), "none is cut"


async def test_an_impossible_choice_says_why_in_its_row_and_how_to_go_on() -> None:
    app = App(drafted(network__algorithm="boft", network__rank=8))
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, counted(pilot))
        assert "not now: BOFT cannot cut 320 outputs" in table(pilot)["boft"]
        assert "37.9 MB" in table(pilot)["lora"], "a rank of blocks is none of a LoRA"
        assert "Set the largest block to 10 or more" in lines(pilot, "means").replace("\n  ", " ")
        await pilot.press("tab", "3", "2")
        await until(pilot, lambda: "101.0 MB" in table(pilot)["boft"])
        assert "cannot cut" not in lines(pilot, "means")


async def test_too_little_offers_changes_and_enter_takes_one() -> None:
    wizard = drafted()
    app = App(wizard)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, counted(pilot))
        await pilot.press("t")
        await until(pilot, lambda: isinstance(app.screen, AdviceScreen))
        menu = app.screen.query_one(Changes)
        await until(pilot, lambda: "37.9 → 11.1 MB" in menu.rows[0].note)
        assert 2 <= len(menu.rows) <= 4
        assert "Guide 003" in menu.rows[0].note and "CAFDL → CAF-L" in menu.rows[0].note
        assert menu.max_scroll_y == 0, "all of them are seen at once"
        await pilot.press("enter")
        await until(
            pilot, lambda: app.screen is page_of(pilot) and wizard.draft.algorithm == "lokr"
        )
        await until(pilot, lambda: page_of(pilot).query("#field-network-factor"))
        assert wizard.effective("network.factor") == 8
        assert wizard.effective("network.rank") == "full"
        assert page_of(pilot).query_one(Menu).key_at_highlight() == "lokr"


async def test_too_well_is_left_with_escape_and_nothing_changes() -> None:
    wizard = drafted()
    app = App(wizard)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, counted(pilot))
        await pilot.press("w")
        await until(pilot, lambda: isinstance(app.screen, AdviceScreen))
        assert "LoHa, rank 16" in app.screen.query_one(Changes).rows[0].title
        await pilot.press("down", "escape")
        await until(pilot, lambda: app.screen is page_of(pilot))
        assert wizard.draft.answers == {}


async def test_other_advice_asks_first_and_escape_goes_back_one_step() -> None:
    wizard = drafted()
    app = App(wizard)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, counted(pilot))
        await pilot.press("d")
        await until(pilot, lambda: isinstance(app.screen, AdviceScreen))
        topics = app.screen.query_one("#topics", Menu)
        assert [row.key for row in topics.rows] == [
            "little", "well", "small", "style", "several", "best"
        ]  # fmt: skip
        await pilot.press("4")
        changes = app.screen.query_one(Changes)
        await until(pilot, lambda: changes.display and "37.9 → 61.0 MB" in changes.rows[0].note)
        await pilot.press("escape")
        await until(pilot, lambda: topics.display and not changes.display)
        await pilot.press("3")
        await until(pilot, lambda: changes.display and "37.9 → 1.2 MB" in changes.rows[0].note)
        await pilot.press("4")
        await until(pilot, lambda: app.screen is page_of(pilot))
        await until(pilot, lambda: wizard.draft.value("network.rank") == 8)
        assert wizard.draft.algorithm == "lora"


async def test_advice_on_epochs_changes_the_training_page() -> None:
    wizard = drafted(train__epochs=10, data__repeats=1)
    app = App(wizard)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, counted(pilot))
        await pilot.press("t")
        await until(pilot, lambda: isinstance(app.screen, AdviceScreen))
        rows = app.screen.query_one(Changes).rows
        place = next(place for place, row in enumerate(rows, 1) if "100 epochs" in row.title)
        await until(
            pilot, lambda: "10 times the steps" in app.screen.query_one(Changes).rows[-1].note
        )
        await pilot.press(str(place))
        await until(pilot, lambda: wizard.draft.value("train.epochs") == 100)


async def test_letters_belong_to_a_field_that_is_typed_into() -> None:
    app = App(drafted())
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, counted(pilot))
        field(pilot, "network.rank").focus_control()
        await pilot.press("t", "w", "d")
        assert app.screen is page_of(pilot)
        assert field(pilot, "network.rank").text == "twd"


async def test_consequences_follow_every_key() -> None:
    app = App(drafted())
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, counted(pilot))
        said = lines(pilot, "means")
        assert "16 / 32 = 0.50: a rate of 1.0e-04 acts like 5.0e-05" in said
        assert "File 37.9 MB" in said and "18 874 368 parameters" in said
        assert "192 U-Net + 72 text encoder modules" in said
        field(pilot, "network.rank").focus_control()
        await pilot.press("8")
        await until(pilot, lambda: "File 9.6 MB" in lines(pilot, "means"))
        assert "4 / 8 = 0.50" in lines(pilot, "means")


async def test_exact_sizes_are_those_of_the_base_that_is_chosen(base: Path, tmp_path: Path) -> None:
    wizard = settled(filled_draft(base, pictures(tmp_path / "p")))
    app = App(wizard)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, counted(pilot))
        found = now_of(pilot)
        assert found is not None and found.exact and wizard.plan is not None
        assert found.file_bytes == wizard.plan.sizes.file_bytes
        assert found.parameters == wizard.plan.sizes.trained_parameters
        assert found.memory_bytes == wizard.plan.memory.total
        assert "usual Stable Diffusion" not in lines(pilot, "means")


async def test_an_option_that_another_algorithm_lacks_is_told_not_dropped_in_silence() -> None:
    wizard = drafted(network__dora="input")
    app = App(wizard)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, counted(pilot))
        assert "has no effect" not in lines(pilot, "means")
        await pilot.press("7")
        await until(pilot, lambda: "GLoRA does not know it" in lines(pilot, "means"))
        await pilot.press("1")
        await until(pilot, lambda: "no effect" not in lines(pilot, "means"))
        assert wizard.effective("network.dora") == "input"


async def test_a_rank_comes_back_with_its_algorithm() -> None:
    wizard = drafted(network__rank=64)
    app = App(wizard)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, counted(pilot))
        await pilot.press("4")
        await until(pilot, lambda: wizard.draft.algorithm == "lokr")
        assert wizard.effective("network.rank") == "full"
        await pilot.press("1")
        await until(pilot, lambda: wizard.draft.algorithm == "lora")
        assert wizard.draft.answers.get("network.rank") == 64


async def test_a_refused_combination_is_told_at_once_and_stands_beside_its_field_later() -> None:
    app = App(drafted(network__algorithm="dylora", network__block_size=5))
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, counted(pilot))
        assert "128 is no multiple of 5" in lines(pilot, "means").replace("\n  ", " ")
        await pilot.press("ctrl+n")
        await until(pilot, lambda: field(pilot, "network.rank").has_class("-wrong"))
        beside = str(field(pilot, "network.rank").query_one(".problem", Static).render())
        assert "125 or 130" in beside
        assert "no multiple" not in lines(pilot, "means"), "one place is enough"


async def test_programs_that_cannot_read_the_file_are_warned_of() -> None:
    app = App(drafted(network__dora="output"))
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, counted(pilot))
        said = lines(pilot, "means").replace("\n  ", " ")
        assert "! DoRA output:" in said and "DoRA input suits" in said
        await pilot.press("f1")
        await until(pilot, lambda: isinstance(app.screen, HelpScreen))
        words = " ".join(str(one.render()) for one in app.screen.query(Static))
        assert "LoRA adds two thin matrices" in words and "guide 003's" in words
        assert "pictures are noise" in words


async def test_ascii_terminals_see_stars_of_their_own() -> None:
    app = App(drafted())
    app.ascii_only = True
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, counted(pilot))
        assert "**   **" in table(pilot)["lora"] and "★" not in table(pilot)["lora"]


async def test_the_table_makes_room_for_the_fields_and_comes_back() -> None:
    app = App(drafted())
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, counted(pilot))
        menu = page_of(pilot).query_one(Menu)
        await pilot.press("down", "down", "down", "down", "down")
        form = page_of(pilot).query_one("#form")
        before = form.size.height
        await pilot.press("tab")
        await until(pilot, lambda: menu.size.height == 3 and form.size.height >= before + 3)
        await until(pilot, lambda: menu.scroll_y <= 5 < menu.scroll_y + 3)
        await pilot.press("shift+tab")
        await until(pilot, lambda: menu.size.height == 6)
