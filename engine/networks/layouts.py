"""The modules of a network file, whatever program wrote it, in our own words. No torch.

Names and shapes are enough: what a header tells is sorted in the same way as the tensors themselves.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from engine.errors import NetworkFileError, Problem
from engine.inert import inert
from engine.networks.kinds import meant_kind
from engine.networks.layout_keys import DOWN, MAGNITUDE, Key, parse_key
from engine.networks.layout_scales import part_scales
from engine.networks.layouts_glora import SWAPPED, layouts_of
from engine.networks.names import Place

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
ALPHA = "alpha"
MATRICES = frozenset(
    {"lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2_a", "lokr_w2_b"}
    | {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"}
)
"""Tensors with two axes for every layer; others have at most those of a convolution."""
CONVOLUTION_AXES = 4
SPARSE_BIAS = frozenset({"bias_indices", "bias_values", "bias_size"})
NEITHER: frozenset[str] = frozenset()
NEW, OLD = frozenset({"new"}), frozenset({"old"})
EMBEDDING_START = "bundle_emb."
MOST_NAMED = 40
"""Of things left out or wrong; the rest is told as a number."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a tensor comes from."""

    key: str
    """Its name in the file."""
    shape: Shape
    """As it is to be read; the same number of elements as in the file."""


@dataclass(frozen=True, slots=True)
class Found:
    """One module of a file."""

    name: str
    """As kohya's tools name it; a name table leads from it to a module of a model."""
    spelled: str
    """As the file names it."""
    tensors: Mapping[str, Source]
    """Our suffix to tensor, in the file's order."""
    alpha: float | None = None
    """Where no tensor holds it and the metadata or the layout do."""

    @property
    def shapes(self) -> dict[str, Shape]:
        """Our suffix to shape; an alpha that no tensor holds is not among them."""
        return {suffix: source.shape for suffix, source in self.tensors.items()}


@dataclass(frozen=True, slots=True)
class Sorted:
    """A whole file."""

    modules: tuple[Found, ...]
    left_out: tuple[str, ...]
    """What is of no module, by name, and why."""


@dataclass(slots=True)
class _Group:
    first: Key
    sources: dict[str, Source] = field(default_factory=dict)


def sort_out(shapes: Shapes, metadata: Mapping[str, str]) -> Sorted:
    """Modules of a file in the file's order, and what is left out.

    Raises NetworkFileError where a tensor or module is there twice or its scale cannot be told.
    """
    groups: dict[str, _Group] = {}
    left_out: dict[str, None] = {}
    doubled: list[Problem] = []
    for name, shape in shapes.items():
        key = parse_key(name)
        if key is None:
            left_out[_why_left_out(name)] = None
        elif key.suffix in SPARSE_BIAS:
            left_out[f"{inert(name)} is left out: sparse changes of a bias are not read"] = None
        else:
            group = groups.setdefault(key.spelled, _Group(key))
            if key.suffix in group.sources:
                doubled.append(Problem("A tensor is there twice.", where=inert(name)))
            group.sources[key.suffix] = Source(name, _trimmed(key.suffix, shape))
    if doubled:
        raise NetworkFileError(*few(doubled))
    modules = _with_new_glora(_with_scales(groups.values(), metadata))
    _refuse_doubles(modules)
    return Sorted(tuple(_with_axis(module) for module in modules), _listed(left_out))


def _refuse_doubles(modules: Iterable[Found]) -> None:
    """One module may be spelled in one way only; others are told apart by a model's names later."""
    spelled: dict[str, str] = {}
    problems = [
        _named_twice(spelled[module.name], module.spelled)
        for module in modules
        if spelled.setdefault(module.name, module.spelled) != module.spelled
    ]
    if problems:
        raise NetworkFileError(*few(problems))


def _trimmed(suffix: str, shape: Shape) -> Shape:
    """A shape without surplus axes of one at its end."""
    most = 2 if suffix in MATRICES else CONVOLUTION_AXES
    while len(shape) > most and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _why_left_out(name: str) -> str:
    if name.startswith(EMBEDDING_START):
        word = name.removeprefix(EMBEDDING_START).partition(".")[0]
        return f"{inert(EMBEDDING_START + word)} is left out: it is an embedding"
    return f"{inert(name)} is no part of the network"


def _listed(left_out: Iterable[str]) -> tuple[str, ...]:
    listed = tuple(left_out)
    if len(listed) <= MOST_NAMED:
        return listed
    return (*listed[:MOST_NAMED], f"{len(listed) - MOST_NAMED} more tensors are left out")


def _with_scales(groups: Iterable[_Group], metadata: Mapping[str, str]) -> list[Found]:
    """Groups as modules; those of diffusers' layout get the alpha that their tensors lack."""
    groups = list(groups)
    scales = part_scales(metadata, frozenset(group.first.part for group in groups) - {""})
    modules = []
    for group in groups:
        key, sources = group.first, group.sources
        alpha = None
        if key.part and ALPHA not in sources and DOWN in sources and sources[DOWN].shape:
            alpha = scales[key.part].alpha_of(key.path, sources[DOWN].shape[0])
        modules.append(Found(key.name, key.spelled, sources, alpha))
    return modules


def _with_axis(module: Found) -> Found:
    """DoRA's magnitude on the output axis as one row each, which diffusers writes as a vector.

    For a convolution diffusers has [1, out, 1, 1], which is the form of the input axis here: the
    spelling tells them apart.
    """
    source = module.tensors.get(MAGNITUDE)
    if source is None:
        return module
    theirs = not source.key.endswith(f".{MAGNITUDE}")
    if len(source.shape) != 1 and not theirs:
        return module
    axes = max(2, *(len(other.shape) for other in module.tensors.values()))
    shape = (math.prod(source.shape), *(1,) * (axes - 1))
    return replace(module, tensors={**module.tensors, MAGNITUDE: Source(source.key, shape)})


def _with_new_glora(modules: list[Found]) -> list[Found]:
    """GLoRA of the old layout with its pairs swapped; the rank is the axis that four tensors share."""
    forms = [
        layouts_of(module.tensors) if SWAPPED.keys() <= module.tensors.keys() else NEITHER
        for module in modules
    ]
    # A module whose sides are all equal tells nothing: it is as the rest of the file.
    old_file = OLD in forms and NEW not in forms
    return [
        _swapped(module) if form == OLD or (len(form) == 2 and old_file) else module
        for module, form in zip(modules, forms, strict=True)
    ]


def _swapped(module: Found) -> Found:
    sources = {SWAPPED.get(suffix, suffix): source for suffix, source in module.tensors.items()}
    return replace(module, tensors=sources)


def placed(
    modules: Iterable[Found], table: Mapping[str, Place]
) -> tuple[dict[Place, Found], list[Problem]]:
    """Modules of a file on the modules of a model, and those that have none or one too many."""
    found: dict[Place, Found] = {}
    problems: list[Problem] = []
    for module in modules:
        place = table.get(module.name)
        if place is None:
            problems.append(Problem("The model has no such layer.", where=inert(module.spelled)))
        elif place in found:
            problems.append(_named_twice(found[place].spelled, module.spelled))
        else:
            found[place] = module
    return found, problems


def _named_twice(one: str, other: str) -> Problem:
    return Problem("A layer is named twice.", where=f"{inert(one)} and {inert(other)}")


def faults(module: Found) -> list[Problem]:
    """What shapes alone tell to be wrong with a module."""
    where = inert(module.spelled)
    problems = [
        Problem(f"The tensor {inert(suffix)} is empty.", where=where)
        for suffix, shape in module.shapes.items()
        if 0 in shape
    ]
    alpha = module.tensors.get(ALPHA)
    if alpha is not None and math.prod(alpha.shape) > 1:
        problems.append(Problem(f"Alpha is no single number: {list(alpha.shape)}.", where=where))
    return problems


def alpha_fault(module: Found, alpha: float) -> Problem | None:
    """Why a number cannot be a module's alpha, or None."""
    if math.isfinite(alpha) and alpha >= 0:
        return None
    return Problem(f"Alpha cannot be {alpha:g}.", where=inert(module.spelled))


def unknown_module(module: Found) -> Problem:
    """A module whose tensors are of no algorithm, with what it seems to be."""
    listed = inert(", ".join(sorted(module.tensors)))
    meant = meant_kind(module.tensors)
    what = f"It seems to be {meant}, but its tensors are not" if meant else "These tensors are not"
    return Problem(f"{what} those of a known network: {listed}.", where=inert(module.spelled))


def few(problems: list[Problem]) -> list[Problem]:
    """All problems as far as they can be read; the rest as a number."""
    if len(problems) <= 5:
        return problems
    rest = Problem(
        f"And {len(problems) - 5} more of this kind.",
        remedy="The file is for another base model, or of another kind.",
    )
    return [*problems[:5], rest]
