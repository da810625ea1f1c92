"""Optimizers whose state is written by name, and that parts of the model can leave."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from engine.optim.groups import Group, indexed_state, named_state


class NamedState:
    """Put before a torch optimizer: its state_dict holds tensors by name, in their shapes."""

    param_groups: list[dict[str, Any]]
    state: Any
    groups: tuple[Group, ...]
    """What it steps, in the order of its parameter groups."""
    shaped: bool
    """Whether it got the shaped views rather than the flat buffers."""

    def state_dict(self) -> dict[str, Any]:
        """State by name, in the tensors' shapes."""
        state: dict[str, Any] = super().state_dict()  # type: ignore[misc]
        return named_state(state, self.groups, shaped=self.shaped)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Exact inverse of `state_dict`; raises KeyError where the state is of other parameters."""
        state = indexed_state(state_dict, self.groups, shaped=self.shaped)
        super().load_state_dict(state)  # type: ignore[misc]
        # Estimates of the rate are tensors of a group, which torch leaves where they were read.
        for group, own in zip(self.groups, self.param_groups, strict=True):
            for key, value in own.items():
                if isinstance(value, Tensor):
                    own[key] = value.to(group.flat.device)

    def leave(self, parts: Collection[str]) -> None:
        """Step these parts of the model no more; what all groups have in common stays."""
        kept = [group.part not in parts for group in self.groups]
        for stays, own in zip(kept, self.param_groups, strict=True):
            if not stays:
                for parameter in own["params"]:
                    self.state.pop(parameter, None)
        self.param_groups = [
            own for own, stays in zip(self.param_groups, kept, strict=True) if stays
        ]
        self.groups = tuple(one for one, stays in zip(self.groups, kept, strict=True) if stays)


class NamedOptimizer(NamedState, torch.optim.Optimizer):
    """For type checkers: what `named` gives."""


def named(kind: type[torch.optim.Optimizer], *before: type) -> type[NamedOptimizer]:
    """The optimizer's class with named state, and with what else comes before it."""
    made: Any = type(f"Named{kind.__name__}", (NamedState, *before, kind), {})
    found: type[NamedOptimizer] = made
    return found


def parts_of(state: Mapping[str, Any]) -> frozenset[str]:
    """Parts of the model that a saved state steps."""
    groups: Sequence[Mapping[str, Any]] = state["param_groups"]
    return frozenset(str(group["part"]) for group in groups)
