"""Keeps the model libraries silent and offline: their messages would land in the middle of a screen."""

from __future__ import annotations

import logging
import os
import warnings

from engine.offline import stay_offline

NOISY = ("accelerate", "bitsandbytes", "diffusers", "huggingface_hub", "transformers")
SILENT = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
}


def import_quietly() -> None:
    """Import diffusers and transformers without warnings, progress bars or a look at a network.

    Costs seconds and 400 MB at the first call, so it is called where a model is loaded, not before.
    """
    stay_offline()
    for name, value in SILENT.items():
        os.environ.setdefault(name, value)
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Both libraries import a class's module only when the class is asked for, noise included.
        import diffusers
        import transformers
        from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel  # noqa: F401
        from transformers import CLIPTextModel  # noqa: F401
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
