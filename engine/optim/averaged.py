"""Averages of the weights: what files, pictures and validation take instead of the last ones.

Two kinds: a running mean that is kept beside training, and the one that schedule-free optimizers train.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from engine.optim.named import NamedOptimizer
from engine.optim.weights import Pair, Weights


class HasAverages(Protocol):
    """A training whose weights may be averaged."""

    @property
    def averages(self) -> Averages:
        """The averages."""


@contextlib.contextmanager
def averaged_weights(training: HasAverages) -> Iterator[None]:
    """Within it the network has its averaged weights, if any are kept; after it the trained ones, bit for bit.

    What is read inside must be copied or written before it ends. It may be entered again inside.
    """
    with training.averages.shown():
        yield


class Averages:
    """No average: the trained weights are the ones to show."""

    def __init__(self, weights: Weights) -> None:
        self._pairs = weights.pairs
        self._shown = False

    def update(self, step: int) -> None:
        """Take in the weights after optimizer step `step` = 1, 2, ..."""

    def values(self) -> dict[int, Tensor]:
        """Averaged flat numbers in fp32 by the number of their group; a group without is as trained."""
        return {}

    def leave(self, parts: frozenset[str]) -> None:
        """These parts are trained no more: what is shown of them stays from now on."""

    def apply(self, change: Callable[[], object]) -> None:
        """Do to a copy what was done to the weights, such as max-norm; `change` works on the network."""

    def state(self) -> dict[str, Tensor]:
        """What a resume needs, by name and in shape."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Exact inverse of `state`."""

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """The averaged weights in the network's place."""
        values = {} if self._shown else self.values()
        if not values:
            yield
            return
        kept = {number: self._live(number).clone() for number in values}
        self._shown = True
        try:
            self._put(values)
            yield
        finally:
            self._put(kept)
            self._shown = False

    def _live(self, number: int) -> Tensor:
        return self._pairs[number].live.flat.detach()

    def _put(self, values: Mapping[int, Tensor]) -> None:
        for number, value in values.items():
            self._live(number).copy_(value)


class MovingAverage(Averages):
    """Exponential moving average (Polyak and Juditsky 1992), with a warm start."""

    def __init__(self, weights: Weights, decay: float) -> None:
        super().__init__(weights)
        self._decay = decay
        self._copies = {
            pair.number: pair.live.flat.detach().float().clone() for pair in self._pairs
        }

    @torch.no_grad()
    def update(self, step: int) -> None:
        """a <- d a + (1 - d) w; early on d is smaller, or the start would weigh too much."""
        weight = 1.0 - warm_decay(self._decay, step)
        for number, copy in self._copies.items():
            copy.lerp_(self._live(number).float(), weight)

    def values(self) -> dict[int, Tensor]:
        """The copies."""
        return self._copies

    def apply(self, change: Callable[[], object]) -> None:
        """Change the copies as the network would be, and keep what came out."""
        with self.shown():
            change()
            for number, copy in self._copies.items():
                copy.copy_(self._live(number))

    def state(self) -> dict[str, Tensor]:
        """The copies by tensor name."""
        return {
            name: self._copies[pair.number][start : start + shape.numel()].view(shape)
            for pair in self._pairs
            for name, (start, shape) in pair.live.places.items()
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Exact inverse of `state`; raises KeyError where a tensor is missing."""
        for pair in self._pairs:
            for name, (start, shape) in pair.live.places.items():
                cells = self._copies[pair.number][start : start + shape.numel()]
                cells.copy_(state[name].flatten())


class ScheduleFree(Averages):
    """The average x of schedule-free training (Defazio et al. 2024, arXiv:2405.15682), equation 2.

    The network holds y = (1 - beta) z + beta x, where gradients are taken; the optimizer's state holds z.
    """

    def __init__(self, weights: Weights, optimizer: NamedOptimizer) -> None:
        super().__init__(weights)
        self._optimizer = optimizer

    @torch.no_grad()
    def values(self) -> dict[int, Tensor]:
        """x = y + (1 - 1 / beta) (z - y), as soon as there is a z."""
        groups = self._optimizer.param_groups
        stepped = {id(group["params"][0]): group for group in groups}
        return {
            pair.number: _average(pair, group, self._optimizer.state[pair.stepped.flat]["z"])
            for pair in self._pairs
            if (group := stepped.get(id(pair.stepped.flat))) is not None
            and "z" in self._optimizer.state.get(pair.stepped.flat, {})
        }

    def leave(self, parts: frozenset[str]) -> None:
        """The average becomes the weights: its other half leaves with the optimizer."""
        leaving = {pair.number for pair in self._pairs if pair.live.part in parts}
        self._put({number: value for number, value in self.values().items() if number in leaving})


def _average(pair: Pair, group: Mapping[str, Any], z: Tensor) -> Tensor:
    beta = group["betas"][0] if "betas" in group else group["momentum"]
    return pair.live.flat.detach().float().lerp(z, 1.0 - 1.0 / beta)


def warm_decay(decay: float, step: int) -> float:
    """min(decay, (1 + step) / (10 + step)), the warm start of TensorFlow's and diffusers' averages."""
    return min(decay, (1 + step) / (10 + step))
