"""Help: what the focused thing and the screen are for, their keys, and where the log is."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen, Screen
from textual.widgets import Static

from lyctui import text


class HelpScreen(ModalScreen[None]):
    """Built from the screen below: `help_text()` of the focused widget or the screen, and bindings."""

    AUTO_FOCUS = "VerticalScroll"
    DEFAULT_CSS = """
    HelpScreen VerticalScroll { height: 1fr; margin-top: 1; }
    HelpScreen Static { height: auto; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,f1,question_mark", "dismiss", "Back", id="help.back"),
    ]

    def __init__(self, below: Screen[Any], *, log: Path) -> None:
        super().__init__()
        self._below = below
        self._log = log

    def compose(self) -> ComposeResult:
        """Text, keys, log."""
        with Vertical(classes="dialog"):
            yield Static("Help  (Esc: back)", classes="strong", markup=False)
            with VerticalScroll(can_focus=True):
                for words in self._texts():
                    yield Static(words + "\n", markup=False)
                yield Static("Keys", classes="strong", markup=False)
                yield Static("\n".join(self._keys()), markup=False)
                yield Static(f"\nLog: {text.home(self._log)}", classes="dim", markup=False)

    def _texts(self) -> list[str]:
        found = []
        for node in (self._below.focused, self._below):
            tell = getattr(node, "help_text", None)
            words = tell() if callable(tell) else getattr(node, "HELP", None) or ""
            if words:
                found.append(text.inert(_unwrapped(str(words)), lines=True))
        return found

    def _keys(self) -> list[str]:
        rows: dict[str, str] = {}
        for active in self._below.active_bindings.values():
            binding = active.binding
            if binding.description and not binding.system and binding.id:
                key = self.app.get_key_display(binding)
                rows.setdefault(f"{key:<10}{binding.tooltip or binding.description}", "")
        return list(rows)


def _unwrapped(words: str) -> str:
    """Paragraphs without the line ends of the source: the screen wraps them anew."""
    paragraphs = words.strip().split("\n\n")
    return "\n\n".join(" ".join(each.split()) for each in paragraphs)
