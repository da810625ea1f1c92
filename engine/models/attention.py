"""How a U-Net computes its attention. No torch at import."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

from engine.errors import EnvironmentFault, Problem

if TYPE_CHECKING:
    from engine.models.family import Attention


def attention_problems(kind: Attention) -> tuple[Problem, ...]:
    """What stands against a kind of attention on this machine; looks for xformers without importing it."""
    if kind != "xformers" or importlib.util.find_spec("xformers") is not None:
        return ()
    return (
        Problem(
            "xformers is not installed.",
            remedy="Install it (pip install xformers), or set train.attention to sdpa, which is as "
            "fast on today's cards.",
            path="train.attention",
        ),
    )


def set_unet_attention(unet: Any, kind: Attention) -> None:
    """torch's fused attention ("sdpa"), xformers', or softmax(Q K^T / sqrt(d)) V as written ("math").

    Raises EnvironmentFault where xformers is asked for and not installed.
    """
    from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

    problems = attention_problems(kind)
    if problems:
        raise EnvironmentFault(*problems)
    if kind == "xformers":
        unet.enable_xformers_memory_efficient_attention()
    else:
        unet.set_attn_processor(AttnProcessor() if kind == "math" else AttnProcessor2_0())
