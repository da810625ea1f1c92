"""Optimizers of bitsandbytes over flat groups. Imported where it is used: it is not everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import bitsandbytes.optim
from bitsandbytes.optim.optimizer import Optimizer8bit
from torch import Tensor

if TYPE_CHECKING:
    import torch

HIDDEN = Optimizer8bit._FSDP_WRAPPED_QUANT_STATE_KEY
"""Key under which bitsandbytes hides tensors from FSDP."""
STATES = ("state1", "state2")


class Flat(Optimizer8bit):  # type: ignore[misc]
    """8-bit states in blocks of 256 with one scale each (Dettmers et al. 2021, arXiv:2110.02861).

    bitsandbytes synchronises with the GPU after each tensor; over flat groups that is once or twice a step.
    Its own size rule would see one large tensor, so a group says itself that it is small.
    """

    def get_config(self, gindex: int, pindex: int, group: Mapping[str, Any]) -> dict[str, Any]:
        """Settings of one tensor; small groups keep 32 bits."""
        # SGD and Lion have no eps, which the base class asks for.
        config: dict[str, Any] = super().get_config(gindex, pindex, {"eps": 0.0, **group})
        return {**config, "optim_bits": 32} if group["small"] else config

    def state_dict(self) -> dict[str, Any]:
        """As torch writes it: nothing hidden."""
        state: dict[str, Any] = super().state_dict()
        shown = {number: _unwrapped(values) for number, values in state["state"].items()}
        return {**state, "state": shown}

    def load_state_dict(self, state_dict: Mapping[str, Any], move_to_device: bool = True) -> None:
        """Exact inverse of `state_dict`; a paged state is paged again."""
        super().load_state_dict(state_dict, move_to_device=move_to_device)
        if not self.is_paged:
            return
        for parameter, values in self.state.items():
            for key in STATES:
                if isinstance(values.get(key), Tensor):
                    buffer = self.get_state_buffer(parameter, dtype=values[key].dtype)
                    values[key] = buffer.copy_(values[key])


def class_named(source: str) -> type[torch.optim.Optimizer]:
    """The class of bitsandbytes.optim of this name."""
    found: type[torch.optim.Optimizer] = getattr(bitsandbytes.optim, source)
    return found


def _unwrapped(values: Mapping[str, Any]) -> dict[str, Any]:
    everything = {**values, **values.get(HIDDEN, {})}
    return {key: value for key, value in everything.items() if key != HIDDEN}
