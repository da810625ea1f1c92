"""From the data of a file, a form or flags to a Recipe, or to everything that is wrong with it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from engine.errors import Problem, RecipeError
from engine.settings.ask import Section
from engine.settings.data import Folder
from engine.settings.names import nearest_choice, nearest_key, nearest_section
from engine.settings.network import TITLES, Override
from engine.settings.optimizers import unfit
from engine.settings.recipe import RECIPE_VERSION, Recipe
from engine.settings.rules import rules
from engine.settings.walk import Setting, algorithms, kind_of, sections, setting, value_text

__all__ = ["nearest_key", "parse", "rules"]

ABOUT = "about"
"""Table of a preset that tells for whom it is; no setting."""
MOST_SHOWN = 60
MOST_CHOICES = 16
"""More are not listed in a message."""
ENTRIES: dict[str, tuple[type[Section], str]] = {
    "folders": (Folder, '{name = "10_dog", repeats = 3}'),
    "overrides": (Override, '{pattern = "down_blocks.*", rank = 8}'),
}
"""Settings that are lists of tables: what an entry is, and an example."""
RANGE_RULES = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("above", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("below", "lt"),
    "multiple_of": ("a multiple of", "multiple_of"),
}


def parse(data: Mapping[str, Any], *, where: str = "") -> Recipe:
    """The recipe of nested data; raises RecipeError with every mistake at once.

    `where` is the file that the data come from; it is told with each mistake.
    """
    plain, problems = _plain(data)
    try:
        recipe = Recipe.model_validate(plain)
    except ValidationError as error:
        problems += _translated(error.errors(include_url=False), plain)
        raise RecipeError(*_told(problems, where)) from None
    problems += rules(recipe)
    if problems:
        raise RecipeError(*_told(problems, where))
    return recipe


def _told(problems: Sequence[Problem], where: str) -> list[Problem]:
    seen: dict[str, Problem] = {}
    for problem in problems:
        seen.setdefault(problem.path + problem.what, problem)
    return [replace(problem, where=where) if where else problem for problem in seen.values()]


def _plain(data: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """A copy that pydantic can check, and the mistakes that it would not see or not name."""
    problems: list[Problem] = []
    plain: dict[str, Any] = {}
    for name, content in data.items():
        if name == ABOUT:
            continue
        if name == "version":
            plain[name] = content
            problems += _version_problems(content)
        elif name not in sections():
            problems.append(_unknown(str(name), content))
        elif not isinstance(content, Mapping):
            problems.append(Problem(f"[{name}] must be a section of settings.", path=str(name)))
        else:
            plain[name] = dict(content)
    if problems and any(problem.path == "version" for problem in problems):
        plain.pop("version")
    if "network" in plain:
        problems += _choose_algorithm(plain["network"])
    algorithm = plain.get("network", {}).get("algorithm", "lora")
    for name, content in plain.items():
        if name != "version":
            problems += _drop_wrong_kinds(name, content, algorithm)
    return plain, problems


def _version_problems(version: Any) -> list[Problem]:
    if isinstance(version, int) and not isinstance(version, bool) and version > RECIPE_VERSION:
        text = f"This recipe has version {version}; this program reads version {RECIPE_VERSION}."
        return [Problem(text, remedy="Update lyctui.", path="version")]
    if version != RECIPE_VERSION or isinstance(version, bool):
        text = f"version must be {RECIPE_VERSION} (you wrote {shown(version)})."
        return [Problem(text, path="version")]
    return []


def _choose_algorithm(network: dict[str, Any]) -> list[Problem]:
    """Fill in the default algorithm, which the settings beside it depend on; refuse an unknown one."""
    wanted = network.setdefault("algorithm", "lora")
    if wanted in algorithms():
        return []
    row = setting("network.algorithm")
    assert row is not None
    near = nearest_choice(str(wanted), algorithms())
    # What the settings beside an unknown algorithm mean cannot be told: its name is the mistake.
    network.clear()
    network["algorithm"] = "lora"
    return [_problem(row, wanted, f"one of {', '.join(row.choices)}", near)]


def _drop_wrong_kinds(section: str, content: dict[str, Any], algorithm: str) -> list[Problem]:
    """Take out values whose kind is wrong though pydantic would bend them: true as 1, "10" as 10."""
    problems = []
    for key, value in list(content.items()):
        row = setting(f"{section}.{key}", algorithm)
        if row is None or (value is None and row.nullable):
            continue
        must = _wrong_kind(row, value)
        if must:
            content.pop(key)
            problems.append(_problem(row, value, must))
    return problems


def _wrong_kind(row: Setting, value: Any) -> str:
    """What the value must be, where it is something else; empty where its kind is right."""
    match row.kind:
        case "switch":
            return "" if isinstance(value, bool) else "true or false"
        case "whole" if not _is_number(value) or value != int(value):
            return _must(row)
        case "number" if not _is_number(value):
            return _must(row)
        case "mixed" if isinstance(value, (bool, float)):
            return _must(row)
        case "text" if not isinstance(value, str):
            return "text in quotes"
        case "pair":
            return "" if _is_pair(value) else _must(row)
        case "numbers":
            right = isinstance(value, (list, tuple)) and all(map(_is_number, value))
            return "" if right else _must(row)
        case "folders" if not isinstance(value, (list, tuple)):
            return 'a list of tables such as {name = "10_dog", repeats = 3}'
        case "overrides" if not isinstance(value, (list, tuple)):
            return 'a list of tables such as {pattern = "down_blocks.*", rank = 8}'
        case "lines":
            right = isinstance(value, (list, tuple)) and all(isinstance(one, str) for one in value)
            return "" if right else "a list of texts"
        case "choice" if not isinstance(value, str):
            return _must(row)
        case "path" if isinstance(value, str) and "\0" in value:
            return "a path without zero bytes"
        case "path" if isinstance(value, str) and not value.strip():
            return "a path; leave the line out for none"
    return ""


def _is_number(value: Any) -> bool:
    """Whether it is a finite number; true and false are none."""
    right = isinstance(value, (int, float)) and not isinstance(value, bool)
    return right and math.isfinite(value)


def _is_pair(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(map(_is_number, value))


def _must(row: Setting) -> str:
    """The rule of a setting in words."""
    words = {"whole": "a whole number", "number": "a number", "pair": "two numbers"}
    match row.kind:
        case "choice" if len(row.choices) > MOST_CHOICES:
            some = ", ".join(row.choices[:3])
            return f"one of {some} and others that `lyctui explain {row.path}` lists"
        case "choice":
            return f"one of {', '.join(row.choices)}"
        case "mixed":
            return f"{' or '.join(row.choices)}, or a whole number, {row.range}"
        case "pair":
            whole = row.path == "data.resolution"
            return f"two {'whole numbers' if whole else 'numbers'}, each {row.range}"
        case "numbers":
            return f"a list of whole numbers, each {row.range}"
    base = words.get(row.kind, row.type)
    return f"{base}, {row.range}" if row.range else base


def _translated(errors: Sequence[ErrorDetails], data: Mapping[str, Any]) -> list[Problem]:
    """Pydantic's findings in our words, one for each setting."""
    problems: dict[str, Problem] = {}
    algorithm = data.get("network", {}).get("algorithm", "lora")
    for error in errors:
        location = _location(error["loc"])
        path = ".".join(str(part) for part in location[:2])
        row = setting(path, algorithm)
        if error["type"] == "extra_forbidden" and len(location) == 2:
            problems[path] = _unknown(path, error["input"], data)
        elif row is None:
            problems[path] = Problem(f"{path}: {error['msg']}.", path=path)
        elif row.kind in ENTRIES:
            whole = ".".join(str(part) for part in location)
            problems[whole] = _entry_problem(error, location, row)
        elif path in problems:
            problems[path] = _problem(row, _written(data, path), _must(row))
        else:
            problems[path] = _one_problem(row, error, data)
    return list(problems.values())


def _location(parts: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """Where, without the tag that pydantic puts in to tell which algorithm it tried."""
    if len(parts) > 2 and parts[0] == "network" and parts[1] in algorithms():
        return ("network", *parts[2:])
    return parts


def _one_problem(row: Setting, error: ErrorDetails, data: Mapping[str, Any]) -> Problem:
    kind, context = error["type"], error.get("ctx", {})
    if row.kind in ("mixed", "pair", "numbers"):
        return _problem(row, _written(data, row.path), _must(row))
    if kind in RANGE_RULES:
        words, key = RANGE_RULES[kind]
        return _problem(row, error["input"], f"{words} {value_text(context[key])}")
    if row.path == "optim.optimizer" and (why := unfit(str(error["input"]))):
        what = f"{shown(error['input'])} cannot train a network here: {why}."
        return Problem(what, remedy="Take adamw, say, or leave it blank.", path=row.path)
    if row.kind == "choice":
        near = nearest_choice(str(error["input"]), row.choices)
        return _problem(row, error["input"], _must(row), near)
    if kind == "string_pattern_mismatch":
        must = "1 to 120 characters without slashes, backslashes and control characters"
        return _problem(row, error["input"], must)
    return _problem(row, _written(data, row.path), _must(row))


def _problem(row: Setting, value: Any, must: str, near: str = "") -> Problem:
    """ "Learning rate must be at least 0 (you wrote -1)." """
    remedy = f"Did you mean {near}?" if near else ""
    return Problem(
        f"{row.label} must be {must} (you wrote {shown(value)}).", remedy=remedy, path=row.path
    )


def _written(data: Mapping[str, Any], path: str) -> Any:
    section, _, key = path.partition(".")
    return data.get(section, {}).get(key)


def _unknown(path: str, value: Any, data: Mapping[str, Any] | None = None) -> Problem:
    """An unknown key or section, with what was probably meant."""
    section, _, key = path.partition(".")
    row = setting(path)
    if row is not None and data is not None:
        own = str(data.get("network", {}).get("algorithm", "lora"))
        owners = " and ".join(_algorithm_word(name) for name in row.algorithms)
        remedy = f'Remove it, or set network.algorithm = "{row.algorithms[0]}".'
        what = f"{key} is not a setting of {_algorithm_word(own)}; {owners} has it."
        return Problem(what, remedy=remedy, path=path)
    near = nearest_key(path)
    if not key and isinstance(value, Mapping):
        near = nearest_section(path)
        near = f"[{near}]" if near else ""
    remedy = f"Did you mean {near}?" if near else ""
    if not remedy and section in sections():
        remedy = "`lyctui explain` lists every setting."
    elif not remedy:
        remedy = f"Sections are {', '.join(sections())}."
    what = f"{path} is not a setting." if key else f"{path} is neither a section nor a setting."
    return Problem(what, remedy=remedy, path=path)


def _algorithm_word(name: str) -> str:
    return TITLES.get(name, name)


def _entry_problem(error: ErrorDetails, location: tuple[int | str, ...], row: Setting) -> Problem:
    """A mistake in one of the entries of a list of tables."""
    place = ".".join(str(part) for part in location)
    kind, example = ENTRIES[row.kind]
    number = f"Entry {int(location[2]) + 1} of {row.path}" if len(location) > 2 else row.path
    key = str(location[3]) if len(location) > 3 else ""
    if error["type"] == "extra_forbidden":
        known = tuple(kind.model_fields)
        near = nearest_choice(key, known)
        remedy = f"Did you mean {near}?" if near else f"Keys are {', '.join(known)}."
        return Problem(f"{number}: {key} is not a setting.", remedy=remedy, path=place)
    if error["type"] == "missing":
        return Problem(f"{number} needs a {key}.", path=place)
    if error["type"] in RANGE_RULES:
        words, name = RANGE_RULES[error["type"]]
        must = f"{words} {value_text(error.get('ctx', {})[name])}"
    elif key:
        must = _kind_words(kind, key)
    else:
        must = f"a table such as {example}"
    what = f"{number}: {key} must be {must} (you wrote {shown(error['input'])})."
    return Problem(what.replace(":  must", " must"), path=place)


def _kind_words(kind: type[Section], key: str) -> str:
    """What a value of an entry must be."""
    word, choices, _ = kind_of(kind.model_fields[key])
    words = {"switch": "true or false", "whole": "a whole number", "number": "a number"}
    if word in ("choice", "mixed"):
        number = "a whole number or " if word == "mixed" else ""
        return f"{number}one of {', '.join(choices)}" if len(choices) > 1 else number + choices[0]
    return words.get(word, "text")


def shown(value: Any) -> str:
    """A value as it may stand in a sentence: short, without control characters."""
    if isinstance(value, str):
        text = '"' + re.sub(r"[\x00-\x1f\x7f-\x9f]", "?", value) + '"'
    elif isinstance(value, Mapping):
        text = "a table"
    elif value is None:
        text = "nothing"
    else:
        text = value_text(value)
    return text if len(text) <= MOST_SHOWN else text[: MOST_SHOWN - 1] + "…"
