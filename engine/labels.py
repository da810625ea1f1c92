"""What a run writes into its network files: kohya's keys and ours, from the recipe and the data."""

from __future__ import annotations

import datetime
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from engine import __version__
from engine.data.captions import split_tags
from engine.networks.metadata import NetworkFacts, network_metadata
from engine.runs import START_PREFIX
from engine.settings.network import Network, asked
from engine.settings.toml import portable

if TYPE_CHECKING:
    from engine.assemble import Training
    from engine.checkpoint.state import Place
    from engine.data.survey import Survey
    from engine.outputs import Tally
    from engine.settings import Recipe


def file_metadata(recipe: Recipe, training: Training, place: Place, tally: Tally) -> dict[str, str]:
    """Metadata of the network file of one place of a run."""
    model, data = training.model, recipe.data
    words = " ".join(word for word in (data.trigger, data.class_word) if word)
    facts = NetworkFacts(
        training=_training_keys(recipe, training, place, tally),
        title=recipe.run.name or "",
        architecture=model.modelspec,
        version=__version__,
        date=datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        resolution=training.resolution,
        prediction=model.prediction,
        clip_skip=training.clip_skip,
        timesteps=(recipe.objective.min_timestep, recipe.objective.max_timestep),
        modelspec={"trigger_phrase": words, "tags": words},
        recipe=portable(recipe),
        own={
            "family": model.family,
            "prediction": model.prediction,
            "prediction_source": model.prediction_source,
            "bucket_step": data.bucket_step,
            "seed": training.seed,
            "parent": _parent(recipe),
            "parent_sha256": training.parent_sha256,
            "lineage": json.dumps(tally.lineage),
            "peak_bytes": training.memory()[1],
        },
        mode=recipe.save.metadata,
    )
    return network_metadata(facts)


def _parent(recipe: Recipe) -> str | None:
    """Name of the file the run started from, as it was before the run took its copy."""
    weights, run = recipe.network.weights, recipe.run
    if weights is None:
        return None
    own = run.folder is not None and weights.parent == run.folder / (run.name or "")
    return weights.name.removeprefix(START_PREFIX) if own else weights.name


def _training_keys(
    recipe: Recipe, training: Training, place: Place, tally: Tally
) -> dict[str, Any]:
    """The `ss_` keys that A1111, ComfyUI and kohya's tools know."""
    model = training.model
    return {
        "session_id": int(tally.started_at * 1000) % 2**32,
        "training_started_at": tally.started_at,
        "training_finished_at": tally.started_at + tally.seconds() - tally.seconds_before,
        "output_name": recipe.run.name,
        "epoch": place.epoch,
        "steps": place.step,
        "training_comment": recipe.save.comment or recipe.data.trigger,
        "v2": False,
        "base_model_version": model.base_version,
        "sd_model_name": None if recipe.model.path is None else recipe.model.path.name,
        "new_sd_model_hash": model.sha256,
        "vae_name": None if recipe.model.vae is None else recipe.model.vae.name,
        "new_vae_hash": model.vae_hash,
        **_length_keys(recipe, training),
        **_optim_keys(recipe, training),
        **_network_keys(recipe),
        **_objective_keys(recipe, training),
        **_data_keys(recipe, training),
    }


def _length_keys(recipe: Recipe, training: Training) -> dict[str, Any]:
    """How long and in what batches."""
    train, order = recipe.train, training.order
    return {
        "num_train_images": order.train_samples,
        "num_reg_images": order.reg_samples,
        "num_validation_images": 0,
        "num_batches_per_epoch": sum(row.batches for row in order.bucket_table()),
        "num_epochs": train.epochs,
        "max_train_steps": training.total_steps,
        "gradient_checkpointing": train.checkpointing,
        "gradient_accumulation_steps": train.accumulation,
        "batch_size_per_device": train.batch_size,
        "total_batch_size": (train.batch_size or 1) * train.accumulation,
        "mixed_precision": train.precision,
        "full_fp16": False,
        "lowram": False,
        "seed": training.seed,
    }


def _optim_keys(recipe: Recipe, training: Training) -> dict[str, Any]:
    """Rates and optimizer."""
    return {
        "learning_rate": recipe.optim.lr,
        "text_encoder_lr": training.rates.get("te", 0.0),
        "unet_lr": training.rates.get("unet", 0.0),
        "lr_warmup_steps": training.warmup_steps,
        "lr_scheduler": recipe.schedule.scheduler,
        "optimizer": recipe.optim.optimizer,
        "max_grad_norm": recipe.optim.max_grad_norm,
    }


def _network_keys(recipe: Recipe) -> dict[str, Any]:
    """Kind and size of the network."""
    network = recipe.network
    return {
        "network_module": "networks.lora" if _is_plain_lora(network) else "lycoris.kohya",
        "network_dim": FULL_DIM if asked(network, "rank") == "full" else asked(network, "rank"),
        "network_alpha": asked(network, "alpha"),
        "network_dropout": asked(network, "dropout"),
        "network_args": _network_args(recipe),
        "scale_weight_norms": network.max_norm or None,
    }


def _objective_keys(recipe: Recipe, training: Training) -> dict[str, Any]:
    """Loss and noise."""
    objective = recipe.objective
    return {
        "clip_skip": training.clip_skip,
        "max_token_length": 75,
        "noise_offset": objective.noise_offset or None,
        "noise_offset_random_strength": objective.noise_offset_random,
        "prior_loss_weight": objective.prior_loss_weight,
        "min_snr_gamma": objective.min_snr_gamma or None,
        "loss_type": "l2",
    }


def _data_keys(recipe: Recipe, training: Training) -> dict[str, Any]:
    """Pictures, captions and buckets."""
    data, found = recipe.data, training.survey
    return {
        "cache_latents": data.cache_latents != "off",
        "caption_dropout_rate": data.caption_dropout,
        "caption_dropout_every_n_epochs": data.caption_dropout_every,
        "caption_tag_dropout_rate": data.tag_dropout,
        "resolution": str(training.resolution),
        "color_aug": False,
        "flip_aug": data.flip,
        "random_crop": data.random_crop,
        "shuffle_caption": data.shuffle_tags,
        "enable_bucket": data.buckets,
        "bucket_no_upscale": data.no_upscale,
        "min_bucket_reso": data.bucket_min,
        "max_bucket_reso": data.bucket_max,
        "keep_tokens": data.keep_tokens or 0,
        "dataset_dirs": _folders(found, reg=False),
        "reg_dataset_dirs": _folders(found, reg=True),
        "tag_frequency": tag_frequency(found, data.separator),
        "bucket_info": _buckets(training),
    }


def _is_plain_lora(network: Network) -> bool:
    """Whether kohya's own module could have written the file."""
    beyond = (asked(network, "tucker"), asked(network, "scalar"), network.train_norm)
    dora = asked(network, "dora", "off") != "off"
    return network.algorithm == "lora" and not (any(beyond) or dora or network.overrides)


FULL_DIM = 100000
"""How LyCORIS writes that the rank of a LoKr does not limit it; readers expect a number."""
THEIR_NAMES = {"t-lora": "tlora"}
"""Algorithms that LyCORIS spells otherwise."""
NETWORK_ARGS = {
    "conv_dim": "conv_rank",
    "conv_alpha": "conv_alpha",
    "use_tucker": "tucker",
    "use_scalar": "scalar",
    "rs_lora": "rs_lora",
    "factor": "factor",
    "decompose_both": "decompose_both",
    "unbalanced_factorization": "unbalanced",
    "block_size": "block_size",
    "constraint": "constraint",
    "rescaled": "rescaled",
    "train_on_input": "train_on_input",
    "detach_lower": "detach_lower",
    "sig_type": "sig_type",
    "use_data_init": "use_data_init",
    "min_rank": "min_rank",
    "mask_alpha": "mask_alpha",
    "orthogonality": "orthogonality",
    "dropout": "dropout",
    "rank_dropout": "rank_dropout",
    "module_dropout": "module_dropout",
}
"""Options by the names of LyCORIS, and ours for them."""


def _network_args(recipe: Recipe) -> dict[str, str]:
    """Options of the network beyond rank and alpha, by the names of LyCORIS."""
    network = recipe.network
    algorithm = THEIR_NAMES.get(network.algorithm, network.algorithm)
    preset = network.targets if network.targets_file is None else network.targets_file.name
    args = {"algo": algorithm, "preset": preset, "train_norm": network.train_norm}
    args |= {theirs: asked(network, ours) for theirs, ours in NETWORK_ARGS.items()}
    if asked(network, "dora", "off") != "off":
        args |= {"dora_wd": True, "wd_on_output": asked(network, "dora") == "output"}
    # A rank of 0 switches convolutions off; any other zero is what would be there anyway.
    return {
        key: str(value)
        for key, value in args.items()
        if value is not None and (key == "conv_dim" or value not in (False, 0.0))
    }


def _folders(found: Survey, *, reg: bool) -> dict[str, dict[str, int]]:
    return {
        concept.path.name: {"n_repeats": concept.repeats, "img_count": concept.images}
        for concept in found.concepts
        if concept.is_reg is reg
    }


def tag_frequency(found: Survey, separator: str) -> dict[str, dict[str, int]]:
    """How many pictures of each folder carry each tag: lower-cased, once a picture, without repeats."""
    counts: dict[str, Counter[str]] = {}
    for item in found.items:
        if not item.is_reg:
            tags = {tag.lower() for tag in split_tags(item.caption_raw, separator)}
            counts.setdefault(item.image.path.parent.name, Counter()).update(tags)
    return {folder: dict(tags.most_common()) for folder, tags in counts.items()}


def _buckets(training: Training) -> dict[str, Any]:
    rows = training.order.bucket_table()
    return {
        "buckets": {
            str(index): {"resolution": [row.width, row.height], "count": row.samples}
            for index, row in enumerate(rows)
        }
    }
