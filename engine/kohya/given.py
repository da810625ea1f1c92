"""The arguments of one file while they are translated: each is read once and gets one row."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from engine.errors import Problem
from engine.inert import inert
from engine.kohya.arguments import IDLE, UNSUPPORTED, known_arguments
from engine.kohya.report import Row, Status, shown
from engine.settings.check import shown as quoted

TRUE = frozenset({"true", "yes", "on", "1"})
FALSE = frozenset({"false", "no", "off", "0", "none", ""})
LARGEST_WHOLE = 2**63


@dataclass(frozen=True, slots=True)
class Given:
    """One value of the file, under the name that sd-scripts has for it."""

    value: Any
    key: str
    """The key as it stands in the file."""
    note: str = ""
    """What happened to it on the way: a 0 that the GUI left out."""
    missing: bool = False
    """Not in the file: what the tool that wrote it takes by itself."""
    written: Any = None
    """What the file says, where `value` is something else."""
    differs: bool = False
    """The file has several values, for one folder each, of which this one holds for all."""


@dataclass(slots=True)
class Work:
    """Arguments, the settings they became, the rows of the report, and what is wrong."""

    given: dict[str, Given]
    folder: Path
    """Folder of the file: relative paths are seen from there."""
    values: dict[str, Any] = field(default_factory=dict)
    rows: dict[str, Row] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)
    """Arguments that another one's row has told already."""
    extra: list[Row] = field(default_factory=list)
    """Rows for keys that are no arguments, such as those that only a GUI has."""
    problems: list[Problem] = field(default_factory=list)

    # reading ------------------------------------------------------------------------------

    def has(self, name: str) -> bool:
        """Whether the argument is given, with any value but none."""
        found = self.given.get(name)
        return found is not None and found.value is not None and found.value != ""

    def number(self, name: str) -> float | None:
        """A finite number; None where it is missing or wrong."""
        value = self._plain(name)
        if value is None:
            return None
        try:
            number = float(value) if isinstance(value, (str, int, float)) else math.nan
        except (ValueError, OverflowError):
            number = math.nan
        if isinstance(value, bool) or not math.isfinite(number):
            self.wrong(name, "a number")
            return None
        return number

    def whole(self, name: str) -> int | None:
        """A whole number; 3.0 and "3" are ones, as in the files that GUIs write."""
        number = self.number(name)
        if number is None:
            return None
        if number != int(number) or abs(number) > LARGEST_WHOLE:
            self.wrong(name, "a whole number")
            return None
        return int(number)

    def flag(self, name: str) -> bool | None:
        """True or false."""
        value = self._plain(name)
        if value is None:
            return None
        word = str(value).strip().lower() if isinstance(value, (str, int, float)) else "?"
        if word in TRUE or word == "1.0":
            return True
        if word in FALSE or word == "0.0":
            return False
        self.wrong(name, "true or false")
        return None

    def text(self, name: str) -> str | None:
        """Text; numbers become their digits."""
        value = self._plain(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            self.wrong(name, "text")
            return None
        return str(value)

    def path(self, name: str) -> Path | None:
        """A path; a relative one is seen from the folder of the file."""
        text = self.text(name)
        if text is None or not text.strip():
            return None
        if "\0" in text:
            self.wrong(name, "a path without zero bytes")
            return None
        return self.folder / Path(text.strip()).expanduser()

    def items(self, name: str) -> tuple[str, ...]:
        """A list of texts; one text is cut at blanks as the GUI does it."""
        value = self._plain(name)
        if value is None:
            return ()
        if isinstance(value, str):
            return tuple(value.replace('"', "").split())
        if isinstance(value, (list, tuple)) and all(isinstance(one, str) for one in value):
            return tuple(value)
        self.wrong(name, "a list of texts")
        return ()

    def _plain(self, name: str) -> Any:
        found = self.given.get(name)
        if found is None or found.value is None:
            return None
        if isinstance(found.value, str) and not found.value.strip() and name not in BLANK_COUNTS:
            return None
        return found.value

    def wrong(self, name: str, must: str) -> None:
        """Note that a value cannot be read."""
        found = self.given[name]
        what = f"{inert(found.key)} must be {must} (the file has {quoted(found.value)})."
        self.problems.append(Problem(what, path=inert(found.key)))
        self.row(name, "unsupported", note=f"must be {must}")

    # telling ------------------------------------------------------------------------------

    def set(self, path: str, value: Any) -> None:
        """Give a setting its value."""
        self.values[path] = value

    def row(
        self,
        name: str,
        status: Status,
        paths: Iterable[str] = (),
        note: str = "",
        value: Any = None,
    ) -> None:
        """Say what became of an argument, once."""
        found = self.given.get(name)
        if found is None or name in self.rows or name in self.silent:
            return
        if found.missing:
            status = "default" if status in ("taken", "translated") else status
        elif found.differs:
            status = "unsupported"
        elif found.note and status == "taken":
            status = "translated"
        note = "; ".join(part for part in (found.note, note) if part)
        written = found.value if found.written is None else found.written
        written = value if value is not None else written
        self.rows[name] = Row(
            inert(found.key), shown(found.key, written), status, tuple(paths), note
        )

    def retell(self, name: str, status: Status, paths: Iterable[str], note: str) -> None:
        """Say something else of an argument than was said: another one has changed what it does."""
        self.rows.pop(name, None)
        self.row(name, status, paths, note)

    def taken(self, name: str, path: str, value: Any, note: str = "") -> None:
        """The argument is a setting."""
        self.set(path, value)
        self.row(name, "taken", (path,), note)

    def translated(self, name: str, path: str, value: Any, note: str) -> None:
        """The argument became a setting of another name or value."""
        self.set(path, value)
        self.row(name, "translated", (path,), note)

    def idle(self, name: str, note: str) -> None:
        """The argument has no effect."""
        self.row(name, "no effect", (), note)

    def unsupported(self, name: str, note: str) -> None:
        """The argument cannot be had."""
        self.row(name, "unsupported", (), note)

    def listed(self, name: str) -> None:
        """The argument is a list whose entries have rows of their own."""
        if self.has(name):
            self.row(name, "translated", (), "see each below")
        self.row(name, "no effect", (), "none")

    def default(self, name: str, path: str, value: Any, differs: bool) -> None:
        """A missing argument: what the tool takes then, told where ours would take something else."""
        self.set(path, value)
        if differs and name not in self.given:
            words = shown(name, value)
            self.extra.append(Row(name, "", "default", (path,), f"missing: kohya takes {words}"))

    def rest(self) -> None:
        """Rows for what nobody has read: without effect, unsupported, or unknown."""
        known = known_arguments()
        for name, found in self.given.items():
            if name in self.rows or name in self.silent:
                continue
            off = found.value in (None, "", False, 0, [])
            if found.missing:
                continue
            if name in IDLE:
                self.idle(name, IDLE[name])
            elif name in UNSUPPORTED:
                self.row(name, "no effect" if off else "unsupported", (), UNSUPPORTED[name])
            elif name in known:
                self.idle(name, "blank" if off else "without the settings it belongs to")
            else:
                self.row(name, "unknown", (), nearest(found.key, known))

    def refuse(self, problem: Problem) -> bool:
        """Drop the value that a problem is about and say so in its rows; whether there was one."""
        path = problem.path
        if path not in self.values:
            path = OTHER_SIDE.get(path, path)
        if path not in self.values:
            return False
        del self.values[path]
        words = f"left out: {problem}"
        told = any(path in row.settings for row in (*self.rows.values(), *self.extra))
        self.rows = {name: _refused(row, path, words) for name, row in self.rows.items()}
        self.extra = [_refused(row, path, words) for row in self.extra]
        if not told:
            self.extra.append(Row(path, "", "unsupported", (), words))
        return True


OTHER_SIDE = {"optim.te_lr": "optim.unet_lr"}
"""What else a problem can be about where the value that it names is not set."""
BLANK_COUNTS = frozenset({"caption_extension", "caption_separator"})
"""Arguments for which blank text is a value."""


def _refused(row: Row, path: str, words: str) -> Row:
    """A row without a setting that was left out; what else it became stays."""
    if path not in row.settings:
        return row
    others = tuple(one for one in row.settings if one != path)
    if not others:
        return replace(row, status="unsupported", settings=(), note=words)
    note = "; ".join(part for part in (row.note, words) if part)
    return replace(row, status="translated", settings=others, note=note)


def nearest(key: str, known: Iterable[str]) -> str:
    """The known key that a strange one may mean, in words."""
    close = difflib.get_close_matches(re.sub(r"\W", "_", key[:80]), list(known), 1, 0.75)
    return f"did you mean {close[0]}?" if close else ""


def tree(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Values by dotted path as sections."""
    found: dict[str, dict[str, Any]] = {}
    for path, value in values.items():
        section, _, key = path.partition(".")
        found.setdefault(section, {})[key] = value
    return found
