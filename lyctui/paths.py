"""Where the program keeps its things. Nothing is created by asking."""

from __future__ import annotations

import os
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


def _chosen(variable: str) -> Path | None:
    value = os.environ.get(variable)
    return Path(value).expanduser() if value else None
