"""An optimizer's state_dict as tensors for a file and a JSON tree that refers to them, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

_TENSOR = "\x00tensor"


def split(tree: Any) -> tuple[dict[str, Tensor], Any]:
    """Tensors by name and the JSON tree; raises TypeError for what neither can hold.

    The tensors are those of the tree itself, not copies: write them before the optimizer steps again.
    """
    tensors: dict[str, Tensor] = {}

    def walk(node: Any, name: str) -> Any:
        match node:
            case Tensor():
                tensors[name] = node.detach()
                return {_TENSOR: name}
            case dict():
                # JSON turns integer keys into text; the list of pairs keeps them.
                return {
                    "pairs": [[key, walk(value, f"{name}/{key}")] for key, value in node.items()]
                }
            case list():
                return {
                    "list": [walk(value, f"{name}/{index}") for index, value in enumerate(node)]
                }
            case tuple():
                return {
                    "tuple": [walk(value, f"{name}/{index}") for index, value in enumerate(node)]
                }
            case float() if not math.isfinite(node):
                return {"float": repr(node)}
            case None | bool() | int() | float() | str():
                return node
        raise TypeError(f"{name} of the optimizer's state is a {type(node).__name__}")

    return tensors, walk(tree, "")


def join(tensors: Mapping[str, Tensor], node: Any) -> Any:
    """Exact inverse of `split`; raises KeyError, TypeError or ValueError for what no `split` gave."""
    if not isinstance(node, dict):
        return node
    ((kind, body),) = node.items()
    match kind:
        case "pairs":
            return {key: join(tensors, value) for key, value in body}
        case "list":
            return [join(tensors, value) for value in body]
        case "tuple":
            return tuple(join(tensors, value) for value in body)
        case "float":
            return float(body)
        case _:
            return tensors[body]
