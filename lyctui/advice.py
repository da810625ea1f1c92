"""What the guides advise after a training that went wrong, or for a wish: concrete changes. No torch.

Each change is a few answers with the guide that says so and why; what it would come to in numbers is
told by `network_numbers`. A change that changes nothing is not offered.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lyctui import text
from lyctui.algorithms import with_answers
from lyctui.network_numbers import Impossible, Numbers, Outcome, outcome
from lyctui.readers import loads_in
from lyctui.remedies import (
    DIAG_OFT,
    FULL,
    FULL_EVERYWHERE,
    GLORA,
    LOCON,
    SMALL_LOKR,
    SMALL_LORA,
    THIN_LOKR,
    WIDE_LOKR,
    Change,
    Maker,
    Now,
    alpha_as_rank,
    dora,
    fewer_epochs,
    higher_rank,
    higher_rate,
    ia3,
    ia3_rate,
    loha,
    lower_rank,
    lower_rate,
    more_epochs,
    near_full,
    plain_lora,
    style_epochs,
    whole_layers,
)

if TYPE_CHECKING:
    from lyctui.wizard import Wizard

MOST_CHANGES = 4


@dataclass(frozen=True, slots=True)
class Topic:
    """One question, and the changes that answer it, the first ones first."""

    title: str
    note: str
    makers: tuple[Maker, ...]


TOPICS: dict[str, Topic] = {
    "little": Topic(
        "Learnt too little",
        "details are missing, mushy, the subject hardly shows",
        (
            ia3_rate,
            near_full,
            higher_rank,
            dora,
            more_epochs,
            alpha_as_rank,
            whole_layers,
            higher_rate,
        ),
    ),
    "well": Topic(
        "Learnt too well",
        "stiff poses, burnt colours, the pictures' style leaks",
        (fewer_epochs, plain_lora, loha, lower_rank, SMALL_LOKR, ia3, DIAG_OFT, lower_rate),
    ),
    "small": Topic(
        "Small file",
        "as little space as possible",
        (SMALL_LOKR, ia3, THIN_LOKR, SMALL_LORA),
    ),
    "style": Topic(
        "A style",
        "a manner of drawing or photographing",
        (LOCON, style_epochs, GLORA, ia3),
    ),
    "several": Topic(
        "Several concepts",
        "in one file, or mixed with other networks",
        (loha, LOCON, SMALL_LOKR),
    ),
    "best": Topic(
        "Best quality",
        "size does not matter",
        (FULL, FULL_EVERYWHERE, WIDE_LOKR, near_full),
    ),
}
"""The flow of guides 001 (part 7) and 003 (short version)."""


def changes(wizard: Wizard, topic: str) -> tuple[Change, ...]:
    """At most four changes of the present answers, those that the guides name first."""
    now = Now(wizard)
    found: dict[str, Change] = {}
    for make in TOPICS[topic].makers:
        change = make(now)
        if change is not None and _changes_something(now, change):
            found.setdefault(change.title, change)
    offered = tuple(found.values())
    if topic == "small":
        offered = _smaller(wizard, offered)
    return offered[:MOST_CHANGES]


def _smaller(wizard: Wizard, offered: tuple[Change, ...]) -> tuple[Change, ...]:
    """Those that make the file smaller."""
    now = outcome(wizard, wizard.draft)
    if not isinstance(now, Numbers):
        return offered
    sizes = [(change, outcome_of(wizard, change)) for change in offered]
    return tuple(
        change
        for change, after in sizes
        if isinstance(after, Numbers) and after.file_bytes < now.file_bytes
    )


def _changes_something(now: Now, change: Change) -> bool:
    return any(
        path in now.wizard.draft.answers if value is None else now[path] != value
        for path, value in change.answers.items()
    )


def outcome_of(wizard: Wizard, change: Change) -> Outcome:
    """What the run would come to with a change."""
    return outcome(wizard, with_answers(wizard.draft, change.answers))


def consequence(
    change: Change, before: Outcome | None, after: Outcome | None, *, short: bool = False
) -> str:
    """ "file 37.7 to 12.3 MB · memory 8.9 to 8.7 GiB · speed 1.00 to 0.83 · loads in …".

    The short form has arrows, and the programs as letters.
    """
    if after is None:
        return "…"
    if isinstance(after, Impossible):
        return f"Not possible now: {after.words}"
    old = before if isinstance(before, Numbers) else None
    parts = []
    for name, show in SHOWN.items():
        step = _step(show(old) if old is not None else None, show(after), "→" if short else "to")
        parts.append(step if short and name != "speed" else f"{name} {step}")
    if not short:
        parts[-1] = f"loads in {loads_in(after.readings)}"
    return " · ".join([*parts, *filter(None, [change.effect])])


SHOWN: dict[str, Callable[[Numbers], str]] = {
    "file": lambda one: text.filesize(one.file_bytes),
    "memory": lambda one: text.memory(one.memory_bytes),
    "speed": lambda one: f"{one.speed:.2f}",
    "loads in": lambda one: one.letters,
}


def _step(before: str | None, after: str, to: str) -> str:
    if before is None or before == after:
        return after
    first, _, unit = before.rpartition(" ")
    shared = unit and after.endswith(f" {unit}")
    return f"{first if shared else before} {to} {after}"
