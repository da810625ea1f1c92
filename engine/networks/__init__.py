"""Networks: what is trained, how it is applied, named, written and read.

A further algorithm is one file with an `Adapter`, one function in `shapes.py` and a line here.
`ALGORITHMS` is loaded on use, so that the shape arithmetic of a plan needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.networks.table import ALGORITHMS

__all__ = ["ALGORITHMS"]


def __getattr__(name: str) -> object:
    if name in __all__:
        from engine.networks import table

        return getattr(table, name)
    raise AttributeError(name)
