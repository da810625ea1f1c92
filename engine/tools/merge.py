"""`merge`: networks into a checkpoint. W + sum of strength * dW in fp32, cast once.

Tensor by tensor, in the file's own order: what no network changes is copied byte by byte.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from engine.errors import EnvironmentFault, NetworkFileError, Problem
from engine.inert import inert
from engine.networks.layout_family import wrong_family
from engine.networks.layouts import few
from engine.networks.names import Place, name_table
from engine.safetensors_dtypes import DTYPES
from engine.tools.checkpoint import BaseLayer, Checkpoint, Slot
from engine.tools.checks import check
from engine.tools.forms import Module, change_of
from engine.tools.opened import OpenModule, OpenNetwork, placed_modules
from engine.tools.records import HASHES, with_record
from engine.tools.report import precision_of
from engine.tools.requests import (
    MergeRequest,
    ModuleReport,
    Precision,
    Progress,
    ToolReport,
    silent,
)
from engine.tools.stream import NAMES, Planned, as_bytes, write_in_order

PRECISION_NAMES = {"fp32": "F32", "fp16": "F16", "bf16": "BF16"}
FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
BIASED = frozenset({"diff_b", "b_norm"})
"""Tensors that change a layer's bias."""


@dataclass(frozen=True, slots=True)
class _Part:
    """One module of one network on a layer of the base."""

    network: OpenNetwork
    module: OpenModule
    strength: float


@dataclass(slots=True)
class _Target:
    """A layer of the base and all that changes it."""

    layer: BaseLayer
    parts: list[_Part] = field(default_factory=list)

    @property
    def biased(self) -> bool:
        """Whether the bias changes too."""
        return any(BIASED & set(part.module.shapes) for part in self.parts)


Touching = list[tuple[_Target, Slot]]
"""Layers whose weight or bias lies in a tensor of the file."""


def merge(request: MergeRequest, progress: Progress = silent) -> ToolReport:
    """Write the checkpoint with the networks in it.

    Raises UsageError for a wrong request, NetworkFileError and ModelError for files that cannot be read
    or do not go together, EnvironmentFault where nothing can be written. Nothing is left behind then.
    """
    check(request)
    with ExitStack() as stack:
        base = stack.enter_context(Checkpoint(request.base))
        networks = [stack.enter_context(OpenNetwork(one.path)) for one in request.networks]
        strengths = [one.strength for one in request.networks]
        targets = _targets(base, networks, strengths)
        return _Merge(request, base, targets, networks).run(progress)


def _targets(
    base: Checkpoint, networks: Iterable[OpenNetwork], strengths: Iterable[float]
) -> dict[Place, _Target]:
    table = name_table(base.layers)
    targets: dict[Place, _Target] = {}
    problems: list[Problem] = []
    for network, strength in zip(networks, strengths, strict=True):
        stranger = wrong_family(network.family, base.family)
        if stranger is not None:
            problems.append(replace(stranger, where=str(network.path), path=""))
            continue
        try:
            found = placed_modules(network, table)
        except NetworkFileError as error:
            problems += error.problems
            continue
        for place, module in found.items():
            target = targets.setdefault(place, _Target(base.layers[place]))
            target.parts.append(_Part(network, module, strength))
            problems += _bias_problem(network, module, target.layer)
    if problems:
        raise NetworkFileError(*few(problems))
    return targets


def _bias_problem(
    network: OpenNetwork, module: OpenModule, layer: BaseLayer
) -> tuple[Problem, ...]:
    if not (BIASED & set(module.shapes)) or layer.bias is not None:
        return ()
    where = f"{network.path}: {inert(module.found.spelled)}"
    return (Problem("It changes a bias, and the layer has none.", where=where),)


class _Merge:
    def __init__(
        self,
        request: MergeRequest,
        base: Checkpoint,
        targets: dict[Place, _Target],
        networks: Iterable[OpenNetwork],
    ) -> None:
        self.request, self.base, self.networks = request, base, tuple(networks)
        self.targets = targets
        self.touching: dict[str, Touching] = {}
        for target in targets.values():
            slots = target.layer.slots if target.biased else (target.layer.weight,)
            for slot in slots:
                self.touching.setdefault(slot.key, []).append((target, slot))
        self.rounded: dict[Place, tuple[float, float]] = {}

    def run(self, progress: Progress) -> ToolReport:
        """Write every tensor in the order of the base's file."""
        request, file = self.request, self.base.file
        order = sorted(file.entries, key=lambda name: file.entries[name].start)
        planned = [_planned(file.planned(name), request.precision) for name in order]
        size = write_in_order(
            request.output,
            planned,
            self._metadata(),
            self._bodies(planned, progress),
            force=request.force,
        )
        progress(len(order), len(order), str(request.output))
        changed = [item for item in planned if item.name in self.touching and item.dtype in FLOATS]
        left_out = [line for network in self.networks for line in network.left_out]
        return ToolReport(
            "merge",
            request.output,
            size,
            precision_of(changed),
            tuple(self._module_reports()),
            _relative(*_summed(self.rounded.values())),
            tuple(left_out),
            self._notes(),
        )

    def _module_reports(self) -> Iterator[ModuleReport]:
        for place, target in self.targets.items():
            algorithms = dict.fromkeys(part.module.algorithm for part in target.parts)
            lost, norm = self.rounded.get(place, (0.0, 0.0))
            name = f"{place[0]}.{place[1]}"
            yield ModuleReport(name, "+".join(algorithms), None, _relative(lost, norm))

    def _notes(self) -> tuple[str, ...]:
        if any(
            part.module.algorithm == "t-lora" for t in self.targets.values() for part in t.parts
        ):
            return ("T-LoRA is merged with all ranks at every timestep.",)
        return ()

    def _bodies(
        self, planned: Iterable[Planned], progress: Progress
    ) -> Iterator[Iterable[bytes | memoryview]]:
        file = self.base.file
        total = len(file.entries)
        for number, item in enumerate(planned):
            progress(number, total, item.name)
            touching = self.touching.get(item.name)
            if touching is not None:
                yield (as_bytes(self._changed(item, touching)),)
            elif item.dtype == file.entries[item.name].dtype:
                yield file.pieces(item.name)
            else:
                yield (as_bytes(_cast(file.read(item.name), item)),)

    @torch.no_grad()
    def _changed(self, item: Planned, touching: Touching) -> Tensor:
        """The tensor with all changes: summed in fp32, cast at the end."""
        exact = self.base.file.read(item.name).float()
        if item.dtype not in FLOATS:
            raise EnvironmentFault(
                Problem(
                    f"The base holds {inert(item.name)} as {item.dtype}; nothing can be added to that.",
                    where=str(self.base.path),
                    remedy="Use --precision fp16, or a base of fp16, bf16 or fp32 numbers.",
                )
            )
        norms = {}
        for target, slot in touching:
            change = self._change(target, slot)
            slot.of(exact).add_(change)
            norms[target.layer.place] = float(change.norm())
            del change
        written = _cast(exact, item)
        for target, slot in touching:
            if slot is target.layer.weight:
                # In fp64 both of them would be three times the tensor again.
                lost = float((slot.of(written).float() - slot.of(exact)).norm())
                place = target.layer.place
                self.rounded[place] = lost, norms[place]
        return written

    def _change(self, target: _Target, slot: Slot) -> Tensor:
        """Sum of strength * dW over the networks, each measured from the base alone."""
        layer = self.base.module(target.layer)
        summed: Tensor | None = None
        for part in target.parts:
            tensors = part.network.tensors(part.module)
            module = Module(part.module.found.spelled, part.module.algorithm, tensors, layer)
            delta, bias = change_of(module)
            change = delta if slot is target.layer.weight else bias
            if change is None:
                continue
            change.mul_(part.strength)
            summed = change if summed is None else summed.add_(change)
        assert summed is not None, "a bias is touched only where something changes it"
        return summed

    def _metadata(self) -> dict[str, str]:
        kept = {
            key: text for key, text in self.base.file.header.metadata.items() if key not in HASHES
        }
        networks = [
            {"name": one.path.name, "strength": one.strength} for one in self.request.networks
        ]
        entry = {"tool": "merge", "base": self.base.path.name, "networks": networks}
        return with_record(kept, entry | {"precision": self.request.precision})


def _planned(item: Planned, precision: Precision) -> Planned:
    if precision == "keep" or item.dtype not in FLOATS:
        return item
    return replace(item, dtype=PRECISION_NAMES[precision])


def _cast(tensor: Tensor, item: Planned) -> Tensor:
    """In the planned format; raises EnvironmentFault where numbers do not fit it."""
    written = tensor.to(DTYPES[item.dtype])
    narrower = written.dtype.itemsize < tensor.dtype.itemsize
    if narrower and not bool(torch.isfinite(written).all()) and bool(torch.isfinite(tensor).all()):
        raise EnvironmentFault(
            Problem(
                f"{inert(item.name)} does not fit {NAMES[written.dtype].lower()}.",
                remedy="Use --precision bf16 or fp32, or a smaller strength.",
            )
        )
    return written


def _relative(lost: float, norm: float) -> float:
    return lost / norm if norm > 0 else 0.0


def _summed(pairs: Iterable[tuple[float, float]]) -> tuple[float, float]:
    pairs = tuple(pairs)
    return math.hypot(*(lost for lost, _ in pairs)), math.hypot(*(norm for _, norm in pairs))
