"""Names of kohya's tools and of LyCORIS beside ours. One table, used in both directions.

Sources: sd-scripts v0.10.1 (train_network.py, library/train_util.py), the kohya_ss GUI up to v26
(lora_gui.py) and lycoris-lora 4.1.3 (kohya.py).
"""

from __future__ import annotations

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
OLDER_ARGS = {"use_cp": "use_tucker", "use_conv_cp": "use_tucker", "unit": "block_size"}
"""Names that the same options had before, or have in kohya's own networks."""

OPTIMIZERS = {
    "AdamW": "adamw",
    "AdamW8bit": "adamw8bit",
    "PagedAdamW": "paged-adamw",
    "PagedAdamW8bit": "paged-adamw8bit",
    "PagedAdamW32bit": "paged-adamw32bit",
    "Lion": "lion",
    "Lion8bit": "lion8bit",
    "PagedLion8bit": "paged-lion8bit",
    "SGDNesterov": "sgd-nesterov",
    "SGDNesterov8bit": "sgd-nesterov8bit",
    "Prodigy": "prodigy",
    "DAdaptAdam": "dadapt-adam",
    "DAdaptAdaGrad": "dadapt-adagrad",
    "DAdaptAdan": "dadapt-adan",
    "DAdaptLion": "dadapt-lion",
    "DAdaptSGD": "dadapt-sgd",
    "Adafactor": "adafactor",
    "pytorch_optimizer.CAME": "came",
    "AdamWScheduleFree": "adamw-schedulefree",
    "RAdamScheduleFree": "radam-schedulefree",
    "SGDScheduleFree": "sgd-schedulefree",
    "Adam": "adam",
    "Adamax": "adamax",
    "Adagrad": "adagrad",
    "Adadelta": "adadelta",
    "ASGD": "asgd",
    "NAdam": "nadam",
    "RAdam": "radam",
    "RMSprop": "rmsprop",
    "Rprop": "rprop",
    "SGD": "sgd",
}
"""Optimizers as sd-scripts takes them (in any case), and ours."""
OLDER_OPTIMIZERS = {
    "dadaptation": "dadapt-adam",
    "dadaptadampreprint": "dadapt-adam",
    "dadaptadanip": "dadapt-adan",
    "came": "came",
    "came_pytorch.came": "came",
}

SAMPLER_ARGS = {
    "ddim": "ddim",
    "pndm": "pndm",
    "lms": "lms",
    "euler": "euler",
    "euler_a": "euler_a",
    "heun": "heun",
    "dpmpp_2m": "dpmsolver++",
}

ENDS_LOW = ("cosine_with_min_lr", "warmup_stable_decay")
"""Schedules with a lowest rate, which sd-scripts bends through half as many waves as cycles."""

KOHYA_CONV = r"conv_in|conv_out|time_embedding\..*"
"""What LyCORIS's preset full takes beside the layers that kohya's own LoCon has."""
