"""`lyctui demo`: the main job on what the package carries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lyctui import terminal
from lyctui.verbs.output import reporting
from lyctui.verbs.show import show

if TYPE_CHECKING:
    from lyctui.monitor import RunView


def run_demo(*, plain: bool, theme: str | None, as_json: bool) -> int:
    """Teach the embedded base its concept and say how well it was learnt."""
    with reporting(as_json):
        from lyctui.demo.run import open_demo

        run = open_demo()
        code = show(run, plain=plain, theme=theme, as_json=as_json)
        if not as_json:
            _show_pictures(run)
        return code


def _show_pictures(run: RunView) -> None:
    """Base and trained pictures below the last lines, where the terminal has the colours."""
    if not (terminal.is_terminal() and terminal.shows_pictures()) or terminal.wants_ascii():
        return
    from lyctui.widgets.picture_pair import pair_of, print_pair

    print_pair(pair_of(run.snapshot(), run.folder))
