"""What a look at the pictures found: one literal table of checks, and findings that name files.

A finding never holds raw control characters: names are shown escaped (`shown`), kept as they are on
disk in `files`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from engine.errors import DataError, EngineError, Problem, UsageError

Level = Literal["error", "warning", "note"]

NAMED_AT_MOST = 8
"""How many files a one-line problem names; the finding itself names all."""


class Check(NamedTuple):
    """What a check says. `{n}` is the number of files or folders it names."""

    level: Level
    message: str
    remedy: str = ""
    fix: str = ""


# Wrong calls rather than wrong data: they end with exit status 2.
USAGE_CHECKS = frozenset({"folder missing", "leaf and parent"})

CHECKS: dict[str, Check] = {
    # Folders
    "folder missing": Check("error", "There is no such folder.", "Check the path in data.folder."),
    "leaf and parent": Check(
        "error",
        "The folder holds pictures and folders with pictures.",
        'Set data.layout to "leaf" to train the pictures in the folder itself, or to "parent" to '
        "train one concept for each sub-folder.",
    ),
    "no image": Check("error", "No usable picture was found.", "Choose a folder with pictures."),
    "wrong level": Check(
        "error",
        "No picture is in this folder; there are some one level deeper.",
        "Choose the folder that holds them, or the folder just above it.",
    ),
    "empty concept": Check(
        "error",
        "The folder holds no picture.",
        "Add pictures, move the folder away, or set its repeats to 0 in data.folders.",
    ),
    "nothing to train": Check(
        "error", "Every folder has 0 repeats: there is nothing to train.", "Give one a repeat."
    ),
    "duplicate folder": Check(
        "error", "The same folder is listed twice.", "Remove the link or the second mention."
    ),
    "unknown folder": Check("error", "data.folders names a folder that is not there.", ""),
    "bad folder name": Check(
        "error", "The number of repeats in the folder name cannot be used.", "", "rename"
    ),
    "odd folder name": Check(
        "warning",
        "The folder name is taken as class text; it looks like a mistyped number of repeats.",
        "",
        "rename",
    ),
    "folder name": Check("note", "The folder name was read as it stands.", ""),
    "switched off": Check("note", "The folder has 0 repeats and is left out.", ""),
    "nested folder": Check(
        "warning", "Folders inside a concept are not read.", "Move their pictures one level up."
    ),
    "skipped folder": Check("note", "{n} hidden or system folder{s} skipped.", ""),
    "text from settings": Check(
        "note", "The class text comes from the settings, not from the folder name.", ""
    ),
    # Files
    "unreadable": Check(
        "error", "{n} file{s} or folder{s} cannot be read.", "Check the permissions."
    ),
    "broken link": Check(
        "error",
        "{n} link{s} lead{verb} nowhere or in a circle.",
        "Repair or remove them, or mount the disk they point to.",
    ),
    "odd link": Check(
        "warning", "{n} link{s} lead{verb} nowhere or in a circle and {are} skipped.", ""
    ),
    "special picture": Check(
        "error",
        "{n} file{s} with the name of a picture {are} no regular file{s}.",
        "Move them away.",
    ),
    "special file": Check("warning", "{n} pipe{s}, socket{s} or device{s} {were} not opened.", ""),
    "link outside": Check(
        "note", "{n} picture{s} {are} read through a link from outside the folder.", ""
    ),
    "link twice": Check(
        "note", "{n} link{s} to a picture that is already there {are} skipped.", ""
    ),
    "hidden file": Check("note", "{n} hidden file{s} skipped.", ""),
    "foreign format": Check(
        "warning", "{n} file{s} of a kind that cannot be read.", "Convert them to PNG or JPEG."
    ),
    # Pictures
    "not decodable": Check(
        "error", "{n} file{s} cannot be decoded.", "Move them away or replace them."
    ),
    "truncated": Check(
        "error", "{n} picture{s} {are} cut short.", "Copy them again or move them away."
    ),
    "bomb": Check(
        "error",
        "{n} picture{s} {are} larger than the limit.",
        "Make them smaller, or raise data.max_megapixels if you trust them.",
    ),
    "vanished": Check(
        "error",
        "{n} picture{s} {were} changed or removed since they {were} listed.",
        "Start again when the folder is at rest.",
    ),
    "rotated": Check("note", "{n} picture{s} {are} turned upright as EXIF says.", ""),
    "alpha": Check(
        "note",
        "{n} picture{s} {have} transparent parts, put on a background colour.",
        "Choose the colour with data.background.",
    ),
    "animated": Check("note", "{n} animated picture{s}: only the first frame is used.", ""),
    "converted": Check("note", "{n} picture{s} {are} converted to 8-bit sRGB.", ""),
    "shared stem": Check(
        "note", "{n} picture{s} differ{verb} only in extension and share{verb} a caption.", ""
    ),
    "too small": Check(
        "error",
        "{n} picture{s} {are} too small for any bucket.",
        "Enlarge or remove them, lower data.bucket_min, or turn data.no_upscale off.",
    ),
    "enlarged": Check(
        "warning",
        "{n} picture{s} {are} enlarged to fill the bucket.",
        "Use larger pictures or a lower resolution.",
    ),
    "cropped": Check(
        "warning",
        "Over a fifth of the pixels is cropped from {n} picture{s}.",
        "Crop them yourself, or widen the bucket range.",
    ),
    # Captions
    "caption missing": Check(
        "note", "{n} picture{s} {have} no caption file; the class text is used.", ""
    ),
    "no caption text": Check(
        "error",
        "{n} picture{s} {have} neither a caption nor a class text.",
        "Write captions, name the folder like 10_trigger class, or set data.trigger.",
    ),
    "caption empty": Check("warning", "{n} caption file{s} {are} empty.", ""),
    "caption encoding": Check(
        "error", "{n} caption file{s} {are} not UTF-8.", "Convert them to UTF-8.", "convert"
    ),
    "caption BOM": Check(
        "note", "{n} caption file{s} begin{verb} with a byte order mark, which is ignored.", ""
    ),
    "caption too long": Check(
        "error", "{n} caption file{s} {are} over 64 KB.", "A caption is one line; shorten them."
    ),
    "caption extension": Check(
        "warning",
        "No caption file has the expected extension.",
        "Set data.caption_extension.",
        "rename",
    ),
    "caption extensions mixed": Check(
        "warning", "Captions with different extensions are mixed.", "", "rename"
    ),
    "caption extension other": Check("note", "Only .caption files are there; they are used.", ""),
    "caption without image": Check("note", "{n} caption file{s} belong{verb} to no picture.", ""),
    "trigger missing": Check(
        "warning",
        "No caption holds the trigger.",
        "Write it into the captions, or set data.prefix.",
    ),
}


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
