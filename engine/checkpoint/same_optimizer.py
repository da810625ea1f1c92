"""Whether a saved optimizer state is one of the optimizer that a run has: said before anything is put back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from engine.errors import Problem, RunError
from engine.inert import inert

if TYPE_CHECKING:
    from engine.checkpoint.state import State
    from engine.optim.named import NamedOptimizer

REMEDY = (
    "Put run.toml back as it was, give the step of another state with `lyctui resume --from-step`,"
    " or start a new run from the network file."
)


def not_of_this_run(state: State, why: str) -> Problem:
    """The refusal of a state that is whole, but fits nothing here."""
    return Problem(
        f"The state of step {state.place.step} does not belong to this run: {why}.", remedy=REMEDY
    )


def refuse_other_optimizer(optimizer: NamedOptimizer, state: State) -> None:
    """Raise RunError where kind, parameters or shapes of a saved state are not those of `optimizer`."""
    why = _difference(optimizer, state)
    if why:
        raise RunError(not_of_this_run(state, why))


def _difference(optimizer: NamedOptimizer, state: State) -> str:
    own = type(optimizer).__name__
    if state.kind and state.kind != own:
        return f"its optimizer is {_title(state.kind)}, the recipe's is {_title(own)}"
    try:
        saved = _names(state.optimizer)
        shapes = _shapes(optimizer)
        # Parts may have left since the start, with all of theirs; a part that is there is whole.
        strange = sorted(saved - shapes.keys())
        if not saved or strange:
            return f"its optimizer has {inert(strange[0]) if strange else 'nothing'} to train"
        return _other_shapes(state.optimizer["state"], shapes)
    except (LookupError, TypeError, AttributeError):
        return "its optimizer's state is not one that lyctui writes"


def _title(kind: str) -> str:
    return inert(kind.removeprefix("Named"))


def _names(saved: Mapping[str, Any]) -> set[str]:
    return {str(name) for group in saved["param_groups"] for name in group["params"]}


def _shapes(optimizer: NamedOptimizer) -> dict[str, tuple[int, ...]]:
    return {
        name: tuple(shape)
        for group in optimizer.groups
        for name, (_, shape) in group.places.items()
    }


def _other_shapes(
    saved: Mapping[str, Mapping[str, Any]], shapes: Mapping[str, tuple[int, ...]]
) -> str:
    """A tensor that has not its parameter's shape where most others of its kind have theirs."""
    keys = {key for values in saved.values() for key in values}
    for key in sorted(keys):
        fits = {
            name: tuple(values[key].shape) == shapes[name]
            for name, values in saved.items()
            if isinstance(values.get(key), Tensor)
        }
        wrong = sorted(name for name, fit in fits.items() if not fit)
        if wrong and 2 * len(wrong) < len(fits):
            return f"{key} of {inert(wrong[0])} has another shape than what it belongs to"
    return ""
