"""What each program that loads network files needs of a module. No torch.

Rests on what the programs' loaders do with a module's tensors; where one computes something else than the
change that was trained, the module gets another form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

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

    @property
    def plain_lokr(self) -> bool:
        """Whether lycoris-lora finds the factor again: first half whole, and the smaller pair in it."""
        return "lokr_w1" in self.shapes and not self.tucker


@dataclass(frozen=True, slots=True)
class Whole:
    """What one module does not tell of its file."""

    dora_everywhere: Mapping[str, bool]
    """By component, whether every module has magnitudes."""


def action_for(program: Program, payload: Payload, whole: Whole) -> Action:
    """The form in which a program loads a module and computes its change."""
    match program:
        case "comfyui" | "forge":
            return _comfyui_or_forge(program, payload)
        case "a1111":
            return _a1111(payload)
        case "diffusers":
            return _diffusers(payload, whole)
        case "lycoris":
            return _lycoris(payload)


def _comfyui_or_forge(program: Program, payload: Payload) -> Action:
    if payload.axis == "output":
        return "over-base"
    match payload.algorithm:
        case "lokr" if payload.tucker:
            return "plain-lokr"
        case "ia3":
            return "diff"
        case "t-lora":
            return "lora"
        case "diag-oft" if program == "forge" or "rescale" in payload.shapes:
            return "diff"
        case "boft" if program == "forge":
            return "diff"
        case "norm" if program == "comfyui" and payload.component != "unet":
            return "drop"
        case _:
            return "copy"


def _a1111(payload: Payload) -> Action:
    if payload.axis == "output":
        return "diff"
    match payload.algorithm:
        case "t-lora":
            return "lora"
        case "glora":
            return "diff" if payload.convolution else "glora-old"
        case "ia3" if payload.convolution and not payload.on_input:
            return "diff"
        case _:
            return "copy"


def _diffusers(payload: Payload, whole: Whole) -> Action:
    if payload.algorithm == "norm":
        return "drop"
    if payload.algorithm != "lora":
        return "lora"
    if payload.axis:
        fits = payload.axis == "output" and whole.dora_everywhere[payload.component]
        return "vector" if fits and not payload.tucker else "lora"
    return "two-factors" if payload.tucker else "copy"


def _lycoris(payload: Payload) -> Action:
    if payload.axis == "input":
        return "diff"
    match payload.algorithm:
        case "ia3":
            return "diff"
        case "t-lora":
            return "lora"
        case "lokr" if not payload.plain_lokr or _unbalanced(payload.shapes):
            return "diff"
        case _:
            return "copy"


def _unbalanced(shapes: Mapping[str, Shape]) -> bool:
    """Whether the halves are not the smaller and the larger of each pair of factors."""
    left = shapes["lokr_w1"]
    right = shapes.get("lokr_w2")
    outer, inner = (right[0], right[1]) if right else (shapes["lokr_w2_a"][0], 0)
    return left[0] > outer or (inner > 0 and left[1] > inner)


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
    ("comfyui", "drop"): "ComfyUI does not load norms of text encoders.",
    ("diffusers", "drop"): "diffusers does not load trained norms.",
}
WHOLE_ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")
"""A1111 keeps these of one layer as one, and applies all four or none."""
FUSED_TEXT = {"sd2": ("te",), "sdxl": ("te2",)}
"""Text encoders that A1111 holds so, by family."""


def lacks_attention(family: str | None, places: Mapping[tuple[str, str], object]) -> int:
    """How many attention layers A1111 would leave out silently, because parts of four are missing."""
    if family is None:
        return 0
    parts: dict[tuple[str, str], set[str]] = {}
    for component, path in places:
        head, _, last = path.rpartition(".")
        if component in FUSED_TEXT.get(family, ()) and last in WHOLE_ATTENTION:
            parts.setdefault((component, head), set()).add(last)
    return sum(len(found) < len(WHOLE_ATTENTION) for found in parts.values())
