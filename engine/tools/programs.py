"""The form that a module needs for each program that loads network files. No torch.

Which programs compute the trained change from a module as it is, `engine.networks.consumers` tells; here
is what the others get instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from engine.networks.consumers import BADNESS, Level, cells_of, parts_of
from engine.tools.requests import Program

Shape = tuple[int, ...]
Axis = Literal["", "input", "output"]
Action = Literal[
    "copy", "lora", "diff", "two-factors", "plain-lokr", "glora-old", "over-base", "vector", "drop"
]
"""copy          as it is
lora          the nearest LoRA
diff          the whole difference
two-factors   a tucker LoRA as a plain one, exactly
plain-lokr    a tucker LoKr with a whole second half, exactly
glora-old     the old layout, its scale in the factors
over-base     magnitudes for programs that divide by |W|
vector        magnitudes in PEFT's shape
drop          nothing: the program cannot hold it"""


@dataclass(frozen=True, slots=True)
class Payload:
    """What a module is, as far as programs differ over it."""

    algorithm: str
    shapes: Mapping[str, Shape]
    component: str
    """unet, te or te2."""
    axis: Axis = ""
    """Of a DoRA's magnitudes."""
    convolution: bool = False
    on_input: bool = False
    """(IA)³ on the inputs."""

    @property
    def tucker(self) -> bool:
        """Whether there is a core tensor."""
        return any(suffix in self.shapes for suffix in ("lora_mid.weight", "lokr_t2", "hada_t1"))


@dataclass(frozen=True, slots=True)
class Whole:
    """What one module does not tell of its file."""

    dora_everywhere: Mapping[str, bool]
    """By component, whether every module has magnitudes."""


def action_for(program: Program, payload: Payload, whole: Whole) -> Action:
    """The form in which a program loads a module and computes its change."""
    if program == "diffusers":
        return _for_diffusers(payload, whole)
    if payload.algorithm == "t-lora":
        # lycoris-lora reads one, but none of the fixed factors that the change is measured from.
        return "lora"
    worst = _worst(program, payload)
    if worst == "yes" or (worst == "partly" and _exact_at_one(payload)):
        return "copy"
    match payload.algorithm:
        case "norm":
            return "drop"
        case "glora" if program == "a1111" and not payload.convolution:
            return "glora-old"
        case "lokr" if payload.tucker and not payload.axis and program in ("comfyui", "forge"):
            return "plain-lokr"
        case _ if payload.axis == "output" and program in ("comfyui", "forge"):
            # A tucker's second half cannot be read there, magnitudes or not.
            return "diff" if "lokr_t2" in payload.shapes else "over-base"
        case _:
            return "diff"


def _worst(program: Program, payload: Payload) -> Level:
    """What the program does with the module as it is."""
    parts = parts_of({"": payload.shapes}, on_input=("",) if payload.on_input else ())
    levels: list[Level] = [cell.level for part in parts for cell in cells_of(part, program)]
    return max(levels, key=lambda level: BADNESS[level], default="no")


def _exact_at_one(payload: Payload) -> bool:
    """A rotation that ComfyUI turns rightly at strength 1."""
    if payload.algorithm == "boft":
        return True
    return payload.algorithm == "diag-oft" and "rescale" not in payload.shapes


def _for_diffusers(payload: Payload, whole: Whole) -> Action:
    if payload.algorithm == "norm":
        return "drop"
    if payload.algorithm != "lora":
        return "lora"
    if payload.axis:
        fits = payload.axis == "output" and whole.dora_everywhere[payload.component]
        return "vector" if fits and not payload.tucker else "lora"
    return "two-factors" if payload.tucker else "copy"


NOTES: dict[tuple[Program, str], str] = {
    ("comfyui", "diag-oft"): "ComfyUI computes this exactly at strength 1 only; "
    "for other strengths use --to diff.",
    ("comfyui", "boft"): "ComfyUI computes this exactly at strength 1 only; "
    "for other strengths use --to diff.",
}
"""What a user of a program should know of an algorithm that is copied."""
ACTION_NOTES: dict[tuple[Program, Action], str] = {
    ("comfyui", "over-base"): "The magnitudes fit ComfyUI as it is: exact for this network alone, "
    "not stacked with others. --to diff is exact always.",
    ("forge", "over-base"): "The magnitudes fit Forge as it is: exact for this network alone, "
    "not stacked with others. --to diff is exact always.",
    ("diffusers", "drop"): "diffusers does not load trained norms.",
}
