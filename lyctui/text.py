"""Text for people: foreign text made harmless, numbers with units, cells counted.

Every string that comes from a file, a name on disk or the network goes through `inert` before it is
shown. Nothing here knows a screen, so plain mode uses the same words.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

CONTROL_PICTURES = {code: 0x2400 + code for code in range(0x20)} | {0x7F: 0x2421}
"""C0 controls become their visible pictures; Unicode reserves U+2400 and up for this."""
REORDERING = frozenset([0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)])
"""Marks that turn the direction of the text around them, so that a name can pose as another one."""
LINE_ENDS = frozenset([0x85, 0x2028, 0x2029])
GROUP = " "
"""Between groups of three digits: a plain space, which every font has and every copy keeps."""


def inert(text: object, *, lines: bool = False) -> str:
    """`text` without anything a terminal would obey; with `lines`, line ends stay.

    Controls become visible pictures, bytes that were no UTF-8 and direction marks become "�". Show
    the result with markup off: brackets stay as they are.
    """
    raw = str(text)
    if raw.isascii() and raw.isprintable():
        return raw
    if lines:
        raw = raw.replace("\r\n", "\n")
        return "\n".join(_harmless(line) for line in raw.split("\n"))
    return _harmless(raw)


def _harmless(text: str) -> str:
    return "".join(map(_harmless_character, text))


def _harmless_character(character: str) -> str:
    code = ord(character)
    if character == "\t":
        return " "
    if code in CONTROL_PICTURES:
        return chr(CONTROL_PICTURES[code])
    if 0x80 <= code < 0xA0 or 0xD800 <= code < 0xE000:
        return "�"
    if code in REORDERING or code in LINE_ENDS or code == 0xFEFF:
        return "�"
    return character


_OBEYED = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)


def without_controls(text: str) -> str:
    """`text` without what a terminal obeys, line ends apart: the last door, where cells are counted already."""
    return _OBEYED.sub("", text)


def json_line(value: Mapping[str, Any], default: Callable[[object], Any] = str) -> str:
    """One object in one line that every reader of JSON takes and no terminal obeys.

    ASCII only, so that every locale can carry it. Numbers that are none become null: JSON knows neither
    infinity nor what is not a number.
    """
    try:
        return json.dumps(value, default=default, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(json.loads(json.dumps(value, default=default))))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, list) else value


def ascii_only(text: str) -> str:
    """`text` in the signs of a terminal that shows ASCII alone."""
    table = str.maketrans(
        {"·": "-", "✓": "+", "✗": "x", "▸": ">", "▶": ">", "…": "...", "×": "x", "÷": "/"}
        | {"│": "|", "┃": "|", "─": "-", "└": "+", "┤": "+", "↑": "^", "↓": "v", "²": "2", "≈": "~"}
        | {"“": '"', "”": '"', "’": "'", "–": "-", "█": "#", "░": ".", "→": "->", "±": "+/-"}
    )
    return text.translate(table).encode("ascii", "replace").decode("ascii")


@dataclass(frozen=True, slots=True)
class Signs:
    """Signs that stand beside a word, never instead of it."""

    done: str = "✓"
    warning: str = "!"
    error: str = "✗"
    here: str = "▶"
    choice: str = "▸"
    later: str = "·"
    bar: str = "┃"
    full: str = "█"
    empty: str = "░"
    rule: str = "─"


UNICODE_SIGNS = Signs()
ASCII_SIGNS = Signs("+", "!", "x", ">", ">", "-", "|", "#", ".", "-")


def signs(ascii_only: bool = False) -> Signs:
    """The signs for this terminal."""
    return ASCII_SIGNS if ascii_only else UNICODE_SIGNS


# --- widths, in cells ---


def cells(text: str) -> int:
    """Columns that `text` takes; CJK takes two a character."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def fit(text: str, width: int, *, ellipsis: str = "…") -> str:
    """`text` cut at its end to at most `width` columns."""
    if cells(text) <= width:
        return text
    return head(text, max(0, width - cells(ellipsis))) + ellipsis if width > 0 else ""


def fit_middle(text: str, width: int, *, ellipsis: str = "…") -> str:
    """`text` cut in its middle: both ends of a path tell something, the end more."""
    if cells(text) <= width:
        return text
    room = width - cells(ellipsis)
    if room < 2:
        return fit(text, width, ellipsis=ellipsis)
    tail = _tail(text, room - room // 3)
    return head(text, room - cells(tail)) + ellipsis + tail


def pad(text: str, width: int) -> str:
    """`text` filled with spaces to `width` columns, or cut to them."""
    text = fit(text, width)
    return text + " " * (width - cells(text))


def pad_left(text: str, width: int) -> str:
    """Like `pad`, for numbers: spaces before."""
    text = fit(text, width)
    return " " * (width - cells(text)) + text


def wrap(text: str, width: int) -> list[str]:
    """`text` broken into lines of at most `width` columns, at spaces where there are any."""
    lines: list[str] = []
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split(" "):
            candidate = f"{line} {word}" if line else word
            if cells(candidate) <= width:
                line = candidate
                continue
            if line:
                lines.append(line)
            while cells(word) > width:
                part = head(word, width)
                lines.append(part)
                word = word[len(part) :]
            line = word
        lines.append(line)
    return lines


def head(text: str, width: int) -> str:
    """The beginning of `text` that fits into `width` columns."""
    used, end = 0, 0
    for end, character in enumerate(text):
        used += cells(character)
        if used > width:
            return text[:end]
    return text


def _tail(text: str, width: int) -> str:
    used = 0
    for count, character in enumerate(reversed(text)):
        used += cells(character)
        if used > width:
            return text[len(text) - count :]
    return text


# --- numbers ---


def grouped(number: int) -> str:
    """1920 as "1 920"."""
    return f"{number:,}".replace(",", GROUP)


def significant(number: float, digits: int = 3) -> str:
    """`number` with so many significant figures, without an exponent: 0.0931, 12.4, 1 920."""
    if not math.isfinite(number):
        return "not a number" if math.isnan(number) else "infinite"
    if number == 0:
        return "0"
    places = max(0, digits - 1 - math.floor(math.log10(abs(number))))
    if places == 0:
        return grouped(round(number))
    return f"{number:.{min(places, 12)}f}"


def loss(number: float | None) -> str:
    """A loss with three significant figures, or a dash while it is unknown."""
    return "-" if number is None else significant(number)


def rate(number: float) -> str:
    """A learning rate: 8.1e-05, and 0 as 0."""
    return "0" if number == 0 else f"{number:.1e}"


def memory(size: float) -> str:
    """Bytes of memory in GiB, or MiB below one."""
    gib = size / 2**30
    return f"{gib:.1f} GiB" if gib >= 1 else f"{size / 2**20:.0f} MiB"


def filesize(size: float) -> str:
    """Bytes of a file in powers of ten, as file managers count."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size:.0f} B"


def duration(seconds: float) -> str:
    """14:21 or 1:02:03."""
    whole = max(0, int(seconds))
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"


def about(seconds: float) -> str:
    """A length of time in words, no finer than it is known: 45 s, 34 min, 2 h 10 min, 3 days."""
    if seconds < 90:
        return f"{max(0, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, left = divmod(minutes, 60)
    if hours >= 48:
        return f"{round(seconds / 86400)} days"
    return f"{hours} h {left} min" if left else f"{hours} h"


def span(low: float, high: float) -> str:
    """A range of time while it is uncertain: "19 to 21 min", one number once both ends agree."""
    first, second = about(low), about(high)
    if first == second:
        return first
    for unit in (" s", " min"):
        if first.endswith(unit) and second.endswith(unit) and " h " not in first + second:
            return f"{first.removesuffix(unit)} to {second}"
    return f"{first} to {second}"


def clock(moment: float) -> str:
    """Local time of day, 17:21:40."""
    return _moment(moment, "%H:%M:%S")


def date(moment: float) -> str:
    """Local ISO date and time, 2025-03-01 17:21."""
    return _moment(moment, "%Y-%m-%d %H:%M")


def _moment(moment: float, form: str) -> str:
    try:
        return datetime.fromtimestamp(moment).strftime(form)
    except (OverflowError, ValueError, OSError):  # of no calendar
        return "-"


def age(moment: float, now: float | None = None) -> str:
    """How long ago: "just now", "2 h ago"."""
    seconds = (time.time() if now is None else now) - moment
    return "just now" if seconds < 30 else f"{about(seconds)} ago"


def counted(number: int, one: str, many: str = "") -> str:
    """ "1 picture", "3 pictures"."""
    return f"{grouped(number)} {one if number == 1 else many or one + 's'}"


def home(path: Path | str) -> str:
    """A path as people write it: ~ for the home folder, and harmless."""
    text = str(path)
    base = str(Path.home())
    if text == base or text.startswith(base + "/"):
        text = "~" + text[len(base) :]
    return inert(text)


def listed(items: Iterable[str], most: int = 3) -> str:
    """ "a, b, c and 4 more"."""
    every = list(items)
    shown = ", ".join(every[:most])
    rest = len(every) - most
    return f"{shown} and {rest} more" if rest > 0 else shown
