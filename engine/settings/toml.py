"""Recipes as TOML files: read with tomllib, written and changed with tomlkit, comments kept.

Paths in a recipe are relative to the folder of its file. A path whose bytes are not UTF-8 is written
with `\\xNN` for each such byte, since TOML holds Unicode only.
"""

from __future__ import annotations

import copy
import os
import re
import textwrap
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any

from engine.errors import Problem, RecipeError
from engine.inert import inert
from engine.regular import open_regular
from engine.settings.ask import Section
from engine.settings.check import parse
from engine.settings.names import nearest_key
from engine.settings.recipe import Recipe
from engine.settings.values import read_value
from engine.settings.walk import Setting, sections, setting, settings
from engine.toml_text import parse_toml

MOST_BYTES = 4 * 1024 * 1024
COMMENT_WIDTH = 96


# reading --------------------------------------------------------------------------------------


def read_recipe(path: Path) -> Recipe:
    """The recipe of a file; raises RecipeError with every mistake in it."""
    return parse(read_toml(path), where=str(path))


def read_toml(path: Path) -> dict[str, Any]:
    """The data of a recipe file, unchecked; its relative paths become absolute."""
    data = loads(_text_of(path), where=str(path))
    return with_paths(data, path.absolute().parent)


def loads(text: str, *, where: str = "") -> dict[str, Any]:
    """TOML text as data; raises RecipeError with the line of the mistake."""
    try:
        return parse_toml(text)
    except tomllib.TOMLDecodeError as error:
        remedy = "Text stands in quotes, and each setting on a line of its own: epochs = 10"
        what = f"This is not TOML: {inert(str(error))}."
        raise RecipeError(Problem(what, where, remedy)) from None


def _text_of(path: Path) -> str:
    try:
        with open_regular(path) as file:
            raw = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise RecipeError(Problem("There is no such recipe.", str(path))) from None
    except IsADirectoryError:
        remedy = f"A run keeps its recipe in {path / 'run.toml'}."
        raise RecipeError(Problem("This is a folder, not a recipe.", str(path), remedy)) from None
    except OSError as error:
        text = f"The recipe cannot be read: {error.strerror or error}."
        raise RecipeError(Problem(text, str(path))) from None
    if len(raw) > MOST_BYTES:
        raise RecipeError(Problem("This is too large to be a recipe.", str(path)))
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        text = f"This is not UTF-8 text: line {line} holds the byte 0x{raw[error.start]:02x}."
        remedy = "A recipe is TOML, saved as UTF-8."
        raise RecipeError(Problem(text, str(path), remedy)) from None


def with_paths(data: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A copy of the data whose relative paths are those seen from `folder`."""
    found = copy.deepcopy(dict(data))
    for row in settings():
        section = found.get(row.section)
        if not isinstance(section, dict):
            continue
        value = section.get(row.key)
        if row.kind == "path" and isinstance(value, str) and value.strip() and "\0" not in value:
            section[row.key] = os.fspath(absolute_path(value, folder))
        elif row.kind == "folders" and isinstance(value, list):
            for entry in value:
                if isinstance(entry, dict) and isinstance(entry.get("name"), str):
                    entry["name"] = os.fspath(unescaped(entry["name"]))
    return found


def absolute_path(text: str, folder: Path) -> Path:
    """The path that a recipe in `folder` means."""
    plain = folder / Path(text).expanduser()
    return plain if "\\x" not in text or os.path.lexists(plain) else unescaped(os.fspath(plain))


def unescaped(text: str) -> Path:
    """A path with its `\\xNN` turned back into bytes."""
    raw = re.sub(
        rb"\\x([89a-fA-F][0-9a-fA-F])",
        lambda found: bytes([int(found[1], 16)]),
        os.fsencode(text),
    )
    return Path(os.fsdecode(raw))


def escaped(text: str) -> str:
    """Text that UTF-8 can hold: bytes that were none, which Python keeps as surrogates, as `\\xNN`."""
    return re.sub(
        "[\ud800-\udfff]",
        lambda found: f"\\x{ord(found[0]) & 0xFF:02x}",
        text,
    )


# changing -------------------------------------------------------------------------------------


def apply_sets(data: Mapping[str, Any], sets: Iterable[str]) -> dict[str, Any]:
    """A copy of the data with `section.key=value` changes; raises RecipeError with all bad ones.

    Values are TOML; text needs no quotes. `section.key=` and `=auto` unset a setting.
    """
    changed = copy.deepcopy(dict(data))
    problems = []
    for text in sets:
        name, equals, value = text.partition("=")
        row = setting(name.strip())
        if row is None or not equals:
            problems.append(_bad_set(text, name.strip(), bool(equals)))
            continue
        section = changed.setdefault(row.section, {})
        if not isinstance(section, dict):
            section = changed[row.section] = {}
        found = read_value(row, value)
        if found is None and not row.nullable:
            section.pop(row.key, None)
        else:
            section[row.key] = found
    if problems:
        raise RecipeError(*problems)
    return changed


def _bad_set(text: str, name: str, has_value: bool) -> Problem:
    if not has_value:
        what = f'A change is written section.key=value (you wrote "{text}").'
        return Problem(what, remedy="For example: --set optim.lr=2e-4")
    near = nearest_key(name)
    remedy = f"Did you mean {near}?" if near else "`lyctui explain` lists every setting."
    return Problem(f"{name or 'An empty name'} is not a setting.", remedy=remedy, path=name)


def update_toml(text: str, changes: Mapping[str, Any]) -> str:
    """A recipe's text with settings changed in place; comments and order stay. None removes a line."""
    import tomlkit

    document = tomlkit.parse(text)
    for path, value in changes.items():
        section, _, key = path.partition(".")
        if value is None:
            if section in document:
                document[section].pop(key, None)
            continue
        if section not in document:
            document.add(section, tomlkit.table())
        document[section][key] = _item(value)
    return document.as_string()


# writing --------------------------------------------------------------------------------------


def write_recipe(recipe: Recipe) -> str:
    """The whole recipe as TOML, each setting with its explanation; unset ones as comments."""
    lines = [
        "# A recipe of lyctui: every setting of a run. `lyctui explain KEY` says more about each.",
        "# Lines that begin with # are comments; a setting that is commented out is decided at the",
        "# start. Paths are relative to this file.",
        "",
        f"version = {recipe.version}",
    ]
    rows = settings(recipe)
    for name, words in sections().items():
        lines += ["", "", f"# {words}", f"[{name}]"]
        for row in rows:
            if row.section == name:
                lines += ["", *_commented(row, getattr(getattr(recipe, name), row.key))]
    return "\n".join(lines) + "\n"


def _commented(row: Setting, value: Any) -> list[str]:
    about = f"{row.label}: {row.help}"
    if row.kind == "choice":
        about += f" One of {', '.join(row.choices)}."
    elif row.range:
        unit = f" ({row.ask.unit})" if row.ask.unit else ""
        about += f" {row.range[0].upper()}{row.range[1:]}{unit}."
    lines = [f"# {line}" for line in textwrap.wrap(about, COMMENT_WIDTH)]
    if value is None:
        return [*lines, f"# {row.key} =    # blank: {row.ask.blank or 'unset'}"]
    return [*lines, f"{row.key} = {_item(value).as_string()}"]


def dumps(recipe: Recipe) -> str:
    """The whole recipe as bare TOML: values only, unset settings left out."""
    lines = [f"version = {recipe.version}"]
    for name in sections():
        lines += ["", f"[{name}]"]
        for row in settings(recipe):
            value = getattr(getattr(recipe, row.section), row.key)
            if row.section == name and value is not None:
                lines.append(f"{row.key} = {_item(value).as_string()}")
    return "\n".join(lines) + "\n"


def portable(recipe: Recipe) -> str:
    """The recipe as bare TOML that may leave this machine: of each path only its name is left."""
    return dumps(cut_paths(recipe))


def cut_paths(recipe: Recipe) -> Recipe:
    """The recipe with every local path cut to its last name."""
    cut: dict[str, Section] = {}
    for row in settings(recipe):
        if row.kind != "path":
            continue
        section = cut.get(row.section, getattr(recipe, row.section))
        value = getattr(section, row.key)
        if value is not None:
            cut[row.section] = section.model_copy(update={row.key: Path(value.name)})
    return recipe.model_copy(update=cut)


def _item(value: Any) -> Any:
    """A value as tomlkit writes it."""
    import tomlkit

    if isinstance(value, Section):
        table = tomlkit.inline_table()
        for key, inner in value:
            # What is as it would be anyway says nothing.
            if inner != type(value).model_fields[key].default:
                table.append(key, _item(inner))
        return table
    if isinstance(value, Mapping):
        table = tomlkit.inline_table()
        for key, inner in value.items():
            table.append(key, _item(inner))
        return table
    if isinstance(value, (list, tuple)):
        array = tomlkit.array()
        for one in value:
            array.append(_item(one))
        long = any(isinstance(one, (str, Section, Mapping)) for one in value)
        return array.multiline(long and len(value) > 1)
    if isinstance(value, (str, PurePath)):
        return tomlkit.string(escaped(os.fspath(value)))
    return tomlkit.item(value)
