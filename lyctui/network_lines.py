"""The network page in whole lines, for the numbered questions: no columns, no signs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lyctui import text
from lyctui.algorithms import ABOUT, TITLES
from lyctui.conflicts import conflicts, narrowings
from lyctui.network_numbers import Impossible, Outcome, outcome, outcomes
from lyctui.network_words import chosen_lines
from lyctui.readers import loads_in
from lyctui.report import plain

if TYPE_CHECKING:
    from lyctui.wizard import Wizard


def algorithm_rows(wizard: Wizard) -> list[str]:
    """One line an algorithm: what it is good at, stars, size, memory, speed, who loads it."""
    found = outcomes(wizard) if wizard.hardware is not None else {}
    return [f"{TITLES[name]}: {_row(name, found.get(name))}" for name in ABOUT]


def _row(name: str, found: Outcome | None) -> str:
    good = ABOUT[name].good
    if found is None:
        return f"{good}."
    if isinstance(found, Impossible):
        return f"{good}. Not now: {found.words}"
    fidelity, flexibility = found.stars
    stars = (
        f"fidelity {fidelity} and flexibility {flexibility} of 4 (guide 003)"
        if fidelity
        else "no guide compares it"
    )
    return (
        f"{good}; {stars}; {text.filesize(found.file_bytes)}, memory "
        f"{text.memory(found.memory_bytes)}, speed {found.speed:.2f}; loads in "
        f"{loads_in(found.readings)}."
    )


def chosen_words(wizard: Wizard) -> list[str]:
    """What the chosen network comes to, and what does not go together."""
    if wizard.hardware is None:
        return []
    now = outcome(wizard, wizard.draft)
    said = [plain(line) for line in chosen_lines(wizard, now)]
    for conflict in conflicts(wizard, now, narrowings(wizard, now)):
        said.append(f"{'Error' if conflict.grave else 'Note'}: {conflict.words}")
    return said
