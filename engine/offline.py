"""Libraries that would look at a network by themselves are told not to, before they are imported."""

from __future__ import annotations

import os

OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
    "DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "WANDB_ERROR_REPORTING": "false",
}
"""Of the hub's client, which diffusers, transformers and accelerate share, and of wandb's reports of its
own errors. Models lie on this machine: nothing here ever asks for one by name."""


def stay_offline() -> None:
    """Set what these libraries read while they are imported, whatever the shell says."""
    os.environ.update(OFFLINE)
