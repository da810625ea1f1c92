"""The palette: every binding of a screen that has an id, as a command."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from textual.app import App, SystemCommand
from textual.screen import Screen


def commands(app: App[Any], screen: Screen[Any]) -> Iterable[SystemCommand]:
    """Each action once, also those that are not in the footer."""
    seen: set[str] = set()
    for active in screen.active_bindings.values():
        binding = active.binding
        if not (binding.description and binding.id) or binding.system or binding.action in seen:
            continue
        seen.add(binding.action)
        words = binding.tooltip or binding.description
        help_line = f"{words} ({app.get_key_display(binding)})"

        def call(action: str = binding.action, node: Any = active.node) -> None:
            app.call_later(app.run_action, action, default_namespace=node)

        yield SystemCommand(binding.description, help_line, call)
