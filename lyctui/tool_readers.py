"""Which programs will read what a conversion writes, and how such verdicts are said. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TypeAlias

from engine.networks.consumers import TITLES, Part, Verdict, attention_of, parts_of
from engine.networks.consumers import readers as verdicts
from engine.networks.content import Content
from engine.networks.layouts import Found
from engine.tools.programs import Action, Payload, Whole, action_for
from engine.tools.requests import ConvertRequest

Verdicts: TypeAlias = Mapping[str, tuple[str, str]]
"""Program to "yes", "partly" or "no", and what there is to know."""
LEADS = {"yes": "", "partly": "in part by ", "no": "not by "}
EXACT_FOR_ONE: frozenset[Action] = frozenset({"over-base", "vector"})
"""Forms of a DoRA that are made for one program."""


def after_conversion(content: Content, request: ConvertRequest) -> Verdicts:
    """What each program will do with what a conversion writes."""
    actions = {found.name: _action(content, found, request) for found in content.sources}
    parts = [part for found in content.sources for part in _part_after(found, actions[found.name])]
    kept = {found.name: found.shapes for found in content.sources if actions[found.name] == "copy"}
    told = verdicts(_summed(parts), attention_of(kept, content.family))
    if request.program is not None and EXACT_FOR_ONE & set(actions.values()):
        told[request.program] = Verdict("yes", "")
    return {TITLES[program]: verdict for program, verdict in told.items()}


def _action(content: Content, found: Found, request: ConvertRequest) -> Action:
    """As the tool decides it, from what a header tells."""
    payload = _payload(found)
    action: Action = "copy"
    if request.program is not None:
        action = action_for(request.program, payload, _whole(content))
    if action == "drop" or payload.algorithm == "norm":
        return action
    if request.to == "diff":
        return "diff"
    if request.to == "lora":
        return "lora"
    old = request.glora == "old" and payload.algorithm == "glora" and request.program is None
    return "glora-old" if old else action


def _payload(found: Found) -> Payload:
    part = next(iter(parts_of({found.name: found.shapes})), None)
    return Payload(
        "" if part is None else part.algorithm,
        found.shapes,
        _component(found.name),
        "" if part is None or part.dora == "off" else part.dora,
        any(len(shape) == 4 for shape in found.shapes.values()),
    )


def _component(name: str) -> str:
    if name.startswith("lora_te2_"):
        return "te2"
    return "te" if name.startswith("lora_te") else "unet"


def _whole(content: Content) -> Whole:
    dora: dict[str, bool] = {}
    for found in content.sources:
        component = _component(found.name)
        dora[component] = dora.get(component, True) and "dora_scale" in found.shapes
    return Whole(dora)


def _part_after(found: Found, action: Action) -> Iterable[Part]:
    if action == "drop":
        return
    for part in parts_of({found.name: found.shapes}):
        match action:
            case "lora" | "two-factors":
                yield Part("lora")
            case "diff":
                yield Part("full")
            case "plain-lokr":
                yield replace(part, forms=part.forms - {"tucker"})
            case "glora-old":
                yield replace(part, forms=part.forms | {"old"})
            case _:
                yield part


def _summed(parts: Iterable[Part]) -> list[Part]:
    """One part for each kind: some programs count tensors."""
    found: dict[Part, int] = {}
    for part in parts:
        kind = replace(part, tensors=0)
        found[kind] = found.get(kind, 0) + part.tensors
    return [replace(kind, tensors=tensors) for kind, tensors in found.items()]


def words_of(told: Verdicts) -> str:
    """ "ComfyUI, A1111 and Forge; in part by diffusers; not by LyCORIS"."""
    parts: list[str] = []
    for level, lead in LEADS.items():
        names = [program for program, (found, _) in told.items() if found == level]
        if names:
            parts.append(lead + _listed(names))
    return "; ".join(parts)


def reasons_of(told: Verdicts) -> list[str]:
    """A sentence for each program that does not read all of it, or has a condition."""
    return [
        f"{program} {reason or 'does not read it'}."
        for program, (level, reason) in told.items()
        if level != "yes" or reason
    ]


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
