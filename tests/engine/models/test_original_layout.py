"""The single-file layout: diffusers reads back exactly what we renamed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from engine.models.original_layout import (
    text_encoder_to_original,
    to_original_layout,
    unet_to_original,
    vae_to_original,
)

UNETS = {
    "sd1": {
        "block_out_channels": (8, 8, 16, 16),
        "down_block_types": (*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"),
        "up_block_types": ("UpBlock2D", *["CrossAttnUpBlock2D"] * 3),
        "layers_per_block": 2,
    },
    "two levels, one layer": {
        "block_out_channels": (8, 16),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
    },
}
UNET_SIZES = {"cross_attention_dim": 16, "attention_head_dim": 2, "norm_num_groups": 4}
VAES = {"four levels": ((8, 8, 16, 16), 1), "two levels": ((8, 16), 2)}


def assert_same(read: torch.nn.Module, written: torch.nn.Module) -> None:
    read_state, written_state = read.state_dict(), written.state_dict()
    assert read_state.keys() == written_state.keys()
    for name, value in written_state.items():
        assert torch.equal(read_state[name], value), name


def config_folder(model: torch.nn.Module, folder: Path) -> str:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(dict(model.config)))
    return str(folder)


@pytest.mark.parametrize("sizes", UNETS.values(), ids=UNETS)
def test_unet_round_trip(sizes: dict[str, object], tmp_path: Path) -> None:
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel(**sizes, **UNET_SIZES)
    save_file(unet_to_original(unet.state_dict()), tmp_path / "unet.safetensors")
    config = config_folder(unet, tmp_path / "unet")
    read = UNet2DConditionModel.from_single_file(
        str(tmp_path / "unet.safetensors"), config=config, local_files_only=True
    )
    assert_same(read, unet)


@pytest.mark.parametrize(("channels", "layers"), VAES.values(), ids=VAES)
def test_vae_round_trip(channels: tuple[int, ...], layers: int, tmp_path: Path) -> None:
    from diffusers import AutoencoderKL

    vae = AutoencoderKL(
        block_out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        layers_per_block=layers,
        latent_channels=4,
        norm_num_groups=4,
    )
    save_file(vae_to_original(vae.state_dict()), tmp_path / "vae.safetensors")
    config = config_folder(vae, tmp_path / "vae")
    read = AutoencoderKL.from_single_file(
        str(tmp_path / "vae.safetensors"), config=config, local_files_only=True
    )
    assert_same(read, vae)


def test_names_of_the_published_layout() -> None:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        state = to_original_layout(
            UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8).state_dict(),
            AutoencoderKL(
                block_out_channels=(128, 256, 512, 512),
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                layers_per_block=2,
            ).state_dict(),
            CLIPTextModel(
                CLIPTextConfig(
                    hidden_size=768,
                    intermediate_size=3072,
                    num_hidden_layers=12,
                    num_attention_heads=12,
                )
            ).state_dict(),
        )
    unet, vae, text = (
        sum(name.startswith(start) for name in state)
        for start in ("model.diffusion_model.", "first_stage_model.", "cond_stage_model.")
    )
    # Tensors of the published v1-5 file: 686 of the U-Net, 248 of the autoencoder, 196 of the text
    # encoder without its position numbers.
    assert (unet, vae, text) == (686, 248, 196)
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    u, v = "model.diffusion_model.", "first_stage_model."
    assert shapes[u + "input_blocks.3.0.op.weight"] == (320, 320, 3, 3)
    assert shapes[u + "input_blocks.4.0.skip_connection.weight"] == (640, 320, 1, 1)
    assert shapes[u + "output_blocks.2.1.conv.weight"] == (1280, 1280, 3, 3)
    assert shapes[u + "output_blocks.5.2.conv.weight"] == (1280, 1280, 3, 3)
    assert shapes[u + "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"] == (320, 768)
    assert shapes[u + "middle_block.2.emb_layers.1.weight"] == (1280, 1280)
    assert shapes[v + "encoder.mid.attn_1.q.weight"] == (512, 512, 1, 1)
    assert shapes[v + "decoder.up.0.block.0.nin_shortcut.weight"] == (128, 256, 1, 1)
    assert shapes[v + "decoder.up.3.upsample.conv.weight"] == (512, 512, 3, 3)
    name = "cond_stage_model.transformer.text_model.encoder.layers.11.mlp.fc2.weight"
    assert shapes[name] == (768, 3072)


def test_text_encoder_level_is_added_once() -> None:
    weight = torch.zeros(1)
    flat = text_encoder_to_original({"final_layer_norm.weight": weight})
    nested = text_encoder_to_original({"text_model.final_layer_norm.weight": weight})
    assert list(flat) == list(nested)
    assert list(flat) == ["cond_stage_model.transformer.text_model.final_layer_norm.weight"]


def test_text_encoder_round_trip(tmp_path: Path) -> None:
    from diffusers.loaders.single_file_utils import create_diffusers_clip_model_from_ldm
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=62,
        eos_token_id=63,
    )
    text_encoder = CLIPTextModel(config)
    config.save_pretrained(tmp_path)
    read = create_diffusers_clip_model_from_ldm(
        CLIPTextModel,
        text_encoder_to_original(text_encoder.state_dict()),
        config=str(tmp_path),
        local_files_only=True,
    )
    assert_same(read, text_encoder)
