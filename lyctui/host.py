"""What screens may ask of the app that holds them, without importing it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from textual.dom import DOMNode

from engine.errors import Problem
from lyctui.monitor import RunView
from lyctui.pictures import Pictures
from lyctui.text import Signs

if TYPE_CHECKING:
    from engine.settings import Recipe


class Host(Protocol):
    """The app, as screens see it."""

    ascii_only: bool
    signs: Signs
    fps: float
    pictures: Pictures

    @property
    def poll_seconds(self) -> float: ...
    def start_run(self, recipe: Recipe, origins: Mapping[str, Any] | None = None) -> bool: ...
    def resume_run(self, folder: Path, from_step: int | None = None) -> bool: ...
    def run_ended(self, run: RunView) -> bool: ...
    def show_problems(
        self, problems: Sequence[Problem], *, title: str = "", report: Path | None = None
    ) -> None: ...
    def window_title(self, words: str) -> None: ...
    def tell_end(self, words: str) -> None: ...
    def action_leave(self) -> None: ...
    def push_screen(self, screen: Any) -> Any: ...


def host(node: DOMNode) -> Host:
    """The app that holds `node`."""
    return cast(Host, node.app)
