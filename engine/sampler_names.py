"""Names of the samplers. A file of its own: a command line that only names them needs no settings."""

from __future__ import annotations

from typing import Literal

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
