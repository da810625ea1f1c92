"""Files with sample prompts: lines, JSON or TOML, also as kohya's tools write them.

- `.txt`: a prompt a line with flags at its end; `#` begins a comment.
- `.json`: a list of such lines, or of objects `{"prompt": ..., "width": 512, ...}`, or of both.
- `.toml`: `prompts = [...]` with the same, tables `[[prompts]]`, or `[prompt]` with values for all
  and `[[prompt.subset]]` for each.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from engine.errors import Problem, RecipeError
from engine.inert import inert
from engine.prompts import FLAG, Prompt, prompt_of, read_lines
from engine.regular import open_regular
from engine.toml_text import parse_toml

SETTING = "sample.prompts_file"
KEYS = {
    "negative_prompt": "n",
    "negative": "n",
    "width": "w",
    "height": "h",
    "seed": "d",
    "sample_steps": "s",
    "steps": "s",
    "scale": "l",
    "guidance": "l",
    "sample_sampler": "ss",
    "sampler": "ss",
}
"""Name of a value in an object to its flag; several names, since the tools differ."""
LARGEST_BYTES = 1_000_000
LONGEST_PATH = 4096
Read = tuple[list[Prompt], list[Problem]]


def all_prompts(lines: Iterable[str], file: Path | None) -> tuple[Prompt, ...]:
    """Prompts of a recipe's lines, then those of its file; RecipeError with every mistake of both."""
    prompts, problems = read_lines(lines)
    if file is not None:
        more, wrong = read_prompt_file(file)
        prompts, problems = prompts + more, problems + wrong
    if problems:
        raise RecipeError(*problems)
    return tuple(prompts)


def read_prompt_file(path: Path) -> Read:
    """Prompts of a file and every mistake in it with its place; never raises."""
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        remedy = "Give a .txt, .json or .toml file."
        return [], [_problem(path, "", "This kind of file holds no prompts.", remedy)]
    try:
        with open_regular(path.expanduser()) as file:
            data = file.read(LARGEST_BYTES + 1)
        if len(data) > LARGEST_BYTES:
            raise ValueError("it is larger than a list of prompts can be")
        return reader(path, data.decode("utf-8-sig"))
    except OSError as error:
        what = f"The prompts cannot be read: {error.strerror}."
    # Also a JSON nested deeper than Python follows.
    except (ValueError, RecursionError) as error:
        what = f"The prompts cannot be read: {inert(str(error))}."
    return [], [_problem(path, "", what, "")]


def _lines(path: Path, text: str) -> Read:
    return read_lines([text], inert(str(path), LONGEST_PATH), SETTING)


def _json(path: Path, text: str) -> Read:
    data = json.loads(text)
    if not isinstance(data, list):
        remedy = 'Write ["a cat --s 20", {"prompt": "a dog", "width": 512}], say.'
        return [], [_problem(path, "", "It must hold a list.", remedy)]
    return _entries(path, data)


def _toml(path: Path, text: str) -> Read:
    data = parse_toml(text)
    if isinstance(data.get("prompts"), list):
        return _entries(path, data["prompts"])
    shared = data.get("prompt")
    if isinstance(shared, list):
        return _entries(path, shared)
    if isinstance(shared, dict) and isinstance(shared.get("subset"), list):
        common = {name: value for name, value in shared.items() if name != "subset"}
        merged = [
            {**common, **each} if isinstance(each, dict) else each for each in shared["subset"]
        ]
        return _entries(path, merged)
    remedy = 'Write prompts = ["a cat --s 20"], or [[prompts]] with prompt = "a cat".'
    return [], [_problem(path, "", "It holds no prompts.", remedy)]


READERS = {".txt": _lines, ".json": _json, ".toml": _toml}


def _entries(path: Path, entries: list[Any]) -> Read:
    prompts: list[Prompt] = []
    problems: list[Problem] = []
    for number, entry in enumerate(entries, start=1):
        place = f"prompt {number}"
        if isinstance(entry, str):
            where = f"{inert(str(path), LONGEST_PATH)}, {place}"
            found, wrong = read_lines([" ".join(entry.split("\n"))], where, SETTING)
            prompts += found
            problems += wrong
        elif isinstance(entry, dict):
            prompt, faults = _object(entry)
            prompts.append(prompt)
            problems += [_problem(path, place, what, remedy) for what, remedy in faults]
        else:
            what = "A prompt is a text, or an object with a prompt."
            problems.append(_problem(path, place, what, ""))
    return prompts, problems


def _object(entry: Mapping[str, Any]) -> tuple[Prompt, list[tuple[str, str]]]:
    """The prompt of an object, and what is wrong with it as (what, remedy)."""
    faults: list[tuple[str, str]] = []
    values: dict[str, str] = {}
    for name, value in entry.items():
        if name == "prompt":
            continue
        letter = KEYS.get(name)
        if letter is None:
            known = ", ".join(["prompt", *KEYS])
            faults.append((f'"{inert(name)[:40]}" is not known here.', f"Known: {known}."))
        elif isinstance(value, bool) or not isinstance(value, str | int | float):
            faults.append((f"{name} must be a number or a text.", ""))
        elif letter in values:
            faults.append((f"{name} stands twice under two names.", "Keep one of them."))
        # kohya writes an empty text where there is no negative prompt.
        elif not (letter == "n" and not str(value).strip()):
            values[letter] = " ".join(str(value).split("\n"))
    text = entry.get("prompt", "")
    if not isinstance(text, str):
        faults.append(("prompt must be a text.", ""))
        text = ""
    text = " ".join(text.split("\n")).strip()
    for name, words in (("prompt", text), ("negative_prompt", values.get("n", ""))):
        if FLAG.search(words):
            remedy = (
                "Here the values have names of their own: width, height, seed, sample_steps, scale."
            )
            faults.append((f"{name} holds something that looks like a flag.", remedy))
    if text.startswith("#"):
        faults.append(('A prompt cannot begin with "#".', "It would be a comment."))
    prompt, wrong = prompt_of(text, values)
    return prompt, [*faults, *((what, "") for what in wrong)]


def _problem(path: Path, place: str, what: str, remedy: str) -> Problem:
    file = inert(str(path), LONGEST_PATH)
    where = f"{file}, {place}" if place else file
    return Problem(what, where, remedy, SETTING)
