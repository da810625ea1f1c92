"""Every answer about pictures and network reaches the rules that data and networks are made with."""

from __future__ import annotations

from typing import Any

import pytest

from engine.planning.rules import bucket_rules, caption_rules, network_choice, survey_rules
from engine.settings import Recipe
from engine.settings.walk import algorithms, setting, settings

PLACE = {"folder": "/pictures"}
SURVEYED: dict[str, Any] = {
    "folder": "/others", "reg_folder": "/reg", "layout": "leaf", "repeats": 3,
    "folders": [{"name": "10_dog", "repeats": 2}], "trigger": "vexilo", "class_word": "emblem",
    "captions": False, "caption_extension": ".caption", "keep_empty_captions": True,
    "prefix": "a photo of ", "flip": True, "max_megapixels": 5.0, "wildcards": True,
    "masked_loss": "alpha", "mask_folder": "/masks",
}  # fmt: skip
BUCKETS: dict[str, Any] = {
    "resolution": [640, 512], "buckets": False, "bucket_step": 32, "bucket_min": 128,
    "bucket_max": 2048, "no_upscale": False,
}  # fmt: skip
CAPTIONS: dict[str, Any] = {
    "separator": ";", "shuffle_tags": True, "keep_tokens": 3, "keep_separator": "|||",
    "secondary_separator": ";;;", "wildcards": True, "caption_dropout": 0.1,
    "caption_dropout_every": 3, "tag_dropout": 0.2, "prefix": "x, ", "suffix": ", y",
}  # fmt: skip
OTHERWISE: dict[str, Any] = {
    # Values of the network that are not their defaults.
    "rank": 8, "alpha": 3.0, "targets": "attn-only", "targets_file": "/own.toml", "train_norm": True,
    "overrides": [{"pattern": "down.*", "rank": 2}], "module_dropout": 0.1, "conv_rank": 2,
    "conv_alpha": 2.0, "rs_lora": True, "tucker": True, "scalar": True, "dora": "input",
    "dropout": 0.1, "rank_dropout": 0.1, "factor": 4, "decompose_both": True, "unbalanced": True,
    "train_on_input": True, "block_size": 2, "detach_lower": False, "constraint": 1e-3,
    "rescaled": True, "min_rank": 2, "mask_alpha": 2.0, "orthogonality": 0.1, "sig_type": "last",
    "use_data_init": False,
}  # fmt: skip
ELSEWHERE = {"algorithm", "max_norm", "weights"}
"""Told by the union's tag; used by the trainer; used by the start of a run."""


def data(**values: Any) -> Any:
    return Recipe.model_validate({"data": {**PLACE, **values}}).data


@pytest.mark.parametrize(("key", "value"), SURVEYED.items())
def test_what_is_to_be_read(key, value):
    assert survey_rules(data(**{key: value})) != survey_rules(data())


@pytest.mark.parametrize(("key", "value"), BUCKETS.items())
def test_how_sizes_are_chosen(key, value):
    assert bucket_rules(data(**{key: value})) != bucket_rules(data())


@pytest.mark.parametrize(("key", "value"), CAPTIONS.items())
def test_what_happens_to_captions(key, value):
    assert caption_rules(data(**{key: value})) != caption_rules(data())


@pytest.mark.parametrize("algorithm", algorithms())
def test_what_network_is_wanted(algorithm):
    usual = {"algorithm": algorithm, "rank": 16, "alpha": 8.0}
    usual = {key: value for key, value in usual.items() if setting(f"network.{key}", algorithm)}
    plain = network_choice(Recipe.model_validate({"network": usual}).network)
    keys = {
        row.key for row in settings() if row.section == "network" and algorithm in row.algorithms
    }
    assert keys - ELSEWHERE <= set(OTHERWISE), "a new setting has a value here"
    for key in keys - ELSEWHERE:
        changed = Recipe.model_validate({"network": {**usual, key: OTHERWISE[key]}}).network
        assert network_choice(changed) != plain, key
