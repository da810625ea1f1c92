"""Names as kohya's tools write them, and back by a table, never by guessing."""

import json
from pathlib import Path

import pytest
import torch

from engine.networks.choice import Choice
from engine.networks.names import file_names, inert, name_of, name_table, split_key
from engine.networks.network import build
from engine.networks.targets import real_layers
from engine.unet_names import original_unet_names
from tests.tiny import tiny_modules

CONFIGS = Path(__file__).parents[3] / "engine" / "models" / "configs"


def full_unet(family):
    from diffusers import UNet2DConditionModel

    config = json.loads((CONFIGS / family / "unet" / "config.json").read_text())
    with torch.device("meta"):
        return UNet2DConditionModel.from_config(config)


@pytest.mark.parametrize(
    "path", ["encoder.layers.0.mlp.fc1", "text_model.encoder.layers.0.mlp.fc1"]
)
def test_text_encoder_names_carry_text_model_under_every_transformers(path):
    assert name_of("te", path) == "lora_te_text_model_encoder_layers_0_mlp_fc1"


def test_names_of_a_real_model_are_those_that_consumers_know():
    modules = tiny_modules()
    choice = Choice("lora", 2, 1.0, "full")
    network = build({"unet": modules.unet, "te": modules.text_encoder}, choice, seed=0)
    names = set(network.adapters)

    assert {
        "lora_unet_conv_in",
        "lora_unet_time_embedding_linear_1",
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out_0",
        "lora_unet_mid_block_attentions_0_proj_in",
        "lora_unet_up_blocks_3_resnets_2_conv_shortcut",
        "lora_te_text_model_encoder_layers_0_self_attn_q_proj",
        "lora_te_text_model_encoder_layers_2_mlp_fc2",
    } <= names
    tensors = network.tensors(torch.float16)
    assert {key.partition(".")[2] for key in tensors} == {
        "lora_up.weight",
        "lora_down.weight",
        "alpha",
    }
    assert tensors["lora_unet_conv_in.lora_up.weight"].dim() == 4


def test_names_that_differ_only_in_dots_find_their_own_module():
    # "a.b_c" and "a_b.c" look alike once dots are gone; paths of the model decide.
    table = name_table([("unet", "to_out.0"), ("te", "encoder.layers.1.mlp.fc1")])

    assert table["lora_unet_to_out_0"] == ("unet", "to_out.0")
    assert table["lycoris_to_out_0"] == ("unet", "to_out.0")
    assert table["lora_te1_text_model_encoder_layers_1_mlp_fc1"][0] == "te"


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_names_of_the_original_layout_are_those_that_diffusers_turns_back(family):
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    unet = full_unet(family)
    names = list(unet.state_dict())
    original = original_unet_names(names)
    # Any object stands for a tensor: the conversion only hands them on.
    theirs = {f"model.diffusion_model.{original(name)}": [name] for name in names}
    assert len(theirs) == len(names)
    back = convert_ldm_unet_checkpoint(theirs, dict(unet.config))
    assert {name: value[0] for name, value in back.items()} == {name: name for name in names}


UPSAMPLERS = {
    # The block without attention has its upsampler in the second place.
    "sd1": {0: "output_blocks_2_1_conv", 1: "output_blocks_5_2_conv", 2: "output_blocks_8_2_conv"},
    "sd2": {0: "output_blocks_2_1_conv", 1: "output_blocks_5_2_conv", 2: "output_blocks_8_2_conv"},
    "sdxl": {0: "output_blocks_2_2_conv", 1: "output_blocks_5_2_conv"},
}


@pytest.mark.parametrize("family", UPSAMPLERS)
def test_each_familys_modules_are_written_in_its_style_and_read_in_both(family):
    places = [(layer.component, layer.path) for layer in real_layers({"unet": full_unet(family)})]
    written, table = file_names(places), name_table(places)

    assert len(set(written.values())) == len(places)
    both = written | {place: name_of(*place) for place in places}
    assert all(table[name] == place for place, name in both.items())
    assert len(table) > 3 * len(places)  # two prefixes, two styles; few names are alike in both
    for block, name in UPSAMPLERS[family].items():
        place = ("unet", f"up_blocks.{block}.upsamplers.0.conv")
        assert table[f"lora_unet_{name}"] == table[f"lycoris_{name}"] == place
        assert written[place] == (f"lora_unet_{name}" if family == "sdxl" else name_of(*place))
    if family == "sdxl":
        assert written["unet", "add_embedding.linear_2"] == "lora_unet_label_emb_0_2"
        # A part of the model does not tell the family: its name has to be given.
        assert file_names([("te", "a.b")], sdxl=True)["te", "a.b"] == "lora_te1_text_model_a_b"


def test_a_name_of_two_modules_leads_to_neither():
    table = name_table([("unet", "a.b_c"), ("unet", "a_b.c"), ("unet", "d")])

    assert "lora_unet_a_b_c" not in table
    assert table["lora_unet_d"] == ("unet", "d")


def test_keys_split_at_the_first_dot():
    assert split_key("lora_unet_x.lora_up.weight") == ("lora_unet_x", "lora_up.weight")
    assert split_key("nodot") == ("nodot", "")


def test_hostile_names_lose_their_escapes():
    shown = inert("\x1b[31mred\x07\n" + "a" * 500)

    assert "\x1b" not in shown
    assert "\n" not in shown
    assert len(shown) <= 121
