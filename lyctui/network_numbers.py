"""What a network would come to with the answers as they are: exact sizes, speed, readers. No torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.errors import EngineError, Problem
from engine.networks.choice import Choice, spans
from engine.networks.factors import smallest_butterfly
from engine.networks.presets import LayerLike
from lyctui.algorithms import algorithm_answers, algorithms, speed_of, stars_of, with_answers
from lyctui.readers import Reading, readings
from lyctui.text import counted

if TYPE_CHECKING:
    from engine.models.shapes import LayerShape
    from engine.planning.fill import Filled
    from lyctui.draft import Draft
    from lyctui.wizard import Wizard

PARTS = {
    "unet": "U-Net",
    "te": "text encoder",
    "te2": "second text encoder",
}
LEFT_OUT = "left out by an override"
CONVOLUTIONS_OFF = "that are convolutions of rank 0"
Planned = Sequence[tuple[LayerLike, Choice]]


@dataclass(frozen=True, slots=True)
class Numbers:
    """One network on the present base, for the present run."""

    choice: Choice
    file_bytes: int
    exact: bool
    """Whether the base is known; otherwise the sizes are those of a usual Stable Diffusion 1."""
    memory_bytes: int
    parameters: int
    modules: tuple[tuple[str, int], ...]
    """Part of the base, in words, and how many of its modules are trained."""
    left_out: tuple[tuple[str, int], ...]
    """Why modules of the chosen layers are not trained, and how many."""
    speed: float
    """Relative to LoRA on attention and feed-forward layers."""
    stars: tuple[int, int]
    readings: tuple[Reading, ...]
    unlimited: int = 0
    """LoKr: modules whose second factor is whole though a rank was given."""
    blocks: tuple[int, int] | None = None
    """Rotations: smallest and largest block that the rank comes to."""

    @property
    def module_count(self) -> int:
        """Modules of every part."""
        return sum(count for _, count in self.modules)

    @property
    def letters(self) -> str:
        """Who loads the file: a letter for yes, a small one for partly, a dash for no."""
        return "".join(reading.sign for reading in self.readings)


@dataclass(frozen=True, slots=True)
class Impossible:
    """Why a network cannot be made with the answers as they are."""

    problem: Problem

    @property
    def words(self) -> str:
        """What is wrong and what to do."""
        return f"{self.problem.what} {self.problem.remedy}".strip()


Outcome = Numbers | Impossible


def outcomes(
    wizard: Wizard, names: Sequence[str] = (), wanted: Callable[[], None] = lambda: None
) -> dict[str, Outcome]:
    """Every algorithm, or those named, with the answers as they are.

    `wanted` is called before each and may raise to end it early.
    """
    found: dict[str, Outcome] = {}
    for name in names or algorithms():
        wanted()
        draft = wizard.draft
        trial = with_answers(
            draft, algorithm_answers(draft, name) if name != draft.algorithm else {}
        )
        came = outcome(wizard, trial)
        # A mistake on another page says nothing about a network.
        if isinstance(came, Numbers) or concerns_network(came.problem):
            found[name] = came
    return found


def outcome(wizard: Wizard, draft: Draft) -> Outcome:
    """What the answers of one draft would come to on the wizard's machine and base."""
    from engine.planning.fill import fill

    checked = draft.check()
    if checked.recipe is None:
        return Impossible(about_network(checked.problems)[0])
    try:
        return _numbers(fill(checked.recipe, wizard.facts()), wizard)
    except EngineError as error:
        return Impossible(error.problems[0])


def about_network(problems: Iterable[Problem]) -> list[Problem]:
    """The problems, those of the network before the others."""
    return sorted(problems, key=lambda problem: not concerns_network(problem))


def concerns_network(problem: Problem) -> bool:
    """Whether the choice of a network has to do with a problem."""
    return problem.path.startswith(("network.", "optim.loraplus"))


def _numbers(filled: Filled, wizard: Wizard) -> Outcome:
    from engine.models.shapes import layer_shapes
    from engine.networks.shapes import (
        file_bytes,
        names_of,
        parameter_count,
        planned_layers,
        planned_tensors,
    )
    from engine.planning.base import base_size
    from engine.planning.rules import network_choice, trained_components
    from engine.planning.sizes import run_sizes

    recipe, facts = filled.recipe, wizard.facts()
    base = base_size(facts.model)
    trained = trained_components(recipe)
    every = layer_shapes(base.sizes)
    layers = [layer for layer in every if layer.component in trained]
    choice = network_choice(recipe.network)
    planned = planned_layers(layers, choice)
    too_small = uncut(planned)
    if too_small is not None:
        return Impossible(too_small)
    tensors = planned_tensors(every, choice, trained=trained)
    memory = run_sizes(recipe, facts, filled.device, (), (1,)).memory
    counts = Counter(layer.component for layer, _ in planned)
    blocks = _blocks(planned)
    return Numbers(
        choice=choice,
        file_bytes=file_bytes(tensors, recipe.save.precision),
        exact=base.architecture is not None,
        memory_bytes=memory.total,
        parameters=parameter_count(planned),
        modules=tuple((PARTS.get(part, part), count) for part, count in counts.items()),
        left_out=_left_out(every, trained, planned, choice),
        speed=speed_of(choice, convolutions=any(spans(layer.kernel) for layer, _ in planned)),
        stars=stars_of(choice.algorithm, choice.factor if choice.algorithm == "lokr" else None),
        readings=readings(tensors, planned, names_of(every), base.family),
        unlimited=_unlimited(planned),
        blocks=blocks,
    )


def _left_out(
    every: Sequence[LayerShape], trained: Sequence[str], planned: Planned, choice: Choice
) -> tuple[tuple[str, int], ...]:
    """Layers that the preset takes and that are not trained after all, by reason."""
    from engine.networks.presets import distinct, preset_of, targeted

    taken = {(layer.component, layer.path) for layer, _ in planned}
    preset = preset_of(choice.targets)
    aimed = [
        layer
        for layer in targeted(distinct(every), preset, choice.targets)
        if layer.kind != "norm" and (layer.component, layer.path) not in taken
    ]
    reasons: Counter[str] = Counter()
    for layer in aimed:
        if layer.component not in trained:
            reasons[f"of the {PARTS.get(layer.component, layer.component)}, whose rate is 0"] += 1
        elif spans(layer.kernel) and choice.conv_rank == 0:
            reasons[CONVOLUTIONS_OFF] += 1
        else:
            reasons[LEFT_OUT] += 1
    return tuple(reasons.items())


def _unlimited(planned: Planned) -> int:
    """LoKr modules with a rank that is too large to limit anything."""
    from engine.networks.shapes import lokr_shapes

    return sum(
        own.algorithm == "lokr"
        and own.rank_of(layer.kernel) != "full"
        and "lokr_w2" in lokr_shapes(layer, own)
        for layer, own in planned
    )


def _blocks(planned: Planned) -> tuple[int, int] | None:
    from engine.networks.shapes import shapes_of

    sizes = [
        shapes_of(layer, own)["oft_blocks"][-1]
        for layer, own in planned
        if own.algorithm in ("diag-oft", "boft")
    ]
    return (min(sizes), max(sizes)) if sizes else None


def uncut(planned: Planned) -> Problem | None:
    """Why BOFT cannot cut some layers, with the smallest block that it can; None where it can."""
    turned = [(layer, own) for layer, own in planned if own.algorithm == "boft"]
    tight = []
    for layer, own in turned:
        limit, least = own.rank_of(layer.kernel), smallest_butterfly(layer.out)
        if least is None or (isinstance(limit, int) and limit < least):
            tight.append((layer, own, least))
    if not tight:
        return None
    layer, own, _ = max(tight, key=lambda one: one[2] or 0)
    limit, leasts = own.rank_of(layer.kernel), [least for _, _, least in tight]
    conv = spans(layer.kernel) and own.conv_rank is not None
    path = "network.conv_rank" if conv else "network.rank"
    what = (
        f"BOFT cannot cut {layer.out} outputs into blocks of at most {limit} "
        f"({counted(len(tight), 'layer')})."
    )
    if None in leasts:
        odd = leasts.count(None)
        remedy = f"Leave {counted(odd, 'layer')} with odd outputs out by an override."
        return Problem(what, path="network.overrides", remedy=remedy)
    need = max(least for least in leasts if least is not None)
    label = "the convolution rank" if conv else "the largest block"
    remedy = f"Set {label} to {need} or more, or leave these layers out by an override."
    return Problem(what, path=path, remedy=remedy)


def full_lokr(numbers: Numbers) -> bool:
    """Whether the network is a LoKr without any limited factor."""
    return numbers.choice.algorithm == "lokr" and numbers.choice.rank == "full"


def scale_of(numbers: Numbers) -> float | None:
    """What every change is multiplied by; None where nothing is."""
    choice = numbers.choice
    unscaled = ("ia3", "full", "diag-oft", "boft")
    if choice.algorithm in unscaled or not isinstance(choice.rank, int):
        return None
    if numbers.unlimited == numbers.module_count:
        return None
    alpha = choice.alpha_of(())
    return alpha / (choice.rank**0.5 if choice.rs_lora else choice.rank)
