"""What a file is, told from its tensor names and shapes. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
    ("lokr_w1", "a LoKr"),
    ("lokr_w1_a", "a LoKr"),
    ("oft_blocks", "an OFT or BOFT"),
    ("a1.weight", "a GLoRA"),
    ("q_layer.weight", "a T-LoRA"),
    ("on_input", "an (IA)³"),
    ("w_norm", "a network with trained norms"),
    ("diff", "a network of full differences"),
    ("lora_down.weight", "a LoRA"),
    ("lora_up.weight", "a LoRA"),
    ("dora_scale", "a DoRA"),
)
"""What a module is meant to be whose tensors are not those of any algorithm."""
PEFT_ALGORITHMS: tuple[tuple[str, str], ...] = (
    (".oft_R.weight", "an OFT in the layout of PEFT and OneTrainer"),
    (".oft_R", "an OFT in the layout of PEFT and OneTrainer"),
    (".hada_w1_a", "a LoHa in the layout of PEFT"),
    (".lokr_w1", "a LoKr in the layout of PEFT"),
    (".lokr_w1_a", "a LoKr in the layout of PEFT"),
    (".ia3_l", "an (IA)³ in the layout of PEFT"),
    (".boft_R", "a BOFT in the layout of PEFT"),
)
"""By the end of a tensor's name: scales and rotations of these are not in the file, or other ones."""
OTHER_LAYOUTS: tuple[tuple[str, str], ...] = (
    ("model.diffusion_model.", "a base model"),
    ("cond_stage_model.", "a base model"),
    ("first_stage_model.", "a base model"),
    ("emb_params", "an embedding"),
    ("string_to_param", "an embedding"),
    ("clip_l", "an embedding"),
    ("clip_g", "an embedding"),
    ("transformer.", "a LoRA for a transformer model"),
    ("lora_transformer_", "a LoRA for a transformer model"),
    ("diffusion_model.", "a LoRA for a transformer model"),
    ("oft_unet_", "an OFT of kohya's own format"),
    ("lora_unet_double_blocks_", "a LoRA for FLUX"),
    ("lora_unet_joint_blocks_", "a LoRA for Stable Diffusion 3"),
    ("lora_prior_", "a LoRA for Stable Cascade"),
)
"""By the beginning of a tensor's name."""


def foreign_kind(shapes: Shapes) -> Problem | None:
    """What the file is, where it is nothing that can be read; None where it may be."""
    what = _layout(shapes) or _peft_algorithm(shapes)
    if what is None:
        return None
    return Problem(
        f"This is {what}; it cannot be trained on.",
        remedy="Give a LoRA or another network of the LyCORIS family.",
        path="network.weights",
    )


def for_tools(problem: Problem) -> Problem:
    """A refusal of the reader without what it says about training."""
    what = problem.what.partition("; it cannot be trained on")[0].rstrip(".") + "."
    return Problem(what, problem.where, "Give a network file.")


def meant_kind(suffixes: Iterable[str]) -> str | None:
    """What a module seems to be, in words; for one that `algorithm_of` does not know."""
    found = frozenset(suffixes)
    return next((what for suffix, what in OTHER_ALGORITHMS if suffix in found), None)


def _layout(shapes: Shapes) -> str | None:
    for start, what in OTHER_LAYOUTS:
        if any(key.startswith(start) for key in shapes):
            return what
    return None


def _peft_algorithm(shapes: Shapes) -> str | None:
    for end, what in PEFT_ALGORITHMS:
        # Modules of one word are those of kohya's and LyCORIS' own files.
        if any(key.endswith(end) and (key.count(".") > 1 or "oft_R" in end) for key in shapes):
            return what
    return None
