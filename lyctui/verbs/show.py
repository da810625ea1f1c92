"""How a run is shown: screens on a terminal, lines of text or JSON objects otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lyctui import terminal

if TYPE_CHECKING:
    from lyctui.monitor import RunView


def show(run: RunView, *, plain: bool, theme: str | None, as_json: bool) -> int:
    """Show a run, started where it is of this process, until it ends or the watcher leaves."""
    if as_json or plain or terminal.wants_plain():
        from lyctui.plain_monitor import follow

        return follow(run, json_lines=as_json, ascii_only=terminal.wants_ascii())
    from lyctui.app import run_app

    return run_app(theme=theme, run=run)
