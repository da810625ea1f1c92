"""One tensor name of a file, whatever program wrote it, as module and tensor in our own words. No torch.

Two ways of writing are known: kohya's, where a module is one word (`lora_unet_mid_block_…`), and
that of diffusers and PEFT, where it is a dotted path (`unet.mid_block.…`).
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.networks.names import FLAT_STARTS, TEXT_ROOT, flat_name, split_key

PEFT_ROOT = "base_model.model."
PARTS = {"unet": "lora_unet", "text_encoder_2": "lora_te2", "text_encoder": "lora_te"}
"""Components in diffusers' words, to the prefix of their names."""
BARE_UNET = ("down_blocks.", "mid_block.", "up_blocks.", "conv_", "time_emb", "add_embedding.")
BARE_TEXT = (TEXT_ROOT, "encoder.layers.")
"""Beginnings of paths in a file of one component alone, which does not name it."""

UP, DOWN, MAGNITUDE = "lora_up.weight", "lora_down.weight", "dora_scale"
SPELLINGS = {
    "lora_A.weight": DOWN,
    "lora_B.weight": UP,
    "lora_A.default.weight": DOWN,
    "lora_B.default.weight": UP,
    "lora.down.weight": DOWN,
    "lora.up.weight": UP,
    "lora_linear_layer.down.weight": DOWN,
    "lora_linear_layer.up.weight": UP,
    "lora_magnitude_vector": MAGNITUDE,
    "lora_magnitude_vector.weight": MAGNITUDE,
    "lora_magnitude_vector.default.weight": MAGNITUDE,
}
"""Tensor suffixes of other programs for ours."""
OWN = (DOWN, UP, "lora_mid.weight", "alpha", MAGNITUDE)
TAILS = {f".{suffix}": ours for suffix, ours in SPELLINGS.items()} | {
    f".{suffix}": suffix for suffix in OWN
}
OLD_TAILS = {"_lora.down.weight": DOWN, "_lora.up.weight": UP, "_lora.alpha": "alpha"}
"""Ends of the names that attention processors of diffusers had."""
OLD_UNET = {"to_out": "to_out.0"}
OLD_TEXT = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}
"""Last parts of paths that those names cut or call otherwise."""


@dataclass(frozen=True, slots=True)
class Key:
    """What a tensor's name says."""

    spelled: str
    """The module as the file has it."""
    name: str
    """The module as kohya's tools would name it."""
    suffix: str
    """The tensor in our words."""
    part: str = ""
    """Component in diffusers' words, where the name is a path."""
    path: str = ""


def parse_key(key: str) -> Key | None:
    """Module and tensor; None for what is of no network."""
    if key.startswith(FLAT_STARTS):
        name, suffix = split_key(key)
        return Key(name, name, SPELLINGS.get(suffix, suffix))
    found = _split_path(key)
    if found is None:
        return None
    spelled, suffix, old = found
    part, path = _part_and_path(spelled)
    if not part:
        return None
    path = path.replace(".processor.", ".")
    head, dot, last = path.rpartition(".")
    if part != "unet":
        path = head + dot + OLD_TEXT.get(last, last)
    elif old:
        path = head + dot + OLD_UNET.get(last, last)
    return Key(spelled, flat_name(PARTS[part], path), suffix, part, path)


def _split_path(key: str) -> tuple[str, str, bool] | None:
    """Module, our suffix, and whether it is an attention processor's name."""
    for old, tails in ((False, TAILS), (True, OLD_TAILS)):
        for tail, suffix in tails.items():
            if key.endswith(tail):
                return key[: -len(tail)], suffix, old
    return None


def _part_and_path(spelled: str) -> tuple[str, str]:
    path = spelled.removeprefix(PEFT_ROOT)
    for part in PARTS:
        if path.startswith(f"{part}."):
            return part, path[len(part) + 1 :].removeprefix(PEFT_ROOT)
    if path.startswith(BARE_TEXT):
        return "text_encoder", path
    known = path != spelled or path.startswith(BARE_UNET)
    return ("unet" if known else "", path)
