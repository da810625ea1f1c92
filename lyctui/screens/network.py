"""The kind of network, its size, and how strong it learns."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.events import DescendantFocus
from textual.message import Message
from textual.widget import Widget

from engine.errors import Problem
from lyctui import algorithms
from lyctui.algorithms import ABOUT, SIZES, TITLES, algorithm_answers, sized_alike
from lyctui.background import Latest
from lyctui.conflicts import Conflict, conflicts, narrowings
from lyctui.fields import algorithms as names_of_algorithms
from lyctui.network_numbers import Impossible, Outcome, outcomes
from lyctui.network_words import chosen_lines, columns_for
from lyctui.readers import LEGEND, limits, loads_in
from lyctui.remedies import Change
from lyctui.report import Line, folded
from lyctui.screens.advice import AdviceScreen
from lyctui.screens.page import WizardPage
from lyctui.widgets.lines import Lines
from lyctui.widgets.menu import Menu, Row
from lyctui.wizard import Wizard

TITLE_CELLS = 8
FRAME = 3
"""Padding of the table and its scroll bar."""
TALL, MEDIUM, ROOMY, LEAST = 36, 30, 22, 3
"""Rows of a terminal from which on the table is whole, large, more than the least; and the least."""
ASKS = (
    "Last time: too little? t   too well? w   advice d",
    "too little? t   too well? w   advice d",
)
ROW_HEAD = 15
"""Cells before a row's columns: signs, digit, name."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Every algorithm with the present answers, and what narrows who reads the file."""

    outcomes: dict[str, Outcome]
    narrowed: tuple[str, ...]


@dataclass
class Sized(Message):
    """New numbers."""

    measured: Measured


@dataclass
class Advised(Message):
    """A change of the advice was taken."""

    change: Change


class NetworkPage(WizardPage):
    """A table of algorithms, and the settings of the chosen one."""

    page: ClassVar[str] = "network"
    INTRODUCTION: ClassVar[str] = (
        "The stars are guide 003's, one to four: fidelity is how closely the pictures are learnt, "
        "flexibility how well the result can be changed and combined; – means that no guide "
        "compares. Speed is relative to LoRA. Loads in: C ComfyUI, A A1111, F Forge, D diffusers, L "
        "LyCORIS; a small letter means in part."
    )
    CSS = """
    NetworkPage #form .question { display: none; }
    NetworkPage #table { height: auto; padding: 0 1; margin: 0; }
    NetworkPage #table Menu { scrollbar-size-vertical: 1; }
    NetworkPage.-tall #table { padding: 1 1 0 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "t",
            "advice('little')",
            "too little",
            id="network.little",
            tooltip="It learnt too little last time: what the guides change",
        ),
        Binding(
            "w",
            "advice('well')",
            "too well",
            id="network.well",
            tooltip="It learnt too well, is stiff or leaks style: what the guides change",
        ),
        Binding(
            "d",
            "advice('')",
            "advice",
            id="network.advice",
            tooltip="Advice for a small file, a style, several concepts, best quality",
        ),
    ]

    def __init__(self, wizard: Wizard) -> None:
        super().__init__(wizard)
        self.measured = Measured({}, ())
        self._rows = 0
        """Rows of the table that are shown."""
        self._kept: dict[str, dict[str, Any]] = {}
        """Ranks that were given for another kind of network, by its algorithm."""
        self._sizing: Latest[Measured] = Latest("sizes", self._sized)
        self._known = (wizard.hardware, wizard.model)

    def compose(self) -> ComposeResult:
        """The table stands above form and explanation, over the whole width."""
        parts = iter(super().compose())
        yield next(parts)
        with Vertical(id="table"):
            yield Lines(id="heads")
            yield Menu(id="algorithms", title_cells=TITLE_CELLS)
            yield Lines(id="below")
        yield from parts

    def tail(self) -> Iterable[Widget]:
        """What the numbers mean."""
        yield Lines(id="means")

    def on_mount(self) -> None:
        """Size the algorithms beside the screen."""
        super().on_mount()
        self.watch(self.query_one(Menu), "scroll_y", self._show_below, init=False)
        self._measure()

    def on_unmount(self) -> None:
        """Nobody waits any more."""
        self._sizing.close()
        super().on_unmount()

    def on_resize(self) -> None:
        """As many rows of the table as leave room for the form."""
        self._give_room()
        super().on_resize()

    def on_descendant_focus(self, event: DescendantFocus) -> None:
        """On a small screen the table makes room while a field is filled in."""
        super().on_descendant_focus(event)
        self._give_room()

    def _give_room(self) -> None:
        height = self.size.height
        menu = self.query_one(Menu)
        rows = len(ABOUT) if height >= TALL else 8 if height >= MEDIUM else 6
        if height < ROOMY or (height < MEDIUM and self.focused_field() is not None):
            rows = LEAST
        if rows != self._rows:
            self._rows = menu.styles.max_height = rows
            self._show_below()
            self.call_after_refresh(menu.scroll_to_highlight)

    # numbers ------------------------------------------------------------------------------

    def _measure(self) -> None:
        wizard = self.wizard
        if wizard.hardware is None:
            return

        def measure(wanted: Any) -> Measured:
            before, chosen = self.measured, wizard.draft.algorithm
            # What is chosen comes first; the rows of the others follow.
            found = {**before.outcomes, **outcomes(wizard, (chosen,))}
            self.post_message(Sized(Measured(found, before.narrowed)))
            found = outcomes(wizard, wanted=wanted)
            wanted()
            now = found.get(chosen)
            return Measured(found, narrowings(wizard, now) if now is not None else ())

        self._sizing.ask(measure)

    def _sized(self, answer: Measured | BaseException) -> None:
        if not isinstance(answer, BaseException):
            self.post_message(Sized(answer))

    @on(Sized)
    def _show_numbers(self, event: Sized) -> None:
        event.stop()
        self.measured = event.measured
        self.refresh_page()

    def answered(self, path: str) -> None:
        """Other numbers, other sizes."""
        self._measure()

    def on_news(self) -> None:
        """Machine or base may be known now; the progress of pictures changes no size."""
        super().on_news()
        hardware, model = self.wizard.hardware, self.wizard.model
        if hardware is not self._known[0] or model is not self._known[1]:
            self._known = (hardware, model)
            self._measure()

    # choosing -----------------------------------------------------------------------------

    def focus_first(self) -> None:
        """The table."""
        self.query_one(Menu).focus()

    @on(Menu.Chosen)
    async def _chosen(self, event: Menu.Chosen) -> None:
        event.stop()
        await self.choose(event.key)

    @on(Menu.Moved)
    def _moved(self, event: Menu.Moved) -> None:
        event.stop()
        self._explain_focus()
        self._show_below()

    async def choose(self, name: str) -> None:
        """Another algorithm: its own settings are asked, those it lacks are not sent."""
        draft = self.wizard.draft
        before = draft.algorithm
        if name == before:
            return
        if not sized_alike(before, name):
            given = {path: draft.answers[path] for path in SIZES if path in draft.answers}
            self._kept[before] = given
        answers = algorithm_answers(draft, name)
        again = next((self._kept[one] for one in self._kept if sized_alike(one, name)), {})
        await self.apply(answers | (again if not sized_alike(before, name) else {}))

    async def apply(self, answers: dict[str, Any]) -> None:
        """Give answers, and ask what belongs to them."""
        for path in answers:
            self.wizard.unreadable.pop(path, None)
        algorithms.answer(self.wizard.draft, answers)
        self.wizard.update()
        self._algorithm = self.wizard.draft.algorithm
        await self.rebuild_fields()
        self._measure()

    def action_advice(self, topic: str) -> None:
        """What the guides change, each with its consequence; the chosen change is applied."""
        now = self.measured.outcomes.get(self.wizard.draft.algorithm)
        self.app.push_screen(AdviceScreen(self.wizard, topic, now), self._advised)

    def _advised(self, change: Change | None) -> None:
        # The dialog calls this in its own queue: fields are rebuilt in the page's, one at a time.
        if change is not None:
            self.post_message(Advised(change))

    @on(Advised)
    async def _take(self, event: Advised) -> None:
        event.stop()
        change = event.change
        await self.apply(change.answers)
        menu = self.query_one(Menu)
        menu.highlighted = list(ABOUT).index(self.wizard.draft.algorithm)
        self.notify(f"Taken: {change.title}.", timeout=3)

    # showing ------------------------------------------------------------------------------

    def show_page(self) -> None:
        """The table and its meaning."""
        chosen = self.wizard.draft.algorithm
        room = self.size.width - ROW_HEAD - FRAME
        columns = columns_for(room, ascii_only=self.host.ascii_only)
        heads = " " * ROW_HEAD + columns.heads()
        self.query_one("#heads", Lines).show([((heads, "dim"),)])
        rows = [
            Row(name, TITLES[name], self._columns(columns, name), chosen=name == chosen)
            for name in names_of_algorithms()
        ]
        self.query_one(Menu).show_rows(rows)
        self._show_below()
        self.query_one("#means", Lines).show(self._meaning())

    def _columns(self, columns: Any, name: str) -> str:
        return str(columns.row(name, self.measured.outcomes.get(name)))

    def _show_below(self) -> None:
        """How many rows are out of sight, and the keys of the advice."""
        menu = self.query_one(Menu)
        shown = self._rows
        first = round(menu.scroll_y)
        rest = max(0, len(menu.rows) - first - shown)
        ways = [f"{count} {way}" for count, way in ((first, "above"), (rest, "below")) if count]
        more = f"… {', '.join(ways)}" if ways else ""
        room = self.size.width - FRAME
        asks = next((words for words in ASKS if len(more) + len(words) + 7 <= room), "")
        gap = " " * (room - 5 - len(more) - len(asks))
        lines: list[Line] = [((f"     {more}{gap}", "dim"), (asks, "strong"))]
        if shown > LEAST or self.size.height >= MEDIUM:
            lines.append(((f"     {LEGEND}", "dim"),))
        self.query_one("#below", Lines).show(lines)

    def _meaning(self) -> list[Line]:
        width = max(20, self.query_one("#form").size.width - 6)
        now = self.measured.outcomes.get(self.wizard.draft.algorithm)
        lines: list[Line] = []
        for conflict in self._conflicts():
            sign, role = self._sign(conflict)
            first, *rest = folded([((conflict.words, ""),)], width)
            lines.append(((f"{sign} ", role), *first))
            lines += [(("  ", ""), *line) for line in rest]
        for line in chosen_lines(self.wizard, now):
            lines += [(("  ", ""), *part) for part in folded([line], width)]
        return lines

    def _sign(self, conflict: Conflict) -> tuple[str, str]:
        signs = self.host.signs
        return (signs.error, "error") if conflict.grave else (signs.warning, "warning")

    def _conflicts(self) -> list[Conflict]:
        """Conflicts that no field shows already."""
        now = self.measured.outcomes.get(self.wizard.draft.algorithm)
        beside = {field.form.path for field in self.fields if field.has_class("-wrong")}
        found = conflicts(self.wizard, now, self.measured.narrowed)
        return [one for one in found if not (one.grave and one.path in beside)]

    def told_already(self, problem: Problem) -> bool:
        """What refuses the network stands below the fields from the beginning."""
        return any(one.grave and one.path == problem.path for one in self._conflicts())

    # explaining ---------------------------------------------------------------------------

    def said(self) -> str:
        """The algorithm under the highlight."""
        key = self.query_one(Menu).key_at_highlight()
        if key is None:
            return self.INTRODUCTION
        about = ABOUT[key].words
        found = self.measured.outcomes.get(key)
        if isinstance(found, Impossible):
            return f"{found.words} {about}"
        if found is None or not self.has_class("-wide"):
            return about
        reads = f"Loads in {loads_in(found.readings)}."
        parts = [about, reads, *(f"{one}" for one in limits(found.readings)), self.INTRODUCTION]
        return "\n\n".join([parts[0], " ".join(parts[1:-1]), parts[-1]])

    def help_text(self) -> str:
        """The focused field, else the algorithm under the highlight with all that is to say."""
        if self.focused_field() is not None:
            return super().help_text()
        key = self.query_one(Menu).key_at_highlight() or "lora"
        found = self.measured.outcomes.get(key)
        reads = ""
        if found is not None and not isinstance(found, Impossible):
            reads = f"\n\nLoads in {loads_in(found.readings)}. {' '.join(limits(found.readings))}"
        return f"{TITLES[key]}. {ABOUT[key].words}{reads}\n\n{super().help_text()}"
