"""The pages driven with keys at 80x24: forward and back, wrong answers, unfolding, review."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Button, Input, Select, Static

import lyctui.app
from engine.settings import Recipe
from lyctui.app import LyctuiApp
from lyctui.draft import Draft, list_drafts
from lyctui.screens.help import HelpScreen
from lyctui.screens.page import WizardPage
from lyctui.screens.pages import make_page
from lyctui.screens.review import ReviewPage, SavedScreen, ValuesScreen
from lyctui.screens.welcome import Machine, WelcomeScreen
from lyctui.steps import NAMES
from lyctui.widgets.arithmetic_line import ArithmeticLine
from lyctui.widgets.guide_panel import GuidePanel
from lyctui.widgets.lines import Lines
from lyctui.widgets.menu import Menu
from lyctui.wizard import Wizard
from tests.lyctui.wizard_parts import NO_GPU, field, filled_draft, pictures, settled, until

SIZE = (80, 24)


class App(LyctuiApp):
    """The real app, but runs are only noted."""

    CSS_PATH = Path(lyctui.app.__file__).parent / "styles" / "app.tcss"

    def __init__(self, first: Callable[[], Any]) -> None:
        super().__init__(first)
        self.asked: list[tuple[Any, ...]] = []

    def start_run(self, recipe: Recipe, origins: Any = None) -> bool:
        self.asked.append(("start", recipe, origins))
        return True

    def start_demo(self) -> bool:
        self.asked.append(("demo",))
        return True

    def resume_run(self, folder: Path, from_step: int | None = None) -> bool:
        self.asked.append(("resume", folder))
        return True

    def watch_run(self, folder: Path) -> None:
        self.asked.append(("watch", folder))


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(
        "lyctui.screens.welcome.read_machine", lambda: Machine(NO_GPU, 10**11, tmp_path / "runs")
    )
    monkeypatch.setattr("lyctui.wizard.Wizard.warm_up", lambda self: None)


def page_of_app(app: LyctuiApp) -> str:
    return app.screen.page if isinstance(app.screen, WizardPage) else type(app.screen).__name__


def at(pilot: Pilot[int], page: str) -> Callable[[], bool]:
    return lambda: page_of_app(pilot.app) == page and pilot.app.focused is not None  # type: ignore[arg-type]


def opened(page: str, wizard: Wizard) -> App:
    return App(lambda: make_page(page, wizard))


async def type_into(pilot: Pilot[int], path: str, words: str) -> None:
    field(pilot, path).focus_control()
    await pilot.pause()
    for letter in words:
        await pilot.press("space" if letter == " " else letter)


def said(pilot: Pilot[int]) -> str:
    """All text of the page but its inputs."""
    screen = pilot.app.screen
    parts = [str(one.render()) for one in screen.query(Static)]
    return "\n".join(parts + [one.plain for one in screen.query(Lines)])


async def test_keys_alone_lead_from_welcome_to_the_start(base: Path, tmp_path: Path) -> None:
    models = tmp_path / "home" / "ComfyUI" / "models" / "checkpoints"
    models.mkdir(parents=True)
    (models / "tiny.safetensors").symlink_to(base)
    pictures(tmp_path / "home" / "emblem")
    app = App(WelcomeScreen)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: app.screen.query("Menu") and app.screen.query_one(Menu).rows)
        await pilot.press("1")
        await until(pilot, at(pilot, "goal"))
        await pilot.press("1")
        await until(pilot, at(pilot, "model"))
        await until(pilot, lambda: app.screen.query_one(Menu).rows and app.focused.id == "models")
        await pilot.press("enter")
        await until(pilot, lambda: "Stable Diffusion 1" in app.screen.query_one("#detected").plain)
        await pilot.press("ctrl+n")
        await until(pilot, at(pilot, "dataset"))
        await type_into(pilot, "data.folder", "~/emb")
        await pilot.press("tab")
        assert field(pilot, "data.folder").text == "~/emblem/"
        await type_into(pilot, "data.trigger", "vexilo")
        await type_into(pilot, "data.class_word", "emblem")
        await until(pilot, lambda: "steps" in app.screen.query_one(ArithmeticLine).plain)
        for page in ("network", "training", "samples", "review"):
            await pilot.press("ctrl+n")
            await until(pilot, at(pilot, page))
        screen = app.screen
        assert isinstance(screen, ReviewPage)
        await until(pilot, lambda: screen.ready and not screen.wizard.looking_at)
        await pilot.press("ctrl+n")
        assert isinstance(app.focused, Button) and app.asked == []
        await pilot.press("enter")
        await until(pilot, lambda: app.asked)
    what, recipe, origins = app.asked[0]
    assert what == "start"
    assert recipe.data.folder == tmp_path / "home" / "emblem"
    assert recipe.data.trigger == "vexilo" and recipe.train.seed is not None
    assert origins["data.trigger"]["source"] == "you"
    assert list_drafts().drafts == (), "a started run needs no draft"


async def test_a_wrong_number_is_text_below_the_field_and_keeps_the_page(base: Path) -> None:
    app = opened("training", settled(Draft()))
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, at(pilot, "training"))
        await type_into(pilot, "train.epochs", "ten")
        assert not field(pilot, "train.epochs").has_class("-wrong"), "not while typing"
        await pilot.press("ctrl+n")
        await pilot.pause()
        assert page_of_app(app) == "training"
        wrong = field(pilot, "train.epochs")
        assert wrong.has_class("-wrong")
        words = str(wrong.query_one(".problem", Static).render())
        assert "Epochs must be a whole number" in words and "ten" in words
        assert app.focused is wrong.control
        for _ in range(3):
            await pilot.press("backspace")
        await pilot.press("1", "2", "ctrl+n")
        await until(pilot, at(pilot, "samples"))
    assert app.return_code is None or app.return_code == 0


async def test_a_value_out_of_range_names_the_rule(base: Path) -> None:
    wizard = settled(Draft())
    app = opened("training", wizard)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, at(pilot, "training"))
        await type_into(pilot, "train.batch_size", "900")
        await pilot.press("enter")
        await until(pilot, lambda: field(pilot, "train.batch_size").has_class("-wrong"))
        words = str(field(pilot, "train.batch_size").query_one(".problem", Static).render())
        assert "900" in words and "64" in words
        assert page_of_app(app) == "training", "Enter only moves on"


async def test_going_back_keeps_answers_and_saves_the_draft() -> None:
    wizard = settled(Draft())
    app = opened("training", wizard)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, at(pilot, "training"))
        await type_into(pilot, "train.epochs", "7")
        await pilot.press("escape")
        await until(pilot, at(pilot, "network"))
        assert list_drafts().drafts[0].answers == {"train.epochs": 7}
        await pilot.press("ctrl+n")
        await until(pilot, at(pilot, "training"))
        assert field(pilot, "train.epochs").text == "7"


async def test_what_is_recommended_stays_visible_and_can_be_taken_again() -> None:
    draft = Draft()
    draft.choose_preset("style", {"network": {"rank": 16}})
    wizard = settled(draft)
    app = opened("network", wizard)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, at(pilot, "network"))
        rank = field(pilot, "network.rank")
        assert rank.query_one(Input).placeholder == "16"
        await type_into(pilot, "network.rank", "128")
        assert "recommended 16, you set 128" in str(rank.query_one(".note", Static).render())
        assert str(rank.query_one(".label", Static).render()).startswith("•")
        await pilot.press("ctrl+r")
        await until(pilot, lambda: rank.text == "")
        assert "network.rank" not in draft.answers
        assert wizard.effective("network.rank") == 16


async def test_a_recommendation_is_whole_where_both_values_have_no_room() -> None:
    app = opened("training", settled(Draft()))
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, at(pilot, "training"))
        await type_into(pilot, "data.resolution", "448 x 640")
        note = field(pilot, "data.resolution").query_one(".note", Static)
        await until(pilot, lambda: str(note.render()) == "recommended 512 x 512")


async def test_the_arithmetic_follows_every_key(base: Path, tmp_path: Path) -> None:
    wizard = settled(filled_draft(base, pictures(tmp_path / "p", 4)))
    app = opened("training", wizard)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, at(pilot, "training"))
        await type_into(pilot, "train.epochs", "5")
        line = app.screen.query_one(ArithmeticLine)
        await until(pilot, lambda: "5 epochs" in line.plain and "= 5 steps" in line.plain)
        await pilot.press("0")
        await until(pilot, lambda: "50 epochs" in line.plain and "= 50 steps" in line.plain)
        assert "50 exposures" in line.plain


async def test_unfolding_shows_every_setting_of_the_page() -> None:
    app = opened("samples", settled(Draft()))
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, at(pilot, "samples"))
        page = app.screen
        assert isinstance(page, WizardPage)
        basic = len(page.fields)
        await type_into(pilot, "run.name", "a")
        assert len(page.fields) == basic, "letters belong to the input"
        await pilot.press("ctrl+t")
        await until(pilot, lambda: len(page.fields) > basic)
        await pilot.press("ctrl+t")
        await until(pilot, lambda: page.query(f"#{'field-run-deterministic'}"))
        assert field(pilot, "run.name").text == "a"
        await pilot.press("ctrl+t")
        await until(pilot, lambda: len(page.fields) == basic)


async def test_another_algorithm_asks_its_own_settings() -> None:
    wizard = settled(Draft())
    app = opened("network", wizard)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, at(pilot, "network"))
        page = app.screen
        assert isinstance(page, WizardPage)
        assert not page.query("#field-network-factor")
        await pilot.press("4")
        await until(pilot, lambda: page.query("#field-network-factor"))
        assert wizard.effective("network.rank") == "full"
        await pilot.press("2")
        await until(pilot, lambda: not page.query("#field-network-factor"))
        assert wizard.effective("network.targets") == "full", "LoCon without convolutions is LoRA"
        await pilot.press("1")
        await until(pilot, lambda: wizard.effective("network.targets") == "attn-mlp")


async def test_the_focused_field_is_explained_and_f1_says_more() -> None:
    app = opened("training", settled(Draft()))
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, at(pilot, "training"))
        panel = app.screen.query_one(GuidePanel)
        await until(pilot, lambda: panel.said.startswith("Batch size"))
        field(pilot, "optim.lr").focus_control()
        await until(pilot, lambda: panel.said.startswith("Learning rate"))
        await pilot.press("f1")
        await until(pilot, lambda: isinstance(app.screen, HelpScreen))
        text = "\n".join(str(one.render()) for one in app.screen.query(Static))
        assert "Learning rate" in text and "training: here" in text
        await pilot.press("escape")
        await until(pilot, at(pilot, "training"))


@pytest.mark.parametrize("size", [(80, 24), (60, 16), (120, 40)])
async def test_no_page_scrolls_sideways_with_wide_names(
    base: Path, tmp_path: Path, size: Any
) -> None:
    folder = pictures(tmp_path / "10_初音ミク と とても長い名前のフォルダ [b]bold[/b]")
    (folder / "初音ミク [red].txt").write_text("x")
    wizard = settled(filled_draft(base, folder))
    wizard.set("data.trigger", "初音ミク")
    wizard.draft.visited = list(NAMES)
    app = opened("goal", wizard)
    async with app.run_test(size=size) as pilot:
        for name in NAMES:
            await until(pilot, at(pilot, "goal") if name == "goal" else lambda: app.focused)
            await pilot.app.run_action(f"go('{name}')", pilot.app.screen)
            await until(pilot, at(pilot, name))
            form = app.screen.query_one("#form")
            assert form.max_scroll_x == 0 and app.screen.max_scroll_x == 0, name
            assert app.screen.query_one("#left").region.width >= 50
            wide = app.screen.query_one(GuidePanel).region.width
            assert wide in ((43, 44) if size[0] >= 120 else (size[0] - 2, size[0] - 1, size[0])), (
                wide
            )


async def test_a_path_that_is_not_utf8_can_be_trained(base: Path, tmp_path: Path) -> None:
    import os

    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    wizard = settled(filled_draft(base, pictures(odd)))
    app = opened("dataset", wizard)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, at(pilot, "dataset"))
        assert field(pilot, "data.folder").text.endswith("caf\\xe9")
        await pilot.press("ctrl+n")
        await until(pilot, at(pilot, "network"))
        assert wizard.effective("data.folder") == os.fspath(odd)


async def test_missing_answers_stop_at_their_page_with_words(base: Path) -> None:
    app = opened("model", settled(Draft()))
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, at(pilot, "model"))
        await pilot.press("ctrl+n")
        await pilot.pause()
        assert page_of_app(app) == "model"
        assert "No base model is chosen." in said(pilot)
        await pilot.app.run_action("go('review')", pilot.app.screen)
        await pilot.pause()
        assert page_of_app(app) == "model", "later pages wait for a valid way"


async def test_what_was_found_in_the_pictures_is_shown(base: Path, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "emblem")
    (folder / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")
    app = opened("dataset", settled(filled_draft(base, folder)))
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, at(pilot, "dataset"))
        await until(pilot, lambda: "cut.jpg" in said(pilot))
        assert "1_vexilo emblem" in said(pilot)
        await pilot.press("ctrl+n")
        await pilot.pause()
        assert page_of_app(app) == "dataset"


async def test_review_shows_values_origins_and_files_and_only_start_starts(
    base: Path, tmp_path: Path
) -> None:
    wizard = settled(filled_draft(base, pictures(tmp_path / "p")))
    app = opened("review", wizard)
    async with app.run_test(size=SIZE) as pilot:
        screen = app.screen
        await until(pilot, at(pilot, "review"))
        assert isinstance(screen, ReviewPage)
        await until(pilot, lambda: screen.ready and "Files" in screen.query_one("#cost").plain)
        cost = screen.query_one("#cost").plain
        assert "vexilo_v1.safetensors" in cost and "lyctui train" in cost and "GiB" in cost
        assert "Loads in ComfyUI, A1111, Forge, diffusers, LyCORIS and kohya's" in cost
        await pilot.press("v")
        await until(pilot, lambda: isinstance(app.screen, ValuesScreen))
        rows = app.screen.query_one(Lines).plain
        assert "optim.te_lr" in rows and "guides 001 and 004" in rows and "drawn" in rows
        await pilot.press("escape")
        await until(pilot, at(pilot, "review"))
        await pilot.press("down", "down", "enter")
        await until(pilot, at(pilot, "network"))
        assert app.asked == []


async def test_save_only_writes_a_recipe_that_reads_back(base: Path, tmp_path: Path) -> None:
    from engine.settings.toml import read_recipe

    wizard = settled(filled_draft(base, pictures(tmp_path / "p")))
    app = opened("review", wizard)
    async with app.run_test(size=SIZE) as pilot:
        screen = app.screen
        await until(pilot, lambda: isinstance(screen, ReviewPage) or True)
        await until(pilot, at(pilot, "review"))
        page = app.screen
        assert isinstance(page, ReviewPage)
        await until(pilot, lambda: page.ready)
        written = []
        for _ in range(2):
            page.query_one("#save", Button).focus()
            await pilot.press("enter")
            await until(pilot, lambda: isinstance(app.screen, SavedScreen))
            assert isinstance(app.screen, SavedScreen)
            written.append(app.screen.path)
            await pilot.press("escape")
            await until(pilot, at(pilot, "review"))
    assert written[0] != written[1], "nothing is overwritten"
    assert wizard.filled is not None
    assert read_recipe(written[0]) == wizard.filled.recipe
    assert app.asked == []


async def test_leaving_keeps_the_draft_and_welcome_continues_it(base: Path) -> None:
    wizard = settled(Draft())
    app = opened("training", wizard)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, at(pilot, "training"))
        await type_into(pilot, "train.epochs", "7")
        await pilot.press("ctrl+q")
        await pilot.pause()
    assert any("draft" in line for line in app.parting)
    again = App(WelcomeScreen)
    async with again.run_test(size=SIZE) as pilot:
        await until(
            pilot, lambda: any(row.key == "drafts" for row in again.screen.query_one(Menu).rows)
        )
        await pilot.press("2")
        await until(pilot, at(pilot, "training"))
        assert field(pilot, "train.epochs").text == "7"


async def test_a_choice_is_changed_with_arrows(base: Path) -> None:
    wizard = settled(Draft())
    app = opened("training", wizard)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, at(pilot, "training"))
        choice = field(pilot, "optim.optimizer")
        choice.focus_control()
        await until(pilot, lambda: isinstance(app.focused, Select))
        await pilot.press("right")
        assert wizard.effective("optim.optimizer") == "adamw"
        await pilot.press("left")
        await until(pilot, lambda: "optim.optimizer" not in wizard.draft.answers)


async def test_the_draft_that_cannot_be_kept_is_told_not_fatal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no space left")

    wizard = settled(Draft())
    app = opened("training", wizard)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, at(pilot, "training"))
        monkeypatch.setattr("lyctui.draft.write_text", refuse)
        await type_into(pilot, "train.epochs", "7")
        await pilot.press("ctrl+n")
        await until(pilot, at(pilot, "samples"))
        told = [(one.message, one.severity) for one in app._notifications]
        assert ("The draft cannot be kept: no space left.", "warning") in told
        assert wizard.effective("train.epochs") == 7, "the answer itself is kept"
        assert list_drafts().drafts == (), "nothing could be written"
        await pilot.press("escape")
        await until(pilot, at(pilot, "training"))
        assert field(pilot, "train.epochs").text == "7", "the wizard goes on"
