"""Which programs read which networks, and what they do with the rest. No torch.

What is held here was found in the programs' own loaders: ComfyUI up to 0.28, AUTOMATIC1111's own LoRA
code, Forge, diffusers 0.42, lycoris-lora 4.1 and kohya's networks/lora.py.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from engine.networks.choice import DoraAxis
from engine.networks.kinds import algorithm_of

Consumer = Literal["comfyui", "a1111", "forge", "diffusers", "lycoris", "kohya"]
Level = Literal["yes", "partly", "no"]
Form = Literal["tucker", "both", "unbalanced", "old", "rescaled", "conv-output"]
Shapes = Mapping[str, tuple[int, ...]]

TITLES: dict[Consumer, str] = {
    "comfyui": "ComfyUI",
    "a1111": "A1111",
    "forge": "Forge",
    "diffusers": "diffusers",
    "lycoris": "lycoris-lora",
    "kohya": "kohya's lora.py",
}
"""How a person calls them."""
FORGE_LIMIT = 12
"""Forge refuses a whole file that has more tensors than this it does not know."""


class Verdict(NamedTuple):
    """Whether a program reads a network, and what a person should know about it."""

    level: Level
    reason: str
    """Empty where there is nothing to say."""


class Cell(NamedTuple):
    """What a program does with one kind of module."""

    level: Level
    reason: str = ""
    reach: Literal["module", "file", "count"] = "module"
    """What a failure takes along: nothing else, the whole file, or that by Forge's count."""


@dataclass(frozen=True, slots=True)
class Part:
    """Modules of one kind within a network."""

    algorithm: str
    forms: frozenset[Form] = frozenset()
    """tucker: a core tensor. both, unbalanced: of a LoKr, the first half in two factors, or the larger
    one. old: the old layout of a GLoRA. rescaled: of a rotation. conv-output: of an (IA)³ that scales
    the outputs of convolutions."""
    dora: DoraAxis = "off"
    tensors: int = FORGE_LIMIT + 1
    """How many; where nobody has counted, more than Forge bears."""


@dataclass(frozen=True, slots=True)
class Attention:
    """Text encoder layers that A1111 holds as one fused attention, as far as they are at odds with it."""

    gaps: int = 0
    """Layers of which some of q, k, v and out are in the network, and not all."""
    biases: int = 0
    """Differences of biases of q, k and v."""


YES = Cell("yes")
WARNED = Cell("no", "leaves these modules out and says so")
COUNTED = Cell("no", f"refuses a file with more than {FORGE_LIMIT} tensors of this kind", "count")
REFUSED = Cell("no", "refuses the whole file", "file")
RAISES = Cell("no", "stops with an error while loading", "file")
UNREAD = Cell("no", "does not know these modules")
NOT_KRON = Cell("no", "skips these modules with an error")
DIVIDES = Cell(
    "partly", "divides by the norm of the base weight alone, so the result is a little off"
)
STRENGTH_ONE = Cell("partly", "is exact at strength 1 only")
OWN_OFT = Cell("no", "has an OFT format of its own")

# In the order of TITLES.
_ROWS: dict[str, tuple[Cell, Cell, Cell, Cell, Cell, Cell]] = {
    "lora": (YES, YES, YES, YES, YES, YES),
    "lora tucker": (YES, YES, YES, REFUSED, YES, RAISES),
    "loha": (YES, YES, YES, REFUSED, YES, UNREAD),
    "loha tucker": (YES, YES, YES, REFUSED, YES, UNREAD),
    "lokr": (YES, YES, YES, REFUSED, YES, UNREAD),
    "lokr both": (YES, YES, YES, REFUSED, RAISES, UNREAD),
    "lokr unbalanced": (YES, YES, YES, REFUSED, RAISES, UNREAD),
    "lokr tucker": (NOT_KRON, YES, NOT_KRON, REFUSED, RAISES, UNREAD),
    "glora": (
        YES,
        Cell("no", "reports an error for each of these layers"),
        YES,
        REFUSED,
        YES,
        UNREAD,
    ),
    "glora old": (
        YES,
        Cell("partly", "reads linear layers only and ignores alpha"),
        YES,
        REFUSED,
        RAISES,
        UNREAD,
    ),
    "diag-oft": (STRENGTH_ONE, YES, COUNTED, REFUSED, YES, OWN_OFT),
    "diag-oft rescaled": (
        Cell("partly", "ignores the trained rescaling and is exact at strength 1 only"),
        YES,
        COUNTED,
        REFUSED,
        YES,
        OWN_OFT,
    ),
    "boft": (STRENGTH_ONE, YES, COUNTED, REFUSED, YES, OWN_OFT),
    "ia3": (WARNED, YES, COUNTED, REFUSED, RAISES, UNREAD),
    "ia3 conv-output": (
        WARNED,
        Cell("no", "fails at convolutions whose outputs are scaled, layer by layer"),
        COUNTED,
        REFUSED,
        RAISES,
        UNREAD,
    ),
    "full": (YES, YES, YES, REFUSED, YES, UNREAD),
    "norm": (YES, YES, YES, REFUSED, YES, UNREAD),
    "dora input": (
        YES,
        YES,
        YES,
        Cell("no", "knows magnitudes of outputs only", "file"),
        RAISES,
        Cell("no", "knows no magnitudes", "file"),
    ),
    "dora output": (
        DIVIDES,
        Cell("no", "spreads the magnitudes over the wrong axis; the pictures are noise", "file"),
        DIVIDES,
        Cell("partly", "needs the magnitudes in its own shape; convert for diffusers"),
        YES,
        Cell("no", "knows no magnitudes", "file"),
    ),
    "t-lora": (
        WARNED,
        REFUSED,
        COUNTED,
        REFUSED,
        Cell("yes", "with the base model it was trained on"),
        UNREAD,
    ),
}
MATRIX: dict[str, dict[Consumer, Cell]] = {
    row: dict(zip(TITLES, cells, strict=True)) for row, cells in _ROWS.items()
}
"""Kind of module to what each program does with it."""
SAME_AS = {"locon": "lora", "dylora": "lora"}
"""Algorithms whose files are those of another."""
BADNESS: dict[Level, int] = {"yes": 0, "partly": 1, "no": 2}


def readers(parts: Iterable[Part], attention: Attention | None = None) -> dict[Consumer, Verdict]:
    """What each program does with a network as it is, of one kind of module or of several."""
    parts = tuple(parts)
    found: dict[Consumer, Verdict] = {}
    for consumer in TITLES:
        cells = [(part, cell) for part in parts for cell in cells_of(part, consumer)]
        found[consumer] = _verdict(consumer, parts, cells)
    if attention is not None and (caveat := _fused(attention)) and found["a1111"].level != "no":
        said = "; ".join(filter(None, (found["a1111"].reason, caveat)))
        found["a1111"] = Verdict("partly", said)
    return found


def cells_of(part: Part, consumer: Consumer) -> list[Cell]:
    """What a program does with modules of one kind; several where forms come together."""
    return [MATRIX[row][consumer] for row in rows_of(part)]


def rows_of(part: Part) -> list[str]:
    """Rows of the matrix that hold for modules of one kind."""
    algorithm = SAME_AS.get(part.algorithm, part.algorithm)
    formed = [f"{algorithm} {form}" for form in sorted(part.forms)]
    rows = [row for row in formed if row in MATRIX] or [algorithm]
    return rows if part.dora == "off" else [*rows, f"dora {part.dora}"]


def _verdict(
    consumer: Consumer, parts: tuple[Part, ...], cells: list[tuple[Part, Cell]]
) -> Verdict:
    levels: list[Level] = [cell.level for _, cell in cells] or ["yes"]
    worst = max(levels, key=lambda level: BADNESS[level])
    reasons = list(dict.fromkeys(cell.reason for _, cell in cells if cell.level == worst))
    reason = "; ".join(filter(None, reasons))
    if worst != "no" or len(parts) == 1:
        return Verdict(worst, reason)
    unread = {id(part) for part, cell in cells if cell.level == "no"}
    counted = sum(
        part.tensors for part, cell in cells if cell.reach == "count" and cell.level == "no"
    )
    whole = any(cell.reach == "file" for _, cell in cells if cell.level == "no")
    if whole or counted > FORGE_LIMIT or len(unread) == len(parts):
        return Verdict("no", reason)
    named = dict.fromkeys(part.algorithm for part in parts if id(part) in unread)
    return Verdict("partly", f"does not apply the modules of {', '.join(named)}")


def _fused(attention: Attention) -> str:
    said = []
    if attention.gaps:
        said.append(
            f"drops the attention of {attention.gaps} text encoder layers, where q, k, v and out "
            "are not all there"
        )
    if attention.biases:
        said.append(f"ignores {attention.biases} biases of the text encoder's q, k and v")
    return "; ".join(said)


# What a network is, from the shapes of its tensors -------------------------------------------------


def parts_of(
    modules: Mapping[str, Shapes], *, on_input: Collection[str] = (), old: Collection[str] = ()
) -> tuple[Part, ...]:
    """The kinds of modules of a planned network or a file, from tensor suffixes and shapes.

    `on_input` names the modules of an (IA)³ that scale inputs, `old` those of a GLoRA in the old
    layout. Modules of no known algorithm do not count.
    """
    counted: dict[tuple[str, frozenset[Form], DoraAxis], int] = {}
    for name, shapes in modules.items():
        algorithm = algorithm_of(shapes)
        if algorithm is None:
            continue
        forms = _forms(algorithm, shapes, on_input=name in on_input, old=name in old)
        kind = (algorithm, forms, _axis(shapes))
        counted[kind] = counted.get(kind, 0) + len(shapes)
    return tuple(
        Part(algorithm, forms, dora, tensors)
        for (algorithm, forms, dora), tensors in counted.items()
    )


def _forms(algorithm: str, shapes: Shapes, *, on_input: bool, old: bool) -> frozenset[Form]:
    found: dict[Form, bool] = {}
    match algorithm:
        case "lora" | "loha":
            found = {"tucker": "lora_mid.weight" in shapes or "hada_t1" in shapes}
        case "lokr":
            found = {
                "tucker": "lokr_t2" in shapes,
                "both": "lokr_w1_a" in shapes,
                "unbalanced": _unbalanced(shapes),
            }
        case "glora":
            found = {"old": old}
        case "diag-oft" | "boft":
            found = {"rescaled": "rescale" in shapes}
        case "ia3":
            found = {"conv-output": len(shapes["weight"]) > 1 and not on_input}
    return frozenset(form for form, there in found.items() if there)


def _unbalanced(shapes: Shapes) -> bool:
    """Whether the first half has the larger part of the outputs."""
    left = shapes["lokr_w1"] if "lokr_w1" in shapes else shapes["lokr_w1_a"]
    if "lokr_w2" in shapes:
        return left[0] > shapes["lokr_w2"][0]
    # A tucker's w2_a is [d, out], transposed against the plain form.
    return left[0] > shapes["lokr_w2_a"][1 if "lokr_t2" in shapes else 0]


def _axis(shapes: Shapes) -> DoraAxis:
    """Of a DoRA's magnitudes: [1, in] or [out, 1]; a bare list is of outputs."""
    magnitudes = shapes.get("dora_scale")
    if magnitudes is None:
        return "off"
    return "input" if len(magnitudes) > 1 and magnitudes[0] == 1 else "output"


FUSED = {"sd2": "lora_te", "sdxl": "lora_te2"}
"""Family to the text encoder that A1111 holds with fused attention."""
PROJECTIONS = frozenset({"q", "k", "v", "out"})
_ATTENTION = re.compile(r"(.+_layers_\d+_self_attn)_(q|k|v|out)_proj")


def attention_of(modules: Mapping[str, Shapes], family: str | None) -> Attention:
    """Where a network is at odds with A1111's fused attention; `modules` by kohya's names."""
    prefix = FUSED.get(family or "")
    if prefix is None:
        return Attention()
    there: dict[str, set[str]] = {}
    biases = 0
    for name, shapes in modules.items():
        found = _ATTENTION.fullmatch(name)
        if found is not None and name.startswith(f"{prefix}_"):
            there.setdefault(found[1], set()).add(found[2])
            biases += found[2] != "out" and "diff_b" in shapes
    return Attention(sum(parts != PROJECTIONS for parts in there.values()), biases)
