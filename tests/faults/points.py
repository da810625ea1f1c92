"""Instants inside a step, a picture or a resume at which a process can be made to die."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tests.faults.victim import die

Patch = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Point:
    """An instant by name; `plant` is called in the process that is to die."""

    name: str
    plant: Patch

    def __str__(self) -> str:
        return self.name


def always() -> bool:
    """Every call counts."""
    return True


def at_call(
    where: str, nth: int, *, after: bool = False, when: Callable[[], bool] = always
) -> Patch:
    """Die before (or after) call number `nth` of `module:Class.method`, of those for which `when()`."""

    def plant() -> None:
        owner, name = owner_of(where)
        original, calls = getattr(owner, name), [0]

        def called(*args: Any, **named: Any) -> Any:
            due = False
            if when():
                calls[0] += 1
                due = calls[0] == nth
            if due and not after:
                die()
            result = original(*args, **named)
            if due:
                die()
            return result

        setattr(owner, name, called)

    return plant


def owner_of(where: str) -> tuple[Any, str]:
    """What a call is made on, and its name, of `module:Class.method`."""
    module, _, path = where.partition(":")
    owner: Any = importlib.import_module(module)
    *owners, name = path.split(".")
    for each in owners:
        owner = getattr(owner, each)
    assert hasattr(owner, name), where
    return owner, name


UNET = "diffusers.models.unets.unet_2d_condition:UNet2DConditionModel.forward"
BACKWARD = "torch:Tensor.backward"


def learning() -> bool:
    """Whether gradients are wanted: a pass of training, not of a picture or a validation."""
    import torch

    return torch.is_grad_enabled()


def looking() -> bool:
    """The opposite: a pass of a preview picture or of a validation."""
    return not learning()


def forward(nth: int, *, after: bool = False) -> Point:
    """Around the forward of micro-batch `nth` of the process."""
    word = "after" if after else "before"
    return Point(f"{word} forward {nth}", at_call(UNET, nth, after=after, when=learning))


def in_backward(nth: int) -> Point:
    """When the gradient of backward `nth` has come to the middle block, or the first one that wants it."""

    def plant() -> None:
        from diffusers import UNet2DConditionModel

        original, calls, hooked = UNet2DConditionModel.forward, [0], [False]

        def hook(module: Any, given: Any, made: Any) -> None:
            if not hooked[0] and made.requires_grad:
                hooked[0] = True
                made.register_hook(lambda gradient: die())

        def called(self: Any, *args: Any, **named: Any) -> Any:
            if learning():
                calls[0] += 1
                if calls[0] == nth:
                    for block in (self.mid_block, *self.up_blocks, self.conv_out):
                        block.register_forward_hook(hook)
            return original(self, *args, **named)

        UNet2DConditionModel.forward = called  # type: ignore[method-assign]

    return Point(f"in backward {nth}", plant)


def between_batches(nth: int) -> Point:
    """After backward `nth`, before what comes next: within an accumulation or before the update."""
    return Point(f"after backward {nth}", at_call(BACKWARD, nth, after=True))


def update(nth: int, *, after: bool = False) -> Point:
    """Around the optimizer's step number `nth` of the process."""

    def plant() -> None:
        from torch.optim.optimizer import (
            register_optimizer_step_post_hook,
            register_optimizer_step_pre_hook,
        )

        calls = [0]

        def hook(*given: Any) -> None:
            calls[0] += 1
            if calls[0] == nth:
                die()

        (register_optimizer_step_post_hook if after else register_optimizer_step_pre_hook)(hook)

    return Point(f"{'after' if after else 'before'} update {nth}", plant)


def picture(nth: int) -> Point:
    """In pass `nth` without gradients: of a validation or a preview picture."""
    return Point(f"in a look {nth}", at_call(UNET, nth, when=looking))


def decoding(nth: int) -> Point:
    """While picture `nth` is decoded."""
    where = "diffusers.models.autoencoders.autoencoder_kl:AutoencoderKL.decode"
    return Point(f"while decoding {nth}", at_call(where, nth))


def encoding(nth: int) -> Point:
    """While picture `nth` is encoded for the cache."""
    where = "diffusers.models.autoencoders.autoencoder_kl:AutoencoderKL.encode"
    return Point(f"while encoding {nth}", at_call(where, nth))


def reading_state(nth: int) -> Point:
    """Before file `nth` below state/ is opened, while a resume verifies and loads."""

    def plant() -> None:
        calls = [0]

        def hook(event: str, args: tuple[Any, ...]) -> None:
            if event == "open" and "/state/step-" in str(args[0]):
                calls[0] += 1
                if calls[0] == nth:
                    die()

        sys.addaudithook(hook)

    return Point(f"reading a state {nth}", plant)


def restoring(*, after: bool) -> Point:
    """Around the optimizer's taking of its state."""
    word = "after" if after else "before"
    where = "engine.optim.named:NamedState.load_state_dict"
    return Point(f"{word} restoring", at_call(where, 1, after=after))


def loading() -> Point:
    """As soon as the base model is loaded."""
    return Point("base loaded", at_call("engine.assemble:_load_base", 1, after=True))


def every_step_point(steps: int, batches: int) -> Iterator[Point]:
    """All instants in the steps of a run of `steps` steps of `batches` micro-batches each."""
    for nth in range(1, steps * batches + 1):
        yield forward(nth)
        yield forward(nth, after=True)
        yield in_backward(nth)
        yield between_batches(nth)
    for nth in range(1, steps + 1):
        yield update(nth)
        yield update(nth, after=True)
