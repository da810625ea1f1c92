"""How much memory a run takes: an estimate, shown as a range until the first steps measure it.

Weights are counted from the model's sizes, activations layer by layer (`activations.py`). One factor
stands between them and what a card shows: it fits guide 003's table of an RTX 4090 (SD1, batch 8).
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.models.architecture import Architecture
from engine.planning.activations import text_activations, unet_activations
from engine.settings.optimizers import OPTIMIZERS

CONTEXT_BYTES = 0.7e9
"""What CUDA and the libraries take before anything is loaded; on the CPU, torch and diffusers."""
FIT = 1.59
"""Memory that a card shows over activations counted, fitted on that table."""
SPREAD = 0.15
"""Half-width of the range that is shown."""

KEPT = {
    "loha": 1.06,
    "ia3": 1.25,
    "dylora": 1.05,
    "glora": 1.11,
    "diag-oft": 1.07,
    "boft": 2.77,
    "t-lora": 1.25,
}
"""Saved for backward beside a LoRA's, measured by benchmarks/adapters.py; 1 where it is as much."""
KEPT_WITH_DORA = 1.16

HALF_BYTES = 2
FP32_BYTES = 4
WEIGHT_AND_GRADIENT = 2 * FP32_BYTES
VAE_PARAMETERS = 83_653_863
"""Of the usual VAE, whose widest layers have 512 channels."""
VAE_CHANNELS = 512
DECODED_COPIES = 4
"""Feature maps at full size that a decoder holds at once, each in fp32."""


@dataclass(frozen=True, slots=True)
class MemoryQuestion:
    """What the estimate depends on."""

    architecture: Architecture
    unet_parameters: int
    te_parameters: int
    """Of all text encoders together."""
    trained_parameters: int
    optimizer: str
    half: bool
    batch: int
    pixels: int
    checkpointing: bool
    te_loaded: bool
    te_trained: bool
    tokens: int = 77
    """Of a caption, with start and end."""
    vae_loaded: bool = False
    """Whether pictures are encoded while training; in fp32 always."""
    pictures_pixels: int = 0
    """Of a preview picture; 0 where none are made."""
    half_network: bool = False
    """Whether the trained network itself is kept in half precision."""
    averaged: bool = False
    """Whether a running average of it is kept."""
    kept: float = 1.0
    """What the network keeps for backward, as a multiple of a LoRA's."""


def kept_by(algorithm: str, *, dora: bool) -> float:
    """What a network keeps for backward, as a multiple of a LoRA's."""
    return KEPT.get(algorithm, 1.0) * (KEPT_WITH_DORA if dora else 1.0)


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes by part, and the range around their sum."""

    parts: dict[str, int]
    total: int
    low: int
    high: int
    previews: int = 0
    """While preview pictures are made, when nothing is kept for a backward pass; 0 without pictures."""


def estimate_memory(question: MemoryQuestion) -> MemoryEstimate:
    """V = context + weights + adapter and optimizer + activations."""
    weight_bytes = HALF_BYTES if question.half else FP32_BYTES
    text = question.te_parameters * weight_bytes
    vae = _vae_bytes(question.architecture)
    parts = {
        "context": CONTEXT_BYTES,
        "base": question.unet_parameters * weight_bytes,
        "text": text if question.te_loaded else 0,
        "vae": vae if question.vae_loaded else 0,
        "network": question.trained_parameters * _network_bytes(question),
        "activations": FIT * _activations(question),
    }
    whole = {part: int(size) for part, size in parts.items()}
    total = sum(whole.values())
    previews = 0
    if question.pictures_pixels:
        kept = sum(whole[part] for part in ("context", "base", "network"))
        previews = kept + int(text + vae + _decoding(question))
    return MemoryEstimate(
        whole,
        total,
        low=int(total * (1 - SPREAD)),
        high=int(total * (1 + SPREAD)),
        previews=previews,
    )


def _network_bytes(question: MemoryQuestion) -> float:
    """Weight, gradient, the optimizer's state and the average of one trained number."""
    own = WEIGHT_AND_GRADIENT // 2 if question.half_network else WEIGHT_AND_GRADIENT
    state = OPTIMIZERS[question.optimizer].state_bytes
    return own + state + FP32_BYTES * question.averaged


def _activations(question: MemoryQuestion) -> float:
    unet = unet_activations(
        question.architecture, question.pixels, half=question.half, tokens=question.tokens
    )
    text = 0.0
    if question.te_trained:
        text = text_activations(question.architecture, question.tokens, half=question.half)
    if not question.checkpointing:
        return question.batch * (unet.whole * question.kept + text)
    # Within a block that is computed again, nothing is kept.
    return question.batch * (unet.between + unet.largest + text)


def _vae_bytes(architecture: Architecture) -> float:
    widest = max(architecture.vae["block_out_channels"])
    return FP32_BYTES * VAE_PARAMETERS * float(widest / VAE_CHANNELS) ** 2


def _decoding(question: MemoryQuestion) -> float:
    """The last level of a decoder works at full size with the channels of the level before."""
    channels = question.architecture.vae["block_out_channels"][:2][-1]
    return float(DECODED_COPIES * FP32_BYTES * channels * question.pictures_pixels)
