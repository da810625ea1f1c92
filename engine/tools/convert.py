"""`convert`: a network file in another form, for another program or under other names."""

from __future__ import annotations

import math
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from engine.errors import NetworkFileError, Problem
from engine.inert import inert
from engine.networks.base import ALPHA
from engine.networks.consumers import attention_of, readers
from engine.networks.dora_rules import SCALE
from engine.networks.dylora import truncated
from engine.networks.layout_family import wrong_family
from engine.networks.layout_scales import KEY as ADAPTER_METADATA
from engine.networks.layouts import few
from engine.networks.layouts_glora import A1, A2, old_layout
from engine.networks.lora import DOWN
from engine.networks.names import Place
from engine.networks.shapes import BASE_FACTORS
from engine.safetensors_dtypes import DTYPES
from engine.tools.checkpoint import Checkpoint
from engine.tools.checks import check
from engine.tools.forms import (
    BEHIND_THE_BASE,
    DIFF_B,
    Module,
    Written,
    as_diff,
    as_lora,
    base_needed,
    copied,
)
from engine.tools.naming import Layers, key_of, namer, usual_layers
from engine.tools.opened import OpenModule, OpenNetwork
from engine.tools.peft_layout import (
    Sizes,
    for_peft,
    magnitude_axis,
    most_common,
    peft_metadata,
    with_vector,
    without_scale,
)
from engine.tools.programs import (
    ACTION_NOTES,
    NOTES,
    Action,
    Payload,
    Whole,
    action_for,
)
from engine.tools.records import kept_metadata, trained_with, with_network, with_record
from engine.tools.report import ReportMaker
from engine.tools.requests import ConvertRequest, Names, Progress, RankRule, ToolReport, silent
from engine.tools.rewritten import (
    over_base_norm,
    plain_lokr,
    untucked,
    with_alpha,
    without_alpha,
)
from engine.tools.stream import Spool

USUAL_LIMIT = 64
USUAL_ALPHA = 16.0
PRECISION_DTYPES = {"fp32": DTYPES["F32"], "fp16": DTYPES["F16"], "bf16": DTYPES["BF16"]}
EXACT = RankRule("error", 1e-6)


def convert(request: ConvertRequest, progress: Progress = silent) -> ToolReport:
    """Write the file in the form that is asked for.

    Raises UsageError for a wrong request, NetworkFileError and ModelError for files that cannot be read
    or do not go together, EnvironmentFault where nothing can be written. Nothing is left behind then.
    """
    check(request)
    with ExitStack() as stack:
        source = stack.enter_context(OpenNetwork(request.source))
        base = None if request.base is None else stack.enter_context(Checkpoint(request.base))
        spool = stack.enter_context(Spool(request.output))
        return _Conversion(request, source, base).run(spool, progress)


@dataclass(frozen=True, slots=True)
class _Placed:
    module: OpenModule
    place: Place | None
    name: str
    """As it is written."""


class _Conversion:
    def __init__(
        self, request: ConvertRequest, source: OpenNetwork, base: Checkpoint | None
    ) -> None:
        self.request, self.source, self.base = request, source, base
        self.layers = layers_of(source, base)
        self.names = _style(request)
        self.placed = self._placed()
        self.whole = self._whole()
        if request.names == "keep" and self._has("vector"):
            # Under kohya's names diffusers does not find the magnitudes of text encoders.
            self.names = "peft"
            self.placed = self._placed()
        self.alpha = self._common_alpha() if request.program == "diffusers" else None
        self.dtype = PRECISION_DTYPES.get(request.precision)
        trained, self.rooted = trained_with(source.metadata)
        self.dylora = trained == "dylora"

    def run(self, spool: Spool, progress: Progress) -> ToolReport:
        """Convert module by module."""
        self._check_base()
        maker = ReportMaker("convert", self.source.left_out)
        sizes: Sizes = {}
        for number, placed in enumerate(self.placed):
            progress(number, len(self.placed), placed.name)
            written = self._written(placed, maker)
            if written is None:
                continue
            maker.add(placed.name, written)
            tensors = dict(written.tensors)
            if self.names == "peft":
                tensors = for_peft(placed.name, written, sizes)
            for suffix, tensor in tensors.items():
                spool.add(key_of(self.names, placed.name, suffix), tensor)
        if not maker.modules:
            what = "Nothing is left to be written."
            raise NetworkFileError(Problem(what, where=str(self.source.path)))
        progress(len(self.placed), len(self.placed), str(self.request.output))
        self._file_notes(maker)
        metadata = self._metadata(maker)
        if self.names == "peft":
            metadata[ADAPTER_METADATA] = peft_metadata(sizes, dora=maker.dora)
        size = spool.write(metadata, force=self.request.force)
        return maker.report(self.request.output, size, spool.planned.values())

    # What is where ------------------------------------------------------------------------

    def _placed(self) -> tuple[_Placed, ...]:
        found: list[_Placed] = []
        problems: list[Problem] = []
        taken: set[str] = set()
        named = (
            None
            if self.layers is None
            else namer("kohya" if self.names == "keep" else self.names, self.layers)
        )
        for module in self.source.modules:
            place = None if self.layers is None else self.layers.table.get(module.name)
            if place is None and (self.base is not None or self.names != "keep"):
                where = inert(module.found.spelled)
                problems.append(self._no_layer(where))
                continue
            name = module.name
            if named is not None and place is not None and not self._keeps(module, place):
                name = named(place)
            if name in taken:
                problems.append(Problem("A layer is named twice.", where=inert(name)))
            taken.add(name)
            found.append(_Placed(module, place, name))
        if problems:
            raise NetworkFileError(*few(problems))
        return tuple(found)

    def _keeps(self, module: OpenModule, place: Place) -> bool:
        """Whether the file's own name stays; names that no program knows do not."""
        text = place[0] != "unet"
        known = "." not in module.found.spelled and (not text or "_text_model_" in module.name)
        return self.names == "keep" and known

    def _no_layer(self, where: str) -> Problem:
        if self.layers is None:
            return Problem(
                "For which base model the file is cannot be told, so no names can be found.",
                where=where,
                remedy="Give the base model with --base.",
            )
        return Problem("The base model has no such layer.", where=where)

    def _whole(self) -> Whole:
        by_component: dict[str, list[bool]] = {}
        for placed in self.placed:
            by_component.setdefault(_component(placed), []).append(placed.module.dora)
        return Whole({component: all(dora) for component, dora in by_component.items()})

    def _check_base(self) -> None:
        """Everything that needs a base that was not given, before anything is done."""
        if self.base is not None:
            return
        actions = [(placed, self._action(placed)) for placed in self.placed]
        needing = [
            placed
            for placed, action in actions
            if action not in ("copy", "vector", "drop", "glora-old", "plain-lokr", "two-factors")
            and _depends_on_base(placed.module)
        ]
        if needing:
            first = needing[0].module
            problem = base_needed(first.name, first.algorithm, dora=first.dora)
            more = f" and {len(needing) - 1} more" if len(needing) > 1 else ""
            raise NetworkFileError(replace(problem, where=f"{problem.where}{more}"))

    def _has(self, action: Action) -> bool:
        return any(self._action(placed) == action for placed in self.placed)

    def _common_alpha(self) -> float | None:
        """The alpha that every module gets, for diffusers' text encoders; None where names tell it.

        diffusers keeps one alpha for a text encoder and loses the others where paths have lost a level.
        """
        if self.names == "peft":
            return None
        copied = [placed.module for placed in self.placed if self._action(placed) == "copy"]
        alphas = [float(self.source.tensors(module)[ALPHA]) for module in copied]
        return most_common(alphas) if alphas else USUAL_ALPHA

    # One module ---------------------------------------------------------------------------

    def _written(self, placed: _Placed, maker: ReportMaker) -> Written | None:
        action = self._action(placed)
        request = self.request
        if request.program is not None:
            maker.note(ACTION_NOTES.get((request.program, action), ""))
            if action == "copy":
                maker.note(NOTES.get((request.program, placed.module.algorithm), ""))
        if action == "drop":
            maker.skip(f"{placed.name} is left out: {request.program} cannot hold it")
            return None
        module = self._module(placed)
        if action == "lora" and placed.module.algorithm == "t-lora":
            maker.note("The LoRA of a T-LoRA has all ranks at every timestep.")
        written = self._formed(action, module)
        if written is None:
            maker.skip(f"{placed.name} is left out: it changes nothing")
            return None
        return written if self.alpha is None else with_alpha(placed.name, written, self.alpha)

    def _action(self, placed: _Placed) -> Action:
        request, module = self.request, placed.module
        payload = self._payload(placed)
        action: Action = "copy"
        if request.program is not None:
            action = action_for(request.program, payload, self.whole)
        if action == "drop" or module.algorithm == "norm":
            return action
        if request.to == "diff":
            return "copy" if module.algorithm == "full" else "diff"
        if request.to == "lora":
            plain = module.algorithm == "lora" and not payload.tucker and not payload.axis
            return "copy" if plain and request.rule is None else "lora"
        if module.algorithm == "glora" and request.program is None:
            old = _was_old(module) if request.glora is None else request.glora == "old"
            return "glora-old" if old else "copy"
        return action

    def _payload(self, placed: _Placed) -> Payload:
        module = placed.module
        shapes = module.shapes
        on_input = False
        if module.algorithm == "ia3":
            on_input = bool(self.source.tensors(module)["on_input"])
        kernel = (
            None
            if self.layers is None or placed.place is None
            else self.layers.kernels.get(placed.place)
        )
        convolution = bool(kernel) or any(len(shape) == 4 for shape in shapes.values())
        return Payload(
            module.algorithm,
            shapes,
            _component(placed),
            magnitude_axis(shapes.get(SCALE)),
            convolution,
            on_input,
        )

    def _module(self, placed: _Placed) -> Module:
        layer, kernel = None, None
        if self.base is not None and placed.place is not None:
            layer = self.base.module(self.base.layers[placed.place])
        if self.layers is not None and placed.place is not None:
            kernel = self.layers.kernels[placed.place]
        tensors = self.source.tensors(placed.module)
        module = Module(placed.name, placed.module.algorithm, tensors, layer, kernel)
        module.check()
        return module

    def _formed(self, action: Action, module: Module) -> Written | None:
        computed = self.dtype or self.source.dtype
        match action:
            case "lora":
                return self._lora(module, computed)
            case "diff":
                return as_diff(module, computed)
            case "two-factors":
                return untucked(module, computed)
            case "plain-lokr":
                return plain_lokr(module, computed)
            case "over-base":
                return over_base_norm(module, self.dtype)
            case "glora-old":
                return self._old_glora(module)
            case "vector":
                written = copied(module, self.dtype)
                return written if self.names == "peft" else with_vector(written)
            case _:
                return copied(module, self.dtype)

    def _lora(self, module: Module, dtype: torch.dtype) -> Written | None:
        rule = self.request.rule
        cuts = self.dylora and module.algorithm == "lora" and rule is not None
        if cuts and rule is not None and rule.kind == "fixed" and not module.dora:
            whole = module.tensors[DOWN].shape[0]
            kept = min(int(rule.value), whole)
            tensors = truncated(module.tensors, kept, rs_lora=self.rooted)
            return copied(replace(module, tensors=tensors), self.dtype)
        if rule is None:
            exact = module.algorithm == "t-lora" or (module.algorithm == "lora" and not module.dora)
            rule = EXACT if exact else replace(EXACT, limit=USUAL_LIMIT)
        return as_lora(module, rule, dtype)

    def _old_glora(self, module: Module) -> Written:
        if any(math.prod(tensor.shape[2:]) > 1 for tensor in module.tensors.values()):
            raise NetworkFileError(
                Problem(
                    "The old layout of GLoRA has no convolutions.",
                    where=inert(module.name),
                    remedy="Use --to diff.",
                )
            )
        if self.request.program == "a1111":
            module = without_alpha(module)
        dtype = self.dtype or self.source.dtype
        written = copied(module, dtype)
        flat = {suffix: _matrix(tensor) for suffix, tensor in written.tensors.items()}
        return replace(written, tensors=old_layout(without_scale(flat)) | {ALPHA: flat[ALPHA]})

    # The file -----------------------------------------------------------------------------

    def _file_notes(self, maker: ReportMaker) -> None:
        request = self.request
        for placed in self.placed:
            if DIFF_B in placed.module.shapes and self._action(placed) == "lora":
                name = placed.module.name
                maker.skip(f"{name}: the change of its bias is left out, a LoRA has none")
        if request.program == "a1111":
            family = self.source.family if self.base is None else self.base.family
            shapes = {placed.module.name: placed.module.shapes for placed in self.placed}
            found = readers((), attention_of(shapes, family))["a1111"].reason
            maker.note(f"A1111 {found}." if found else "")
        if self.dylora and request.to == "lora" and request.rule is not None:
            maker.note("The first ranks of a DyLoRA were taken, as it was trained for.")

    def _metadata(self, maker: ReportMaker) -> dict[str, str]:
        request = self.request
        metadata = kept_metadata(self.source.metadata)
        before = Counter(module.algorithm for module in self.source.modules)
        after = Counter(module.algorithm for module in maker.modules)
        if before != after or request.rule is not None:
            metadata = with_network(
                metadata,
                after,
                [module.rank for module in maker.modules],
                maker.alphas,
                dora=maker.dora,
            )

        asked = {
            "tool": "convert",
            "source": request.source.name,
            "for": request.program,
            "to": request.to,
            "names": self.names,
            "rank": None if request.rule is None else f"{request.rule.kind} {request.rule.value:g}",
            "base": None if request.base is None else request.base.name,
            "precision": request.precision,
            "error": maker.error,
        }
        return with_record(metadata, {key: value for key, value in asked.items() if value})


def layers_of(source: OpenNetwork, base: Checkpoint | None) -> Layers | None:
    """Layers of the base, else of the file's family, else none; raises NetworkFileError for strangers."""
    if base is None:
        return None if source.family is None else usual_layers(source.family)
    stranger = wrong_family(source.family, base.family)
    if stranger is not None:
        raise NetworkFileError(replace(stranger, where=str(source.path), path=""))
    kernels = {place: layer.shape[2:] for place, layer in base.layers.items()}
    return Layers.of(base.family, kernels)


def _style(request: ConvertRequest) -> Names:
    """Programs load kohya's usual names of every family."""
    if request.names == "keep" and request.program is not None:
        return "kohya"
    return request.names


def _component(placed: _Placed) -> str:
    if placed.place is not None:
        return placed.place[0]
    if placed.name.startswith("lora_te2_"):
        return "te2"
    return "te" if placed.name.startswith("lora_te") else "unet"


def _depends_on_base(module: OpenModule) -> bool:
    if module.algorithm == "t-lora":
        return not set(BASE_FACTORS) <= set(module.shapes)
    return module.dora or module.algorithm in BEHIND_THE_BASE


def _was_old(module: OpenModule) -> bool:
    """Whether a GLoRA's factors were read from the old layout."""
    return module.found.tensors[A1].key.endswith(A2)


def _matrix(tensor: Tensor) -> Tensor:
    return tensor.flatten(1) if tensor.dim() > 1 else tensor
