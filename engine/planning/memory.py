"""How much memory a run takes: an estimate, shown as a range until the first steps measure it.

The formula is a first one, fitted on guide 003's table of an RTX 4090 (SD1, batch 8,
mean error 2.5 % there); elsewhere it is a guess, and every caller says "estimate".
"""

from __future__ import annotations

from dataclasses import dataclass

CONTEXT_BYTES = 0.7e9
"""What CUDA and the libraries take before anything is loaded; on the CPU, torch and diffusers."""
FIT = 1.43
"""Measured memory over counted activations, fitted on that table."""
SPREAD = 0.15
"""Half-width of the range that is shown."""

REFERENCE_PIXELS = 512 * 512
REFERENCE_CHANNELS = 320
ACTIVATION_BYTES = 1.211e9
"""Saved for backward for one 512 px picture of SD1 under autocast."""
CHECKPOINTED_BYTES = (0.063 + 0.090) * 1e9
"""The same with checkpointing, for each picture, beside the largest block's."""
LARGEST_BLOCK_BYTES = 0.053e9
FP32_FACTOR = 1.6
"""fp32 keeps four bytes where autocast keeps two to four."""
TEXT_ENCODER_BYTES = 0.25e9 / 8
"""Saved for backward for each caption where the text encoder is trained."""

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

PARAMETER_BYTES = {"adamw": 16, "adamw8bit": 10, "prodigy": 28}
"""For each trained number: fp32 weight, gradient and the optimizer's own copies."""


@dataclass(frozen=True, slots=True)
class MemoryQuestion:
    """What the estimate depends on."""

    unet_parameters: int
    te_parameters: int
    channels: int
    trained_parameters: int
    optimizer: str
    half: bool
    batch: int
    pixels: int
    checkpointing: bool
    te_loaded: bool
    te_trained: bool
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


def estimate_memory(question: MemoryQuestion) -> MemoryEstimate:
    """V = context + weights + adapter and optimizer + activations ."""
    weight_bytes = 2 if question.half else 4
    text = question.te_parameters * weight_bytes if question.te_loaded else 0
    parts = {
        "context": CONTEXT_BYTES,
        "base": question.unet_parameters * weight_bytes,
        "text": text,
        "network": question.trained_parameters * PARAMETER_BYTES.get(question.optimizer, 16),
        "activations": FIT * _activations(question),
    }
    whole = {part: int(size) for part, size in parts.items()}
    total = sum(whole.values())
    return MemoryEstimate(
        whole, total, low=int(total * (1 - SPREAD)), high=int(total * (1 + SPREAD))
    )


def _activations(question: MemoryQuestion) -> float:
    scale = question.pixels / REFERENCE_PIXELS * question.channels / REFERENCE_CHANNELS
    checkpointed = CHECKPOINTED_BYTES + LARGEST_BLOCK_BYTES
    each = checkpointed if question.checkpointing else ACTIVATION_BYTES
    if not question.half:
        each *= FP32_FACTOR
    # Within a block that is computed again, nothing is kept.
    kept = 1.0 if question.checkpointing else question.kept
    text = TEXT_ENCODER_BYTES if question.te_trained else 0.0
    return question.batch * (each * scale * kept + text)
