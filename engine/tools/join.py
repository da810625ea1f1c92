"""`merge` without a checkpoint: several networks as one. Ranks of LoRAs stand side by side, exactly."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from engine.errors import NetworkFileError, Problem
from engine.inert import inert
from engine.networks.layout_family import TITLES
from engine.networks.layouts import few
from engine.networks.names import Place
from engine.tools.checkpoint import Checkpoint
from engine.tools.checks import check
from engine.tools.convert import EXACT, PRECISION_DTYPES, USUAL_LIMIT, layers_of
from engine.tools.forms import (
    Module,
    Shape,
    Written,
    change_of,
    checked,
    diff_of,
    factors_as_lora,
    lora_of,
    two_factors,
)
from engine.tools.naming import Layers, namer
from engine.tools.opened import OpenModule, OpenNetwork
from engine.tools.records import kept_metadata, with_network, with_record
from engine.tools.report import ReportMaker
from engine.tools.requests import JoinRequest, Progress, ToolReport, silent
from engine.tools.stream import Spool
from engine.tools.svd import of_factors, of_matrix

Key = Place | str
"""A layer, or a name where the family is not known."""


@dataclass(slots=True)
class _Joined:
    """What all networks have on one layer."""

    name: str
    place: Place | None
    parts: list[tuple[OpenNetwork, OpenModule, float]] = field(default_factory=list)

    @property
    def algorithms(self) -> set[str]:
        """Of the parts."""
        return {module.algorithm for _, module, _ in self.parts}

    @property
    def dora(self) -> bool:
        """Whether one of them has magnitudes."""
        return any(module.dora for _, module, _ in self.parts)


def join(request: JoinRequest, progress: Progress = silent) -> ToolReport:
    """Write one network whose change is the sum of strength * change of all of them.

    Raises UsageError for a wrong request, NetworkFileError and ModelError for files that cannot be read
    or do not go together, EnvironmentFault where nothing can be written. Nothing is left behind then.
    """
    check(request)
    with ExitStack() as stack:
        base = None if request.base is None else stack.enter_context(Checkpoint(request.base))
        networks = [stack.enter_context(OpenNetwork(one.path)) for one in request.networks]
        layers = _common_layers(networks, base)
        joined = _joined(request, networks, layers)
        spool = stack.enter_context(Spool(request.output))
        return _Joining(request, base, layers, networks, joined).run(spool, progress)


def _common_layers(networks: Iterable[OpenNetwork], base: Checkpoint | None) -> Layers | None:
    """Layers of the base, or of the family that all networks are for."""
    networks = tuple(networks)
    if base is not None:
        return [layers_of(one, base) for one in networks][-1]
    known = [one for one in networks if one.family is not None]
    if len({one.family for one in known}) > 1:
        told = (f"{one.path.name} is {TITLES[one.family or '']}" for one in known)
        what = f"They are for different base models: {', '.join(told)}."
        raise NetworkFileError(Problem(what, remedy="Join networks of one family."))
    return layers_of(known[0], None) if known else None


def _joined(
    request: JoinRequest, networks: Iterable[OpenNetwork], layers: Layers | None
) -> tuple[_Joined, ...]:
    named = None if layers is None else namer("kohya", layers)
    found: dict[Key, _Joined] = {}
    problems: list[Problem] = []
    for network, one in zip(networks, request.networks, strict=True):
        seen: set[Key] = set()
        for module in network.modules:
            place = None if layers is None else layers.table.get(module.name)
            where = f"{network.path}: {inert(module.found.spelled)}"
            if place is None and request.base is not None:
                problems.append(Problem("The base model has no such layer.", where=where))
                continue
            key: Key = module.name if place is None else place
            if key in seen:
                problems.append(Problem("A layer is named twice.", where=where))
            seen.add(key)
            name = module.name if place is None or named is None else named(place)
            target = found.setdefault(key, _Joined(name, place))
            target.parts.append((network, module, one.strength))
    if problems:
        raise NetworkFileError(*few(problems))
    return tuple(found.values())


class _Joining:
    def __init__(
        self,
        request: JoinRequest,
        base: Checkpoint | None,
        layers: Layers | None,
        networks: Iterable[OpenNetwork],
        joined: tuple[_Joined, ...],
    ) -> None:
        self.request, self.base, self.layers = request, base, layers
        self.networks, self.joined = tuple(networks), joined
        own = [network.dtype for network in self.networks]
        # The widest of them: nothing is lost by the numbers' format.
        widest = max(own, key=lambda dtype: dtype.itemsize)
        self.dtype = PRECISION_DTYPES.get(request.precision, widest)

    def run(self, spool: Spool, progress: Progress) -> ToolReport:
        """Join layer by layer."""
        maker = ReportMaker("join", (line for one in self.networks for line in one.left_out))
        for number, joined in enumerate(self.joined):
            progress(number, len(self.joined), joined.name)
            written = self._written(joined, maker)
            if written is None:
                maker.skip(f"{joined.name} is left out: nothing changes it")
                continue
            maker.add(joined.name, written)
            for suffix, tensor in written.tensors.items():
                spool.add(f"{joined.name}.{suffix}", tensor)
        progress(len(self.joined), len(self.joined), str(self.request.output))
        size = spool.write(self._metadata(maker), force=self.request.force)
        return maker.report(self.request.output, size, spool.planned.values())

    @torch.no_grad()
    def _written(self, joined: _Joined, maker: ReportMaker) -> Written | None:
        if joined.algorithms == {"norm"}:
            return self._norm(joined)
        plain = joined.algorithms == {"lora"} and not joined.dora
        if plain and self.request.to != "diff":
            return self._side_by_side(joined)
        delta, bias = self._summed(joined)
        exact = self.request.to == "keep" and "full" in joined.algorithms
        if self.request.to == "diff" or exact:
            return diff_of(joined.name, delta, bias, self.dtype)
        if bias is not None:
            maker.skip(f"{joined.name}: the change of its bias is left out, a LoRA has none")
        rule = self.request.rule or replace(EXACT, limit=USUAL_LIMIT)
        spectrum = of_matrix(delta.flatten(1))
        return lora_of(joined.name, spectrum, tuple(delta.shape), rule, self.dtype)

    def _side_by_side(self, joined: _Joined) -> Written | None:
        pairs = []
        shape: Shape = ()
        for network, opened, strength in joined.parts:
            up, down, shape = two_factors(network.tensors(opened))
            pairs.append((up * strength, down))
        up = torch.cat([up for up, _ in pairs], 1)
        down = torch.cat([down for _, down in pairs])
        if self.request.rule is None:
            return factors_as_lora(joined.name, up, down, shape, self.dtype)
        spectrum = of_factors(up, down)
        return lora_of(joined.name, spectrum, shape, self.request.rule, self.dtype)

    def _summed(self, joined: _Joined) -> tuple[Tensor, Tensor | None]:
        delta: Tensor | None = None
        bias: Tensor | None = None
        for network, opened, strength in joined.parts:
            own, own_bias = change_of(self._module(joined, network, opened))
            own = own * strength
            delta = own if delta is None else delta + own.view(delta.shape)
            if own_bias is not None:
                own_bias = own_bias * strength
                bias = own_bias if bias is None else bias + own_bias
        assert delta is not None
        return delta, bias

    def _norm(self, joined: _Joined) -> Written:
        weight, bias = self._summed(joined)
        assert bias is not None
        tensors = {"w_norm": weight.to(self.dtype), "b_norm": bias.to(self.dtype)}
        return Written("norm", checked(joined.name, tensors))

    def _module(self, joined: _Joined, network: OpenNetwork, opened: OpenModule) -> Module:
        layer, kernel = None, None
        if joined.place is not None and self.base is not None:
            layer = self.base.module(self.base.layers[joined.place])
        if joined.place is not None and self.layers is not None:
            kernel = self.layers.kernels[joined.place]
        return Module(joined.name, opened.algorithm, network.tensors(opened), layer, kernel)

    def _metadata(self, maker: ReportMaker) -> dict[str, str]:
        first: Mapping[str, str] = self.networks[0].metadata
        metadata = with_network(
            kept_metadata(first),
            [module.algorithm for module in maker.modules],
            [module.rank for module in maker.modules],
            maker.alphas,
        )
        networks = [
            {"name": one.path.name, "strength": one.strength} for one in self.request.networks
        ]
        entry = {"tool": "join", "networks": networks, "error": maker.error}
        return with_record(metadata, entry)
