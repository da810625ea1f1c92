"""Tells what a checkpoint is from the names of its tensors. No torch.

Widths do not tell (a small SD2 has those of an SD1), names do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from engine.models.headers import Tensors

Family = Literal["sd1", "sd2", "sdxl", "sd3", "flux"]
FAMILY_TITLES: dict[str, str] = {
    "sd1": "Stable Diffusion 1",
    "sd2": "Stable Diffusion 2",
    "sdxl": "Stable Diffusion XL",
    "sd3": "Stable Diffusion 3",
    "flux": "FLUX",
}
TRAINABLE: tuple[Family, ...] = ("sd1", "sd2", "sdxl")

LATENT_CHANNELS = 4
INPAINTING_CHANNELS = 9
"""Noisy latents, the mask, and the latents of the picture with the hole blanked."""
EDITING_CHANNELS = 8

UNET = "model.diffusion_model."
VAE = "first_stage_model."
TEXT_PARTS: Mapping[str, Mapping[str, str]] = {
    "sd1": {"text_encoder": "cond_stage_model.transformer."},
    "sd2": {"text_encoder": "cond_stage_model.model."},
    "sdxl": {
        "text_encoder": "conditioner.embedders.0.transformer.",
        "text_encoder_2": "conditioner.embedders.1.model.",
    },
}
"""Where a single file of a family holds its text encoders, by the parts' names in a folder."""
ZERO_SNR_MARK = "ztsnr"
"""An empty tensor that some programs put into files beside "v_pred"."""
REFINER = "the SDXL refiner, which no network is trained on; choose the SDXL base"

FAMILY_MARKS: tuple[tuple[str, Family], ...] = (
    # The first that fits wins: an SDXL file also has what looks like SD1's encoder.
    ("conditioner.embedders.", "sdxl"),
    ("model.diffusion_model.joint_blocks.", "sd3"),
    ("model.diffusion_model.double_blocks.", "flux"),
    ("joint_blocks.", "sd3"),
    ("double_blocks.", "flux"),
    ("cond_stage_model.model.", "sd2"),
    ("cond_stage_model.transformer.", "sd1"),
    # Last: some relatives of Stable Diffusion 2 (upscaler, unCLIP) have class embeddings too.
    ("model.diffusion_model.label_emb.", "sdxl"),
)
OTHER_MARKS: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        (".lora_up.", ".lora_down.", ".lora_A.", ".lora_B.", ".lokr_w", ".hada_w", ".oft_blocks"),
        "a LoRA or LyCORIS network, not a base model; give it as network.weights to train it on",
    ),
    (("control_model.", "controlnet_"), "a ControlNet, not a base model"),
    (("emb_params", "string_to_param"), "a textual inversion embedding, not a base model"),
    (("image_proj.", "ip_adapter."), "an IP-Adapter, not a base model"),
    (("motion_modules.",), "an AnimateDiff motion module, not a base model"),
    (("text_model.encoder.layers.",), "a text encoder alone, not a base model"),
    (
        ("encoder.down.", "decoder.up_blocks."),
        "a VAE alone, not a base model; give it as model.vae",
    ),
    (
        ("down_blocks.0.",),
        "one part of a diffusers model; give the folder that holds model_index.json",
    ),
)


@dataclass(frozen=True, slots=True)
class Recognised:
    """What a checkpoint is: a family, or in words what else."""

    family: Family | None = None
    other: str = ""
    """Completes "This is ...", where it is no base model that is known."""
    inpainting: bool = False
    edits_pictures: bool = False
    channels: int = LATENT_CHANNELS
    """What the U-Net reads; only these and the nine of inpainting are trained on."""


def recognised(family: Family | None, channels: int) -> Recognised:
    """A base model of a family by the number of channels that its U-Net reads."""
    inpainting, edits = channels == INPAINTING_CHANNELS, channels == EDITING_CHANNELS
    return Recognised(family, inpainting=inpainting, edits_pictures=edits, channels=channels)


def recognise(tensors: Tensors) -> Recognised:
    """The family of a single-file checkpoint, or what the file is instead."""
    family = next((family for mark, family in FAMILY_MARKS if _any(tensors, mark)), None)
    if family == "sdxl" and _is_refiner(tensors):
        return Recognised(other=REFINER)
    if family is None:
        return Recognised(other=_other(tensors))
    first = tensors.get(UNET + "input_blocks.0.0.weight")
    whole = first is not None and len(first.shape) == 4
    return recognised(family, first.shape[1] if first is not None and whole else LATENT_CHANNELS)


def _is_refiner(tensors: Tensors) -> bool:
    return _any(tensors, "conditioner.embedders.0.model.") and not _any(
        tensors, "conditioner.embedders.1."
    )


def _other(tensors: Tensors) -> str:
    for marks, words in OTHER_MARKS:
        if any(mark in name for name in tensors for mark in marks):
            return words
    if _any(tensors, UNET):
        return "a U-Net without its text encoder; give a full checkpoint or a diffusers folder"
    return "no base model that is known here"


def _any(names: Iterable[str], start: str) -> bool:
    return any(name.startswith(start) for name in names)


PREDICTION_WORDS: Mapping[str, Literal["epsilon", "v"]] = {
    "epsilon": "epsilon",
    "eps": "epsilon",
    "v": "v",
    "v_prediction": "v",
    "v-prediction": "v",
    "vprediction": "v",
}


def marked_prediction(
    tensors: Tensors, metadata: Mapping[str, str]
) -> tuple[Literal["epsilon", "v"], str] | None:
    """Prediction type by marker tensor or metadata, and where it was found; None where neither is."""
    if "v_pred" in tensors:
        return "v", 'the marker tensor "v_pred" in the file'
    for name in ("modelspec.prediction_type", "prediction_type"):
        word = PREDICTION_WORDS.get(metadata.get(name, "").strip().lower())
        if word is not None:
            return word, f'"{name}" in the file\'s metadata'
    return None
