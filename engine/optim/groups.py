"""Parameter groups, flat or shaped, and a state that does not tell which of the two it came from.

State is written as the same optimizer over the shaped tensors would hold it, each under its name: a buffer's
layout can change between versions, and what was learnt stays readable.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from engine.settings.optimizers import SHAPED

QUANTISED_BLOCK = 256
"""Numbers that share one `absmax` in an 8-bit state (Dettmers et al. 2021, arXiv:2110.02861)."""
COMMON = frozenset({"step", "mu", "eta", "mu_product"})
"""State that all tensors of a group have in common, whatever their shapes."""
GAPS = {"alpha_k": 1e-6}
"""What the gaps between tensors begin with where it is not 0: D-Adapt AdaGrad divides by its root."""


@dataclass(frozen=True, slots=True)
class Group:
    """Parameters with one learning rate, as views of one flat buffer."""

    part: str
    """Component of the model, which has the base rate."""
    rate: float
    flat: nn.Parameter
    """All of them and their gradients in one dimension."""
    places: Mapping[str, tuple[int, torch.Size]]
    """Name to first number in `flat`, and shape; the starts are multiples of 256."""
    shaped: Sequence[nn.Parameter]
    """The views, in the order of `places`."""
    ratio: float = 1.0
    """Factor of the rate: LoRA+ trains up factors faster (Hayou et al. 2024, arXiv:2402.12354)."""
    small: bool = False
    """Whether an 8-bit optimizer keeps 32 bits for it."""

    def as_torch(self, optimizer: str) -> dict[str, Any]:
        """The group as torch's optimizers take it; those that look at shapes get the shaped views."""
        params = list(self.shaped) if optimizer in SHAPED else [self.flat]
        return {
            "params": params,
            "lr": self.rate * self.ratio,
            "part": self.part,
            "ratio": self.ratio,
            "small": self.small,
        }


def one_group(part: str, rate: float, parameter: nn.Parameter) -> Group:
    """A group of a single parameter that lies in no buffer, for trying an optimizer out."""
    return Group(part, rate, parameter, {part: (0, parameter.shape)}, [parameter])


def named_state(
    state: Mapping[str, Any], groups: Sequence[Group], *, shaped: bool
) -> dict[str, Any]:
    """A `state_dict` with tensors in their shapes, under their names."""
    found: dict[str, Any] = {}
    kept = []
    for group, saved in zip(groups, state["param_groups"], strict=True):
        names = list(group.places)
        for number, name in enumerate(names):
            values = state["state"].get(saved["params"][number if shaped else 0])
            if values is None:  # before the first step
                continue
            place, flat_shape = group.places[name], group.flat.shape
            found[name] = {
                key: value if shaped else _taken(key, value, place, flat_shape)
                for key, value in values.items()
            }
        kept.append({**saved, "params": names})
    return {"state": found, "param_groups": kept}


def indexed_state(
    state: Mapping[str, Any], groups: Sequence[Group], *, shaped: bool
) -> dict[str, Any]:
    """Exact inverse of `named_state` for an optimizer over these groups, however it was grouped then.

    Raises KeyError where the state is of other parameters.
    """
    saved_groups = {saved["part"]: saved for saved in reversed(state["param_groups"])}
    found: dict[int, Any] = {}
    kept = []
    first = 0
    for group in groups:
        names = list(group.places)
        if shaped:
            numbers = range(first, first + len(names))
            found |= {
                number: state["state"][name]
                for number, name in zip(numbers, names, strict=True)
                if name in state["state"]
            }
        else:
            numbers = range(first, first + 1)
            if names[0] in state["state"]:
                found[first] = _joined([state["state"][name] for name in names], group)
        first = numbers.stop
        own = {"params": list(numbers), "ratio": group.ratio, "small": group.small}
        kept.append({**saved_groups[group.part], **own})
    return {"state": found, "param_groups": kept}


def _taken(key: str, value: Any, place: tuple[int, torch.Size], flat_shape: torch.Size) -> Any:
    """One tensor's share of a flat state: cells, blocks of cells, or what all have in common."""
    start, shape = place
    if not isinstance(value, Tensor) or key in COMMON:
        return value
    if key.startswith("absmax"):
        first = start // QUANTISED_BLOCK
        return value[first : first - (-shape.numel() // QUANTISED_BLOCK)]
    if value.shape == flat_shape:
        return value.flatten()[start : start + shape.numel()].view(shape)
    return value


def _joined(parts: Sequence[Mapping[str, Any]], group: Group) -> dict[str, Any]:
    """Flat state from the shares of all its tensors."""
    return {
        key: _together(key, [part[key] for part in parts], group, _blank(key, parts[0]))
        for key in parts[0]
    }


def _together(key: str, values: Sequence[Any], group: Group, blank: float) -> Any:
    first = values[0]
    if not isinstance(first, Tensor):
        return copy.deepcopy(first)
    blockwise = key.startswith("absmax")
    shapes = [shape for _, shape in group.places.values()]
    if key in COMMON or not (blockwise or [value.shape for value in values] == shapes):
        return first.clone()
    step = QUANTISED_BLOCK if blockwise else 1
    cells = group.flat.numel() // step
    whole = torch.full((cells,), blank, dtype=first.dtype, device=first.device)
    for value, (start, _) in zip(values, group.places.values(), strict=True):
        whole[start // step : start // step + value.numel()] = value.flatten()
    return whole if blockwise else whole.view(group.flat.shape)


def _blank(key: str, values: Mapping[str, Any]) -> float:
    """What the gaps between tensors hold: 0, or its 8-bit code, lest a gap set its block's scale."""
    codes = values.get(key.replace("state", "qmap")) if key.startswith("state") else None
    return GAPS.get(key, 0) if codes is None else int(codes.abs().argmin())
