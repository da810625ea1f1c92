"""What the data of a run was at its start, as `data.json` in its folder, and what differs from it now.

Hashes only: no caption's text leaves the data set. No torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from engine.data.findings import NAMED_AT_MOST, shown
from engine.data.survey import Item
from engine.errors import Problem

RECORD = "data.json"
VERSION = 1
PUT_BACK = "Put it back as it was, or start a new run with `lyctui resume FILE`."
TAKE_OUT = "Take it out of the folder, or start a new run with `lyctui resume FILE`."

Key = tuple[bool, str]
"""Whether a picture is regularisation, and its path below its folder."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """One picture as it was read."""

    path: str
    """Below the folder of the pictures, or of the regularisation pictures."""
    sha256: str
    caption: str
    """Hash of the caption's text; empty where the picture has none of its own."""
    mask: str
    """Hash of the mask's file, or "alpha"; empty without one."""
    is_reg: bool = False

    @property
    def key(self) -> Key:
        """What it is found by again."""
        return self.is_reg, self.path


Records = Mapping[Key, Recorded]


def records_of(items: Iterable[Item], folder: Path, reg_folder: Path | None) -> Records:
    """The pictures of a decoded survey."""
    found = {}
    for item in items:
        root = reg_folder if item.is_reg and reg_folder is not None else folder
        one = Recorded(
            path=_below(item.image.path, root.expanduser()),
            sha256=item.image.sha256,
            caption=_hash(item.caption_raw) if item.has_caption else "",
            mask="" if item.mask is None else item.mask.content,
            is_reg=item.is_reg,
        )
        found[one.key] = one
    return found


def _below(path: Path, root: Path) -> str:
    # A picture of a folder that the settings name by itself may lie anywhere.
    inside = path.relative_to(root) if path.is_relative_to(root) else path
    return inside.as_posix()


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def to_text(records: Records) -> str:
    """The file: a picture a line, sorted."""
    lines = [json.dumps(asdict(records[key])) for key in sorted(records)]
    body = ",\n".join(lines)
    return f'{{"version": {VERSION}, "pictures": [\n{body}\n]}}\n'


def from_text(text: str) -> Records | None:
    """Exact inverse of `to_text`; None for what is damaged or of a later version."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        body = json.loads(text)
        if body["version"] == VERSION:
            read = [Recorded(**one) for one in body["pictures"]]
            return {one.key: one for one in read}
    return None


def read_records(run: Path) -> Records | None:
    """What the run in this folder began with; None where nothing tells."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return from_text((run / RECORD).read_text("utf-8"))
    return None


# What differs ------------------------------------------------------------------------------------


def differences(before: Records, now: Records, folder: Path, reg: Path | None) -> list[Problem]:
    """Everything that differs by kind, with the first names of each, and what to do about it."""
    gone = [one for key, one in before.items() if key not in now]
    there = [one for one in gone if _place(one, folder, reg).exists()]
    both = [(before[key], now[key]) for key in before if key in now]
    captions = [(old, new) for old, new in both if old.caption != new.caption]
    kinds = (
        ("picture", "added", TAKE_OUT, [one for key, one in now.items() if key not in before]),
        ("picture", "removed", PUT_BACK, [one for one in gone if one not in there]),
        ("picture", "made unreadable", PUT_BACK, there),
        ("picture", "replaced", PUT_BACK, [new for old, new in both if old.sha256 != new.sha256]),
        ("caption", "edited", PUT_BACK, [n for old, n in captions if old.caption and n.caption]),
        ("caption", "added", TAKE_OUT, [new for old, new in captions if not old.caption]),
        ("caption", "removed", PUT_BACK, [new for _, new in captions if not new.caption]),
        ("mask", "changed", PUT_BACK, [new for old, new in both if old.mask != new.mask]),
    )
    return [_problem(what, how, remedy, which) for what, how, remedy, which in kinds if which]


def missing_or_replaced(before: Records, folder: Path, reg: Path | None) -> list[Problem]:
    """What can be told where the data set as a whole was refused: by looking at each file alone."""
    now = {}
    for key, one in before.items():
        with contextlib.suppress(OSError), _place(one, folder, reg).open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            now[key] = Recorded(one.path, sha256, one.caption, one.mask, one.is_reg)
    return differences(before, now, folder, reg)


def _place(one: Recorded, folder: Path, reg: Path | None) -> Path:
    root = reg if one.is_reg and reg is not None else folder
    return root.expanduser() / one.path


def _problem(what: str, how: str, remedy: str, which: list[Recorded]) -> Problem:
    names = [shown(one.path) for one in sorted(which, key=lambda one: one.key)]
    more = len(names) - NAMED_AT_MOST
    listed = ", ".join(names[:NAMED_AT_MOST]) + (f" and {more} more" if more > 0 else "")
    if what != "picture":
        listed = f"of {listed}"
    several = len(names) > 1
    head = f"{len(names)} {what}s were" if several else f"1 {what} was"
    if several:
        remedy = remedy.replace("it ", "them ", 1).replace("it was", "they were", 1)
    return Problem(
        f"{head} {how} since this run began: {listed}.", remedy=remedy, path="data.folder"
    )
