"""AdamW with 8-bit moments over flat groups. Imported where it is used: bitsandbytes is not everywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bitsandbytes.optim import AdamW8bit

from engine.optim.groups import Group, indexed_state, named_state


class FlatAdamW8bit(AdamW8bit):  # type: ignore[misc]
    """AdamW8bit (Dettmers et al. 2021, arXiv:2110.02861): moments in blocks of 256 with one scale each.

    bitsandbytes synchronises with the GPU after each tensor; over flat groups that is once or twice a step.
    Its own size rule would see one large tensor, so a group says itself that it is small.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        *,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
    ) -> None:
        """One torch group for each of `groups`."""
        self._flat_groups = tuple(groups)
        super().__init__(
            [group.as_torch("adamw8bit") for group in groups],
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
        )

    def get_config(self, gindex: int, pindex: int, group: Mapping[str, Any]) -> dict[str, Any]:
        """Settings of one tensor; small groups keep 32 bits."""
        config: dict[str, Any] = super().get_config(gindex, pindex, group)
        return {**config, "optim_bits": 32} if group["small"] else config

    def state_dict(self) -> dict[str, Any]:
        """State by name, in the tensors' shapes."""
        state = super().state_dict()
        unwrapped = {number: _unwrapped(values) for number, values in state["state"].items()}
        return named_state({**state, "state": unwrapped}, self._flat_groups)

    def load_state_dict(self, state_dict: Mapping[str, Any], move_to_device: bool = True) -> None:
        """Exact inverse of `state_dict`."""
        indexed = indexed_state(state_dict, self._flat_groups, shaped=False)
        super().load_state_dict(indexed, move_to_device=move_to_device)


def _unwrapped(values: Mapping[str, Any]) -> dict[str, Any]:
    """Undo the nesting with which bitsandbytes hides tensors from FSDP."""
    hidden = values.get(AdamW8bit._FSDP_WRAPPED_QUANT_STATE_KEY, {})
    return {
        key: value
        for key, value in {**values, **hidden}.items()
        if key != AdamW8bit._FSDP_WRAPPED_QUANT_STATE_KEY
    }
