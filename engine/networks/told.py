"""What a network file says of the settings that made it, and which answers contradict it. No torch."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from engine.errors import Problem
from engine.networks.override_checks import APPLIES

if TYPE_CHECKING:
    from engine.networks.content import Content, Module

NORM = "norm"
SIZES = ("rank", "alpha")
FORMS = (
    "dora", "tucker", "factor", "decompose_both", "unbalanced", "rescaled", "train_on_input",
)  # fmt: skip
FILE_OF = {"locon": "lora", "dylora": "lora"}
"""Algorithms whose files are those of another."""
FEED_FORWARD_OUT = ("_ff_net_2", "_mlp_fc2")
"""Ends of the names of layers for which the usual layers of an (IA)³ choose the side themselves."""
TOLERANCE = 1e-4
"""Of alphas, which are written in fp32 or less."""
NO_HINTS: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Told:
    """What the modules of a file say of one setting."""

    value: Any
    """The most frequent value, or one that makes all of them."""
    named: tuple[Any, ...]
    """Values to name to a person."""
    fitting: frozenset[Any]
    """Every value that at least one module could have been made with."""

    def accepts(self, value: Any) -> bool:
        """Whether a recipe may have this value."""
        if value in self.fitting:
            return True
        return isinstance(value, float) and any(
            abs(value - other) <= TOLERANCE * abs(other) for other in self.fitting
        )


def told_settings(
    content: Content,
    algorithm: str | None = None,
    *,
    hints: Mapping[str, Any] = NO_HINTS,
    root: bool = False,
) -> dict[str, Told]:
    """What a file tells of `algorithm`, or of its most frequent one; empty where it has none.

    `hints` are values to prefer where several make the same tensors. With `root` the scale of the
    recipe is alpha / sqrt(rank), so that alpha is told without the root that a file's alpha holds.
    """
    wanted = FILE_OF.get(algorithm or "", algorithm)
    main = wanted if wanted in content.algorithms else content.main
    if main is None:
        return {}
    own = [module for module in content.modules if module.algorithm == main]
    spatial = [module for module in own if module.spatial]
    plain = [module for module in own if not module.spatial] or spatial
    rank = _rank(main, plain)
    told = {
        "rank": rank,
        "alpha": _listed(_alphas(plain, root=root)),
        "conv_rank": _conv_rank(spatial, rank),
        "conv_alpha": _listed(_alphas(spatial, root=root)),
    }
    if "rescaled" in APPLIES[main]:
        told |= _blocks(plain, spatial, hints)
    told |= {key: _fitting(_sets(own, key), hints.get(key)) for key in FORMS}
    if main == "ia3":
        sided = [module for module in own if not module.name.endswith(FEED_FORWARD_OUT)]
        told["train_on_input"] = _fitting(_sets(sided or own, "train_on_input"))
    if "rs_lora" in APPLIES[main]:
        told["rs_lora"] = _listed([root])
    told["train_norm"] = _listed([NORM in content.algorithms])
    return {key: of_file for key, of_file in told.items() if of_file is not None}


def _rank(algorithm: str, modules: Iterable[Module]) -> Told | None:
    ranks = _listed(module.rank for module in modules if module.rank is not None)
    return _listed(["full"]) if ranks is None and algorithm == "lokr" else ranks


def _conv_rank(spatial: Collection[Module], rank: Told | None) -> Told | None:
    found = _listed(module.rank for module in spatial if module.rank is not None)
    if found is None and rank is not None and rank.value != "full":
        # Whole halves of a LoKr beside those of a rank: a rank so large that it leaves them whole.
        return _fitting(_sets(spatial, "conv_rank"), rank.value)
    return found


def _alphas(modules: Iterable[Module], *, root: bool) -> list[float]:
    """Alpha says nothing where both factors are full, and none at all means the rank."""
    alphas = []
    for module in modules:
        if module.rank is not None:
            alpha = float(module.rank) if module.alpha is None else module.alpha
            # Six digits: the root of a file's alpha is rounded to fp32.
            alphas.append(float(f"{alpha / math.sqrt(module.rank):.6g}") if root else alpha)
    return alphas


def _blocks(
    plain: Collection[Module], spatial: Collection[Module], hints: Mapping[str, Any]
) -> dict[str, Told | None]:
    """Largest blocks of a rotation: one limit for all where there is one, else two."""
    every = _sets((*plain, *spatial), "rank")
    if every and frozenset.intersection(*every):
        return {"rank": _fitting(every, hints.get("rank"))}
    return {
        "rank": _fitting(_sets(plain, "rank"), hints.get("rank")),
        "conv_rank": _fitting(_sets(spatial, "rank"), hints.get("conv_rank")),
    }


def _sets(modules: Iterable[Module], key: str) -> list[frozenset[Any]]:
    return [module.forms[key] for module in modules if key in module.forms]


def _listed(values: Iterable[Any]) -> Told | None:
    """Values that each module tells exactly."""
    counted = Counter(values)
    if not counted:
        return None
    named = tuple(sorted(counted, key=lambda value: (isinstance(value, str), value)))
    return Told(counted.most_common(1)[0][0], named, frozenset(counted))


def _fitting(sets: Collection[frozenset[Any]], hint: Any = None) -> Told | None:
    """Values of which each module tells several that would do."""
    if not sets:
        return None
    shared = frozenset.intersection(*sets)
    if shared:
        value = hint if hint in shared else _first(shared)
        return Told(value, (value,), shared)
    counted = Counter(value for values in sets for value in values)
    most = max(counted.values())
    value = _first(value for value, count in counted.items() if count == most)
    named = dict.fromkeys((value, *(_first(values) for values in sets if value not in values)))
    return Told(value, tuple(named), frozenset(counted))


def _first(values: Iterable[Any]) -> Any:
    """The smallest; -1, which stands for a rule, last."""
    return min(values, key=lambda value: (value == -1, value))


def recipe_differences(
    content: Content, typed: Mapping[str, Any], told: Mapping[str, Told] | None = None
) -> list[Problem]:
    """Typed network answers that the file contradicts, each with the file's value as remedy.

    `typed` holds what the user gave; what is not in it, or not told by the file, is not compared.
    """
    algorithm = FILE_OF.get(typed.get("algorithm", ""), typed.get("algorithm"))
    told = told_settings(content, algorithm) if told is None else told
    names = tuple(name for name in content.algorithms if name != NORM)
    problems = []
    other = bool(algorithm and names and algorithm not in names)
    if other:
        told = {key: told[key] for key in SIZES if key in told and told[key].value != "full"}
        problems.append(_difference(content, "algorithm", names, algorithm))
    if typed.get("algorithm") == "dylora" and not other and _cannot_be_cut(content):
        what = "A DyLoRA has neither tucker convolutions nor DoRA; the file has."
        remedy = "Set network.algorithm to lora, or leave it out."
        where = str(content.header.path)
        problems.append(Problem(what, where=where, path="network.algorithm", remedy=remedy))
    for key, of_file in told.items():
        value = typed.get(key)
        if value is not None and not of_file.accepts(value):
            problems.append(_difference(content, key, of_file.named, value))
    return problems


def _cannot_be_cut(content: Content) -> bool:
    """Whether ranks of a LoRA do not work on their own."""
    loras = [module for module in content.modules if module.algorithm == "lora"]
    tucker = any(True in module.forms.get("tucker", ()) for module in loras)
    return tucker or any("off" not in module.forms.get("dora", ("off",)) for module in loras)


def _difference(content: Content, key: str, named: tuple[Any, ...], value: Any) -> Problem:
    listed = " or ".join(_text(item) for item in named)
    what = f"The file has {key} {listed}, the recipe {_text(value)}."
    if key == "rs_lora" and value is True:
        what = "The scale comes from the file: rs_lora would change nothing."
    return Problem(
        what,
        where=str(content.header.path),
        path=f"network.{key}",
        remedy=f"Set network.{key} to {listed}, or leave it out.",
    )


def _text(value: Any) -> str:
    """As a recipe has it."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
