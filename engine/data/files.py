"""What lies in a folder: pictures, other files, sub-folders; nothing special is ever opened."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from engine.data.findings import Findings
from engine.regular import open_regular as open_regular

PICTURE_EXTENSIONS = frozenset(
    [
        ".png",
        ".apng",
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".mpo",
        ".webp",
        ".bmp",
        ".dib",
        ".gif",
        ".tif",
        ".tiff",
        ".avif",
    ]
)
FOREIGN_EXTENSIONS = frozenset(
    [
        ".heic",
        ".heif",
        ".jxl",
        ".psd",
        ".xcf",
        ".kra",
        ".svg",
        ".tga",
        ".jp2",
        ".ico",
        ".exr",
        ".hdr",
        ".raw",
        ".cr2",
        ".cr3",
        ".nef",
        ".arw",
        ".dng",
        ".mp4",
        ".mov",
        ".webm",
        ".mkv",
        ".avi",
        ".zip",
        ".rar",
        ".7z",
    ]
)
PLAIN_EXTENSIONS = frozenset(
    [
        ".txt",
        ".caption",
        ".json",
        ".jsonl",
        ".toml",
        ".yaml",
        ".yml",
        ".csv",
        ".md",
        ".html",
        ".npz",
        ".npy",
        ".pt",
        ".safetensors",
    ]
)
"""Never sniffed for picture content."""

SYSTEM_FOLDERS = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information"})
COUNT_LIMIT = 10_000
"""Files counted at most in nested folders: the number is only told."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """A path that is not read, and why."""

    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class Scan:
    """What lies directly in one folder, in the order of the names' bytes."""

    pictures: tuple[Path, ...]
    others: tuple[Path, ...]
    """Regular files that are not pictures: captions among them."""
    folders: tuple[Path, ...]
    skipped: tuple[Skipped, ...]


def by_name(paths: Iterable[Path]) -> list[Path]:
    """Sorted by the bytes of the names: the same on every machine and in every locale."""
    return sorted(paths, key=lambda path: os.fsencode(path.name))


def looks_like_picture(path: Path) -> bool:
    """Whether the first bytes are those of a picture format that is read."""
    try:
        with open_regular(path) as file:
            head = file.read(16)
    except OSError:
        return False
    if head.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a")):
        return True
    if head.startswith((b"II*\x00", b"MM\x00*")) or head[4:12] in (b"ftypavif", b"ftypavis"):
        return True
    # BM alone would take in texts: the four reserved bytes of a bitmap are zero.
    bitmap = head.startswith(b"BM") and head[6:10] == bytes(4)
    return bitmap or (head.startswith(b"RIFF") and head[8:12] == b"WEBP")


class _Scanner:
    """Sorts the entries of one folder."""

    def __init__(self, folder: Path, findings: Findings) -> None:
        self.folder = folder
        self.findings = findings
        self.pictures: list[Path] = []
        self.others: list[Path] = []
        self.folders: list[Path] = []
        self.skipped: list[Skipped] = []

    def skip(self, path: Path, check: str, reason: str) -> None:
        self.skipped.append(Skipped(path, reason))
        plain = check in ("hidden file", "skipped folder")
        self.findings.add(check, self.folder, path.name, detail="" if plain else reason)

    def take(self, path: Path) -> None:
        """Put one entry where it belongs."""
        try:
            status = path.stat()
        except OSError as error:
            self._unreachable(path, error)
            return
        if stat.S_ISDIR(status.st_mode):
            self._folder(path)
        elif path.name.startswith("."):
            self.skip(path, "hidden file", "hidden")
        elif not stat.S_ISREG(status.st_mode):
            check = "special picture" if is_picture_name(path) else "special file"
            self.skip(path, check, _kind(status.st_mode))
        else:
            self._file(path)

    def _unreachable(self, path: Path, error: OSError) -> None:
        pictured = is_picture_name(path)
        if path.is_symlink():
            looped = _is_loop(path)
            reason = "a link that leads in a circle" if looped else "a link that leads nowhere"
            self.skip(path, "broken link" if pictured else "odd link", reason)
        else:
            self.skip(path, "unreadable", error.strerror or "cannot be read")

    def _folder(self, path: Path) -> None:
        if path.name.startswith(".") or path.name in SYSTEM_FOLDERS:
            self.skip(path, "skipped folder", "hidden or system folder")
        elif path.is_symlink() and self.folder.resolve().is_relative_to(path.resolve()):
            self.skip(path, "odd link", "a link to a folder above")
        else:
            self.folders.append(path)

    def _file(self, path: Path) -> None:
        extension = path.suffix.lower()
        if extension in FOREIGN_EXTENSIONS:
            self.skip(path, "foreign format", f"{extension} is not read")
        elif extension in PICTURE_EXTENSIONS or (
            extension not in PLAIN_EXTENSIONS and looks_like_picture(path)
        ):
            self.pictures.append(path)
        else:
            self.others.append(path)

    def without_repeated_links(self) -> tuple[Path, ...]:
        """Pictures, each file once: a link to a picture of this folder is not a second picture."""
        home = self.folder.resolve()
        seen = {path.name for path in self.pictures if not path.is_symlink()}
        targets: set[Path] = set()
        kept: list[Path] = []
        for path in self.pictures:
            if path.is_symlink():
                target = path.resolve()
                if target in targets or (target.parent == home and target.name in seen):
                    self.skip(path, "link twice", f"the same file as {target.name}")
                    continue
                targets.add(target)
                if not target.is_relative_to(home):
                    self.findings.add("link outside", self.folder, path.name)
            kept.append(path)
        return tuple(kept)


def scan(folder: Path, findings: Findings) -> Scan:
    """Everything directly in `folder`, by kind; what is refused or odd goes to `findings`."""
    scanner = _Scanner(folder, findings)
    try:
        entries = by_name(folder.iterdir())
    except OSError as error:
        findings.add("unreadable", folder, detail=error.strerror or "")
        entries = []
    for path in entries:
        scanner.take(path)
    pictures = scanner.without_repeated_links()
    return Scan(pictures, tuple(scanner.others), tuple(scanner.folders), tuple(scanner.skipped))


def is_picture_name(path: Path) -> bool:
    """Whether the name alone promises a picture."""
    return path.suffix.lower() in PICTURE_EXTENSIONS


def count_pictures_below(folder: Path) -> int:
    """Files named like pictures in `folder` and below, links to folders not followed."""
    count = 0
    for _, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        count += sum(is_picture_name(Path(name)) and name[0] != "." for name in files)
        if count >= COUNT_LIMIT:
            break
    return count


def _is_loop(path: Path) -> bool:
    import errno

    try:
        path.stat()
    except OSError as error:
        return error.errno == errno.ELOOP
    return False


def _kind(mode: int) -> str:
    if stat.S_ISFIFO(mode):
        return "a pipe"
    return "a socket" if stat.S_ISSOCK(mode) else "a device"
