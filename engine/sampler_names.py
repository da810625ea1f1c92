"""Names of the samplers. A file of its own: a command line that only names them needs no settings."""

from __future__ import annotations

from typing import Literal, get_args

SamplerName = Literal[
    "ddim",
    "euler",
    "euler_a",
    "heun",
    "dpmpp_2m",
    "dpmpp_2m_karras",
    "dpmpp_sde_karras",
    "unipc",
    "lms",
    "pndm",
    "ddpm",
]
SAMPLER_NAMES: tuple[SamplerName, ...] = get_args(SamplerName)
KOHYA_NAMES: dict[str, SamplerName] = {
    "ddim": "ddim",
    "pndm": "pndm",
    "lms": "lms",
    "k_lms": "lms",
    "euler": "euler",
    "k_euler": "euler",
    "euler_a": "euler_a",
    "k_euler_a": "euler_a",
    "heun": "heun",
    "dpmsolver": "dpmpp_2m",
    "dpmsolver++": "dpmpp_2m",
}
"""Samplers of sd-scripts' preview pictures, and ours."""


def sampler_named(name: str) -> SamplerName | None:
    """The sampler of this name, ours or sd-scripts' in any case; None where there is none."""
    ours = next((one for one in SAMPLER_NAMES if one == name), None)
    return ours or KOHYA_NAMES.get(name.lower())
