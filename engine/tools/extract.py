"""`extract`: the difference of two checkpoints as a network, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import torch
from torch import Tensor

from engine.errors import ModelError, NetworkFileError, Problem
from engine.networks.choice import spans
from engine.networks.metadata import name_only
from engine.tools.checkpoint import BaseLayer, Checkpoint
from engine.tools.checks import check
from engine.tools.convert import PRECISION_DTYPES
from engine.tools.forms import Written, checked, diff_of, lora_of
from engine.tools.naming import Layers, namer
from engine.tools.records import with_network, with_record
from engine.tools.report import ReportMaker
from engine.tools.requests import ExtractRequest, Progress, RankRule, ToolReport, silent
from engine.tools.stream import Spool
from engine.tools.svd import of_matrix

VERSIONS = {"sd1": "sd_v1", "sd2": "sd_v2", "sdxl": "sdxl_base_v1-0"}
ARCHITECTURES = {
    "sd1": "stable-diffusion-v1",
    "sd2": "stable-diffusion-v2",
    "sdxl": "stable-diffusion-xl-v1-base",
}
TITLES = {"sd1": "Stable Diffusion 1", "sd2": "Stable Diffusion 2", "sdxl": "SDXL"}


def extract(request: ExtractRequest, progress: Progress = silent) -> ToolReport:
    """Write what was changed in `tuned` against `base`.

    Raises UsageError for a wrong request, ModelError for files that cannot be read or compared,
    EnvironmentFault where nothing can be written. Nothing is left behind then.
    """
    check(request)
    with ExitStack() as stack:
        base = stack.enter_context(Checkpoint(request.base))
        tuned = stack.enter_context(Checkpoint(request.tuned))
        _check_family(base, tuned)
        spool = stack.enter_context(Spool(request.output))
        return _Extraction(request, base, tuned).run(spool, progress)


def _check_family(base: Checkpoint, tuned: Checkpoint) -> None:
    if base.family != tuned.family:
        raise ModelError(
            Problem(
                f"The files cannot be compared: this is {TITLES[tuned.family]}, "
                f"and the base is {TITLES[base.family]}.",
                where=str(tuned.path),
                remedy="Give the base that the model was made from.",
            )
        )


class _Extraction:
    def __init__(self, request: ExtractRequest, base: Checkpoint, tuned: Checkpoint) -> None:
        self.request, self.base, self.tuned = request, base, tuned
        self.dtype = PRECISION_DTYPES.get(request.precision)
        kernels = {place: layer.shape[2:] for place, layer in base.layers.items()}
        self.named = namer("kohya", Layers.of(base.family, kernels))
        self.unchanged = self.biases = self.norms = 0

    def run(self, spool: Spool, progress: Progress) -> ToolReport:
        """Compare layer by layer."""
        maker = ReportMaker("extract")
        layers = tuple(self._layers())
        for number, layer in enumerate(layers):
            name = self.named(layer.place)
            progress(number, len(layers), name)
            written = self._written(layer, name, maker)
            if written is None:
                continue
            maker.add(name, written)
            for suffix, tensor in written.tensors.items():
                spool.add(f"{name}.{suffix}", tensor)
        if not maker.modules:
            what = "The files do not differ in any layer that was compared."
            raise NetworkFileError(Problem(what, where=str(self.tuned.path)))
        progress(len(layers), len(layers), str(self.request.output))
        self._notes(maker)
        size = spool.write(self._metadata(maker), force=self.request.force)
        return maker.report(self.request.output, size, spool.planned.values())

    def _layers(self) -> Iterator[BaseLayer]:
        for layer in self.base.layers.values():
            if self.request.unet if layer.component == "unet" else self.request.text:
                yield layer

    def _written(self, layer: BaseLayer, name: str, maker: ReportMaker) -> Written | None:
        other = self.tuned.layers.get(layer.place)
        if other is None or other.shape != layer.shape:
            what = "has another shape" if other is not None else "is not in the tuned model"
            maker.skip(f"{name} is left out: it {what}")
            return None
        weight = _difference(self.base.read(layer.weight), self.tuned.read(other.weight))
        bias = None
        if layer.bias is not None and other.bias is not None:
            bias = _difference(self.base.read(layer.bias), self.tuned.read(other.bias))
        if weight is None and bias is None:
            self.unchanged += 1
            maker.skip(f"{name} is left out: it is unchanged")
            return None
        shown = weight if weight is not None else torch.zeros(layer.shape)
        if layer.is_norm:
            return self._norm(layer, name, shown, bias)
        return self._changed(layer, name, weight, bias, maker)

    def _changed(
        self,
        layer: BaseLayer,
        name: str,
        weight: Tensor | None,
        bias: Tensor | None,
        maker: ReportMaker,
    ) -> Written | None:
        dtype = self.dtype or self.tuned.file.read(layer.weight.key).dtype
        if self.request.diff:
            delta = torch.zeros(layer.shape) if weight is None else weight
            return diff_of(name, delta, bias, dtype)
        if bias is not None:
            self.biases += 1
            maker.skip(f"{name}: the change of its bias is left out, a LoRA has none")
        rule = self._rule(layer)
        if weight is None or (rule.kind == "fixed" and rule.value == 0):
            maker.skip(
                f"{name} is left out: "
                + ("only its bias changed" if weight is None else "conv rank 0")
            )
            return None
        return lora_of(name, of_matrix(weight.flatten(1)), layer.shape, rule, dtype)

    def _rule(self, layer: BaseLayer) -> RankRule:
        conv = self.request.conv_rule
        return conv if conv is not None and spans(layer.shape[2:]) else self.request.rule

    def _norm(
        self, layer: BaseLayer, name: str, weight: Tensor, bias: Tensor | None
    ) -> Written | None:
        if not self.request.norms or layer.bias is None:
            self.norms += 1
            return None
        dtype = self.dtype or torch.float32
        tensors = {"w_norm": weight, "b_norm": torch.zeros_like(weight) if bias is None else bias}
        written = checked(name, {suffix: tensor.to(dtype) for suffix, tensor in tensors.items()})
        exact = torch.cat(list(tensors.values())).double()
        error = float((torch.cat(list(written.values())).double() - exact).norm())
        return Written("norm", written, None, float(exact.norm()), error)

    def _notes(self, maker: ReportMaker) -> None:
        if self.unchanged:
            maker.note(f"{self.unchanged} layers are unchanged.")
        if self.biases:
            maker.note(f"{self.biases} biases changed and are not in a LoRA; --diff keeps them.")
        if self.norms:
            more = "" if self.request.norms else "; --norms keeps them"
            maker.note(f"{self.norms} norm layers changed and are left out{more}.")

    def _metadata(self, maker: ReportMaker) -> dict[str, str]:
        request, family = self.request, self.base.family
        metadata = {
            "ss_base_model_version": VERSIONS[family],
            "ss_v2": str(family == "sd2"),
            "ss_output_name": request.output.stem,
            "ss_sd_model_name": name_only(str(request.base)),
            "modelspec.sai_model_spec": "1.0.1",
            "modelspec.architecture": f"{ARCHITECTURES[family]}/lora",
            "modelspec.implementation": "diffusers",
            "modelspec.title": request.output.stem,
            "lyctui.family": family,
        }
        metadata = with_network(
            metadata,
            [module.algorithm for module in maker.modules],
            [module.rank for module in maker.modules],
            maker.alphas,
        )
        entry = {
            "tool": "extract",
            "base": request.base.name,
            "tuned": request.tuned.name,
            "rank": "diff" if request.diff else f"{request.rule.kind} {request.rule.value:g}",
            "precision": request.precision,
            "error": maker.error,
        }
        return with_record(metadata, entry)


def _difference(base: Tensor, tuned: Tensor) -> Tensor | None:
    """tuned - base in fp32; None where they are equal in the narrower of their formats."""
    narrow = min(base.dtype, tuned.dtype, key=lambda dtype: dtype.itemsize)
    if torch.equal(base.to(narrow), tuned.to(narrow)):
        return None
    return tuned.float() - base.float()
