"""Which tensor of a checkpoint is the weight of which layer: every family, fused attention included."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.errors import ModelError
from engine.models.architecture import full_size
from engine.models.shapes import layer_shapes
from engine.networks.names import file_names
from engine.tools.checkpoint import Checkpoint, unet_paths
from engine.tools.extract import extract
from engine.tools.merge import merge
from engine.tools.naming import usual_layers
from engine.tools.requests import ExtractRequest, MergeRequest, RankRule, Weighted
from engine.unet_names import original_unet_names
from tests.tiny import UNET

WIDTH = 32


def sdxl_unet():
    from diffusers import UNet2DConditionModel

    config = dict(UNET) | {
        "block_out_channels": (16, 32, 32),
        "cross_attention_dim": WIDTH,
        "use_linear_projection": True,
        "transformer_layers_per_block": (1, 2, 3),
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": 24,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return UNet2DConditionModel(**config)


def open_clip(prefix, layers=2):
    block = {
        "attn.in_proj_weight": (3 * WIDTH, WIDTH),
        "attn.in_proj_bias": (3 * WIDTH,),
        "attn.out_proj.weight": (WIDTH, WIDTH),
        "attn.out_proj.bias": (WIDTH,),
        "ln_1.weight": (WIDTH,),
        "ln_1.bias": (WIDTH,),
        "mlp.c_fc.weight": (4 * WIDTH, WIDTH),
        "mlp.c_fc.bias": (4 * WIDTH,),
        "mlp.c_proj.weight": (WIDTH, 4 * WIDTH),
        "mlp.c_proj.bias": (WIDTH,),
    }
    generator = torch.Generator().manual_seed(3)
    return {
        f"{prefix}transformer.resblocks.{number}.{name}": torch.randn(shape, generator=generator)
        for number in range(layers)
        for name, shape in block.items()
    }


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory):
    unet = sdxl_unet().state_dict()
    rename = original_unet_names(unet)
    state = {f"model.diffusion_model.{rename(name)}": tensor for name, tensor in unet.items()}
    text = "conditioner.embedders.0.transformer.text_model.encoder.layers.0.mlp.fc1"
    state |= {f"{text}.weight": torch.randn(64, WIDTH), f"{text}.bias": torch.zeros(64)}
    state |= open_clip("conditioner.embedders.1.model.")
    path = tmp_path_factory.mktemp("sdxl") / "xl.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    return path, unet


def test_every_layer_of_a_tiny_sdxl_is_found_with_its_own_numbers(sdxl):
    path, unet = sdxl
    with Checkpoint(path) as checkpoint:
        assert checkpoint.family == "sdxl"
        found = {place: checkpoint.read(layer.weight) for place, layer in checkpoint.layers.items()}
    wanted = {name.removesuffix(".weight") for name in unet if name.endswith(".weight")}
    assert {name for component, name in found if component == "unet"} == wanted
    assert all(torch.equal(found["unet", name], unet[f"{name}.weight"]) for name in wanted)
    text = {name for component, name in found if component == "te2"}
    assert "text_model.encoder.layers.1.self_attn.v_proj" in text
    state = load_file(path)
    fused = state["conditioner.embedders.1.model.transformer.resblocks.1.attn.in_proj_weight"]
    value = found["te2", "text_model.encoder.layers.1.self_attn.v_proj"]
    assert torch.equal(value, fused[2 * WIDTH :])


def test_a_network_goes_into_fused_attention_and_comes_out_again(sdxl, tmp_path):
    path, _ = sdxl
    generator = torch.Generator().manual_seed(1)
    names = {
        "lora_te2_text_model_encoder_layers_1_self_attn_k_proj": (WIDTH, WIDTH),
        "lora_te2_text_model_encoder_layers_0_mlp_fc2": (WIDTH, 4 * WIDTH),
        "lora_te1_text_model_encoder_layers_0_mlp_fc1": (64, WIDTH),
        "lora_unet_input_blocks_4_1_transformer_blocks_1_attn1_to_q": (32, 32),
    }
    tensors = {}
    for name, (out, in_) in names.items():
        tensors[f"{name}.lora_up.weight"] = torch.randn(out, 2, generator=generator)
        tensors[f"{name}.lora_down.weight"] = torch.randn(2, in_, generator=generator)
        tensors[f"{name}.alpha"] = torch.tensor(2.0)
    save_file(tensors, tmp_path / "net.safetensors")
    merged, back = tmp_path / "merged.safetensors", tmp_path / "back.safetensors"
    network = Weighted(tmp_path / "net.safetensors", 0.5)
    merge(MergeRequest(base=path, networks=(network,), output=merged))
    extract(
        ExtractRequest(
            base=path, tuned=merged, output=back, rule=RankRule("fixed", 2), precision="fp32"
        )
    )

    before, after = load_file(path), load_file(merged)
    key = "conditioner.embedders.1.model.transformer.resblocks.1.attn.in_proj_weight"
    delta = after[key] - before[key]
    name = "lora_te2_text_model_encoder_layers_1_self_attn_k_proj"
    product = tensors[f"{name}.lora_up.weight"] @ tensors[f"{name}.lora_down.weight"]
    torch.testing.assert_close(delta[WIDTH : 2 * WIDTH], product * 0.5, rtol=1e-4, atol=1e-5)
    assert not delta[:WIDTH].any() and not delta[2 * WIDTH :].any()
    found = load_file(back)
    assert {key.partition(".")[0] for key in found} == set(names)
    for name in names:
        wanted = tensors[f"{name}.lora_up.weight"] @ tensors[f"{name}.lora_down.weight"] * 0.5
        product = found[f"{name}.lora_up.weight"] @ found[f"{name}.lora_down.weight"]
        torch.testing.assert_close(product, wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_layers_of_the_published_models_are_found_from_shapes(family, tmp_path):
    layers = [layer for layer in layer_shapes(full_size(family)) if layer.component == "unet"]
    rename = original_unet_names([layer.path for layer in layers])
    shapes = {}
    for layer in layers:
        shape = (layer.out,) if layer.norm else (layer.out, layer.in_, *layer.kernel)
        shapes[f"{rename(layer.path)}.weight"] = shape
    assert set(unet_paths(family, shapes, tmp_path)) == {layer.path for layer in layers}
    names = file_names(usual_layers(family).kernels, sdxl=family == "sdxl")
    assert len(set(names.values())) == len(names)
    assert any("_input_blocks_" in name for name in names.values()) == (family == "sdxl")


def test_what_is_no_checkpoint_is_refused_in_words(tiny, tmp_path):
    for state in (
        {"a": torch.zeros(1)},
        {"model.diffusion_model.joint_blocks.0.x": torch.zeros(1)},
        {"cond_stage_model.transformer.x": torch.zeros(1)},
    ):
        save_file(state, tmp_path / "x.safetensors")
        with pytest.raises(ModelError) as raised:
            Checkpoint(tmp_path / "x.safetensors")
        assert raised.value.problems[0].what.endswith(".")
