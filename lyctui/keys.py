"""The table of keys, from the bindings themselves: `python -m lyctui.keys > docs/keys.md`."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from typing import Any

from textual.app import App
from textual.binding import Binding
from textual.keys import format_key
from textual.screen import Screen

NAMES = {
    "escape": "Esc",
    "question_mark": "?",
    "space": "Space",
    "enter": "Enter",
    "tab": "Tab",
    "home": "Home",
    "end": "End",
    "pageup": "Page up",
    "pagedown": "Page down",
}


def holders() -> list[tuple[str, type[Any]]]:
    """The app and every screen that has bindings with an id."""
    import lyctui.screens
    from lyctui.app import LyctuiApp

    found: dict[str, type[Any]] = {"everywhere": LyctuiApp}
    for module in pkgutil.iter_modules(lyctui.screens.__path__):
        members = vars(importlib.import_module(f"lyctui.screens.{module.name}"))
        for name, kind in members.items():
            own = inspect.isclass(kind) and issubclass(kind, Screen) and not name.startswith("_")
            if own and kind.__module__.startswith("lyctui.") and any(bindings(kind)):
                found.setdefault(_place(name), kind)
    first, *rest = found.items()
    return [first, *sorted(rest)]


def _place(name: str) -> str:
    return name.removesuffix("Screen").removesuffix("Page").lower()


def bindings(kind: type[Screen[Any]] | type[App[Any]]) -> Iterator[Binding]:
    """Bindings that a config file can change and help shows."""
    for binding in kind.__dict__.get("BINDINGS", ()):
        if isinstance(binding, Binding) and binding.id:
            yield binding


def shown_key(keys: str) -> str:
    """Keys as people say them: "Ctrl+Q", "Esc, N"."""
    return ", ".join(_shown(key.strip()) for key in keys.split(","))


def _shown(key: str) -> str:
    if key in NAMES:
        return NAMES[key]
    if "+" in key:
        *held, last = key.split("+")
        return "+".join([*(each.capitalize() for each in held), last.upper()])
    return key.upper() if len(key) > 1 and key[1:].isdigit() else format_key(key)


def key_table() -> str:
    """The page of the documentation."""
    lines = [
        "# Keys",
        "",
        "Made by `python -m lyctui.keys`. Every action is also in the palette, Ctrl+P. A key can be",
        'changed in config.toml (`lyctui paths` says where): `[keys]`, then `"id" = "key"`.',
    ]
    for place, kind in holders():
        lines += ["", f"## {place}", "", "| Key | Action | id |", "|---|---|---|"]
        for binding in bindings(kind):
            words = binding.tooltip or binding.description
            lines.append(f"| {shown_key(binding.key)} | {words} | `{binding.id}` |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    import sys

    sys.stdout.write(key_table())
