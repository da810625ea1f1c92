"""Every key that other programs read says what the run was set to: kohya's names, kohya's spelling."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine.assemble import Training, assemble
from engine.checkpoint.state import Place
from engine.label_keys import legacy_hash, optimizer_words, training_keys
from engine.labels import file_metadata
from engine.outputs import Tally
from engine.settings import Recipe
from engine.settings.check import parse
from tests.small_run import small_recipe

WRITTEN = """
session_id training_started_at training_finished_at output_name learning_rate text_encoder_lr unet_lr
num_train_images num_validation_images num_reg_images num_batches_per_epoch num_epochs epoch steps
gradient_checkpointing gradient_accumulation_steps max_train_steps lr_warmup_steps lr_scheduler
network_module network_dim network_alpha network_dropout network_args mixed_precision full_fp16 v2
base_model_version clip_skip max_token_length cache_latents seed lowram noise_offset
noise_offset_random_strength multires_noise_iterations multires_noise_discount adaptive_noise_scale
zero_terminal_snr training_comment optimizer max_grad_norm caption_dropout_rate
caption_dropout_every_n_epochs caption_tag_dropout_rate face_crop_aug_range prior_loss_weight
min_snr_gamma scale_weight_norms ip_noise_gamma ip_noise_gamma_random_strength debiased_estimation
loss_type huber_schedule huber_scale huber_c validation_seed validation_split
validate_every_n_epochs validate_every_n_steps resize_interpolation batch_size_per_device
total_batch_size resolution color_aug flip_aug random_crop shuffle_caption enable_bucket
bucket_no_upscale min_bucket_reso max_bucket_reso keep_tokens dataset_dirs reg_dataset_dirs
tag_frequency bucket_info sd_model_name sd_model_hash new_sd_model_hash vae_name vae_hash new_vae_hash
"""
KOHYA = WRITTEN.split()


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return small_recipe(tmp_path_factory.mktemp("run"), data={"validation": 0.4})


@pytest.fixture(scope="module")
def training(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Training:
    return assemble(recipe, tmp_path_factory.mktemp("cache"), lambda *_: None)


def changed(recipe: Recipe, **sections: dict[str, Any]) -> Recipe:
    plain = {
        name: getattr(recipe, name).model_copy(update=values) for name, values in sections.items()
    }
    return recipe.model_copy(update=plain)


def told(recipe: Recipe, training: Training) -> dict[str, str]:
    return file_metadata(recipe, training, Place(1, 3), Tally(time.time()))


def test_every_key_is_there(recipe: Recipe, training: Training) -> None:
    found = told(recipe, training)
    assert [key for key in KOHYA if f"ss_{key}" not in found] == []
    assert (found["ss_num_validation_images"], found["ss_validation_split"]) == ("2", "0.4")
    assert (found["ss_v2"], found["ss_base_model_version"]) == ("False", "sd_v1")
    assert found["lyctui.family"] == "sd1"
    assert found["lyctui.family_source"] == "the names of its tensors"
    assert found["lyctui.timestep_range"] == "0,1000"


# Section, setting, value, key and what it says then.
SETTINGS: tuple[tuple[str, dict[str, Any], dict[str, str]], ...] = (
    (
        "objective",
        {"noise_offset": 0.05, "noise_offset_random": True, "adaptive_noise_scale": 0.01},
        {"noise_offset": "0.05", "noise_offset_random_strength": "True",
         "adaptive_noise_scale": "0.01"},
    ),
    (
        "objective",
        {"multires_iterations": 6, "multires_discount": 0.1, "zero_terminal_snr": True},
        {"multires_noise_iterations": "6", "multires_noise_discount": "0.1",
         "zero_terminal_snr": "True"},
    ),
    (
        "objective",
        {"ip_noise_gamma": 0.1, "ip_noise_random": True, "debiased": True, "min_snr_gamma": 0.0},
        {"ip_noise_gamma": "0.1", "ip_noise_gamma_random_strength": "True",
         "debiased_estimation": "True", "min_snr_gamma": "None"},
    ),
    (
        "objective",
        {"loss": "huber", "huber_schedule": "constant", "huber_c": 0.2, "huber_scale": 2.0},
        {"loss_type": "huber", "huber_schedule": "constant", "huber_c": "0.2",
         "huber_scale": "2.0"},
    ),
    ("train", {"network_precision": "bf16"}, {"full_bf16": "True", "full_fp16": "False"}),
    ("train", {"network_precision": "fp16"}, {"full_bf16": "False", "full_fp16": "True"}),
    ("train", {"validate_every_epochs": 0, "validate_every_steps": 50},
     {"validate_every_n_epochs": "None", "validate_every_n_steps": "50"}),
    ("model", {"max_tokens": 225}, {"max_token_length": "225"}),
    ("data", {"colour": True, "validation_seed": 3},
     {"color_aug": "True", "validation_seed": "3"}),
    ("optim", {"optimizer": "adamw8bit", "weight_decay": 0.1, "betas": (0.9, 0.99)},
     {"optimizer": "AdamW8bit(weight_decay=0.1,betas=(0.9, 0.99))"}),
    ("save", {"comment": "hello"}, {"training_comment": "hello"}),
)  # fmt: skip


@pytest.mark.parametrize(("section", "values", "wanted"), SETTINGS, ids=lambda one: str(one)[:40])
def test_settings_are_told_by_kohyas_keys(
    recipe: Recipe,
    training: Training,
    section: str,
    values: dict[str, Any],
    wanted: dict[str, str],
) -> None:
    usual = told(recipe, training)
    found = told(changed(recipe, **{section: values}), training)
    assert {key: found[f"ss_{key}"] for key in wanted} == wanted
    assert any(found[f"ss_{key}"] != usual[f"ss_{key}"] for key in wanted)


def test_authors_words_are_in_modelspec(recipe: Recipe, training: Training) -> None:
    words = {"title": "Emblems", "author": "Me", "description": "Signs", "license": "CC0"}
    found = told(changed(recipe, save=words), training)
    assert {key: found[f"modelspec.{key}"] for key in words} == words
    plain = told(recipe, training)
    assert plain["modelspec.title"] == "small"
    assert "modelspec.author" not in plain


def test_buckets_tell_how_far_pictures_are_from_their_shape(
    recipe: Recipe, training: Training
) -> None:
    info = json.loads(told(recipe, training)["ss_bucket_info"])
    assert {"resolution", "count"} == set(info["buckets"]["0"])
    # Pictures of 128 x 128, 192 x 96 and 96 x 192 fit buckets of multiples of 64 but for a part.
    assert 0 < info["mean_img_ar_error"] < 0.5


def test_modes_keep_what_they_promise(recipe: Recipe, training: Training) -> None:
    private = told(changed(recipe, save={"metadata": "private", "comment": "x"}), training)
    gone = {"dataset_dirs", "reg_dataset_dirs", "tag_frequency", "training_comment"}
    assert [key for key in KOHYA if f"ss_{key}" not in private] == [
        key for key in KOHYA if key in gone
    ]
    assert "lyctui.recipe" not in private
    minimal = told(changed(recipe, save={"metadata": "minimal"}), training)
    kept = {"v2", "base_model_version", "network_module", "network_dim", "network_alpha"}
    assert {key for key in minimal if key.startswith("ss_")} == {
        f"ss_{key}" for key in (*kept, "network_args")
    }
    assert "modelspec.architecture" in minimal
    assert not any(key.startswith("lyctui.") for key in minimal)


def test_the_old_hash_is_that_of_a_window_of_the_file(tmp_path: Path) -> None:
    body = bytes(range(256)) * 4096 * 2
    file = tmp_path / "base.safetensors"
    file.write_bytes(body)
    assert legacy_hash(file) == hashlib.sha256(body[0x100000:0x110000]).hexdigest()[:8]
    file.write_bytes(b"short")
    assert legacy_hash(file) == "e3b0c442"
    assert legacy_hash(tmp_path) is None
    assert legacy_hash(tmp_path / "gone") is None


def test_the_optimizer_is_told_with_what_it_was_given() -> None:
    optim = parse(
        {
            "optim": {
                "optimizer": "prodigy",
                "lr": 1,
                "te_lr": 1,
                "d_coef": 0.8,
                "arguments": ["safeguard_warmup=True"],
            }
        }
    ).optim
    assert optimizer_words(optim) == "Prodigy(d_coef=0.8,safeguard_warmup=True)"


def test_two_text_encoders_have_a_rate_each(recipe: Recipe, training: Training) -> None:
    """The model is another, everything else is as it was."""
    components = dict.fromkeys(("unet", "te", "te2"))
    model = SimpleNamespace(
        components=lambda: components, base_version="sdxl_base_v1-0", sha256="1", vae_hash="2"
    )
    names = ("order", "survey", "warmup_steps", "total_steps", "seed", "clip_skip", "resolution")
    same = {name: getattr(training, name) for name in names}
    other: Any = SimpleNamespace(model=model, rates={"unet": 1e-4, "te2": 2e-5}, **same)
    found = training_keys(recipe, other, Place(1, 3), Tally(time.time()))
    assert found["text_encoder_lr"] == "[0.0, 2e-05]"
    assert (found["unet_lr"], found["v2"]) == (1e-4, False)
    assert training_keys(recipe, training, Place(1, 3), Tally(0.0))["text_encoder_lr"] == 5e-4
    model.base_version = "sd_v2_v"
    assert training_keys(recipe, other, Place(1, 3), Tally(0.0))["v2"] is True


def test_a_vae_is_named_only_where_one_was_given(
    recipe: Recipe, training: Training, tmp_path: Path
) -> None:
    names = ("vae_name", "vae_hash", "new_vae_hash")
    found = training_keys(recipe, training, Place(1, 3), Tally(0.0))
    assert [found[name] for name in names] == [None, None, None]
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"x")
    found = training_keys(changed(recipe, model={"vae": other}), training, Place(1, 3), Tally(0.0))
    digits = hashlib.sha256(b"").hexdigest()[:8]
    assert [found[name] for name in names] == [other.name, digits, training.model.vae_hash]


@pytest.mark.parametrize("key", ["colour", "random_crop"])
def test_latents_that_are_encoded_anew_are_not_said_to_be_cached(
    recipe: Recipe, training: Training, key: str
) -> None:
    assert told(recipe, training)["ss_cache_latents"] == "True"
    assert told(changed(recipe, data={key: True}), training)["ss_cache_latents"] == "False"
    off = changed(recipe, data={"cache_latents": "off"})
    assert told(off, training)["ss_cache_latents"] == "False"


def test_sizes_of_convolutions_are_told_where_there_are_any(
    recipe: Recipe, training: Training
) -> None:
    def sizes(**network: Any) -> dict[str, str]:
        values = {"conv_rank": 4, "conv_alpha": 2.0, **network}
        keys = told(changed(recipe, network=values), training)
        args = json.loads(keys["ss_network_args"])
        return {name: args[name] for name in ("conv_dim", "conv_alpha") if name in args}

    assert sizes(targets="full") == {"conv_dim": "4", "conv_alpha": "2.0"}
    assert sizes(targets="attn-mlp") == {}
    assert sizes(targets="attn-mlp", conv_rank=0) == {"conv_dim": "0"}
    assert sizes(targets="attn-mlp", targets_file=Path("own.toml")) == sizes(targets="full")
