"""Where the program keeps its things. Nothing is created by asking."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass, fields
from pathlib import Path

from engine.runs import default_cache_folder, default_runs_folder


@dataclass(frozen=True, slots=True)
class Paths:
    """Every place outside the runs themselves; LYCTUI_CONFIG, _STATE, _CACHE and _RUNS override."""

    config: Path
    """Folder of config.toml and of your own presets."""
    state: Path
    drafts: Path
    log: Path
    cache: Path
    runs: Path

    @property
    def config_file(self) -> Path:
        """Settings of the program itself."""
        return self.config / "config.toml"

    def rows(self) -> list[tuple[str, Path]]:
        """Name and place of each."""
        return [(field.name, getattr(self, field.name)) for field in fields(self)]


def paths() -> Paths:
    """The places, from LYCTUI_* variables, else by the rules of this system (XDG on Linux)."""
    import platformdirs

    dirs = platformdirs.PlatformDirs("lyctui", appauthor=False)
    state = _chosen("LYCTUI_STATE") or dirs.user_state_path
    return Paths(
        config=_chosen("LYCTUI_CONFIG") or dirs.user_config_path,
        state=state,
        drafts=state / "drafts",
        log=state / "lyctui.log",
        cache=default_cache_folder(),
        runs=default_runs_folder(),
    )


def make_private(folder: Path) -> None:
    """Make a folder and what lacks above it for their owner alone, as the rules of XDG ask."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    for each in reversed(missing):
        each.mkdir(mode=0o700, exist_ok=True)


def add_to_log(words: str, log: Path | None = None) -> Path:
    """Add lines to a log, the program's own unless another is given, that only its owner reads.

    One that cannot be written loses nothing else.
    """
    path = log or paths().log
    with contextlib.suppress(OSError):
        make_private(path.parent)
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {words}\n")
    return path


def _chosen(variable: str) -> Path | None:
    value = os.environ.get(variable)
    return Path(value).expanduser() if value else None
