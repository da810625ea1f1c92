"""The kind of network, its size, and how strong it learns."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from textual import on
from textual.message import Message
from textual.widget import Widget

from engine.errors import EngineError
from lyctui import text
from lyctui.background import Latest
from lyctui.draft import Draft
from lyctui.fields import algorithms
from lyctui.report import Line
from lyctui.screens.page import WizardPage
from lyctui.widgets.lines import Lines
from lyctui.widgets.menu import Menu, Row
from lyctui.wizard import Wizard

ABOUT: dict[str, tuple[str, str, str]] = {
    "lora": ("LoRA", "start here", "all"),
    "locon": ("LoCon", "styles, texture; + conv", "all"),
    "lokr": ("LoKr", "small file, or close to full", "C A F"),
}
"""Title, what it is good at, where it loads (C ComfyUI, A A1111, F Forge)."""
LARGE_RANK, MANY_PICTURES = 128, 100
"""Guide 002 keeps rank 128 for a hundred pictures and more."""


@dataclass(frozen=True, slots=True)
class Size:
    """What one algorithm would come to with the answers as they are."""

    file_bytes: int | None
    memory_bytes: int
    modules: int


@dataclass
class Sized(Message):
    """Sizes of every algorithm."""

    sizes: dict[str, Size]


def sizes_of(wizard: Wizard) -> dict[str, Size]:
    """File and memory of each algorithm; those that cannot be filled are left out."""
    from engine.planning.base import base_size
    from engine.planning.fill import fill
    from engine.planning.network import network_size
    from engine.planning.sizes import run_sizes

    found: dict[str, Size] = {}
    facts = wizard.facts()
    for name in algorithms():
        recipe = with_algorithm(wizard.draft, name).check().recipe
        if recipe is None:
            continue
        try:
            filled = fill(recipe, facts)
            sizes = run_sizes(filled.recipe, facts, filled.device, (), (1,))
            network = network_size(filled.recipe, base_size(facts.model))
        except EngineError:
            continue
        found[name] = Size(sizes.file_bytes, sizes.memory.total, network.modules)
    return found


def with_algorithm(draft: Draft, name: str) -> Draft:
    """The same answers with another algorithm."""
    answers = {**draft.answers, **algorithm_answers(draft, name)}
    return Draft(preset=draft.preset, preset_values=dict(draft.preset_values), answers=answers)


def algorithm_answers(draft: Draft, name: str) -> dict[str, str]:
    """What choosing an algorithm answers. LoCon without convolutions would be LoRA."""
    chosen = {"network.algorithm": name}
    if name == "locon" and draft.origin("network.targets") != "you":
        chosen["network.targets"] = "full"
    return chosen


class NetworkPage(WizardPage):
    """A table of algorithms, and the settings of the chosen one."""

    page: ClassVar[str] = "network"
    INTRODUCTION: ClassVar[str] = (
        "LoRA adds two thin matrices beside each attention and feed-forward layer; guides 001 and 004 "
        "start with it. Guide 003: where it misses fine detail, LoKr with factor 4 to 8; where it "
        "copies too much, a lower rank. Loads in: C ComfyUI, A A1111, F Forge."
    )

    def head(self) -> Iterable[Widget]:
        """The table."""
        yield Lines(
            [((_columns("Algorithm", "what it is good at", "size", "memory", "loads"), "dim"),)]
        )
        yield Menu(id="algorithms", title_cells=8)

    def tail(self) -> Iterable[Widget]:
        """What the numbers mean."""
        yield Lines(id="means")

    def on_mount(self) -> None:
        """Size the algorithms beside the screen."""
        self.sizes: dict[str, Size] = {}
        self._sizing: Latest[dict[str, Size]] = Latest("sizes", self._sized)
        super().on_mount()
        self._measure()

    def on_unmount(self) -> None:
        """Nobody waits any more."""
        self._sizing.close()
        super().on_unmount()

    def _measure(self) -> None:
        if self.wizard.hardware is not None and self.wizard.checked.recipe is not None:
            self._sizing.ask(lambda wanted: sizes_of(self.wizard))

    def _sized(self, answer: dict[str, Size] | BaseException) -> None:
        if not isinstance(answer, BaseException):
            self.post_message(Sized(answer))

    @on(Sized)
    def _show_sizes(self, event: Sized) -> None:
        event.stop()
        self.sizes = event.sizes
        self.show_page()

    def focus_first(self) -> None:
        """The table."""
        self.query_one(Menu).focus()

    def answered(self, path: str) -> None:
        """Other numbers, other sizes."""
        self._measure()

    @on(Menu.Chosen)
    async def _chosen(self, event: Menu.Chosen) -> None:
        event.stop()
        await self.choose(event.key)

    async def choose(self, name: str) -> None:
        """Another algorithm: its own settings are asked, those it lacks are not sent."""
        draft = self.wizard.draft
        if draft.algorithm == "locon" and draft.answers.get("network.targets") == "full":
            draft.clear("network.targets")
        for path, value in algorithm_answers(draft, name).items():
            draft.set(path, value)
        self.wizard.update()
        self._algorithm = name
        await self.rebuild_fields()
        self._measure()

    def show_page(self) -> None:
        """The table and its meaning."""
        algorithm = self.wizard.draft.algorithm
        rows = [
            Row(name, ABOUT.get(name, (name,))[0], self._columns_of(name), chosen=name == algorithm)
            for name in algorithms()
        ]
        self.query_one(Menu).show_rows(rows)
        self.query_one("#means", Lines).show(self._meaning())

    def _columns_of(self, name: str) -> str:
        _, good, loads = ABOUT.get(name, (name, "", ""))
        size = self.sizes.get(name)
        file = "…" if size is None else file_words(size.file_bytes)
        memory = "…" if size is None else text.memory(size.memory_bytes)
        return f"{text.pad(good, 29)}{text.pad_left(file, 9)}{text.pad_left(memory, 10)}  {loads}"

    def _meaning(self) -> list[Line]:
        wizard = self.wizard
        lines: list[Line] = []
        rank, alpha, rate, stabilised = (
            wizard.effective(path)
            for path in ("network.rank", "network.alpha", "optim.lr", "network.rs_lora")
        )
        scale = scale_words(rank, alpha, rate, bool(stabilised))
        if scale:
            lines.append(((f"  {scale}", ""),))
        size = self.sizes.get(wizard.draft.algorithm)
        if size is not None:
            lines.append(((f"  {text.grouped(size.modules)} layers are trained.", "dim"),))
        lines += [
            ((f"{self.host.signs.warning} ", "warning"), (words, "")) for words in self._warnings()
        ]
        return lines

    def _warnings(self) -> list[str]:
        wizard = self.wizard
        rank = wizard.effective("network.rank")
        pictures = wizard.survey.training_images if wizard.survey is not None else 0
        size = self.sizes.get(wizard.draft.algorithm)
        if isinstance(rank, int) and rank >= LARGE_RANK and pictures < MANY_PICTURES and size:
            file = file_words(size.file_bytes)
            return [f"Rank {rank} makes {file}; guide 002 keeps that for 100 pictures and more."]
        return []


def file_words(size: int | None) -> str:
    """A file's size, or when it is known."""
    return "at load" if size is None else text.filesize(size)


def scale_words(rank: Any, alpha: Any, rate: Any, rank_stabilised: bool) -> str:
    """ "Alpha / rank = 0.5: the rate acts like 5.0e-05." """
    if not isinstance(rank, int) or alpha is None or rank < 1:
        return ""
    strength = float(alpha) if alpha else float(rank)
    scale = strength / (rank**0.5 if rank_stabilised else rank)
    words = f"Alpha / {'√' if rank_stabilised else ''}rank = {text.significant(scale, 2)}"
    if isinstance(rate, (int, float)) and rate:
        words += f": a rate of {text.rate(rate)} acts like {text.rate(rate * scale)}"
    return f"{words}."


def _columns(first: str, good: str, size: str, memory: str, loads: str) -> str:
    numbers = f"{text.pad_left(size, 9)}{text.pad_left(memory, 10)}  {loads}"
    return f"     {text.pad(first, 10)}{text.pad(good, 29)}{numbers}"
