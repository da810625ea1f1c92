"""The changes that the guides name, each with the guide and its reason. No torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from engine.networks.shapes import WITH_DORA
from engine.settings.optimizers import ADAPTIVE
from lyctui import text
from lyctui.algorithms import algorithm_answers
from lyctui.fields import number_text

if TYPE_CHECKING:
    from lyctui.wizard import Wizard

TEXT_RATES = ("optim.te_lr", "optim.te2_lr")
USUAL_EXPOSURES = 100
"""How often guide 001 shows each picture of a subject."""
STYLE_EXPOSURES = 35
"""The same for a style: 30 to 40."""
IA3_RATE = 5e-3
LARGEST_RANK = 64
"""Above it guide 001 sees waste; guide 002 doubles it from a hundred pictures on."""
LARGEST_LOHA = 32
MANY_PICTURES = 100
SMALLEST_RANK = 4


@dataclass(frozen=True, slots=True)
class Change:
    """A few answers that belong together."""

    title: str
    reason: str
    answers: dict[str, Any]
    """None takes the recommended value again."""
    effect: str = ""
    """What it does to the length of the run, where it does."""


@dataclass(frozen=True, slots=True)
class Now:
    """The answers as they are, as far as advice depends on them."""

    wizard: Wizard

    def __getitem__(self, path: str) -> Any:
        return self.wizard.effective(path)

    @property
    def algorithm(self) -> str:
        """The chosen algorithm."""
        return self.wizard.draft.algorithm

    @property
    def rank(self) -> int | None:
        """The rank, where it is a number."""
        rank = self["network.rank"]
        return rank if isinstance(rank, int) else None

    @property
    def pictures(self) -> int:
        """Training pictures, 0 while they are not known."""
        survey = self.wizard.survey
        return survey.training_images if survey is not None else 0

    def become(self, name: str, **settings: Any) -> dict[str, Any]:
        """Answers that choose an algorithm and settings of its own."""
        chosen = algorithm_answers(self.wizard.draft, name) if name != self.algorithm else {}
        return chosen | {f"network.{key}": value for key, value in settings.items()}


Maker = Callable[[Now], Change | None]


@dataclass(frozen=True, slots=True)
class Fixed:
    """A change that is the same whatever the present answers are."""

    title: str
    reason: str
    algorithm: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    not_after: str = ""
    """An algorithm that it would be a step back from."""

    def __call__(self, now: Now) -> Change | None:
        """The change, unless it leads back."""
        if now.algorithm == self.not_after:
            return None
        return Change(self.title, self.reason, now.become(self.algorithm, **self.settings))


SMALL_LOKR = Fixed(
    "LoKr, factor -1, full rank",
    "Guide 003: a large factor, which -1 gives, learns the broad idea in 1 to 2 MB; harder to "
    "move to another base.",
    "lokr",
    {"factor": -1, "rank": "full"},
)
THIN_LOKR = Fixed(
    "LoKr, factor 4, rank 8",
    "Guide 003's 2.8 MB: a small factor, and a low rank in the second one.",
    "lokr",
    {"factor": 4, "rank": 8},
)
WIDE_LOKR = Fixed(
    "LoKr, factor 4, full rank, convolutions too",
    "Guide 003's nearest to full training: 113 MB, in every program that reads LoKr.",
    "lokr",
    {"factor": 4, "rank": "full", "targets": "full"},
    not_after="full",
)
SMALL_LORA = Fixed(
    "LoRA, rank 8",
    "Every program reads it. Guide 001: 8 is enough where the base knows something similar.",
    "lora",
    {"rank": 8, "targets": "attn-mlp"},
)
LOCON = Fixed(
    "LoCon, rank 32, convolutions 16",
    "Guide 001 recommends it for styles and concepts: rank 32 at most, 16 for convolutions, "
    "where texture lies.",
    "locon",
    {"rank": 32, "conv_rank": 16, "conv_alpha": 8.0, "targets": "full"},
)
GLORA = Fixed(
    "GLoRA, rank 16",
    "Guide 001: very good at what is general, styles and concepts, less so at one subject.",
    "glora",
    {"rank": 16},
)
DIAG_OFT = Fixed(
    "Diag-OFT",
    "Guide 001: it keeps what is beside the subject, backgrounds and poses, as the base knows it.",
    "diag-oft",
)
FULL = Fixed(
    "Full, attention and feed-forward",
    "Guide 003: the best model is trained whole, and loads like a LoRA. It stays with these "
    "layers mostly.",
    "full",
    {"targets": "attn-mlp"},
)
FULL_EVERYWHERE = Fixed(
    "Full, convolutions too",
    "Guide 003's largest: 1.8 GB, and the most memory of all.",
    "full",
    {"targets": "full"},
)


# more is learnt -----------------------------------------------------------------------------


def near_full(now: Now) -> Change | None:
    """Guide 003's answer to a LoRA that misses details."""
    if now.algorithm == "full":
        return None
    four = now.algorithm == "lokr" and now["network.rank"] == "full" and now["network.factor"] == 8
    factor = 4 if four else 8
    return Change(
        f"LoKr, factor {factor}, full rank",
        "Guide 003: where a LoRA misses fine details, LoKr with factor 4 to 8 and full rank learns "
        "more; a smaller factor most.",
        now.become("lokr", factor=factor, rank="full"),
    )


def higher_rank(now: Now) -> Change | None:
    rank = now.rank
    if rank is None or now.algorithm in ("lokr", "diag-oft", "boft"):
        return None
    many = now.pictures >= MANY_PICTURES
    most = LARGEST_LOHA if now.algorithm == "loha" else LARGEST_RANK * (2 if many else 1)
    new = min(2 * rank, most)
    if new <= rank:
        return None
    why = (
        "Guide 001: LoHa up to rank 32."
        if now.algorithm == "loha"
        else "Guide 002: 32 for about 30 pictures, 64 from 50, 128 from 100. Guide 001 sees waste "
        "above 64."
    )
    return Change(f"Rank {new} instead of {rank}", why, _rank_answers(now, new))


def _rank_answers(now: Now, rank: int) -> dict[str, Any]:
    """A rank, and an alpha that keeps the scale where one was set."""
    answers: dict[str, Any] = {"network.rank": rank}
    alpha = now.wizard.draft.value("network.alpha")
    if alpha and now.rank:
        answers["network.alpha"] = alpha / now.rank * rank
    return answers


def alpha_as_rank(now: Now) -> Change | None:
    rank, alpha = now.rank, now["network.alpha"]
    if rank is None or not alpha or alpha >= rank:
        return None
    return Change(
        f"Alpha {rank} instead of {number_text(alpha)}",
        f"Guide 001 sets alpha to the rank: each step counts {text.significant(rank / alpha, 2)} "
        "times as much, as at a higher rate.",
        {"network.alpha": float(rank)},
    )


def dora(now: Now) -> Change | None:
    if now.algorithm not in WITH_DORA or now["network.dora"] != "off":
        return None
    return Change(
        "DoRA on the input axis",
        "Guide 001 finds it worth a look; its paper (Liu et al. 2024) learns finer detail at the "
        "same rank.",
        {"network.dora": "input"},
    )


def more_epochs(now: Now) -> Change | None:
    repeats, epochs = now["data.repeats"] or 1, now["train.epochs"] or 1
    exposures = repeats * epochs
    if exposures >= USUAL_EXPOSURES:
        return None
    new = math.ceil(USUAL_EXPOSURES / repeats)
    return Change(
        f"{new} epochs instead of {epochs}",
        f"Guide 001 begins with {USUAL_EXPOSURES} exposures a picture; here are {exposures}. Mushy "
        "details are its sign of too short a training.",
        {"train.epochs": new},
        _steps(new, epochs),
    )


def _steps(new: int, old: int) -> str:
    return f"{text.significant(new / old, 2)} times the steps"


def ia3_rate(now: Now) -> Change | None:
    rate = now["optim.lr"] or 0.0
    if now.algorithm != "ia3" or rate >= IA3_RATE or now["optim.optimizer"] in ADAPTIVE:
        return None
    return Change(
        "Learning rate 5e-3",
        f"Guide 001: (IA)³ wants 5e-3 to 1e-2. With {number_text(rate)} it learns next to nothing.",
        _rates(now, IA3_RATE),
    )


def _rates(now: Now, rate: float) -> dict[str, Any]:
    """One rate for every part that is trained."""
    answers: dict[str, Any] = {"optim.lr": rate}
    if now.wizard.draft.value("optim.unet_lr"):
        answers["optim.unet_lr"] = rate
    answers |= {path: rate for path in TEXT_RATES if now[path]}
    return answers


def higher_rate(now: Now) -> Change | None:
    return _other_rate(now, 2.0, "Guide 002: with too low a rate it does not learn the subject.")


def _other_rate(now: Now, factor: float, why: str) -> Change | None:
    rate, text_rate = now["optim.lr"], now["optim.te_lr"]
    if not rate or now["optim.optimizer"] in ADAPTIVE:
        return None
    new = float(f"{rate * factor:.2g}")
    answers = {"optim.lr": new}
    for path in ("optim.unet_lr", *TEXT_RATES):
        if now.wizard.draft.value(path):
            answers[path] = float(f"{now[path] * factor:.2g}")
    if text_rate and "optim.te_lr" not in answers:
        answers["optim.te_lr"] = float(f"{text_rate * factor:.2g}")
    title = f"Learning rate {number_text(new)} instead of {number_text(rate)}"
    along = " The text encoder's rate goes along." if any(now[path] for path in TEXT_RATES) else ""
    return Change(title, why + along, answers)


def whole_layers(now: Now) -> Change:
    convolutions = now.algorithm == "full"
    more = {"targets": "full"} if convolutions else {}
    return Change(
        "Full, convolutions too" if convolutions else "Full: the layers themselves",
        "Guide 003: for the best model train the layers themselves, with well-chosen pictures.",
        now.become("full", **more),
    )


# less is learnt -----------------------------------------------------------------------------


def fewer_epochs(now: Now) -> Change | None:
    repeats, epochs = now["data.repeats"] or 1, now["train.epochs"] or 1
    new = math.ceil(USUAL_EXPOSURES / repeats)
    if repeats * epochs <= USUAL_EXPOSURES or new >= epochs:
        return None
    return Change(
        f"{new} {'epoch' if new == 1 else 'epochs'} instead of {epochs}",
        f"Guide 001 begins with {USUAL_EXPOSURES} exposures a picture; here are "
        f"{repeats * epochs}. Burnt colours mean too many; try an earlier epoch first.",
        {"train.epochs": new},
        _steps(new, epochs),
    )


def lower_rate(now: Now) -> Change | None:
    return _other_rate(now, 0.7, "Guide 002: too high a rate burns; some bases want 6e-5 to 8e-5.")


def plain_lora(now: Now) -> Change | None:
    if now.algorithm != "locon":
        return None
    return Change(
        "LoRA, without convolutions",
        "Guide 001 found that LoCon overfits sooner than a LoRA, and went back.",
        now.become("lora", targets="attn-mlp"),
    )


def loha(now: Now) -> Change:
    lora = now.rank if now.algorithm in ("lora", "locon", "dylora", "t-lora") else None
    rank = max(SMALLEST_RANK, min(LARGEST_LOHA, lora // 2)) if lora else 16
    return Change(
        f"LoHa, rank {rank}",
        "Guide 003: it damps what is learnt, takes less of the pictures' own style and mixes "
        "concepts with less pollution.",
        now.become("loha", rank=rank),
    )


def lower_rank(now: Now) -> Change | None:
    rank = now.rank
    if rank is None or rank < 2 * SMALLEST_RANK or now.algorithm in ("diag-oft", "boft"):
        return None
    return Change(
        f"Rank {rank // 2} instead of {rank}",
        "Guide 003: a lower rank where too much is learnt. Guide 001: 8 is enough where the base "
        "knows something similar.",
        _rank_answers(now, rank // 2),
    )


def ia3(now: Now) -> Change | None:
    if now.algorithm == "ia3":
        return None
    return Change(
        "(IA)³ with a rate of 5e-3",
        "Guide 003 names it where too much is learnt. Guide 001: very small, good with styles, at "
        "a rate of 5e-3 to 1e-2.",
        now.become("ia3") | ({} if now["optim.optimizer"] in ADAPTIVE else _rates(now, IA3_RATE)),
    )


def style_epochs(now: Now) -> Change | None:
    repeats, epochs = now["data.repeats"] or 1, now["train.epochs"] or 1
    new = max(1, round(STYLE_EXPOSURES / repeats))
    if 30 <= repeats * epochs <= 40:
        return None
    return Change(
        f"{new} {'epoch' if new == 1 else 'epochs'} instead of {epochs}",
        f"Guide 001: styles settle after 30 to 40 exposures a picture; here are "
        f"{repeats * epochs}. It wants 50 to 200 pictures.",
        {"train.epochs": new},
        _steps(new, epochs),
    )
