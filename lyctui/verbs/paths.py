"""`lyctui paths`: where things are kept."""

from __future__ import annotations

from lyctui import text
from lyctui.paths import paths
from lyctui.verbs.output import say, say_json, table


def show_paths(*, as_json: bool) -> int:
    """Say every place, and whether it exists."""
    rows = paths().rows()
    if as_json:
        for name, path in rows:
            say_json({"name": name, "path": str(path), "exists": path.exists()})
        return 0
    lines = [
        (name, text.inert(path), "" if path.exists() else "not made yet") for name, path in rows
    ]
    for line in table(lines):
        say(line)
    return 0
