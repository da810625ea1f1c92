"""Base models used lately, and the folders where other programs keep theirs."""

from __future__ import annotations

import contextlib
import json
import os
import tomllib
from pathlib import Path

from engine.checkpoint.atomic import write_text
from lyctui.paths import make_private, paths

MOST_RECENT = 8
USUAL_FOLDERS = (
    "lyctui/models",
    "ComfyUI/models/checkpoints",
    "ComfyUI/models/diffusers",
    "stable-diffusion-webui/models/Stable-diffusion",
    "stable-diffusion-webui-forge/models/Stable-diffusion",
    "kohya_ss/models",
    "sd-scripts/models",
    "models",
)
"""Below the home folder: ours, ComfyUI, A1111, Forge, kohya."""


def recent_models() -> tuple[Path, ...]:
    """Base models used lately that are still there, the newest first."""
    try:
        raw = json.loads(_file().read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return ()
    if not isinstance(raw, list):
        return ()
    found = (Path(one) for one in raw if isinstance(one, str))
    return tuple(path for path in found if os.path.lexists(path))


def remember_model(path: Path) -> None:
    """Put a base model first in the list; a list that cannot be written is no reason to stop."""
    place = path.expanduser().absolute()
    every = [place, *(one for one in recent_models() if one != place)][:MOST_RECENT]
    with contextlib.suppress(OSError):
        make_private(_file().parent)
        text = json.dumps([os.fspath(one) for one in every], ensure_ascii=True)
        write_text(_file(), text, private=True)


def model_folders() -> tuple[Path, ...]:
    """Folders of `model_dirs` in config.toml, then the usual ones that exist."""
    every = [*_configured(), *(Path.home() / one for one in USUAL_FOLDERS)]
    return tuple(dict.fromkeys(one for one in every if one.is_dir()))


def _configured() -> list[Path]:
    try:
        read = tomllib.loads(paths().config_file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return []
    raw = read.get("model_dirs", [])
    return (
        [Path(one).expanduser() for one in raw if isinstance(one, str)]
        if isinstance(raw, list)
        else []
    )


def _file() -> Path:
    return paths().state / "recent_models.json"
