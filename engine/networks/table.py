"""The algorithms there are."""

from __future__ import annotations

from engine.networks.base import Adapter
from engine.networks.lokr import Lokr
from engine.networks.lora import Lora

ALGORITHMS: dict[str, type[Adapter]] = {"lora": Lora, "locon": Lora, "lokr": Lokr}
"""By the name a recipe gives it."""
