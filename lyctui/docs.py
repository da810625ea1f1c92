"""Writes docs/settings.md from the declarations, explanations and presets: `python -m lyctui.docs`."""

from __future__ import annotations

import sys
from pathlib import Path

from engine.settings.ask import Section
from engine.settings.data import Folder
from engine.settings.network import Override
from engine.settings.walk import Kind, Setting, entry_settings, sections, settings
from lyctui.guides import guides
from lyctui.presets import list_presets

ENTRIES: dict[Kind, type[Section]] = {"folders": Folder, "overrides": Override}
"""Settings that are lists of tables, and what each table holds."""
HEAD = """# Settings

Every setting of a recipe. This page is generated from the declarations in `engine/settings`, the
explanations in `presets/guides` and the presets in `presets`; write it anew with
`python -m lyctui.docs`. `lyctui explain KEY` shows the same on a terminal, with the numbers of a run.

Each setting can be written in a recipe file, given as `--set section.key=value`, or answered in the
wizard. A blank default is decided before the start, and the plan says why. "Guide 000" to "guide 004"
are five guides to training: 000 the LoCon tutorial for photographs, 001 Valstrix's crash course, 002
the character tutorial, 003 the LyCORIS guidelines, 004 Yubin's reference of a training interface.
"""


def settings_page() -> str:
    """The page as Markdown."""
    parts = [HEAD, _presets()]
    for name, words in sections().items():
        parts.append(f"## [{name}]\n\n{words}\n")
        rows = [row for row in settings() if row.section == name]
        parts.append(_table(rows))
        parts += [_more(row) for row in rows if row.path in guides() or row.kind in ENTRIES]
    return "\n".join(parts)


def _presets() -> str:
    lines = ["## Presets", "", "| name | for | rests on | changes |", "|---|---|---|---|"]
    for preset in list_presets():
        changes = ", ".join(f"`{path}`" for path in preset.flat)
        lines.append(
            f"| `{preset.name}` | {_cell(preset.for_whom)} | {_cell(preset.guide)} | {changes} |"
        )
    lines += [
        "",
        "Where a guide's own recipe means something else here than in the guide's program:",
        "",
    ]
    lines += [
        f"- `{preset.name}` ({preset.guide}): {preset.differs}"
        for preset in list_presets()
        if preset.differs
    ]
    return "\n".join([*lines, ""])


def _table(rows: list[Setting]) -> str:
    lines = ["| key | type | default | level | what it is |", "|---|---|---|---|---|"]
    for row in rows:
        flag = f" Flag `{row.ask.flag}`." if row.ask.flag else ""
        cells = (f"`{row.key}`", row.type, row.default_text, row.level, row.help + flag)
        lines.append(f"| {' | '.join(map(_cell, cells))} |")
    return "\n".join([*lines, ""])


def _more(row: Setting) -> str:
    """What a line of the table does not hold: the explanation, and the keys of an entry."""
    parts = [f"### {row.path}\n"]
    if row.path in guides():
        parts.append(f"{guides()[row.path].text}\n")
    if row.kind in ENTRIES:
        parts.append(
            f"Each entry is a table, `[[{row.path}]]` in a recipe file, with these keys:\n"
        )
        parts.append(_entry_table(entry_settings(ENTRIES[row.kind])))
    return "\n".join(parts)


def _entry_table(rows: tuple[Setting, ...]) -> str:
    lines = ["| key | type | default | what it is |", "|---|---|---|---|"]
    for row in rows:
        needed = row.default is None and not row.nullable
        default = "must be given" if needed else row.default_text
        cells = (f"`{row.key}`", row.type, default, row.help)
        lines.append(f"| {' | '.join(map(_cell, cells))} |")
    return "\n".join([*lines, ""])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> int:
    """Write the page, or with --check say whether it is current."""
    path = Path(__file__).resolve().parent.parent / "docs" / "settings.md"
    page = settings_page()
    if "--check" in sys.argv[1:]:
        return 0 if path.is_file() and path.read_text("utf-8") == page else 1
    path.parent.mkdir(exist_ok=True)
    path.write_text(page, "utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
