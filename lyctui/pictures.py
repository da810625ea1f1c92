"""How pictures are drawn in this terminal: half cells everywhere, sixel or kitty where asked for.

`pictures = "auto"` in config.toml (or LYCTUI_PICTURES) switches the second kind on; it needs the package
textual-image (`pip install lyctui[preview]`), which asks the terminal what it can while it is imported and
therefore must be imported before the screens run. In tmux, screen and mosh it stays at half cells.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from lyctui import terminal

if TYPE_CHECKING:
    import PIL.Image

PACKAGE = "textual_image"
MODES = ("cells", "auto", "sixel", "kitty", "off")
CLASSES = {"auto": "Image", "sixel": "SixelImage", "kitty": "TGPImage"}
"""Widget of textual-image by mode."""


class Pictures:
    """The way that was settled at the start."""

    def __init__(self, mode: str = "cells", widget: Callable[[Any], Any] | None = None) -> None:
        self.mode = mode
        self.widget = widget
        """Makes a Textual widget of a path, where more than half cells was asked for and works."""

    @property
    def shown(self) -> bool:
        """Whether there are pictures on the screens at all."""
        return self.mode != "off"


def wanted_mode(configured: str | None, environ: Mapping[str, str] | None = None) -> str:
    """LYCTUI_PICTURES, else what config.toml says, else half cells."""
    environ = os.environ if environ is None else environ
    for name in (environ.get("LYCTUI_PICTURES"), configured):
        if name in MODES:
            return str(name)
    return "cells"


def usual(mode: str, *, ascii_only: bool) -> Pictures:
    """Half cells, or nothing where they cannot be told apart or are not wanted."""
    seen = mode != "off" and terminal.shows_pictures() and not ascii_only
    return Pictures("cells" if seen else "off")


def settle(mode: str, write: Callable[[str], None]) -> tuple[Pictures, str]:
    """The way to draw, and what to tell if it is not the one asked for. Before the screens run.

    `write` sends text to the terminal itself: standard output is captured while screens are up.
    """
    if mode not in CLASSES:
        return Pictures(), ""
    if terminal.in_multiplexer():
        return Pictures(), "Inside tmux or screen pictures are drawn in half cells."
    if not terminal.is_terminal():
        return Pictures(), ""
    try:
        widgets = importlib.import_module(f"{PACKAGE}.widget")
        kitty = importlib.import_module(f"{PACKAGE}.renderable.tgp")
    except ImportError:
        words = "Pictures need the package textual-image: pip install lyctui[preview]."
        return Pictures(), words
    except (
        Exception
    ) as error:  # A terminal that answers oddly must not keep the program from starting.
        return Pictures(), f"The terminal could not be asked about pictures: {error}."
    # The kitty protocol's messages go to standard output, which is the log file by then.
    kitty.sys = SimpleNamespace(__stdout__=_Writer(write))  # type: ignore[attr-defined]
    kind = getattr(widgets, CLASSES[mode])
    if kind is widgets.HalfcellImage or kind is widgets.UnicodeImage:
        return Pictures(), ""
    return Pictures(mode, kind), ""


def read_picture(path: Path) -> PIL.Image.Image:
    """A picture file in RGB, decoded with the same care as those that are trained; raises OSError.

    What a run's events name may lie anywhere and be anything.
    """
    from engine.data.images import load_rgb
    from engine.errors import EngineError

    try:
        return load_rgb(path)
    except EngineError as error:
        raise OSError(str(error)) from error


class _Writer:
    """What textual-image takes for a stream."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self.write = write

    def flush(self) -> None:
        """The driver flushes by itself."""
