"""A network file that is open: its modules, and the tensors of one module at a time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from engine.errors import NetworkFileError, Problem
from engine.inert import inert
from engine.networks.files import FLOATS, WHOLE
from engine.networks.kinds import algorithm_of, for_tools, foreign_kind
from engine.networks.layout_family import family_of_file
from engine.networks.layouts import ALPHA, Found, alpha_fault, faults, few, sort_out, unknown_module
from engine.networks.names import Place
from engine.networks.reading import gathered
from engine.networks.shapes import KEPT_EXACT
from engine.safetensors_dtypes import DTYPES
from engine.tools.stream import TensorFile

SCALE = "dora_scale"


@dataclass(frozen=True, slots=True)
class OpenModule:
    """One module of an open file."""

    found: Found
    algorithm: str

    @property
    def name(self) -> str:
        """As kohya's tools name it."""
        return self.found.name

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Our suffix to shape."""
        return self.found.shapes

    @property
    def dora(self) -> bool:
        """Whether it has magnitudes."""
        return SCALE in self.found.tensors


class OpenNetwork:
    """A network file of any layout; use as a context."""

    def __init__(self, path: Path) -> None:
        """Raises NetworkFileError for what is no network, or has modules that are none."""
        self.path = path
        with ExitStack() as stack:
            self._file = stack.enter_context(TensorFile(path, NetworkFileError))
            self.metadata: Mapping[str, str] = self._file.header.metadata
            self._sort()
            self._kept = stack.pop_all()

    def __enter__(self) -> OpenNetwork:
        return self

    def __exit__(self, *_: object) -> None:
        self._kept.close()

    def _sort(self) -> None:
        entries = self._file.entries
        shapes = {name: entry.shape for name, entry in entries.items()}
        foreign = foreign_kind(shapes)
        if foreign is not None:
            raise NetworkFileError(_at(for_tools(foreign), self.path))
        for name, entry in entries.items():
            single = math.prod(entry.shape) == 1
            if entry.dtype not in FLOATS and not (entry.dtype in WHOLE and single):
                what = f"It holds {inert(name)} in a number format of no network ({entry.dtype})."
                raise NetworkFileError(Problem(what, where=str(self.path)))
        found = sort_out(shapes, self.metadata)
        problems = [problem for module in found.modules for problem in faults(module)]
        modules: list[OpenModule] = []
        for module in found.modules:
            algorithm = algorithm_of(module.shapes)
            if algorithm is None:
                problems.append(unknown_module(module))
            else:
                modules.append(OpenModule(module, algorithm))
        if not found.modules:
            problems = [Problem("This is no network file that is known.")]
        if problems:
            raise NetworkFileError(*(_at(problem, self.path) for problem in few(problems)))
        self.modules = tuple(modules)
        self.left_out = found.left_out
        self.family = family_of_file(found.modules, self.metadata)

    @cached_property
    def dtype(self) -> torch.dtype:
        """Number format of most of the weights; fp32 where they are wider."""
        counted: Counter[str] = Counter()
        for module in self.modules:
            for suffix, source in module.found.tensors.items():
                if suffix not in KEPT_EXACT:
                    counted[self._file.entries[source.key].dtype] += math.prod(source.shape)
        floats = [name for name, _ in counted.most_common() if name in FLOATS and name != "F64"]
        return DTYPES[floats[0]] if floats else torch.float32

    def tensors(self, module: OpenModule) -> dict[str, Tensor]:
        """A module's tensors by our suffix, in our layout, as they are stored.

        Raises NetworkFileError where a number is not finite, or alpha cannot be.
        """
        read = {source.key: self._file.read(source.key) for source in module.found.tensors.values()}
        for key, tensor in read.items():
            if not bool(torch.isfinite(tensor).all()):
                what = "It holds numbers that are not finite."
                where = f"{self.path}: {inert(key)}"
                remedy = "The file is the result of a broken training; give another one."
                raise NetworkFileError(Problem(what, where=where, remedy=remedy))
        found = gathered(module.found, read)
        if ALPHA in found:
            found[ALPHA] = found[ALPHA].reshape(()).float()
            fault = alpha_fault(module.found, float(found[ALPHA]))
            if fault is not None:
                raise NetworkFileError(_at(fault, self.path))
        return found


def _at(problem: Problem, path: Path) -> Problem:
    where = f"{path}: {problem.where}" if problem.where else str(path)
    return Problem(problem.what, where, problem.remedy, "")


def placed_modules(network: OpenNetwork, table: Mapping[str, Place]) -> dict[Place, OpenModule]:
    """Modules on the layers of a model; raises NetworkFileError naming those that have none."""
    found: dict[Place, OpenModule] = {}
    problems: list[Problem] = []
    for module in network.modules:
        place = table.get(module.name)
        where = f"{network.path}: {inert(module.found.spelled)}"
        if place is None:
            problems.append(Problem("The base model has no such layer.", where=where))
        elif place in found:
            problems.append(Problem("A layer is named twice.", where=where))
        else:
            found[place] = module
    if problems:
        raise NetworkFileError(*few(problems))
    return found
