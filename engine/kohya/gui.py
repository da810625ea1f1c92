"""What the kohya_ss GUI made of its JSON file: the arguments that sd-scripts then got.

Source: kohya_gui/lora_gui.py of v23 to v26. The GUI drops every 0, false and blank before it writes
the arguments, so that sd-scripts takes its own default for them.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from engine.errors import Problem
from engine.kohya.arguments import BY_NAME, known_arguments
from engine.kohya.given import FALSE, Given, Work, nearest
from engine.kohya.report import Row, shown
from engine.kohya.source import parsed_arguments

RENAMED = {
    "optimizer": "optimizer_type",
    "max_resolution": "resolution",
    "lora_network_weights": "network_weights",
    "lr_warmup": "lr_warmup_percent",
}
FORM = {
    # What a fresh form of the GUI holds, for keys that a file lacks.
    "learning_rate": 1e-4, "text_encoder_lr": 1e-4, "unet_lr": 1e-4, "lr_scheduler": "cosine",
    "lr_warmup_percent": 10, "optimizer_type": "AdamW8bit", "network_dim": 8, "network_alpha": 1,
    "train_batch_size": 1, "resolution": "512,512", "enable_bucket": True, "min_bucket_reso": 256,
    "max_bucket_reso": 2048, "bucket_reso_steps": 64, "bucket_no_upscale": True,
    "caption_extension": ".txt", "mixed_precision": "fp16", "save_precision": "fp16",
    "cache_latents": True, "clip_skip": 1, "save_every_n_epochs": 1, "output_name": "last",
    "lr_scheduler_num_cycles": 1, "gradient_accumulation_steps": 1,
}  # fmt: skip
KOHYA_DEFAULT = {"learning_rate": 2e-6, "network_alpha": 1, "caption_extension": ".caption"}
"""Defaults of sd-scripts that the table of fields does not hold."""
KEEPS_ZERO = frozenset(
    {"epoch", "max_train_steps", "max_train_epochs", "max_data_loader_n_workers"}
)
"""Keys whose 0 is read before the GUI drops it."""

LYCORIS = (
    "LyCORIS_preset", "conv_dim", "conv_alpha", "rank_dropout", "module_dropout", "use_tucker",
    "use_scalar", "rank_dropout_scale", "train_norm",
)  # fmt: skip
DORA = ("bypass_mode", "dora_wd")
OFT = ("constrain", "rescaled")
BLOCKS = (
    "down_lr_weight", "mid_lr_weight", "up_lr_weight", "block_lr_zero_threshold", "block_dims",
    "block_alphas", "conv_block_dims", "conv_block_alphas", "rank_dropout", "module_dropout",
)  # fmt: skip
TYPES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    # LoRA type: module, algorithm, and the keys that the GUI sends for it.
    "Standard": ("networks.lora", "", BLOCKS),
    "Kohya LoCon": ("networks.lora", "", ("conv_dim", "conv_alpha", *BLOCKS)),
    "LoRA-FA": ("networks.lora_fa", "", BLOCKS),
    "Kohya DyLoRA": ("networks.dylora", "", ("conv_dim", "conv_alpha", "unit", *BLOCKS)),
    "LoCon": ("lycoris.kohya", "locon", (*LYCORIS, *DORA)),
    "LyCORIS/LoCon": ("lycoris.kohya", "locon", (*LYCORIS, *DORA)),
    "LyCORIS/LoHa": ("lycoris.kohya", "loha", (*LYCORIS, *DORA)),
    "LyCORIS/LoKr": (
        "lycoris.kohya", "lokr",
        (*(key for key in LYCORIS if key != "use_tucker"), *DORA, "factor", "use_cp",
         "decompose_both"),
    ),
    "LyCORIS/DyLoRA": ("lycoris.kohya", "dylora", (*LYCORIS, "unit")),
    "LyCORIS/GLoRA": (
        "lycoris.kohya", "glora",
        tuple(key for key in LYCORIS if key not in ("use_tucker", "use_scalar")),
    ),
    "LyCORIS/iA3": (
        "lycoris.kohya", "ia3", ("LyCORIS_preset", "conv_dim", "conv_alpha", "train_on_input"),
    ),
    "LyCORIS/Diag-OFT": ("lycoris.kohya", "diag-oft", (*LYCORIS, *OFT)),
    "LyCORIS/BOFT": ("lycoris.kohya", "boft", (*LYCORIS, *OFT)),
    "LyCORIS/Native Fine-Tuning": (
        "lycoris.kohya", "full",
        tuple(key for key in LYCORIS if key not in ("conv_dim", "conv_alpha")),
    ),
}  # fmt: skip
NETWORK_FORM = {"LyCORIS_preset": "full", "conv_dim": 1, "conv_alpha": 1, "factor": -1, "unit": 1}
NETWORK_KEYS = frozenset(
    {key for _, _, keys in TYPES.values() for key in keys} | {"conv_dims", "conv_alphas"}
)
OTHER_FAMILIES = {"flux1_checkbox": "FLUX", "sd3_checkbox": "SD3", "lumina_checkbox": "Lumina",
                  "anima_checkbox": "Anima", "hunyuan_checkbox": "HunyuanImage"}  # fmt: skip
FAMILY_PARTS = ("flux", "sd3", "t5xxl", "clip_l", "clip_g", "lumina", "anima", "hunyuan", "ae",
                "discrete_flow_shift", "guidance_scale", "timestep_sampling", "split_mode",
                "model_prediction_type", "apply_t5", "train_blocks", "split_qkv",
                "blocks_to_swap", "weighting_scheme", "logit_", "mode_scale", "mem_eff_save",
                "single_", "double_", "train_double", "train_single", "in_dims", "img_", "txt_",
                "enable_all_linear", "pos_emb_", "save_clip", "save_t5xxl", "train_t5xxl",
                "learning_rate_te")  # fmt: skip
FORM_ONLY = frozenset(
    {
        "model_list", "save_as_bool", "training_preset", "extra_accelerate_launch_args", "gpu_ids",
        "main_process_port", "dynamo_mode", "dynamo_use_dynamic", "dynamo_use_fullgraph",
        "no_token_padding", "noise_offset_type", "num_machines", "multi_gpu", "headless",
        "print_only", "stop_text_encoder_training_pct", "compile", "v_pred_like_loss_bool",
    }
)  # fmt: skip
READ_ELSEWHERE = frozenset(
    {"LoRA_type", "additional_parameters", "sdxl", "use_wandb", "num_processes", "xformers",
     "sdxl_cache_text_encoder_outputs", "sdxl_no_half_vae", *OTHER_FAMILIES}
)  # fmt: skip


def gui_arguments(data: dict[str, Any], folder: Path) -> Work:
    """The arguments that sd-scripts got, each under the key it came from."""
    work = Work({}, folder)
    _family(data, work)
    for key, value in data.items():
        if key in READ_ELSEWHERE or key in NETWORK_KEYS:
            continue
        _argument(work, key, value)
    for name, value in FORM.items():
        if name not in work.given:
            work.given[name] = Given(value, name, "missing: the GUI's own value", missing=True)
    _noise(data, work)
    _network(data, work)
    _parts(work)
    _switches(data, work)
    _length(data, work)
    if "additional_parameters" in data:
        _additional(data["additional_parameters"], work)
    return work


def is_off(value: Any) -> bool:
    """Whether the GUI drops the value: blank, false, nothing, or a 0 of any kind."""
    if isinstance(value, str):
        return value.strip() in ("", "0", "0.0")
    return value is None or (isinstance(value, (bool, int, float)) and not value)


def _told(work: Work, key: str, value: Any, note: str, status: Any = "no effect") -> None:
    work.extra.append(Row(key, shown(key, value), status, (), note))


def _argument(work: Work, key: str, value: Any) -> None:
    name = RENAMED.get(key, key)
    if key in FORM_ONLY:
        _told(work, key, value, "belongs to the form or the launcher")
    elif key.startswith(FAMILY_PARTS) and name not in known_arguments():
        _told(work, key, value, "belongs to another family of models")
    elif isinstance(value, (dict, list)) and name in BY_NAME:
        work.given[name] = Given(value, key)
    elif is_off(value) and name not in KEEPS_ZERO:
        work.given[name] = _dropped(name, key, value)
    else:
        work.given[name] = Given(value, key)


def _dropped(name: str, key: str, value: Any) -> Given:
    """A value that never reached sd-scripts, and what that took instead."""
    field = BY_NAME.get(name)
    default = KOHYA_DEFAULT.get(name, field.default if field else None)
    if default in (None, "", False, 0):
        return Given(None if name not in BY_NAME else default, key, written=value)
    if isinstance(value, (str, bool)) or value is None:
        return Given(default, key, f"blank, so kohya ran with {default}", written=value)
    note = f"the GUI leaves a 0 out, so kohya ran with {default}"
    return Given(default, key, note, written=value)


def _family(data: dict[str, Any], work: Work) -> None:
    for key, name in OTHER_FAMILIES.items():
        if key in data and _on(data[key]):
            what = f"This trains {name}; SD1, SD2 and SDXL can be trained here."
            work.problems.append(Problem(what, path=key))
        elif key in data:
            _told(work, key, data[key], "belongs to another family of models")
    sdxl = _on(data.get("sdxl"))
    script = "sdxl_train_network.py" if sdxl else "train_network.py"
    work.given["script"] = Given(script, "sdxl", missing="sdxl" not in data, written=sdxl)


def _on(value: Any) -> bool:
    """Whether a switch of the form is on."""
    if isinstance(value, str):
        return value.strip().lower() not in FALSE
    return isinstance(value, (bool, int, float)) and bool(value)


def _noise(data: dict[str, Any], work: Work) -> None:
    """The GUI sends plain or multires noise, never both, as its switch says."""
    kind = str(data.get("noise_offset_type", "Original"))
    plain = ("noise_offset", "noise_offset_random_strength", "adaptive_noise_scale")
    multires = ("multires_noise_iterations", "multires_noise_discount")
    for name in multires if kind == "Original" else plain:
        found = work.given.pop(name, None)
        if found is not None:
            note = f"not sent: noise_offset_type is {shown('', kind)}"
            written = found.value if found.written is None else found.written
            _told(work, found.key, written, note)


def _network(data: dict[str, Any], work: Work) -> None:
    kind = str(data.get("LoRA_type", "Standard"))
    if kind not in TYPES:
        near = nearest(kind, TYPES)
        what = f'LoRA_type "{shown("", kind)}" is not known here.'
        work.problems.append(Problem(what, remedy=near.capitalize(), path="LoRA_type"))
        return
    module, algorithm, sent = TYPES[kind]
    work.given["network_module"] = Given(module, "LoRA_type", written=kind)
    if algorithm:
        work.given["network_args.algo"] = Given(algorithm, "LoRA_type", written=kind)
    for key in NETWORK_KEYS:
        if key not in sent:
            if key in data:
                _told(work, key, data[key], f"not sent for {kind}")
            continue
        name = "preset" if key == "LyCORIS_preset" else key
        if key in data and not (key in BLOCKS and is_off(data[key])):
            work.given[f"network_args.{name}"] = Given(data[key], key)
        elif key in data:
            _told(work, key, data[key], "off")
        elif key in NETWORK_FORM:
            value = NETWORK_FORM[key]
            note = "missing: the GUI's own value"
            work.given[f"network_args.{name}"] = Given(value, key, note, missing=True)


def _parts(work: Work) -> None:
    """A rate of 0 for one part alone switches that part off; 0 for both trains both."""
    unet, te = work.given.get("unet_lr"), work.given.get("text_encoder_lr")
    if unet is None or te is None or (unet.value is None) == (te.value is None):
        return
    name, off = (
        ("network_train_text_encoder_only", unet)
        if unet.value is None
        else ("network_train_unet_only", te)
    )
    work.given[name] = Given(True, off.key, written=off.written)
    work.silent.add("text_encoder_lr" if off is te else "unet_lr")


def _switches(data: dict[str, Any], work: Work) -> None:
    """Switches of the form under other names, or with other values."""
    if "use_wandb" in data:
        wandb = _on(data["use_wandb"])
        if wandb:
            work.given["log_with"] = Given("wandb", "use_wandb", written=True)
        else:
            _told(work, "use_wandb", data["use_wandb"], "off")
    attention = data.get("xformers")
    if attention is not None:
        word = "xformers" if attention is True else str(attention).strip().lower()
        name = word if word in ("xformers", "sdpa") else "mem_eff_attn"
        work.given.setdefault(name, Given(word in ("xformers", "sdpa"), "xformers", written=word))
    te_cache = data.get("sdxl_cache_text_encoder_outputs")
    if te_cache is not None:
        sdxl = _on(data.get("sdxl"))
        key = "sdxl_cache_text_encoder_outputs"
        if sdxl or not _on(te_cache):
            given = Given(_on(te_cache), key)
            work.given["cache_text_encoder_outputs"] = given
        else:
            _told(work, key, te_cache, "sent for SDXL only")
    if "sdxl_no_half_vae" in data:
        work.given["no_half_vae"] = Given(data["sdxl_no_half_vae"], "sdxl_no_half_vae")
    _processes(data, work)


def _processes(data: dict[str, Any], work: Work) -> None:
    if "num_processes" not in data:
        return
    value = data["num_processes"]
    many = isinstance(value, (int, float)) and value > 1
    note = (
        f"one process trains here; batch × {value} has the same effect" if many else "one here too"
    )
    _told(work, "num_processes", value, note, "unsupported" if many else "no effect")


def _length(data: dict[str, Any], work: Work) -> None:
    """Cycles that are blank count as many as the epochs; a seed of 0 is drawn."""
    cycles = work.given.get("lr_scheduler_num_cycles")
    if cycles is not None and str(cycles.written) == "" and data.get("epoch"):
        note = "blank: the GUI takes the number of epochs"
        work.given["lr_scheduler_num_cycles"] = Given(
            data["epoch"], cycles.key, note, written=cycles.written
        )


def _additional(text: Any, work: Work) -> None:
    """Free text at the end of the command: it wins over everything before."""
    key = "additional_parameters"
    if text is None or not str(text).strip():
        _told(work, key, "", "none")
        return
    try:
        words = shlex.split(str(text))
    except ValueError as error:
        work.problems.append(Problem(f"{key} cannot be read: {error}.", path=key))
        return
    found = parsed_arguments(words)
    _told(work, key, f"{len(found)} options", "read as arguments, below", "translated")
    if "network_args" in found:
        _replace_network(work)
    for name, value in found.items():
        work.given[name] = Given(value, f"{key}: --{name}")


def _replace_network(work: Work) -> None:
    """A list on the command line replaces the whole list of the form, its algorithm included."""
    for name in [name for name in work.given if name.startswith("network_args.")]:
        before = work.given.pop(name)
        if not before.missing and before.key != "LoRA_type":
            note = "network_args of additional_parameters replaces the whole list"
            _told(work, before.key, before.value, note)
