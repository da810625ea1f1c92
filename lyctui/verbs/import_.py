"""`lyctui import`: a configuration of kohya's as a recipe, with what became of each of its keys."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import Problem, UsageError
from lyctui import text
from lyctui.verbs.output import reporting, say, say_json, table, tell

if TYPE_CHECKING:
    from engine.kohya.report import Imported, Row

SIGNS = {
    "taken": "·",
    "translated": "→",
    "no effect": " ",
    "unsupported": "!",
    "unknown": "?",
    "default": "+",
}
KEY_CELLS, VALUE_CELLS = 34, 24


def import_config(
    file: Path, *, output: Path | None, dataset_config: Path | None, as_json: bool
) -> int:
    """Say what became of each key; write the recipe where a file is named for it."""
    with reporting(as_json):
        from engine.kohya.load import import_file

        if output is not None:
            refuse_existing(output)
        found = import_file(file, dataset_config)
        if output is not None:
            write_imported(found, output)
        if as_json:
            _say_objects(found, output)
        else:
            for line in report_lines(found):
                say(line)
            _say_end(found, output)
        return 0


def refuse_existing(output: Path) -> None:
    """Refuse to write over a file; raises UsageError."""
    if output.expanduser().exists():
        raise UsageError(
            Problem("The file exists already.", where=str(output), remedy="Give another name.")
        )


def write_imported(found: Imported, output: Path) -> None:
    """Write the recipe with its comments; a file that is there is left alone."""
    from engine.checkpoint.atomic import write_text
    from engine.settings.toml import write_recipe

    refuse_existing(output)
    path = output.expanduser()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, write_recipe(found.recipe))
    except OSError as error:
        what = f"The recipe cannot be written: {error.strerror or error}."
        raise UsageError(Problem(what, where=str(output))) from None


def report_lines(found: Imported) -> list[str]:
    """The report as lines: what matters first, and keys without effect at the end."""
    rows = sorted(found.rows, key=lambda row: row.status == "no effect")
    cells = [
        (
            SIGNS[row.status],
            row.status,
            text.fit(text.inert(row.key), KEY_CELLS),
            text.fit(text.inert(row.value), VALUE_CELLS),
            text.inert(_became(row)),
        )
        for row in rows
    ]
    return table(cells, header=("", "", "key", "value", "became"))


def _became(row: Row) -> str:
    return "; ".join(part for part in (", ".join(row.settings), row.note) if part)


def counted(found: Imported) -> str:
    """How many keys ended how: "12 taken, 3 translated"."""
    parts = [f"{count} {status}" for status in SIGNS if (count := found.count(status))]  # type: ignore[arg-type]
    return ", ".join(parts)


def _say_objects(found: Imported, output: Path | None) -> None:
    for row in found.rows:
        say_json(
            {
                "key": row.key,
                "value": row.value,
                "status": row.status,
                "settings": list(row.settings),
                "note": row.note,
            }
        )
    end = {"kind": found.kind, "recipe": found.recipe.model_dump(mode="json")}
    say_json({"imported": end, "written": None if output is None else str(output)})


def _say_end(found: Imported, output: Path | None) -> None:
    say()
    say(f"{found.kind[0].upper()}{found.kind[1:]}: {counted(found)}.")
    if output is None:
        tell("Nothing is written: name a file with -o run.toml.")
        return
    name = text.inert(str(output))
    say(f"{name} is written. Look at it with `lyctui plan {name}`, train it: lyctui train {name}")
