"""Every argument of sd-scripts' LoRA trainers that is known here: its kind, and why some do nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["flag", "whole", "number", "text", "path", "list", "any"]


@dataclass(frozen=True, slots=True)
class Field:
    """An argument that is a setting of ours, value for value."""

    name: str
    path: str
    kind: Kind
    default: Any = None
    """What sd-scripts takes where it is missing, in our units; None leaves it to us."""
    note: str = ""


FIELDS = (
    Field("vae", "model.vae", "path"),
    Field("weighted_captions", "model.weighted_prompts", "flag", False),
    Field("training_comment", "save.comment", "text"),
    Field("metadata_title", "save.title", "text"),
    Field("metadata_author", "save.author", "text"),
    Field("metadata_description", "save.description", "text"),
    Field("metadata_license", "save.license", "text"),
    Field("reg_data_dir", "data.reg_folder", "path"),
    Field("shuffle_caption", "data.shuffle_tags", "flag", False),
    Field("keep_tokens", "data.keep_tokens", "whole", 0, "tags are counted, not commas"),
    Field("keep_tokens_separator", "data.keep_separator", "text", ""),
    Field("secondary_separator", "data.secondary_separator", "text", ""),
    Field("caption_separator", "data.separator", "text", ","),
    Field("enable_wildcard", "data.wildcards", "flag", False),
    Field("caption_dropout_rate", "data.caption_dropout", "number", 0.0),
    Field("caption_dropout_every_n_epochs", "data.caption_dropout_every", "whole", 0),
    Field("caption_tag_dropout_rate", "data.tag_dropout", "number", 0.0),
    Field("caption_prefix", "data.prefix", "text", ""),
    Field("caption_suffix", "data.suffix", "text", ""),
    Field("flip_aug", "data.flip", "flag", False),
    Field("color_aug", "data.colour", "flag", False),
    Field("random_crop", "data.random_crop", "flag", False),
    Field("enable_bucket", "data.buckets", "flag", False),
    Field("bucket_no_upscale", "data.no_upscale", "flag", False),
    Field("min_bucket_reso", "data.bucket_min", "whole", 256),
    Field("max_bucket_reso", "data.bucket_max", "whole", 1024),
    Field("vae_batch_size", "data.vae_batch", "whole", 1),
    Field("max_data_loader_n_workers", "data.workers", "whole", None, "speed only"),
    Field("validation_split", "data.validation", "number", 0.0),
    Field("validation_seed", "data.validation_seed", "whole"),
    Field("validate_every_n_epochs", "train.validate_every_epochs", "whole"),
    Field("validate_every_n_steps", "train.validate_every_steps", "whole"),
    Field("prior_loss_weight", "objective.prior_loss_weight", "number", 1.0),
    Field("noise_offset", "objective.noise_offset", "number", 0.0),
    Field("noise_offset_random_strength", "objective.noise_offset_random", "flag", False),
    Field("adaptive_noise_scale", "objective.adaptive_noise_scale", "number", 0.0),
    Field("multires_noise_iterations", "objective.multires_iterations", "whole", 0),
    Field("multires_noise_discount", "objective.multires_discount", "number", 0.3),
    Field("ip_noise_gamma", "objective.ip_noise_gamma", "number", 0.0),
    Field("ip_noise_gamma_random_strength", "objective.ip_noise_random", "flag", False),
    Field("zero_terminal_snr", "objective.zero_terminal_snr", "flag", False),
    Field("scale_v_pred_loss_like_noise_pred", "objective.scale_v_loss", "flag", False),
    Field("v_pred_like_loss", "objective.v_like_loss", "number", 0.0),
    Field("debiased_estimation_loss", "objective.debiased", "flag", False),
    Field("min_snr_gamma", "objective.min_snr_gamma", "number", 0.0),
    Field("loss_type", "objective.loss", "text", "l2"),
    Field("huber_schedule", "objective.huber_schedule", "text", "snr"),
    Field("huber_c", "objective.huber_c", "number", 0.1),
    Field("huber_scale", "objective.huber_scale", "number", 1.0),
    Field("min_timestep", "objective.min_timestep", "whole", 0),
    Field("max_timestep", "objective.max_timestep", "whole", 1000),
    Field("train_batch_size", "train.batch_size", "whole", 1),
    Field("gradient_accumulation_steps", "train.accumulation", "whole", 1),
    Field("gradient_checkpointing", "train.checkpointing", "flag", False),
    Field("mixed_precision", "train.precision", "text", "no"),
    Field("seed", "train.seed", "whole"),
    Field("max_grad_norm", "optim.max_grad_norm", "number", 1.0),
    Field(
        "scale_weight_norms",
        "network.max_norm",
        "number",
        0.0,
        "here after each step and for every algorithm; LyCORIS does it for some",
    ),
    Field("save_every_n_epochs", "save.every_epochs", "whole", 0),
    Field("save_every_n_steps", "save.every_steps", "whole", 0),
    Field("lr_scheduler_num_cycles", "schedule.cycles", "whole", 1),
    Field("lr_scheduler_power", "schedule.power", "number", 1.0),
    Field("lr_scheduler_min_lr_ratio", "schedule.min_lr_ratio", "number"),
    Field("sample_at_first", "sample.at_start", "flag", False),
)
BY_NAME = {field.name: field for field in FIELDS}

HANDLED: dict[str, Kind] = {
    # Arguments that need more than a name and a value: see the modules beside this one.
    "script": "text", "pretrained_model_name_or_path": "path", "v2": "flag", "clip_skip": "whole",
    "v_parameterization": "flag", "train_data_dir": "path", "output_dir": "path",
    "output_name": "text", "dataset_config": "path", "resolution": "any",
    "bucket_reso_steps": "whole", "caption_extension": "text", "caption_extention": "text",
    "cache_latents": "flag", "cache_latents_to_disk": "flag", "masked_loss": "flag",
    "alpha_mask": "flag", "conditioning_data_dir": "path", "max_token_length": "whole",
    "cache_text_encoder_outputs": "flag", "cache_text_encoder_outputs_to_disk": "flag",
    "network_module": "text", "network_dim": "whole", "network_alpha": "number",
    "network_dropout": "number", "network_args": "list", "network_weights": "path",
    "dim_from_weights": "flag", "network_train_unet_only": "flag", "lr_warmup_percent": "number",
    "network_train_text_encoder_only": "flag", "learning_rate": "number", "unet_lr": "number",
    "text_encoder_lr": "any", "optimizer_type": "text", "optimizer_args": "list",
    "use_8bit_adam": "flag", "use_lion_optimizer": "flag", "lr_scheduler": "text",
    "lr_scheduler_type": "text", "lr_scheduler_args": "list", "lr_warmup_steps": "number",
    "lr_decay_steps": "number", "epoch": "whole", "max_train_epochs": "whole",
    "max_train_steps": "whole", "full_fp16": "flag", "full_bf16": "flag", "xformers": "flag",
    "sdpa": "flag", "mem_eff_attn": "flag", "save_precision": "text", "save_model_as": "text",
    "save_last_n_epochs": "whole", "save_last_n_steps": "whole", "save_n_epoch_ratio": "whole",
    "no_metadata": "flag", "logging_dir": "path", "log_with": "text", "log_tracker_name": "text",
    "sample_prompts": "any", "sample_sampler": "text", "sample_every_n_epochs": "whole",
    "sample_every_n_steps": "whole", "stop_text_encoder_training": "number",
}  # fmt: skip

SAVED = "the exact state is always saved here; `lyctui resume` goes on with it"
MEMORY = "changes memory or speed, not the result"
HUB = "nothing is sent anywhere from here"
SECRETS = "keys are never read from a file: they come from the environment"
IDLE: dict[str, str] = {
    "num_cpu_threads_per_process": "a hint to the launcher; torch uses every core here",
    "tokenizer_cache_dir": "tokenizers come with the program",
    "no_half_vae": "the VAE works in fp32 wherever half precision would break it",
    "lowram": MEMORY, "highvram": MEMORY, "lowvram": MEMORY, "torch_compile": MEMORY,
    "dynamo_backend": MEMORY, "persistent_data_loader_workers": MEMORY,
    "cpu_offload_checkpointing": MEMORY, "disable_mmap_load_safetensors": MEMORY,
    "fused_backward_pass": MEMORY, "cache_info": MEMORY, "skip_cache_check": MEMORY,
    "text_encoder_batch_size": MEMORY, "ddp_timeout": MEMORY, "ddp_gradient_as_bucket_view": MEMORY,
    "ddp_static_graph": MEMORY, "deepspeed": MEMORY, "save_state": SAVED,
    "save_state_on_train_end": SAVED, "save_last_n_epochs_state": SAVED,
    "save_last_n_steps_state": SAVED, "huggingface_repo_id": HUB, "huggingface_repo_type": HUB,
    "huggingface_path_in_repo": HUB, "huggingface_repo_visibility": HUB,
    "save_state_to_huggingface": HUB, "resume_from_huggingface": HUB, "async_upload": HUB,
    "huggingface_token": SECRETS, "wandb_api_key": SECRETS,
    "wandb_run_name": "the run's name is used", "log_prefix": "the run's name is used",
    "log_tracker_config": "no further configuration of trackers is read",
    "log_config": "the recipe is always stored with the run",
    "metadata_tags": "trigger and class are the tags",
    "console_log_level": "what is printed is in run.log", "console_log_file": "see run.log",
    "console_log_simple": "see run.log", "config_file": "this is that file",
    "output_config": "`lyctui new --write` writes a recipe",
    "debug_dataset": "`lyctui check` shows what is wrong with pictures",
    "in_json": "belongs to fine-tuning with a metadata file",
    "dataset_repeats": "belongs to fine-tuning with a metadata file",
    "noise_offset_type": "only a switch of the GUI",
    "max_validation_steps": "every held-out picture is measured",
    "initial_epoch": "`lyctui resume` knows where to go on",
    "initial_step": "`lyctui resume` knows where to go on",
    "skip_until_initial_step": "`lyctui resume` knows where to go on",
    "loraplus_lr_ratio": "kohya reads LoRA+ only inside network_args",
    "loraplus_unet_lr_ratio": "kohya reads LoRA+ only inside network_args",
    "loraplus_text_encoder_lr_ratio": "kohya reads LoRA+ only inside network_args",
}  # fmt: skip
UNSUPPORTED: dict[str, str] = {
    "base_weights": "networks are not merged into the base first: merge them with `lyctui merge"
    " --into` and train on the result",
    "base_weights_multiplier": "see base_weights",
    "face_crop_aug_range": "no crops around faces: pictures are cut around their centre",
    "token_warmup_min": "every tag is there from the first step",
    "token_warmup_step": "every tag is there from the first step",
    "resume": "states of kohya cannot be read: begin from its network file with network.weights,"
    " moments and schedule start fresh",
    "dataset_class": "own data set classes are not loaded",
    "resize_interpolation": "pictures are resized with Lanczos filters",
    "skip_image_resolution": "small pictures are named before the start instead",
    "lr_scheduler_timescale": "the timescale is the warmup",
    "fp8_base": "the base stays in 16 bits: more memory, a little more exact",
    "fp8_base_unet": "the base stays in 16 bits: more memory, a little more exact",
    "network_merge_n_models": "networks are not merged while training",
}
"""What cannot be had, and what that changes."""


def known_arguments() -> frozenset[str]:
    """Names of every argument that is known."""
    return frozenset({*BY_NAME, *HANDLED, *IDLE, *UNSUPPORTED})


def kind_of(name: str) -> Kind:
    """How the argument is written on a command line; "any" for those that do nothing here."""
    if name in BY_NAME:
        return BY_NAME[name].kind
    return HANDLED.get(name, "any")
