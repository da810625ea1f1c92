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
    model, network, order = training.model, recipe.network, training.order
    found, train, objective = training.survey, recipe.train, recipe.objective
    comment = recipe.save.comment or recipe.data.trigger
    return {
        "session_id": int(tally.started_at * 1000) % 2**32,
        "training_started_at": tally.started_at,
        "training_finished_at": tally.started_at + tally.seconds() - tally.seconds_before,
        "output_name": recipe.run.name,
        "learning_rate": recipe.optim.lr,
        "text_encoder_lr": training.rates.get("te", 0.0),
        "unet_lr": training.rates.get("unet", 0.0),
        "num_train_images": order.train_samples,
        "num_reg_images": order.reg_samples,
        "num_validation_images": 0,
        "num_batches_per_epoch": sum(row.batches for row in order.bucket_table()),
        "num_epochs": train.epochs,
        "epoch": place.epoch,
        "steps": place.step,
        "gradient_checkpointing": train.checkpointing,
        "gradient_accumulation_steps": train.accumulation,
        "max_train_steps": training.total_steps,
        "lr_warmup_steps": training.warmup_steps,
        "lr_scheduler": recipe.schedule.scheduler,
        "network_module": "networks.lora" if network.algorithm == "lora" else "lycoris.kohya",
        "network_dim": network.rank,
        "network_alpha": network.alpha,
        "network_dropout": network.dropout,
        "network_args": _network_args(recipe),
        "mixed_precision": train.precision,
        "full_fp16": False,
        "v2": False,
        "base_model_version": model.base_version,
        "clip_skip": training.clip_skip,
        "max_token_length": 75,
        "cache_latents": recipe.data.cache_latents != "off",
        "seed": training.seed,
        "lowram": False,
        "noise_offset": objective.noise_offset or None,
        "noise_offset_random_strength": objective.noise_offset_random,
        "training_comment": comment,
        "optimizer": recipe.optim.optimizer,
        "max_grad_norm": recipe.optim.max_grad_norm,
        "caption_dropout_rate": recipe.data.caption_dropout,
        "caption_dropout_every_n_epochs": recipe.data.caption_dropout_every,
        "caption_tag_dropout_rate": recipe.data.tag_dropout,
        "prior_loss_weight": objective.prior_loss_weight,
        "min_snr_gamma": objective.min_snr_gamma or None,
        "scale_weight_norms": network.max_norm or None,
        "loss_type": "l2",
        "batch_size_per_device": train.batch_size,
        "total_batch_size": (train.batch_size or 1) * train.accumulation,
        "resolution": str(training.resolution),
        "color_aug": False,
        "flip_aug": recipe.data.flip,
        "random_crop": recipe.data.random_crop,
        "shuffle_caption": recipe.data.shuffle_tags,
        "enable_bucket": recipe.data.buckets,
        "bucket_no_upscale": recipe.data.no_upscale,
        "min_bucket_reso": recipe.data.bucket_min,
        "max_bucket_reso": recipe.data.bucket_max,
        "keep_tokens": recipe.data.keep_tokens or 0,
        "dataset_dirs": _folders(found, reg=False),
        "reg_dataset_dirs": _folders(found, reg=True),
        "tag_frequency": tag_frequency(found, recipe.data.separator),
        "bucket_info": _buckets(training),
        "sd_model_name": None if recipe.model.path is None else recipe.model.path.name,
        "new_sd_model_hash": model.sha256,
        "vae_name": None if recipe.model.vae is None else recipe.model.vae.name,
        "new_vae_hash": model.vae_hash,
    }


def _network_args(recipe: Recipe) -> dict[str, str]:
    """Options of the network beyond rank and alpha, by the names of LyCORIS."""
    network = recipe.network
    args = {
        "algo": network.algorithm,
        "preset": network.targets,
        "conv_dim": network.conv_rank,
        "conv_alpha": network.conv_alpha,
        "use_tucker": network.tucker,
        "use_scalar": network.scalar,
        "rs_lora": network.rs_lora,
        "factor": getattr(network, "factor", None),
        "decompose_both": getattr(network, "decompose_both", None),
        "rank_dropout": network.rank_dropout,
        "module_dropout": network.module_dropout,
    }
    return {key: str(value) for key, value in args.items() if value not in (None, False, 0.0)}


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
