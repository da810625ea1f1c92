"""Presets that a person writes: a TOML file with the fields of our own. No torch.

convolutions = true

[unet]
classes = ["Transformer2DModel"]
names = ['time_embedding\\.linear_1']

[text]
classes = ["CLIPAttention"]

[[overrides]]
pattern = '.*\\.to_k'
rank = 8
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.errors import Problem, RecipeError
from engine.networks.override_checks import PATH as OVERRIDES
from engine.networks.override_checks import SIZES, bad_values, mistakes, sentence
from engine.networks.overrides import Override
from engine.networks.presets import Aim, Preset, nearest
from engine.regular import open_regular
from engine.settings.toml import loads

MOST_BYTES = 1024 * 1024
PATH = "network.targets_file"
KEYS = ("convolutions", "unet", "text", "overrides")
AIM_KEYS = ("classes", "names")


def read_preset(path: Path) -> Preset:
    """The preset of a file; raises RecipeError with every mistake in it."""
    data = loads(_text_of(path), where=str(path))
    problems = _unknown(data, KEYS, "")
    unet, text = (_aim(data.get(part, {}), part, problems) for part in ("unet", "text"))
    spatial = data.get("convolutions", False)
    if not isinstance(spatial, bool):
        problems.append(Problem(f"convolutions must be true or false (you wrote {spatial!r})."))
    overrides = _overrides(data.get("overrides", []), problems)
    if not problems and not (unet or text):
        remedy = "Give classes or names under [unet] or [text]."
        problems.append(Problem("It takes no layers.", remedy=remedy))
    if problems:
        raise RecipeError(
            *(
                replace(one, path=PATH, where=", ".join(filter(None, (str(path), one.where))))
                for one in problems
            )
        )
    return Preset(unet, text, bool(spatial), overrides=overrides, own=True)


def _text_of(path: Path) -> str:
    try:
        with open_regular(path) as file:
            raw = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        what = "There is no such file of layers."
    except (OSError, ValueError) as error:
        what = f"The file cannot be read: {getattr(error, 'strerror', None) or error}."
    else:
        try:
            if len(raw) <= MOST_BYTES:
                return raw.decode("utf-8-sig")
            what = "This is too large to be a choice of layers."
        except UnicodeDecodeError:
            what = "This is not UTF-8 text."
    raise RecipeError(Problem(what, str(path), path=PATH))


def _unknown(data: Mapping[str, Any], known: tuple[str, ...], where: str) -> list[Problem]:
    return [
        Problem(
            f"There is no setting {key!r}.",
            where,
            f"Did you mean {near}?" if (near := nearest(key, known)) else "",
        )
        for key in data
        if key not in known
    ]


def _aim(data: object, part: str, problems: list[Problem]) -> Aim:
    if not isinstance(data, dict):
        problems.append(Problem(f"It must be a table: [{part}].", part))
        return Aim()
    problems += _unknown(data, AIM_KEYS, part)
    classes, names = (_texts(data.get(key, []), f"{part}.{key}", problems) for key in AIM_KEYS)
    for name in names:
        try:
            re.compile(name)
        except (re.error, RecursionError, OverflowError) as error:
            what = f"'{name}' is no regular expression: {error}."
            problems.append(Problem(what, f"{part}.names"))
    return Aim(frozenset(classes), names)


def _texts(value: object, where: str, problems: list[Problem]) -> tuple[str, ...]:
    if not isinstance(value, list):
        problems.append(Problem(f"It must be a list of texts (you wrote {value!r}).", where))
        return ()
    wrong = [one for one in value if not (isinstance(one, str) and one)]
    problems += [Problem(f"{one!r} is no text.", where) for one in wrong]
    return tuple(one for one in value if isinstance(one, str) and one)


def _overrides(value: object, problems: list[Problem]) -> tuple[Override, ...]:
    if not (isinstance(value, list) and all(isinstance(one, dict) for one in value)):
        problems.append(Problem("It must be a list of tables: [[overrides]].", "overrides"))
        return ()
    found = []
    for entry in value:
        override, wrong = override_of(entry)
        problems += wrong
        found += [override] if override is not None else []
    return tuple(found)


def override_of(entry: Mapping[str, Any]) -> tuple[Override | None, list[Problem]]:
    """One override from a table of a file, flat: pattern, exclude, algorithm, sizes and options.

    None where it cannot be made; the problems are all that is wrong with it.
    """
    values = dict(entry)
    pattern, exclude = values.pop("pattern", None), values.pop("exclude", False)
    algorithm = values.pop("algorithm", None)
    where = f"override '{pattern}'" if pattern is not None else "override"
    wrong = []
    if not isinstance(pattern, str):
        wrong.append("Every override needs a pattern, a text.")
    if not isinstance(exclude, bool):
        wrong.append(f"Exclude must be true or false (you wrote {exclude!r}).")
    if not isinstance(algorithm, str | None):
        wrong.append(f"Algorithm must be a text (you wrote {algorithm!r}).")
    if wrong:
        more = [sentence(words) for words in bad_values(values)]
        return None, [Problem(what, where, path=OVERRIDES) for what in wrong + more]
    sizes = {name: values.pop(name) for name in SIZES if name in values}
    override = Override(pattern, exclude, algorithm, **sizes, options=values)
    return override, mistakes(override)
