"""Memory that goes short where a test says so: torch's allocations are counted, and refused beyond a limit."""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class AllocatorLimit(TorchDispatchMode):
    """Raises torch.OutOfMemoryError where what was made under it and still lives would exceed a limit.

    Counts storages, so views are free and what is dropped counts no more; what was made before it
    (the weights of a base, say) is not counted. It holds in the thread that entered it, backward
    passes on the CPU included, and may be entered again and again. `limit_bytes` None only counts;
    it may be changed at any time. With `only_first` = n only the first n requests beyond the limit
    are refused, as by memory in pieces that is whole again after it was freed.
    """

    def __init__(self, limit_bytes: int | None = None, *, only_first: int | None = None) -> None:
        super().__init__()
        self.limit_bytes = limit_bytes
        self.only_first = only_first
        self.live = 0
        """Bytes in use now."""
        self.peak = 0
        """The most that was in use, refused requests left out."""
        self.refused = 0
        """How often it has raised."""
        self._known: dict[int, int] = {}
        # A finalizer runs wherever the last reference goes, also in the middle of this class.
        self._lock = threading.RLock()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        # What an operation gives back of what it was given, views of it included, is nothing new.
        given = {storage._cdata for storage in _storages((args, kwargs))}
        made = func(*args, **(kwargs or {}))
        for storage in _storages(made):
            if storage._cdata not in given:
                self._count(storage, str(func))
        return made

    def _count(self, storage: torch.UntypedStorage, operation: str) -> None:
        place, size = storage._cdata, storage.nbytes()
        with self._lock:
            if place in self._known:
                return
            if self._refuses(size):
                self.refused += 1
                raise torch.OutOfMemoryError(
                    f"out of memory by a test: {operation} wants {size} bytes, "
                    f"{self.live} of {self.limit_bytes} are in use"
                )
            self._known[place] = size
            self.live += size
            self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._gone, place).atexit = False

    def _refuses(self, size: int) -> bool:
        if self.limit_bytes is None or self.live + size <= self.limit_bytes:
            return False
        return self.only_first is None or self.refused < self.only_first

    def _gone(self, place: int) -> None:
        with self._lock:
            self.live -= self._known.pop(place, 0)

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function or method that runs under the limit, in whatever thread it is called.

        monkeypatch.setattr(Session, "_train", limit.around(Session._train)) limits a whole run.
        """

        @functools.wraps(function)
        def limited(*args: Any, **named: Any) -> Any:
            with self:
                return function(*args, **named)

        return limited


def _storages(values: Any) -> list[torch.UntypedStorage]:
    return [
        value.untyped_storage()
        for value in tree_leaves(values)
        if isinstance(value, torch.Tensor) and value.layout == torch.strided
    ]
