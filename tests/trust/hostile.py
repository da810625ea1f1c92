"""One text that holds everything a terminal, a screen or a page could obey, and how to find it obeyed."""

from __future__ import annotations

import re
from typing import Any

MARK = "HOST"
MARKUP = f"[bold]{MARK}[/]"
COMMANDS = (
    "\x1b]52;c;b3duZWQ=\x07\x1b]0;owned\x07\x1b[2J\x1b[31m\x9b31m\x9d0;owned\x9c\x90q\x9c"
    "\r\x08\x7f\x85\u2028\u202e\u2066\ufeff"
)
HOSTILE = f"a{MARKUP}[@click=app.quit]b[/]<script>x</script>{COMMANDS}\x00z"
"""For texts that may hold any character."""
NAME = HOSTILE.replace("\x00", "").replace("/", "|")
"""For names of files: markup that closes nothing, but still opens."""

OBEYED = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
_BARE = re.compile(rf"(?<!\[bold\]){MARK}")


def assert_harmless(shown: str, *, tells: bool = True) -> None:
    """Nothing in it is obeyed, and markup stands there as it was written."""
    found = OBEYED.search(shown)
    assert found is None, (
        f"{found[0]!r} in {shown[max(0, found.start() - 80) : found.end() + 40]!r}"
    )
    assert _BARE.search(shown) is None, f"markup was taken for markup: {shown!r}"
    if tells:
        assert MARK in shown, f"the text is not shown at all: {shown!r}"


def screen_text(app: Any) -> str:
    """Every row of cells that is on the screen, as it goes to the terminal."""
    rows = app.screen._compositor.render_strips()
    return "\n".join("".join(segment.text for segment in row) for row in rows)
