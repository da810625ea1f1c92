"""Which layers a preset takes, told from paths and enclosing classes. No torch.

The same rules choose among the real modules and among the shapes of a plan.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

from engine.errors import Problem, RecipeError
from engine.networks.choice import Kernel, spans

if TYPE_CHECKING:
    from engine.networks.overrides import Override

UNET = "unet"
Kind = Literal["linear", "conv", "norm"]


class LayerLike(Protocol):
    """A linear, convolution or norm layer, real or planned."""

    @property
    def component(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def out(self) -> int: ...
    @property
    def in_(self) -> int: ...
    @property
    def kernel(self) -> Kernel: ...
    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def kind(self) -> Kind: ...
    @property
    def bias(self) -> bool: ...


Layer = TypeVar("Layer", bound=LayerLike)


@dataclass(frozen=True, slots=True)
class Aim:
    """What one preset takes from one kind of component."""

    classes: frozenset[str] = frozenset()
    names: tuple[str, ...] = ()
    """Regular expressions; each must match a whole path."""
    within: str = ".*"
    """Only paths that this regular expression matches count."""

    def __bool__(self) -> bool:
        return bool(self.classes or self.names)

    def takes(self, layer: LayerLike) -> bool:
        """Whether a layer is below one of the classes or bears one of the names.

        A norm belongs to the block around it, so that a name never takes one.
        """
        named = self.names if layer.kind != "norm" else ()
        hit = bool(self.classes.intersection(layer.classes)) or any(
            re.fullmatch(name, layer.path) for name in named
        )
        return hit and re.fullmatch(self.within, layer.path) is not None


@dataclass(frozen=True, slots=True)
class Preset:
    """What a preset takes from the U-Net and from the text encoders."""

    unet: Aim
    text: Aim
    spatial: bool
    """Whether convolutions beyond one pixel are taken."""
    on_input: tuple[str, ...] = ()
    """Names whose inputs, not outputs, (IA)³ scales."""
    overrides: tuple[Override, ...] = ()
    own: bool = False
    """Whether a person wrote it: then every class and every name must find something."""

    def aim(self, component: str) -> Aim:
        """The aim at a component."""
        return self.unet if component == UNET else self.text


NOTHING = Aim()
TRANSFORMER = frozenset({"Transformer2DModel"})
RESNET = frozenset({"ResnetBlock2D"})
SAMPLERS = frozenset({"Downsample2D", "Upsample2D"})
TIME = (r"time_embedding\.linear_1", r"time_embedding\.linear_2")
ENDS = ("conv_in", "conv_out")
WHOLE_UNET = Aim(TRANSFORMER | RESNET | SAMPLERS, ENDS + TIME)
WHOLE_TEXT = Aim(frozenset({"CLIPAttention", "CLIPSdpaAttention", "CLIPMLP"}))
TEXT_ATTENTION = Aim(frozenset({"CLIPAttention", "CLIPSdpaAttention"}))
FEED_FORWARD_OUT = (r".*\.ff\.net\.2", r".*\.mlp\.fc2")

PRESETS: dict[str, Preset] = {
    "full": Preset(WHOLE_UNET, WHOLE_TEXT, True),
    "full-lin": Preset(Aim(TRANSFORMER | RESNET, TIME), WHOLE_TEXT, False),
    "attn-mlp": Preset(Aim(TRANSFORMER), WHOLE_TEXT, False),
    "attn-only": Preset(
        Aim(frozenset({"Attention", "CrossAttention", "SelfAttention"})), TEXT_ATTENTION, False
    ),
    "unet-only": Preset(WHOLE_UNET, NOTHING, True),
    "unet-transformer-only": Preset(Aim(TRANSFORMER), NOTHING, False),
    "unet-convblock-only": Preset(Aim(RESNET | SAMPLERS, ENDS), NOTHING, True),
    # Gradients stop at the first trained layer, so the whole way down needs none.
    "unet-up-blocks": Preset(Aim(TRANSFORMER, within=r"up_blocks\..*"), NOTHING, False),
    "te-only": Preset(NOTHING, WHOLE_TEXT, True),
    # Keys, values and the feed-forward's inside, as in Liu et al. 2022, arXiv:2205.05638.
    "ia3": Preset(
        Aim(names=(r".*\.to_k", r".*\.to_v", FEED_FORWARD_OUT[0])),
        Aim(names=(r".*\.k_proj", r".*\.v_proj", FEED_FORWARD_OUT[1])),
        False,
        on_input=FEED_FORWARD_OUT,
    ),
}


def preset_of(targets: str) -> Preset:
    """The preset of a name, or of a TOML file; raises RecipeError where there is none such."""
    if is_file(targets):
        from engine.networks.preset_files import read_preset  # it needs this module's own types

        return read_preset(Path(targets))
    if targets in PRESETS:
        return PRESETS[targets]
    near = nearest(targets, PRESETS)
    raise RecipeError(
        Problem(
            f"There is no choice of layers called {targets!r}.",
            path="network.targets",
            remedy=(f"Did you mean {near}? " if near else "")
            + f"Choose one of {', '.join(PRESETS)}, or write a TOML file of your own.",
        )
    )


def is_file(targets: str) -> bool:
    """Whether a choice of layers is a person's own file."""
    return targets.lower().endswith(".toml") or Path(targets).name != targets


def nearest(text: str, known: Iterable[str]) -> str:
    """The known word that a misspelt one probably means; empty where none is near."""
    plain = {word.lower(): word for word in known}
    close = difflib.get_close_matches(text.lower(), plain, 1, 0.6)
    return plain[close[0]] if close else ""


def selected(
    layers: Iterable[Layer], targets: str, *, spatial: bool = True, norms: bool = False
) -> tuple[Layer, ...]:
    """Layers that a preset takes, in their own order, each once.

    `spatial` takes convolutions beyond one pixel where the preset has them, `norms` also the norms
    inside the blocks it aims at. Raises RecipeError for an unknown preset, and where a preset aims
    at a component but hits nothing.
    """
    chosen = targeted(distinct(layers), preset_of(targets), targets)
    return tuple(
        layer
        for layer in chosen
        if (spatial or not spans(layer.kernel)) and (norms or layer.kind != "norm")
    )


def setting_of(preset: Preset) -> str:
    """The setting that chose it."""
    return "network.targets_file" if preset.own else "network.targets"


def distinct(layers: Iterable[Layer]) -> tuple[Layer, ...]:
    """Every layer once, in order."""
    return tuple({(layer.component, layer.path): layer for layer in layers}.values())


def targeted(layers: Collection[Layer], preset: Preset, targets: str) -> tuple[Layer, ...]:
    """Layers and norms that a preset takes; raises RecipeError with everything it does not find."""
    chosen = tuple(
        layer
        for layer in layers
        if preset.aim(layer.component).takes(layer) and (preset.spatial or not spans(layer.kernel))
    )
    problems = _idle_parts(layers, preset, targets) if preset.own else []
    components = {layer.component for layer in layers}
    hit = {layer.component for layer in chosen if layer.kind != "norm"}
    missed = sorted(name for name in components if preset.aim(name) and name not in hit)
    if missed or not hit:
        where = " and ".join(missed) or " and ".join(sorted(components)) or "an empty model"
        problems.append(
            Problem(
                f"{targets} finds no layer to train in {where}.",
                path=setting_of(preset),
                remedy="Choose other layers.",
            )
        )
    if problems:
        raise RecipeError(*problems)
    return chosen


def _idle_parts(layers: Collection[LayerLike], preset: Preset, targets: str) -> list[Problem]:
    """Classes and names of a person's own preset that find nothing where they look."""
    problems = []
    for words, aim in (("U-Net", preset.unet), ("text encoder", preset.text)):
        seen = [layer for layer in layers if preset.aim(layer.component) is aim]
        parts = [Aim(frozenset({name})) for name in sorted(aim.classes)]
        parts += [Aim(names=(name,)) for name in aim.names]
        for part in parts if seen else ():
            if any(part.takes(layer) for layer in seen if layer.kind != "norm"):
                continue
            what = f"class {next(iter(part.classes))}" if part.classes else f"name {part.names[0]}"
            problems.append(
                Problem(
                    f"The {what} finds no layer in the {words}.",
                    where=targets,
                    path=setting_of(preset),
                    remedy=f"{nearest_layer(what.partition(' ')[2], seen)} "
                    "Correct it or leave it out.",
                )
            )
    return problems


def nearest_layer(pattern: str, layers: Collection[LayerLike]) -> str:
    """A sentence that names the class or path which a pattern comes nearest to."""
    classes = {name for layer in layers for name in layer.classes}
    if near := nearest(pattern, classes):
        return f"The nearest class is {near}."
    if not layers:
        return "There is no layer."
    plain = re.sub(r"\\(.)|[.*+?^$()\[\]{}|]+", lambda found: found[1] or "", pattern)
    matcher = difflib.SequenceMatcher(autojunk=False)
    matcher.set_seq2(plain)

    def likeness(path: str) -> tuple[int, int, int]:
        """The longest common part, then all of them, then brevity."""
        matcher.set_seq1(path)
        sizes = [block.size for block in matcher.get_matching_blocks()]
        return max(sizes), sum(sizes), -len(path)

    return f"The nearest is {max((layer.path for layer in layers), key=likeness)}."
