"""Names as kohya's tools write them, and back by a table, never by guessing."""

import pytest
import torch

from engine.networks.choice import Choice
from engine.networks.names import inert, name_of, name_table, split_key
from engine.networks.network import build
from tests.tiny import tiny_modules


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


def test_keys_split_at_the_first_dot():
    assert split_key("lora_unet_x.lora_up.weight") == ("lora_unet_x", "lora_up.weight")
    assert split_key("nodot") == ("nodot", "")


def test_hostile_names_lose_their_escapes():
    shown = inert("\x1b[31mred\x07\n" + "a" * 500)

    assert "\x1b" not in shown
    assert "\n" not in shown
    assert len(shown) <= 121
