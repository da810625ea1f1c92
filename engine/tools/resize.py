"""`resize`: a LoRA or LoKr with other ranks, the largest singular values kept."""

from __future__ import annotations

import math
from contextlib import ExitStack

import torch
from torch import Tensor

from engine.errors import NetworkFileError, Problem
from engine.networks.base import ALPHA
from engine.networks.dora_rules import SCALE
from engine.networks.lokr import T2, W1_B, W2, W2_A, W2_B
from engine.networks.lora import DOWN
from engine.tools.checks import check
from engine.tools.convert import PRECISION_DTYPES
from engine.tools.forms import (
    Module,
    Written,
    cast,
    checked,
    copied,
    half_spectrum,
    left_half,
    lora_of,
    scale_of,
    spectrum_of,
)
from engine.tools.naming import Layers, usual_layers
from engine.tools.opened import OpenModule, OpenNetwork
from engine.tools.records import kept_metadata, with_network, with_record
from engine.tools.report import ReportMaker
from engine.tools.requests import Progress, RankRule, ResizeRequest, ToolReport, silent
from engine.tools.stream import Spool
from engine.tools.svd import distance, rank_for

RESIZED = ("lora", "lokr")


def resize(request: ResizeRequest, progress: Progress = silent) -> ToolReport:
    """Write the file with other ranks; alpha keeps each module's scale.

    Raises UsageError for a wrong request, NetworkFileError for a file that has no ranks of this kind,
    EnvironmentFault where nothing can be written. Nothing is left behind then.
    """
    check(request)
    with ExitStack() as stack:
        source = stack.enter_context(OpenNetwork(request.source))
        _check_algorithms(source)
        spool = stack.enter_context(Spool(request.output))
        maker = ReportMaker("resize", source.left_out)
        layers = None if source.family is None else usual_layers(source.family)
        for number, module in enumerate(source.modules):
            progress(number, len(source.modules), module.name)
            written = _resized(request, source, module, layers, maker)
            if written is None:
                maker.skip(f"{module.name} is left out: it changes nothing")
                continue
            maker.add(module.name, written)
            for suffix, tensor in written.tensors.items():
                spool.add(f"{module.name}.{suffix}", tensor)
        progress(len(source.modules), len(source.modules), str(request.output))
        size = spool.write(_metadata(request, source, maker), force=request.force)
        return maker.report(request.output, size, spool.planned.values())


def _check_algorithms(source: OpenNetwork) -> None:
    if any(module.algorithm in RESIZED for module in source.modules):
        return
    found = source.modules[0].algorithm
    raise NetworkFileError(
        Problem(
            f"Only LoRA and LoKr can be resized, and this is {found}.",
            where=str(source.path),
            remedy="Make a LoRA of it: lyctui convert --to lora --rank N.",
        )
    )


def _resized(
    request: ResizeRequest,
    source: OpenNetwork,
    opened: OpenModule,
    layers: Layers | None,
    maker: ReportMaker,
) -> Written | None:
    dtype = PRECISION_DTYPES.get(request.precision)
    tensors = source.tensors(opened)
    place = None if layers is None else layers.table.get(opened.name)
    kernel = layers.kernels[place] if layers is not None and place is not None else None
    module = Module(opened.name, opened.algorithm, tensors, None, kernel)
    if opened.algorithm not in RESIZED:
        maker.note(f"Modules of {opened.algorithm} have no rank and stay as they are.")
        return copied(module, dtype)
    if opened.dora:
        maker.note("The magnitudes of the DoRA stay; the error is that of the change below them.")
    magnitudes = {suffix: tensors.pop(suffix) for suffix in (SCALE,) if suffix in tensors}
    width = dtype or source.dtype
    if opened.algorithm == "lokr":
        written = lokr_of(module, request.rule, width)
    else:
        rule = request.rule
        if request.conv_rule is not None and _spans(tensors):
            rule = request.conv_rule
        spectrum, shape = spectrum_of(module)
        scale = scale_of(tensors, tensors[DOWN].shape[0])
        written = lora_of(module.name, spectrum, shape, rule, width, scale=scale or 1.0)
    if written is not None:
        written.tensors.update(cast(magnitudes, dtype))
    return written


def _spans(tensors: dict[str, Tensor]) -> bool:
    return any(math.prod(tensor.shape[2:]) > 1 for tensor in tensors.values())


@torch.no_grad()
def lokr_of(module: Module, rule: RankRule, dtype: torch.dtype) -> Written | None:
    """A LoKr whose second half has another rank; a whole one becomes one of low rank."""
    tensors = {suffix: tensor.double() for suffix, tensor in module.tensors.items()}
    scale = _scale(module)
    spectrum = half_spectrum(tensors)
    rank = rank_for(rule, spectrum.s_R)
    left = float(left_half(tensors).norm()) * abs(scale)
    if rank == 0 or left == 0:
        return None
    a, b = spectrum.cut(rank)
    written = {
        suffix: tensor
        for suffix, tensor in module.tensors.items()
        if suffix not in (W2, T2, W2_A, W2_B, ALPHA)
    }
    written |= {W2_A: a.to(dtype).contiguous(), W2_B: b.to(dtype).contiguous()}
    # Both halves whole had a scale of 1: alpha is then the rank itself.
    written[ALPHA] = torch.tensor(scale * rank)
    written = checked(module.name, cast(written, dtype))
    lost = math.hypot(spectrum.lost(rank), distance((a, b), (written[W2_A], written[W2_B])))
    return Written("lokr", written, rank, spectrum.norm * left, lost * left)


def _scale(module: Module) -> float:
    """As consumers compute it: the rank is read from the second half, else from the first."""
    for suffix in (W2_B, W1_B):
        if suffix in module.tensors:
            return scale_of(module.tensors, module.tensors[suffix].shape[0])
    return 1.0


def _metadata(request: ResizeRequest, source: OpenNetwork, maker: ReportMaker) -> dict[str, str]:
    metadata = with_network(
        kept_metadata(source.metadata),
        [module.algorithm for module in maker.modules],
        [module.rank for module in maker.modules],
        maker.alphas,
        dora=maker.dora,
    )
    entry = {
        "tool": "resize",
        "source": request.source.name,
        "rank": f"{request.rule.kind} {request.rule.value:g}",
        "precision": request.precision,
        "error": maker.error,
    }
    return with_record(metadata, entry)
