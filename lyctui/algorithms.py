"""What each algorithm is good at, and what choosing one answers. No torch.

The stars are those of guide 003's summary table; where neither a guide nor a paper compares, there are
none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.settings.network import TITLES
from lyctui.draft import Draft
from lyctui.fields import algorithms

if TYPE_CHECKING:
    from engine.networks.choice import Choice

__all__ = ["ABOUT", "SPEED", "TITLES", "About", "algorithm_answers", "algorithms", "with_answers"]


@dataclass(frozen=True, slots=True)
class About:
    """One algorithm in a few words."""

    good: str
    """What it is good at, in at most 20 cells."""
    words: str
    """Two or three sentences, with the guide or paper that says so."""
    fidelity: int = 0
    """How closely it learns, 1 to 4 stars; 0 where nobody says."""
    flexibility: int = 0
    """How well what it learnt can be changed and combined, 1 to 4 stars; 0 where nobody says."""


ABOUT: dict[str, About] = {
    "lora": About(
        "start here",
        "LoRA adds two thin matrices beside each attention and feed-forward layer. Guides 001 and "
        "004 start with it, and every program reads it. Guide 003: LoKr with factor 4 to 8 where it "
        "misses fine detail; LoHa or a lower rank where it copies too much.",
        2,
        2,
    ),
    "locon": About(
        "styles, texture",
        "LoCon is LoRA on convolutions too, where texture lies. Guide 001 recommends it for styles, "
        "concepts and several of them, with rank 32 at most, but found that it overfits sooner. "
        "Guide 003 could hardly see what convolutions add.",
        2,
        2,
    ),
    "loha": About(
        "flexible; many things",
        "LoHa multiplies two small networks. Guide 003: it learns less of the pictures' own style, "
        "so it bends better and mixes concepts with less pollution. Guides 001 and 003: poor at "
        "complex detail. Rank 16 makes a file like LoRA's at 32.",
        1,
        3,
    ),
    "lokr": About(
        "tiny, or near full",
        "LoKr is a Kronecker product of two matrices. Guide 003: with factor 4 to 8 and full rank it "
        "learns more than LoRA and bends less; with a large factor (-1) it makes a file of 1 to 2 MB "
        "that learns the broad idea and is hard to move to another base.",
        3,
        1,
    ),
    "ia3": About(
        "tiniest; styles",
        "(IA)³ trains one number for each output or input. Guide 001: very small, good with styles, "
        "hard to move to another base; it wants a high rate, 5e-3 to 1e-2. Guide 003 offers it where "
        "too much is learnt. Only A1111 reads the file as it is.",
    ),
    "dylora": About(
        "one file, any rank",
        "DyLoRA is a LoRA whose smaller ranks work on their own: the file can be cut later without "
        "training again. Guide 001: a large rank of about 128, batch 1 with accumulation, and more "
        "time. Guide 003 did not study it.",
    ),
    "glora": About(
        "styles, wide concepts",
        "GLoRA puts one LoRA before the layer and one beside it. Guide 001: very good at what is "
        "general, styles and concepts, and not at one particular subject. Guide 003 did not study "
        "it. A1111 needs the older layout, which convert writes.",
    ),
    "diag-oft": About(
        "keeps base knowledge",
        "Diag-OFT turns the outputs of a layer in blocks. Guide 001: trains fast and keeps what is "
        "beside the subject, backgrounds and poses, as the base knows it. No star: guide 003 did "
        "not study it.",
    ),
    "boft": About(
        "turns all outputs",
        "BOFT turns the outputs in several stages, so that every output meets every other (Liu et "
        "al. 2023). It keeps the base like Diag-OFT and learns more freely, at more than twice the "
        "time of a LoRA. No guide knows it.",
    ),
    "full": About(
        "best; size no matter",
        "Full trains the layers themselves and saves the difference. Guide 003: the best of all, "
        "with well-chosen pictures, and by far the largest file and memory. It loads like a LoRA in "
        "ComfyUI, A1111 and Forge.",
        4,
        4,
    ),
    "t-lora": About(
        "very few pictures",
        "T-LoRA uses fewer ranks where a picture is all noise, so that the layout of a few pictures "
        "is not learnt by heart (Soboleva et al. 2025). No common program reads it: convert it to a "
        "LoRA. No guide knows it.",
    ),
}
"""Every algorithm in the order of the settings. LoKr's stars are those of a small factor."""
LARGE_FACTOR = (1, 2)
"""Stars of LoKr with a large factor: it learns the broad idea."""
SMALL_FACTOR = 8

# From benchmarks/RESULTS.md (`python benchmarks/adapters.py`), one core; those with convolutions of
# fewer runs and partly estimated. Keys are the names of the benchmark's cases.
SPEED: dict[str, float] = {
    "lora": 1.00,
    "loha-16": 0.77,
    "loha-4": 0.93,
    "lokr-4": 0.93,
    "lokr-8": 0.89,
    "lokr-even": 0.92,
    "ia3": 1.10,
    "dylora": 0.98,
    "glora": 0.91,
    "diag-oft": 0.97,
    "boft": 0.50,
    "full": 0.82,
    "t-lora": 0.96,
    "dora": 0.77,
}
"""Steps in the time of one step of LoRA, on attention and feed-forward layers."""
SPEED_CONV: dict[str, float] = {
    "lora": 0.86,
    "loha-16": 0.29,
    "loha-4": 0.60,
    "lokr-4": 0.42,
    "lokr-8": 0.42,
    "lokr-even": 0.42,
    "ia3": 1.08,
    "dylora": 0.86,
    "glora": 0.68,
    "diag-oft": 0.84,
    "boft": 0.40,
    "full": 0.69,
    "t-lora": 0.83,
    "dora": 0.58,
}
"""The same where convolutions are trained too; LoRA on attention and feed-forward is still 1.00."""
SMALL_LOHA = 8
"""Up to here a LoHa runs as the LoRA of its squared rank."""


def stars_of(algorithm: str, factor: int | None = None) -> tuple[int, int]:
    """Fidelity and flexibility, 1 to 4; 0 where no guide and no paper says."""
    about = ABOUT[algorithm]
    small = factor is not None and 0 < factor <= SMALL_FACTOR
    if algorithm == "lokr" and not small:
        return LARGE_FACTOR
    return about.fidelity, about.flexibility


def stars(count: int, *, ascii_only: bool = False) -> str:
    """ "★★", or "–" where nobody says."""
    if count == 0:
        return "-" if ascii_only else "–"
    return ("*" if ascii_only else "★") * count


def speed_of(choice: Choice, *, convolutions: bool) -> float:
    """Relative speed of a step; 1.00 is LoRA on attention and feed-forward layers."""
    table = SPEED_CONV if convolutions else SPEED
    speed = table[_case(choice)]
    return speed if choice.dora == "off" else speed * table["dora"] / table["lora"]


def _case(choice: Choice) -> str:
    match choice.algorithm:
        case "locon":
            return "lora"
        case "loha":
            small = isinstance(choice.rank, int) and choice.rank <= SMALL_LOHA
            return "loha-4" if small else "loha-16"
        case "lokr":
            by_factor = {4: "lokr-4", 8: "lokr-8"}
            return by_factor.get(choice.factor, "lokr-8" if choice.factor > 0 else "lokr-even")
    return choice.algorithm


# choosing -----------------------------------------------------------------------------------

SIZES = ("network.rank", "network.alpha", "network.conv_rank", "network.conv_alpha")
RATES = ("optim.lr", "optim.unet_lr", "optim.te_lr", "optim.te2_lr")
HIGH_RATE = 1e-3
"""What (IA)³ needs and nothing else bears."""
SIZED_ALIKE = {
    "lora": "lora",
    "locon": "lora",
    "dylora": "lora",
    "t-lora": "lora",
    "diag-oft": "rotation",
    "boft": "rotation",
}
"""Algorithms whose ranks mean the same; every other one has a kind of its own."""


def sized_alike(first: str, second: str) -> bool:
    """Whether a rank for one algorithm means the same for the other."""
    return SIZED_ALIKE.get(first, first) == SIZED_ALIKE.get(second, second)


def algorithm_answers(draft: Draft, name: str) -> dict[str, Any]:
    """What choosing an algorithm answers; None takes the recommended value again.

    LoCon without convolutions would be LoRA. A rank that was given for another kind of network is
    not taken along, since it means something else there; nor is the high rate of an (IA)³.
    """
    chosen: dict[str, Any] = {"network.algorithm": name}
    if name == "locon" and draft.origin("network.targets") != "you":
        chosen["network.targets"] = "full"
    elif (
        name != "locon"
        and draft.algorithm == "locon"
        and draft.answers.get("network.targets") == "full"
    ):
        chosen["network.targets"] = None
    if not sized_alike(draft.algorithm, name):
        chosen |= {path: None for path in SIZES if path in draft.answers}
    if draft.algorithm == "ia3" and name != "ia3":
        chosen |= {path: None for path in RATES if (draft.answers.get(path) or 0.0) >= HIGH_RATE}
    return chosen


def answer(draft: Draft, answers: dict[str, Any]) -> None:
    """Give several answers at once; None takes the recommended value again."""
    for path, value in answers.items():
        if value is None:
            draft.clear(path)
        else:
            draft.set(path, value)


def with_answers(draft: Draft, answers: dict[str, Any]) -> Draft:
    """A copy of the draft with other answers; the draft stays as it is."""
    copy = Draft(
        preset=draft.preset,
        preset_values=dict(draft.preset_values),
        answers=dict(draft.answers),
    )
    answer(copy, answers)
    return copy
