"""Finding a setting by what people call it: dotted path, bare key, label, or the name it has elsewhere."""

from __future__ import annotations

import difflib
import re
from functools import lru_cache

from engine.settings.walk import Setting, sections, setting, settings

OTHER_NAMES = {
    # Names in other trainers and in the guides, and what people type.
    "accumulate": "train.accumulation",
    "additional_network_weights": "network.weights",
    "algo": "network.algorithm",
    "batch": "train.batch_size",
    "bs": "train.batch_size",
    "bucket_no_upscale": "data.no_upscale",
    "bucket_reso_steps": "data.bucket_step",
    "cache_latents_to_disk": "data.cache_latents",
    "caption": "data.captions",
    "caption_dropout_every_n_epochs": "data.caption_dropout_every",
    "caption_dropout_rate": "data.caption_dropout",
    "caption_prefix": "data.prefix",
    "caption_suffix": "data.suffix",
    "caption_tag_dropout_rate": "data.tag_dropout",
    "class": "data.class_word",
    "class_token": "data.class_word",
    "clipping": "optim.max_grad_norm",
    "conv_dim": "network.conv_rank",
    "convolution_alpha": "network.conv_alpha",
    "convolution_rank": "network.conv_rank",
    "dim": "network.rank",
    "enable_bucket": "data.buckets",
    "enable_buckets": "data.buckets",
    "epoch": "train.epochs",
    "flip_aug": "data.flip",
    "flip_augmentation": "data.flip",
    "gradient_accumulate_steps": "train.accumulation",
    "gradient_accumulation": "train.accumulation",
    "gradient_accumulation_steps": "train.accumulation",
    "gradient_checkpointing": "train.checkpointing",
    "instance_token": "data.trigger",
    "keep_n_tokens": "data.keep_tokens",
    "keep_tags": "data.keep_tokens",
    "layers": "network.targets",
    "learning_rate": "optim.lr",
    "lora_type": "network.algorithm",
    "lr_scheduler": "schedule.scheduler",
    "lr_scheduler_num_cycles": "schedule.cycles",
    "lr_warmup": "schedule.warmup_percent",
    "lr_warmup_steps": "schedule.warmup_steps",
    "lycoris_preset": "network.targets",
    "max_bucket_reso": "data.bucket_max",
    "max_resolution": "data.resolution",
    "max_train_epochs": "train.epochs",
    "max_train_steps": "train.max_steps",
    "min_bucket_reso": "data.bucket_min",
    "min_snr": "objective.min_snr_gamma",
    "mixed_precision": "train.precision",
    "model_output_name": "run.name",
    "network_alpha": "network.alpha",
    "network_dim": "network.rank",
    "network_dropout": "network.dropout",
    "network_module": "network.algorithm",
    "network_rank": "network.rank",
    "network_weights": "network.weights",
    "number_of_cycles": "schedule.cycles",
    "optimizer_type": "optim.optimizer",
    "output_dir": "run.folder",
    "output_folder": "run.folder",
    "output_name": "run.name",
    "pictures": "data.folder",
    "pretrained_model_name_or_path": "model.path",
    "prior_loss": "objective.prior_loss_weight",
    "prior_preservation": "data.reg_folder",
    "reg": "data.reg_folder",
    "reg_data_dir": "data.reg_folder",
    "regularisation": "data.reg_folder",
    "regularisation_images": "data.reg_folder",
    "regularization": "data.reg_folder",
    "regularization_folder": "data.reg_folder",
    "regularization_images": "data.reg_folder",
    "sample_every_n_epochs": "sample.every_epochs",
    "sample_prompts": "sample.prompts",
    "save_every_n_epochs": "save.every_epochs",
    "save_every_n_steps": "save.every_steps",
    "save_precision": "save.precision",
    "scale_weight_norms": "network.max_norm",
    "seed": "train.seed",
    "shuffle": "data.shuffle_tags",
    "shuffle_caption": "data.shuffle_tags",
    "snr_gamma": "objective.min_snr_gamma",
    "text_encoder_learning_rate": "optim.te_lr",
    "text_encoder_lr": "optim.te_lr",
    "text_encoder_rate": "optim.te_lr",
    "train_batch_size": "train.batch_size",
    "train_data_dir": "data.folder",
    "training_comment": "save.comment",
    "trigger_word": "data.trigger",
    "unet_learning_rate": "optim.unet_lr",
    "v_parameterization": "model.prediction",
    "v_pred": "model.prediction",
    "warmup": "schedule.warmup_percent",
}
PREFERRED = {"every_epochs": "save.every_epochs", "every_steps": "save.every_steps"}
"""Which of two equal keys a bare name means."""
CLOSE_ENOUGH = 0.7


def find_setting(name: str) -> Setting | None:
    """The setting that a path, key, label or other name means beyond doubt; None otherwise."""
    exact = setting(name.strip())
    if exact is not None:
        return exact
    path = _names().get(simple(name.rpartition(".")[2] if name.count(".") == 1 else name))
    if path is None or (name.count(".") == 1 and not path.startswith(name.partition(".")[0])):
        return None
    return setting(path)


def nearest_key(path: str) -> str:
    """The known dotted path that a misspelt one probably means; empty where none is near."""
    known = _names()
    section, dot, key = path.rpartition(".")
    if simple(key) in known:
        return known[simple(key)]
    if dot:
        own = [row.key for row in settings() if row.section == section]
        close = difflib.get_close_matches(key, own, 1, CLOSE_ENOUGH)
        if close:
            return f"{section}.{close[0]}"
    paths = [row.path for row in settings()]
    close = difflib.get_close_matches(path, paths, 1, CLOSE_ENOUGH)
    if close:
        return close[0]
    close = difflib.get_close_matches(simple(key), known, 1, CLOSE_ENOUGH)
    return known[close[0]] if close else ""


def nearest_section(name: str) -> str:
    """The section that a misspelt one probably means; empty where none is near."""
    close = difflib.get_close_matches(name, sections(), 1, 0.6)
    return close[0] if close else ""


def nearest_choice(text: str, choices: tuple[str, ...]) -> str:
    """The choice that a misspelt one probably means; empty where none is near."""
    plain = {simple(choice): choice for choice in choices}
    close = difflib.get_close_matches(simple(text), plain, 1, 0.6)
    return plain[close[0]] if close else ""


def simple(name: str) -> str:
    """A name without case, dashes and spaces: "Batch size" and "--batch-size" are batch_size."""
    return re.sub(r"[^a-z0-9.]+", "_", name.strip().lower()).strip("_")


@lru_cache(maxsize=1)
def _names() -> dict[str, str]:
    """Every simple name that means one setting. Own keys win over labels, labels over other names."""
    found = dict(OTHER_NAMES)
    for by_label in (True, False):
        every: dict[str, list[str]] = {}
        for row in settings():
            every.setdefault(simple(row.label if by_label else row.key), []).append(row.path)
        found |= {name: paths[0] for name, paths in every.items() if len(paths) == 1}
    found |= PREFERRED
    # "folder" and "seed" are keys of two sections; the one that every run needs is meant.
    return found | {"folder": "data.folder", "seed": "train.seed", "precision": "train.precision"}
