"""Reading a stranger's configuration file: size, encoding, syntax and depth are checked first."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from engine.errors import Problem, UsageError
from engine.inert import inert
from engine.kohya.arguments import kind_of
from engine.regular import open_regular
from engine.toml_text import parse_toml

MOST_BYTES = 4 * 1024 * 1024
MOST_KEYS = 3000
SCRIPTS = ("sdxl_train_network.py", "train_network.py")
OTHER_SCRIPTS = re.compile(r"\b(\w*train\w*\.py)\b")
GUI_KEYS = ("LoRA_type", "LyCORIS_preset", "network_dim", "network_alpha")
OTHER_GUI_KEYS = ("train_text_encoder", "learning_rate_te", "learning_rate_te1", "full_path")
FileKind = Literal["gui", "arguments", "dataset", "command"]
KIND_WORDS: dict[FileKind, str] = {
    "gui": "a kohya_ss GUI configuration",
    "arguments": "an sd-scripts configuration",
    "dataset": "an sd-scripts data set configuration",
    "command": "an sd-scripts command",
}


@dataclass(frozen=True, slots=True)
class Source:
    """A file that was read: what it is, and its keys."""

    kind: FileKind
    data: dict[str, Any]
    path: Path


def read_source(path: Path) -> Source:
    """Read a configuration; raises UsageError where the file is none of kohya's."""
    text = _text_of(path)
    start = text.lstrip()[:1]
    if path.suffix.lower() == ".json" or start == "{":
        return _from_json(_loaded_json(text, path), path)
    if any(script in text for script in SCRIPTS) and path.suffix.lower() != ".toml":
        return Source("command", command_arguments(text, path), path)
    return _from_toml(_loaded_toml(text, path), path)


def _fault(what: str, path: Path, remedy: str = "") -> UsageError:
    return UsageError(Problem(what, where=str(path), remedy=remedy))


def _text_of(path: Path) -> str:
    try:
        with open_regular(path) as file:
            raw = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise _fault("There is no such file.", path) from None
    except IsADirectoryError:
        raise _fault("This is a folder; a file is asked for.", path) from None
    except OSError as error:
        raise _fault(f"The file cannot be read: {error.strerror or error}.", path) from None
    if len(raw) > MOST_BYTES:
        raise _fault("This is too large to be a configuration.", path)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        what = f"This is not UTF-8 text: line {line} holds the byte 0x{raw[error.start]:02x}."
        raise _fault(what, path, "Save the file as UTF-8.") from None


def _loaded_json(text: str, path: Path) -> dict[str, Any]:
    try:
        data = json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        what = f"This is not JSON: {error.msg} in line {error.lineno}, column {error.colno}."
        raise _fault(what, path) from None
    except RecursionError:
        raise _fault("This is no configuration: it is nested too deeply.", path) from None
    except ValueError as error:
        raise _fault(f"This is not JSON: {str(error)[:80]}.", path) from None
    return _table(data, path)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number")


def _loaded_toml(text: str, path: Path) -> dict[str, Any]:
    try:
        return _table(parse_toml(text), path)
    except tomllib.TOMLDecodeError as error:
        what = f"This is neither JSON nor TOML: {inert(str(error), 200)}."
        raise _fault(what, path) from None
    except (RecursionError, ValueError):
        raise _fault("This is no configuration: it is nested too deeply.", path) from None


def _table(data: Any, path: Path) -> dict[str, Any]:
    if not isinstance(data, dict) or not data:
        raise _fault("This is no configuration: it holds no keys.", path)
    if len(data) > MOST_KEYS:
        raise _fault(f"This is no configuration: it holds {len(data)} keys.", path)
    return data


def _from_json(data: dict[str, Any], path: Path) -> Source:
    if isinstance(data.get("datasets"), list):
        return Source("dataset", data, path)
    if not any(key in data for key in GUI_KEYS):
        if any(key in data for key in OTHER_GUI_KEYS):
            raise _fault(
                "This configures the training of a whole model, not of a LoRA.",
                path,
                "Give a file that the GUI's LoRA page wrote.",
            )
        raise _fault(
            "This is no LoRA configuration of kohya_ss: LoRA_type and network_dim are missing.",
            path,
        )
    return Source("gui", data, path)


def _from_toml(data: dict[str, Any], path: Path) -> Source:
    if isinstance(data.get("datasets"), list):
        return Source("dataset", data, path)
    if "version" in data and isinstance(data.get("model"), dict):
        raise _fault("This is a recipe of lyctui already.", path, f"Train it: lyctui train {path}")
    flat: dict[str, Any] = {}
    for name, content in data.items():
        # sd-scripts drops the names of sections; the last of equal keys counts.
        flat |= content if isinstance(content, dict) else {name: content}
    return Source("arguments", _table(flat, path), path)


# command lines --------------------------------------------------------------------------------


def command_arguments(text: str, path: Path) -> dict[str, Any]:
    """Arguments of the command in a text: comments and what stands before the script are left out."""
    try:
        words = shlex.split(text.replace("\\\r\n", " ").replace("\\\n", " "), comments=True)
    except ValueError as error:
        raise _fault(f"The command cannot be read: {error}.", path) from None
    for place, word in enumerate(words):
        script = word.replace("\\", "/").rpartition("/")[2]
        if script in SCRIPTS:
            return {"script": script, **parsed_arguments(words[place + 1 :])}
    raise _fault("No call of train_network.py is in this file.", path)


def parsed_arguments(words: list[str]) -> dict[str, Any]:
    """`--name value …` as a table; a name without a value is a switch."""
    found: dict[str, Any] = {}
    place = 0
    while place < len(words):
        word = words[place]
        place += 1
        if not word.startswith("--"):
            found.setdefault("", []).append(word)
            continue
        name, equals, value = word[2:].partition("=")
        name = name.replace("-", "_")
        kind = kind_of(name)
        values = [value] if equals else []
        while not equals and kind != "flag" and place < len(words):
            if words[place].startswith("--") or (values and kind not in ("list", "any")):
                break
            values.append(words[place])
            place += 1
        found[name] = _one(kind, values)
    loose = found.pop("", None)
    return found | ({"(loose words)": loose} if loose else {})


def _one(kind: str, values: list[str]) -> Any:
    if kind == "list":
        return values
    if kind == "flag":
        return values[0] if values else True
    return True if not values else values[0] if len(values) == 1 else values
