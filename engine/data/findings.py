"""What a look at the pictures found: findings that name files.

A finding never holds raw control characters: names are shown escaped (`shown`), kept as they are on
disk in `files`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from engine.data.checks import CHECKS, USAGE_CHECKS, Level
from engine.errors import DataError, EngineError, Problem, UsageError

NAMED_AT_MOST = 8
"""How many files a one-line problem names; the finding itself names all."""


def _worded(message: str, n: int) -> str:
    """The message of a check with its count, in the singular where that is one."""
    words = {"s": "s", "are": "are", "were": "were", "have": "have", "verb": ""}
    if n == 1:
        words = {"s": "", "are": "is", "were": "was", "have": "has", "verb": "s"}
    return message.format(n=n, **words)


def shown(text: object) -> str:
    """A name or text from a file, safe on any screen: what is not printable is escaped."""
    return "".join(char if char.isprintable() else _escaped(char) for char in str(text))


def _escaped(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # A byte that is not UTF-8, kept by Python as a lone surrogate.
        return f"\\x{code - 0xDC00:02x}"
    return char.encode("unicode_escape", "backslashreplace").decode("ascii")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found: which check, how bad, where, which files, and what to do about it."""

    check: str
    level: Level
    folder: str
    files: tuple[str, ...]
    """Names inside `folder`, as they are on disk."""
    message: str
    remedy: str = ""
    fix: str = ""
    details: tuple[str, ...] = ()
    """What is special about each file; empty, or as long as `files`."""

    def problem(self) -> Problem:
        """The finding as a problem of a typed error, with the first files named."""
        names = [self._named(place) for place in range(min(len(self.files), NAMED_AT_MOST))]
        more = len(self.files) - len(names)
        tail = f" and {more} more" if more else ""
        listed = f" ({', '.join(names)}{tail})" if names else ""
        return Problem(self.message.rstrip(".") + listed + ".", shown(self.folder), self.remedy)

    def _named(self, place: int) -> str:
        detail = self.details[place] if self.details else ""
        name = shown(self.files[place])
        return f"{name}: {detail}" if detail else name


@dataclass(slots=True)
class Findings:
    """Collects what is found; files of the same check and folder become one finding."""

    _files: dict[tuple[str, str], list[tuple[str, str]]] = field(default_factory=dict)
    _says: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)

    def add(
        self,
        check: str,
        folder: object,
        file: str | None = None,
        *,
        detail: str = "",
        message: str = "",
        remedy: str = "",
    ) -> None:
        """Note one file of one check; message and remedy replace those of the table."""
        key = (check, str(folder))
        files = self._files.setdefault(key, [])
        if file is not None:
            files.append((file, detail))
        if message or remedy or key not in self._says:
            self._says[key] = (message, remedy)

    def done(self) -> tuple[Finding, ...]:
        """All findings in the order of their first mention, errors first, notes last."""
        made = [self._made(*key) for key in self._files]
        rank = {"error": 0, "warning": 1, "note": 2}
        return tuple(sorted(made, key=lambda finding: rank[finding.level]))

    def _made(self, check: str, folder: str) -> Finding:
        row = CHECKS[check]
        files = self._files[check, folder]
        message, remedy = self._says[check, folder]
        details = tuple(detail for _, detail in files)
        return Finding(
            check=check,
            level=row.level,
            folder=folder,
            files=tuple(name for name, _ in files),
            message=message or _worded(row.message, len(files)),
            remedy=remedy or row.remedy,
            fix=row.fix,
            details=details if any(details) else (),
        )


def merged(*groups: Iterable[Finding]) -> tuple[Finding, ...]:
    """Several groups of findings as one, errors first."""
    rank = {"error": 0, "warning": 1, "note": 2}
    return tuple(sorted((one for group in groups for one in group), key=lambda f: rank[f.level]))


def error_of(findings: Iterable[Finding]) -> EngineError | None:
    """One typed error with every finding of level error, or None."""
    errors = [finding for finding in findings if finding.level == "error"]
    if not errors:
        return None
    problems = [finding.problem() for finding in errors]
    if any(finding.check in USAGE_CHECKS for finding in errors):
        return UsageError(*problems)
    return DataError(*problems)
