"""What this terminal can do, decided by us: plain or full screen, colours, signs, where it is.

Textual ignores TERM=dumb and still sends greys under NO_COLOR, so both are settled here.
"""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Mapping
from typing import TextIO

MIN_WIDTH = 60
MIN_HEIGHT = 16
"""Below this the screens say "terminal too small"."""
THEMES = ("dark", "light", "ansi")


def is_dumb(environ: Mapping[str, str] | None = None) -> bool:
    """Whether the terminal cannot place a cursor."""
    environ = os.environ if environ is None else environ
    return environ.get("TERM", "") in ("dumb", "unknown", "")


def is_terminal(*streams: TextIO | None) -> bool:
    """Whether every stream is a terminal; the process's input and output when none is given."""
    chosen = streams or (sys.__stdin__, sys.__stdout__)
    try:
        return all(stream is not None and stream.isatty() for stream in chosen)
    except ValueError:
        return False


def wants_plain(environ: Mapping[str, str] | None = None) -> bool:
    """Whether to write lines instead of drawing screens."""
    return is_dumb(environ) or not is_terminal()


def wants_ascii(environ: Mapping[str, str] | None = None, stream: TextIO | None = None) -> bool:
    """Whether signs must be ASCII: a locale that is not UTF-8, or LYCTUI_ASCII set."""
    environ = os.environ if environ is None else environ
    if environ.get("LYCTUI_ASCII"):
        return True
    stream = sys.__stdout__ if stream is None else stream
    encoding = getattr(stream, "encoding", None) or "ascii"
    try:
        return codecs.lookup(encoding).name != "utf-8"
    except LookupError:
        return True


def no_color(environ: Mapping[str, str] | None = None) -> bool:
    """Whether colours are unwanted (no-color.org: set and not empty)."""
    environ = os.environ if environ is None else environ
    return bool(environ.get("NO_COLOR"))


def shows_pictures(environ: Mapping[str, str] | None = None) -> bool:
    """Whether pictures in half cells can be told apart: 256 colours or more, and wanted."""
    environ = os.environ if environ is None else environ
    few = ("linux", "vt100", "vt220", "ansi", "xterm-16color", "xterm")
    many = "256" in environ.get("TERM", "") or environ.get("COLORTERM", "") in (
        "truecolor",
        "24bit",
    )
    plain = no_color(environ) or is_dumb(environ)
    return not plain and (many or environ.get("TERM", "") not in few)


def choose_theme(
    asked: str | None, environ: Mapping[str, str] | None = None, *, default: str | None = None
) -> str:
    """Theme name: as asked, LYCTUI_THEME, `default`, else by the terminal. One of `THEMES`."""
    environ = os.environ if environ is None else environ
    for name in (asked, environ.get("LYCTUI_THEME"), default):
        if name in THEMES:
            return str(name)
    # 16 colours or fewer: shades of grey would fall together.
    few_colors = environ.get("TERM", "") in ("linux", "vt100", "vt220", "ansi", "xterm-16color")
    return "ansi" if few_colors or no_color(environ) else "dark"


def over_ssh(environ: Mapping[str, str] | None = None) -> bool:
    """Whether the terminal is at the other end of an SSH line."""
    environ = os.environ if environ is None else environ
    return bool(environ.get("SSH_CONNECTION") or environ.get("SSH_TTY"))


def in_multiplexer(environ: Mapping[str, str] | None = None) -> bool:
    """Whether tmux or screen keeps the terminal alive when the line drops."""
    environ = os.environ if environ is None else environ
    return bool(environ.get("TMUX") or environ.get("STY"))


def remote_address(environ: Mapping[str, str] | None = None) -> tuple[str, str] | None:
    """(user@host, port) by which the person's own machine may reach this one: a guess."""
    environ = os.environ if environ is None else environ
    parts = environ.get("SSH_CONNECTION", "").split()
    if len(parts) != 4:
        return None
    user = environ.get("USER") or environ.get("LOGNAME") or "user"
    host = f"[{parts[2]}]" if ":" in parts[2] else parts[2]
    return f"{user}@{host}", parts[3]


def fetch_line(path: str, environ: Mapping[str, str] | None = None) -> str | None:
    """The line that fetches a file, to be typed on the person's own machine; None without SSH."""
    import shlex

    remote = remote_address(environ)
    if remote is None:
        return None
    address, port = remote
    option = "" if port == "22" else f"-P {port} "
    # scp speaks SFTP since OpenSSH 9 and takes the far path literally: quote once.
    return f"scp {option}{shlex.quote(f'{address}:{path}')} ."
