"""The `ss_` keys of a network file, as kohya's tools name them and A1111 and ComfyUI read them."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.data.captions import split_tags
from engine.data.placing import check_places
from engine.data.validation import held_out
from engine.kohya.names import FULL_DIM, NETWORK_ARGS, THEIR_NAMES
from engine.planning.rules import resolutions
from engine.planning.sizes import caches_latents
from engine.settings.network import Network, asked
from engine.settings.optimizers import OPTIMIZERS
from engine.settings.rules import WITHOUT_CONVOLUTIONS

if TYPE_CHECKING:
    from engine.assemble import Training
    from engine.checkpoint.state import Place
    from engine.data.survey import Survey
    from engine.outputs import Tally
    from engine.settings import Recipe
    from engine.settings.optim import Optim

LEGACY_START, LEGACY_BYTES, LEGACY_DIGITS = 0x100000, 0x10000, 8


def training_keys(recipe: Recipe, training: Training, place: Place, tally: Tally) -> dict[str, Any]:
    """Every key without its prefix, at one place of a run."""
    return {
        "session_id": int(tally.started_at * 1000) % 2**32,
        "training_started_at": tally.started_at,
        "training_finished_at": tally.started_at + tally.seconds() - tally.seconds_before,
        "output_name": recipe.run.name,
        "epoch": place.epoch,
        "steps": place.step,
        "training_comment": recipe.save.comment or recipe.data.trigger,
        **_base_keys(recipe, training),
        **_length_keys(recipe, training),
        **_optim_keys(recipe, training),
        **_network_keys(recipe),
        **_objective_keys(recipe, training),
        **_validation_keys(recipe, training),
        **_data_keys(recipe, training),
    }


def _base_keys(recipe: Recipe, training: Training) -> dict[str, Any]:
    """The base model, and its VAE where another one was given."""
    model, path, vae = training.model, recipe.model.path, recipe.model.vae
    return {
        "v2": model.base_version.startswith("sd_v2"),
        "base_model_version": model.base_version,
        "sd_model_name": None if path is None else path.name,
        "sd_model_hash": None if path is None else legacy_hash(path.expanduser()),
        "new_sd_model_hash": model.sha256,
        "vae_name": None if vae is None else vae.name,
        "vae_hash": None if vae is None else legacy_hash(vae.expanduser()),
        "new_vae_hash": None if vae is None else model.vae_hash,
    }


def legacy_hash(path: Path) -> str | None:
    """A file's old hash in the WebUI: 8 digits of the sha256 of 64 KiB behind the first MiB.

    None for a folder, and for a file that is gone since.
    """
    try:
        with path.open("rb") as file:
            file.seek(LEGACY_START)
            return hashlib.sha256(file.read(LEGACY_BYTES)).hexdigest()[:LEGACY_DIGITS]
    except OSError:
        return None


def _length_keys(recipe: Recipe, training: Training) -> dict[str, Any]:
    """How long and in what batches."""
    train, order = recipe.train, training.order
    return {
        "num_train_images": order.train_samples,
        "num_reg_images": order.reg_samples,
        "num_batches_per_epoch": sum(row.batches for row in order.bucket_table()),
        "num_epochs": train.epochs,
        "max_train_steps": training.total_steps,
        "gradient_checkpointing": train.checkpointing,
        "gradient_accumulation_steps": train.accumulation,
        "batch_size_per_device": train.batch_size,
        "total_batch_size": (train.batch_size or 1) * train.accumulation,
        "mixed_precision": train.precision,
        "full_fp16": train.network_precision == "fp16",
        "full_bf16": train.network_precision == "bf16",
        "lowram": False,
        "seed": training.seed,
    }


def _optim_keys(recipe: Recipe, training: Training) -> dict[str, Any]:
    """Rates and optimizer."""
    optim, schedule, rates = recipe.optim, recipe.schedule, training.rates
    return {
        "learning_rate": optim.lr,
        "text_encoder_lr": _text_rates(training),
        "unet_lr": rates.get("unet", 0.0),
        "lr_warmup_steps": training.warmup_steps,
        "lr_scheduler": schedule.scheduler,
        "optimizer": optimizer_words(optim),
        "max_grad_norm": optim.max_grad_norm,
    }


def _text_rates(training: Training) -> float | str:
    """The text encoder's rate; of two encoders a list, as kohya's tools write it for SDXL."""
    rates = [
        training.rates.get(part, 0.0) for part in training.model.components() if part != "unet"
    ]
    return rates[0] if len(rates) == 1 else str(rates)


def optimizer_words(optim: Optim) -> str:
    """ "AdamW8bit(weight_decay=0.1,betas=(0.9, 0.99))": its class and what it was given."""
    name = optim.optimizer or "adamw"
    given = {
        "weight_decay": optim.weight_decay,
        "betas": optim.betas,
        "eps": optim.eps,
        "d_coef": optim.d_coef if optim.d_coef != 1 else None,
    }
    words = [
        f"{key}={value}"
        for key, value in given.items()
        if value is not None and key in OPTIMIZERS[name].arguments
    ]
    words += [line.strip() for line in optim.arguments if line.strip()]
    return OPTIMIZERS[name].source + (f"({','.join(words)})" if words else "")


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
    """Loss and noise; what is off is None, as kohya's tools have it."""
    objective = recipe.objective
    return {
        "clip_skip": training.clip_skip,
        "max_token_length": recipe.model.max_tokens,
        "noise_offset": objective.noise_offset or None,
        "noise_offset_random_strength": objective.noise_offset_random,
        "adaptive_noise_scale": objective.adaptive_noise_scale or None,
        "multires_noise_iterations": objective.multires_iterations or None,
        "multires_noise_discount": objective.multires_discount,
        "ip_noise_gamma": objective.ip_noise_gamma or None,
        "ip_noise_gamma_random_strength": objective.ip_noise_random,
        "zero_terminal_snr": objective.zero_terminal_snr,
        "prior_loss_weight": objective.prior_loss_weight,
        "min_snr_gamma": objective.min_snr_gamma or None,
        "debiased_estimation": objective.debiased,
        "scale_v_pred_loss_like_noise_pred": objective.scale_v_loss,
        "v_pred_like_loss": objective.v_like_loss or None,
        "loss_type": objective.loss,
        "huber_schedule": objective.huber_schedule,
        "huber_c": objective.huber_c,
        "huber_scale": objective.huber_scale,
        "min_timestep": objective.min_timestep,
        "max_timestep": objective.max_timestep,
    }


def _validation_keys(recipe: Recipe, training: Training) -> dict[str, Any]:
    """What is held out, and how often it is measured."""
    data, train = recipe.data, recipe.train
    split = held_out(training.survey.items, data.validation, data.validation_seed)
    return {
        "num_validation_images": len(split.held_out),
        "validation_split": data.validation,
        "validation_seed": data.validation_seed,
        "validate_every_n_epochs": train.validate_every_epochs or None,
        "validate_every_n_steps": train.validate_every_steps or None,
        "max_validation_steps": None,
    }


def _data_keys(recipe: Recipe, training: Training) -> dict[str, Any]:
    """Pictures, captions and buckets."""
    data, found = recipe.data, training.survey
    return {
        "cache_latents": caches_latents(recipe),
        "caption_dropout_rate": data.caption_dropout,
        "caption_dropout_every_n_epochs": data.caption_dropout_every,
        "caption_tag_dropout_rate": data.tag_dropout,
        "face_crop_aug_range": None,
        "resize_interpolation": RESIZED_BY,
        "resolution": str(training.resolution),
        "color_aug": data.colour,
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
        "bucket_info": _buckets(recipe, training),
    }


RESIZED_BY = "box"
"""How pictures are shrunk; enlarged ones, which are few, by Lanczos."""


def _is_plain_lora(network: Network) -> bool:
    """Whether kohya's own module could have written the file."""
    beyond = (asked(network, "tucker"), asked(network, "scalar"), network.train_norm)
    dora = asked(network, "dora", "off") != "off"
    return network.algorithm == "lora" and not (any(beyond) or dora or network.overrides)


def _network_args(recipe: Recipe) -> dict[str, str]:
    """Options of the network beyond rank and alpha, by the names of LyCORIS."""
    network = recipe.network
    algorithm = THEIR_NAMES.get(network.algorithm, network.algorithm)
    preset = network.targets if network.targets_file is None else network.targets_file.name
    args = {"algo": algorithm, "preset": preset, "train_norm": network.train_norm}
    args |= {theirs: asked(network, ours) for theirs, ours in NETWORK_ARGS.items()}
    if network.targets_file is None and network.targets in WITHOUT_CONVOLUTIONS:
        # A reader would take them for layers that are not in the file; 0 says that there are none.
        args |= {"conv_dim": 0 if asked(network, "conv_rank") == 0 else None, "conv_alpha": None}
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
            # With wildcards a caption has several lines, and a tag of any counts.
            raw = item.caption_raw.replace("\n", separator)
            tags = {tag.lower() for tag in split_tags(raw, separator)}
            counts.setdefault(item.image.path.parent.name, Counter()).update(tags)
    return {folder: dict(tags.most_common()) for folder, tags in counts.items()}


def _buckets(recipe: Recipe, training: Training) -> dict[str, Any]:
    rows = training.order.bucket_table()
    return {
        "buckets": {
            str(index): {"resolution": [row.width, row.height], "count": row.samples}
            for index, row in enumerate(rows)
        },
        "mean_img_ar_error": _mean_shape_error(recipe, training),
    }


def _mean_shape_error(recipe: Recipe, training: Training) -> float:
    """How far pictures are from the shape of their bucket: mean difference of width / height."""
    places, _ = check_places(training.survey.items, resolutions(recipe.data))
    errors = []
    for each in places:
        if each.placement is not None:
            image, (width, height) = each.item.image, each.placement.bucket
            errors.append(abs(width / height - image.width / image.height))
    return round(sum(errors) / len(errors), 6) if errors else 0.0
