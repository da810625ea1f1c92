"""Writes a full-size Stable Diffusion 1.5 structure with random weights as one fp16 file, about 2 GB.

For trying out what needs the real size and not the real weights: detection, memory, step times.

    python benchmarks/make_random_sd15.py out/random-sd15.safetensors
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from torch import Tensor

from engine.models.architecture import Architecture, full_size
from engine.models.original_layout import to_original_layout
from engine.models.quiet import import_quietly


def empty_state(architecture: Architecture) -> dict[str, Tensor]:
    """Names and shapes of all tensors in the original layout, on the meta device."""
    from accelerate import init_empty_weights
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with init_empty_weights():
        unet = UNet2DConditionModel.from_config(architecture.unet)
        vae = AutoencoderKL.from_config(architecture.vae)
        text_encoder = CLIPTextModel(CLIPTextConfig(**architecture.text_encoder))
    return to_original_layout(unet.state_dict(), vae.state_dict(), text_encoder.state_dict())


def drawn(empty: Tensor, name: str, generator: torch.Generator) -> Tensor:
    """Weights that keep activations near one: 1 / sqrt(inputs), norms 1, biases 0."""
    shape = tuple(empty.shape)
    if len(shape) < 2:
        return torch.full(shape, 0.0 if name.endswith("bias") else 1.0, dtype=torch.float16)
    inputs = math.prod(shape[1:])
    return (torch.randn(shape, generator=generator) / math.sqrt(inputs)).half()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    from safetensors.torch import save_file

    import_quietly()
    generator = torch.Generator().manual_seed(arguments.seed)
    state = {
        name: drawn(empty, name, generator) for name, empty in empty_state(full_size("sd1")).items()
    }
    arguments.path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, arguments.path, metadata={"format": "pt"})
    print(f"{arguments.path}: {arguments.path.stat().st_size / 1e9:.2f} GB, {len(state)} tensors")


if __name__ == "__main__":
    main()
