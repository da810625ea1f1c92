"""What does not go together in the answers about the network, each with what to do. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.networks.shapes import WITH_DORA
from engine.settings.optimizers import ADAPTIVE
from lyctui import text
from lyctui.algorithms import TITLES, with_answers
from lyctui.draft import network_keys
from lyctui.fields import form_field, to_text
from lyctui.network_numbers import Numbers, Outcome, concerns_network, outcome
from lyctui.readers import gained, limits, listed

if TYPE_CHECKING:
    from engine.errors import Problem
    from lyctui.wizard import Wizard

LARGE_RANK, MANY_PICTURES = 128, 100
"""Guide 002 keeps rank 128 for a hundred pictures and more."""
RANKED = frozenset({"lora", "locon", "loha", "dylora", "glora", "t-lora"})
WIDE_RATE = 5e-3
NARROWING: dict[str, tuple[Any, ...]] = {
    "network.dora": ("input", "output", "off"),
    "network.train_norm": (False,),
    "network.rescaled": (False,),
    "network.tucker": (False,),
    "network.decompose_both": (False,),
    "network.unbalanced": (False,),
}
"""Options that keep some programs from reading the file, and what else they may be."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """One sentence or two, and how grave it is."""

    words: str
    grave: bool = False
    """Whether the run cannot start so."""
    path: str = ""


def conflicts(wizard: Wizard, now: Outcome | None, narrowed: tuple[str, ...]) -> list[Conflict]:
    """Everything that the page says of the present answers, the gravest first."""
    found = [
        Conflict(f"{problem.what} {problem.remedy}".strip(), grave=True, path=problem.path)
        for problem in _problems(wizard, now)
    ]
    found += [Conflict(words) for words in (*_without_effect(wizard), *narrowed)]
    if isinstance(now, Numbers):
        found += [Conflict(words) for words in (*_sizes(wizard, now), *_rates(wizard))]
    return found


def _problems(wizard: Wizard, now: Outcome | None) -> list[Problem]:
    """What refuses the network; a problem that concerns another page only is told there."""
    every = (*wizard.checked.problems, *wizard.fill_problems, *wizard.plan_problems)
    found = {problem.what: problem for problem in every if concerns_network(problem)}
    if now is not None and not isinstance(now, Numbers) and concerns_network(now.problem):
        # One sentence for all layers that BOFT cannot cut, instead of one for each width.
        if wizard.draft.algorithm == "boft":
            found = {what: one for what, one in found.items() if "BOFT has no block" not in what}
        found.setdefault(now.problem.what, now.problem)
    return list(found.values())


def _without_effect(wizard: Wizard) -> list[str]:
    """Answers about the network that the chosen algorithm does not know."""
    draft, algorithm = wizard.draft, wizard.draft.algorithm
    known = network_keys(algorithm)
    if known is None:
        return []
    said = []
    for path, value in draft.answers.items():
        section, _, key = path.partition(".")
        if section != "network" or key in known or not value or value == "off":
            continue
        owner = next((one for one in TITLES if key in (network_keys(one) or ())), None)
        if owner is None:
            continue
        form = form_field(path, owner)
        owners = [TITLES[one] for one in TITLES if key in (network_keys(one) or ())]
        said.append(
            f"{form.label} {to_text(form, value)} has no effect: {TITLES[algorithm]} does not know "
            f"it. It is for {listed(owners)}."
        )
    return said


def _sizes(wizard: Wizard, now: Numbers) -> list[str]:
    said = []
    rank = now.choice.rank
    survey = wizard.survey
    pictures = survey.training_images if survey is not None else 0
    wide = isinstance(rank, int) and rank >= LARGE_RANK and now.choice.algorithm in RANKED
    if wide and pictures < MANY_PICTURES:
        size = text.filesize(now.file_bytes)
        said.append(f"Rank {rank} makes {size}; guide 002 keeps that for 100 pictures and more.")
    if now.unlimited:
        what = "the rank no longer limits" if now.unlimited < now.module_count else "no limit in"
        said.append(
            f"LoKr: {what} {text.counted(now.unlimited, 'module')} of "
            f"{text.grouped(now.module_count)}; their second factor is whole. A lower rank or a "
            "smaller factor limits them, rank full says so for all."
        )
    return said


def _rates(wizard: Wizard) -> list[str]:
    rate = wizard.effective("optim.lr")
    adaptive = wizard.effective("optim.optimizer") in ADAPTIVE
    if wizard.draft.algorithm == "ia3" and rate and rate < WIDE_RATE and not adaptive:
        return [
            f"(IA)³ hardly learns at a rate of {text.rate(rate)}: guide 001 wants 5e-3 to 1e-2. "
            "The advice for what learns too little (t) sets it."
        ]
    return []


def narrowings(wizard: Wizard, now: Outcome) -> tuple[str, ...]:
    """Options that keep programs from reading the file: which, why, and what they would read."""
    if not isinstance(now, Numbers):
        return ()
    said = []
    for path, values in NARROWING.items():
        value = getattr(now.choice, path.partition(".")[2])
        known = path != "network.dora" or now.choice.algorithm in WITH_DORA
        if not value or value == "off" or not known:
            continue
        for other in values:
            if other == value:
                continue
            after = outcome(wizard, with_answers(wizard.draft, {path: other}))
            more = gained(now.readings, after.readings) if isinstance(after, Numbers) else []
            if more:
                said.append(_narrowed(wizard, path, value, other, more, now))
                break
    return tuple(said)


def _narrowed(
    wizard: Wizard, path: str, value: Any, other: Any, more: list[str], now: Numbers
) -> str:
    form = form_field(path, wizard.draft.algorithm)
    lost = [one for one in now.readings if one.program in more]
    return (
        f"{form.label} {to_text(form, value)}: {' '.join(limits(lost))} {form.label} "
        f"{to_text(form, other)} suits {listed(more)} better."
    )
