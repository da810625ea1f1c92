"""config.toml: how the program looks and which keys it listens to. Read only; a missing file is fine.

theme = "light"            dark, light or ansi
fps = 1.0                  chart repaints a second
mouse = false
notify = "none"            bell, osc9 or none, at the end of a run
pictures = "auto"          cells (two pixels a cell), auto, sixel, kitty or off
[keys]                     id of a binding = key, as docs/keys.md lists them
"run.save" = "w"
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.toml_text import parse_toml
from lyctui.pictures import MODES

KNOWN = ("theme", "fps", "mouse", "notify", "pictures", "keys", "model_dirs")
NOTIFY = ("bell", "osc9", "none")


@dataclass(frozen=True, slots=True)
class Config:
    """What config.toml says, checked; `problems` says what was left out and why."""

    theme: str | None = None
    fps: float | None = None
    mouse: bool | None = None
    notify: str | None = None
    keys: dict[str, str] = field(default_factory=dict)
    pictures: str | None = None
    problems: tuple[str, ...] = ()


def read_config(path: Path | None = None) -> Config:
    """The settings of the program itself; mistakes are said, never fatal."""
    if path is None:
        from lyctui.paths import paths

        path = paths().config_file
    try:
        data = parse_toml(path.read_text("utf-8"))
    except FileNotFoundError:
        return Config()
    except (OSError, ValueError) as error:
        return Config(problems=(f"{path} cannot be read: {error}.",))
    return _checked(data, path)


def _checked(data: dict[str, Any], path: Path) -> Config:
    problems = [f"{path}: {name} is not a setting." for name in data if name not in KNOWN]

    def pick(name: str, kind: type | tuple[type, ...], rule: str) -> Any:
        value = data.get(name)
        if value is None or (isinstance(value, kind) and (kind is bool or value is not True)):
            return value
        problems.append(f"{path}: {name} must be {rule}.")
        return None

    theme = pick("theme", str, "dark, light or ansi")
    notify = pick("notify", str, "bell, osc9 or none")
    if notify is not None and notify not in NOTIFY:
        problems.append(f"{path}: notify must be bell, osc9 or none.")
        notify = None
    pictures = pick("pictures", str, ", ".join(MODES))
    if pictures is not None and pictures not in MODES:
        problems.append(f"{path}: pictures must be one of {', '.join(MODES)}.")
        pictures = None
    keys = data.get("keys", {})
    if not isinstance(keys, dict) or not all(isinstance(key, str) for key in keys.values()):
        problems.append(f"{path}: [keys] maps an id to a key.")
        keys = {}
    return Config(
        theme=theme,
        fps=pick("fps", (int, float), "a number"),
        mouse=pick("mouse", bool, "true or false"),
        notify=notify,
        keys={str(name): str(key) for name, key in keys.items()},
        pictures=pictures,
        problems=tuple(problems),
    )
