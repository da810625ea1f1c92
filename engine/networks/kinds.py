"""What a file is, told from its tensor names and shapes. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from engine.errors import Problem

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Sign:
    """Tensor suffixes by which the modules of an algorithm are known."""

    needed: tuple[tuple[frozenset[str], ...], ...]
    """Of each group one way must be complete."""
    known: frozenset[str]
    """Any other suffix makes it something else."""

    def fits(self, suffixes: frozenset[str]) -> bool:
        """Whether a module with these tensors is of the algorithm."""
        if not suffixes <= self.known:
            return False
        return all(any(way <= suffixes for way in ways) for ways in self.needed)


def _sign(*needed: str, more: str) -> Sign:
    ways = tuple(tuple(frozenset(way.split("+")) for way in group.split("|")) for group in needed)
    every = frozenset().union(*(way for group in ways for way in group))
    return Sign(ways, every | frozenset(more.split()))


SIGNS: dict[str, Sign] = {
    "lora": _sign("lora_up.weight+lora_down.weight", more="lora_mid.weight alpha dora_scale"),
    "loha": _sign(
        "hada_w1_a+hada_w1_b+hada_w2_a+hada_w2_b", more="hada_t1 hada_t2 alpha dora_scale"
    ),
    "lokr": _sign(
        "lokr_w1|lokr_w1_a+lokr_w1_b",
        "lokr_w2|lokr_w2_a+lokr_w2_b",
        more="lokr_t2 alpha dora_scale",
    ),
    "ia3": _sign("weight+on_input", more=""),
    "glora": _sign("a1.weight+a2.weight+b1.weight+b2.weight", more="alpha"),
    "diag-oft": _sign("oft_blocks", more="rescale alpha"),
    "full": _sign("diff", more="diff_b"),
    "t-lora": _sign(
        "q_layer.weight+p_layer.weight+lambda_layer",
        more="base_q.weight base_p.weight base_lambda alpha",
    ),
    "norm": _sign("w_norm+b_norm", more=""),
}
"""LoCon and DyLoRA write the tensors of a LoRA; a BOFT differs from a Diag-OFT by its axes."""
RANK_FROM = (
    "lora_down.weight",
    "hada_w1_b",
    "lokr_w2_b",
    "lokr_w1_b",
    "a2.weight",
    "q_layer.weight",
)
"""The first axis of the first of these is the rank, as consumers read it."""
BOFT_AXES = 4


def algorithm_of(shapes: Shapes) -> str | None:
    """The algorithm that a module's tensor names and shapes tell, or None."""
    suffixes = frozenset(shapes)
    found = next((name for name, sign in SIGNS.items() if sign.fits(suffixes)), None)
    if found == "diag-oft" and len(shapes["oft_blocks"]) == BOFT_AXES:
        return "boft"
    return found


OTHER_ALGORITHMS: tuple[tuple[str, str], ...] = (
    ("hada_w1_a", "a LoHa"),
    ("dora_scale", "a DoRA"),
    ("lora_magnitude_vector", "a DoRA in the diffusers layout"),
    ("oft_blocks", "an OFT or BOFT"),
    ("oft_R.weight", "an OFT in the PEFT layout"),
    ("a1.weight", "a GLoRA"),
    ("q_layer.weight", "a T-LoRA"),
    ("on_input", "an (IA)³"),
    ("w_norm", "a network with trained norms"),
    ("diff", "a network of full differences"),
    ("diff_b", "a network of full differences"),
)
OTHER_LAYOUTS: tuple[tuple[str, str], ...] = (
    ("model.diffusion_model.", "a base model"),
    ("cond_stage_model.", "a base model"),
    ("first_stage_model.", "a base model"),
    ("emb_params", "an embedding"),
    ("string_to_param", "an embedding"),
    ("base_model.model.", "a LoRA in the PEFT layout"),
    ("text_encoder.", "a LoRA in the diffusers layout"),
    ("text_encoder_2.", "a LoRA in the diffusers layout"),
    ("unet.", "a LoRA in the diffusers layout"),
    ("transformer.", "a LoRA for a transformer model"),
    ("oft_unet_", "an OFT of kohya's own format"),
    ("lora_unet_input_blocks_", "a network with the block names of the original layout"),
    ("lora_unet_output_blocks_", "a network with the block names of the original layout"),
    ("lora_unet_middle_block_", "a network with the block names of the original layout"),
    ("lora_unet_double_blocks_", "a LoRA for FLUX"),
    ("lora_te2_", "an SDXL network"),
)


def foreign_kind(shapes: Shapes, metadata: Mapping[str, str]) -> Problem | None:
    """What the file is, where it is nothing that can be read; None where it may be."""
    what = _layout(shapes) or _algorithm(shapes) or _family(metadata)
    if what is None and not any(key.startswith(("lora_", "lycoris_")) for key in shapes):
        what = "no network file that is known"
    if what is None:
        return None
    return Problem(
        f"This is {what}; it cannot be trained on.",
        remedy="Give a LoRA or LoKr of Stable Diffusion 1 with kohya's names.",
        path="network.weights",
    )


def _layout(shapes: Shapes) -> str | None:
    for start, what in OTHER_LAYOUTS:
        if any(key.startswith(start) for key in shapes):
            return what
    return None


def _algorithm(shapes: Shapes) -> str | None:
    suffixes = {key.partition(".")[2] for key in shapes}
    for suffix, what in OTHER_ALGORITHMS:
        if suffix in suffixes:
            return what
    return None


def _family(metadata: Mapping[str, str]) -> str | None:
    version = metadata.get("ss_base_model_version", "")
    if version.startswith("sdxl"):
        return "an SDXL network"
    if version.startswith("sd_v2") or metadata.get("ss_v2") == "True":
        return "a network of Stable Diffusion 2"
    return None
