"""Metadata: kohya's keys as text, no local path in any mode, the recipe read back."""

import json
from dataclasses import replace

import pytest

from engine.errors import NetworkFileError
from engine.networks.metadata import NetworkFacts, has_recipe, network_metadata, recipe_in

FACTS = NetworkFacts(
    training={
        "network_dim": 16,
        "network_alpha": 8.0,
        "network_module": "networks.lora",
        "network_args": {"conv_dim": 4},
        "v2": False,
        "base_model_version": "sd_v1",
        "noise_offset": None,
        "enable_bucket": True,
        "sd_model_name": "/home/someone/models/base.safetensors",
        "vae_name": "C:\\someone\\vae.pt",
        "training_comment": "vexilo",
        "dataset_dirs": {"/home/someone/10_vexilo": {"n_repeats": 10, "img_count": 5}},
        "tag_frequency": {"10_vexilo": {"red": 3}},
    },
    title="x",
    architecture="stable-diffusion-v1",
    version="0.1",
    date="2026-01-02T03:04:05+00:00",
    resolution=(512, 768),
    prediction="epsilon",
    clip_skip=2,
    timesteps=(0, 1000),
    modelspec={"trigger_phrase": "vexilo", "license": ""},
    recipe='[network]\nalgorithm = "lora"\nrank = 16\n',
    own={"seed": 7, "lineage": {"a": 1}},
)


def test_values_are_texts_as_kohya_writes_them():
    found = network_metadata(FACTS)

    assert all(isinstance(text, str) for text in found.values())
    assert found["ss_network_dim"] == "16"
    assert found["ss_noise_offset"] == "None"
    assert found["ss_enable_bucket"] == "True"
    assert json.loads(found["ss_network_args"]) == {"conv_dim": 4}
    assert found["modelspec.architecture"] == "stable-diffusion-v1/lora"
    assert found["modelspec.resolution"] == "512x768"
    assert found["modelspec.encoder_layer"] == "2"
    assert "modelspec.license" not in found
    assert found["lyctui.seed"] == "7"


@pytest.mark.parametrize("mode", ["full", "private", "minimal"])
def test_no_mode_writes_a_local_path(mode):
    text = json.dumps(network_metadata(replace(FACTS, mode=mode)))

    assert "someone" not in text


def test_private_drops_folders_tags_and_comment():
    found = network_metadata(replace(FACTS, mode="private"))

    assert not {"ss_dataset_dirs", "ss_tag_frequency", "ss_training_comment"} & set(found)
    assert "lyctui.recipe" not in found
    assert "ss_network_dim" in found


def test_minimal_keeps_what_consumers_need():
    found = network_metadata(replace(FACTS, mode="minimal"))

    assert {key for key in found if key.startswith("ss_")} == {
        "ss_v2",
        "ss_base_model_version",
        "ss_network_module",
        "ss_network_dim",
        "ss_network_alpha",
        "ss_network_args",
    }
    assert "modelspec.title" in found
    assert not any(key.startswith("lyctui.") for key in found)


def test_the_recipe_is_read_back():
    found = network_metadata(FACTS)

    assert has_recipe(found)
    assert recipe_in(found) == {"network": {"algorithm": "lora", "rank": 16}}
    assert recipe_in({}) == {}
    with pytest.raises(NetworkFileError, match="not readable"):
        recipe_in({"lyctui.recipe": "[network"})
