"""The optimizers by name: from which library, which arguments they take, and what sets them apart. No torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

OptimizerName = Literal[
    "adamw",
    "adamw8bit",
    "paged-adamw",
    "paged-adamw8bit",
    "paged-adamw32bit",
    "lion",
    "lion8bit",
    "paged-lion8bit",
    "sgd-nesterov",
    "sgd-nesterov8bit",
    "prodigy",
    "dadapt-adam",
    "dadapt-adagrad",
    "dadapt-adan",
    "dadapt-lion",
    "dadapt-sgd",
    "adafactor",
    "came",
    "adamw-schedulefree",
    "radam-schedulefree",
    "sgd-schedulefree",
    "adam",
    "adamax",
    "adagrad",
    "adadelta",
    "asgd",
    "nadam",
    "radam",
    "rmsprop",
    "rprop",
    "sgd",
]
Library = Literal["torch", "bitsandbytes", "pytorch-optimizer"]


@dataclass(frozen=True, slots=True)
class Argument:
    """What one argument of an optimizer may be."""

    kind: Literal["number", "whole", "switch", "numbers"]
    low: float | None = None
    above: float | None = None
    below: float | None = None
    count: int = 0
    """How many numbers, where it is several."""
    blank: bool = False
    """Whether it may be None; of several numbers the first."""
    infinite: bool = False

    @property
    def words(self) -> str:
        """What a value must be."""
        if self.kind == "switch":
            return "True or False"
        if self.kind == "numbers":
            names = {2: "two numbers", 3: "three numbers"}[self.count]
            base = f"{names} such as 0.9,0.99" if self.below == 1 else names
        else:
            base = "a whole number" if self.kind == "whole" else "a number"
        parts = [
            f"{word} {bound:g}"
            for word, bound in (
                ("at least", self.low),
                ("above", self.above),
                ("below", self.below),
            )
            if bound is not None
        ]
        tail = " and ".join(parts)
        each = "each " if self.kind == "numbers" and tail else ""
        none = ", or None" if self.blank and self.kind != "numbers" else ""
        return f"{base}, {each}{tail}{none}" if tail else base + none


SHARE = Argument("number", low=0, below=1)
INNER_SHARE = Argument("number", above=0, below=1)
NOT_NEGATIVE = Argument("number", low=0)
POSITIVE = Argument("number", above=0)
NUMBER = Argument("number")
WHOLE = Argument("whole", low=0)
SWITCH = Argument("switch")
BETAS = Argument("numbers", low=0, below=1, count=2)
THREE_BETAS = Argument("numbers", low=0, below=1, count=3)
GROWTH = Argument("number", above=1, infinite=True)

DECAY = {"weight_decay": NOT_NEGATIVE}
EPS = {"eps": POSITIVE}
ADAM = {"betas": BETAS, **EPS, **DECAY}
AMSGRAD = {"amsgrad": SWITCH}
DECOUPLING = {**DECAY, "weight_decouple": SWITCH, "fixed_decay": SWITCH}
ADAPTING = {"d0": POSITIVE, "growth_rate": GROWTH}
FREE = {**EPS, **DECAY, "r": NOT_NEGATIVE, "weight_lr_power": NOT_NEGATIVE}
FACTORED = {
    **DECOUPLING,
    "clip_threshold": POSITIVE,
    "ams_bound": SWITCH,
    "eps1": POSITIVE,
    "eps2": POSITIVE,
}


@dataclass(frozen=True, slots=True)
class Optimizer:
    """One optimizer."""

    title: str
    library: Library
    source: str
    """Name of its class in the library."""
    arguments: Mapping[str, Argument]
    """What may be given beside the rate."""
    defaults: Mapping[str, Any]
    """What it gets where nothing is given, if that is worth saying or other than the library's."""
    state_bytes: float
    """Memory of its state for each trained number."""
    adaptive: bool = False
    """It finds the learning rate itself: rate 1, one rate for all parts."""
    schedule_free: bool = False
    """It averages the weights instead of following a curve."""
    shaped: bool = False
    """Its step depends on a tensor's rows and columns."""
    absolute: bool = False
    """Each step computes the weights anew from where they began: scaling them has no effect."""
    eight_bit: bool = False
    paged: bool = False
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Arguments of the class that cannot be given here, and why."""
    translated: Mapping[str, str] = field(default_factory=dict)
    """Names that the arguments have in other trainers."""


TORCH: Library = "torch"
BNB: Library = "bitsandbytes"
POPT: Library = "pytorch-optimizer"
ADAMW_USUAL = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}
LION_USUAL = {"betas": (0.9, 0.99), "weight_decay": 0.0}
ADAM_USUAL = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}
DECOUPLE = {"decouple": "weight_decouple"}
PRODIGY_WORDS = {**DECOUPLE, "use_bias_correction": "bias_correction"}
UNSEEN = "bitsandbytes takes it and does nothing with it"


def _adapting(
    title: str, source: str, state_bytes: float, arguments: Mapping[str, Argument],
    defaults: Mapping[str, Any], *, absolute: bool = False, **words: str,
) -> Optimizer:  # fmt: skip
    return Optimizer(
        title, POPT, source, {**DECOUPLING, **ADAPTING, **arguments},
        {"weight_decay": 0.0, "d0": 1e-6, **defaults}, state_bytes,
        adaptive=True, absolute=absolute, translated={**DECOUPLE, **words},
    )  # fmt: skip


def _averaging(title: str, source: str, state_bytes: float, **arguments: Argument) -> Optimizer:
    usual: dict[str, Any] = {"weight_decay": 0.0, "eps": 1e-8}
    usual |= {"betas": (0.9, 0.999)} if "betas" in arguments else {"momentum": 0.9}
    why = "the warmup of the schedule does the same: set schedule.warmup_steps"
    left_out = {"warmup_steps": why} if "Radam" not in title else {
        "silent_sgd_phase": "without it the first steps would have a rate of 1"
    }  # fmt: skip
    return Optimizer(
        title, POPT, source, {**FREE, **arguments}, usual, state_bytes, schedule_free=True,
        left_out=left_out,
    )  # fmt: skip


OPTIMIZERS: dict[str, Optimizer] = {
    "adamw": Optimizer("AdamW", TORCH, "AdamW", ADAM | AMSGRAD, ADAMW_USUAL, 8),
    "adamw8bit": Optimizer(
        "AdamW 8-bit", BNB, "AdamW8bit", ADAM, ADAMW_USUAL, 2,
        eight_bit=True, left_out={"amsgrad": UNSEEN},
    ),
    "paged-adamw": Optimizer(
        "Paged AdamW", BNB, "AdamW", ADAM, ADAMW_USUAL, 8, paged=True, left_out={"amsgrad": UNSEEN}
    ),
    "paged-adamw8bit": Optimizer(
        "Paged AdamW 8-bit", BNB, "AdamW8bit", ADAM, ADAMW_USUAL, 2,
        eight_bit=True, paged=True, left_out={"amsgrad": UNSEEN},
    ),
    "paged-adamw32bit": Optimizer(
        "Paged AdamW 32-bit", BNB, "AdamW32bit", ADAM, ADAMW_USUAL, 8,
        paged=True, left_out={"amsgrad": UNSEEN},
    ),
    "lion": Optimizer("Lion", POPT, "Lion", DECOUPLING | {"betas": BETAS}, LION_USUAL, 4),
    "lion8bit": Optimizer(
        "Lion 8-bit", BNB, "Lion8bit", DECAY | {"betas": BETAS}, LION_USUAL, 1, eight_bit=True
    ),
    "paged-lion8bit": Optimizer(
        "Paged Lion 8-bit", BNB, "Lion8bit", DECAY | {"betas": BETAS}, LION_USUAL, 1,
        eight_bit=True, paged=True,
    ),
    "sgd-nesterov": Optimizer(
        "SGD with Nesterov momentum", TORCH, "SGD", DECAY | {"momentum": INNER_SHARE},
        {"momentum": 0.9, "nesterov": True, "weight_decay": 0.0}, 4,
        left_out={
            "nesterov": "it is what the name says",
            "dampening": "Nesterov momentum goes without",
        },
    ),
    "sgd-nesterov8bit": Optimizer(
        "SGD 8-bit with momentum", BNB, "SGD8bit", DECAY | {"momentum": INNER_SHARE},
        {"momentum": 0.9, "weight_decay": 0.0}, 1, eight_bit=True,
        left_out={"nesterov": UNSEEN, "dampening": UNSEEN},
    ),
    "prodigy": _adapting(
        "Prodigy", "Prodigy", 20,
        ADAM | {
            "beta3": Argument("number", low=0, below=1, blank=True),
            "eps": Argument("number", above=0, blank=True),
            "d_coef": POSITIVE, "bias_correction": SWITCH, "safeguard_warmup": SWITCH,
        },
        {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decouple": True},
        use_bias_correction="bias_correction",
    ),
    "dadapt-adam": _adapting(
        "D-Adapt Adam", "DAdaptAdam", 12, ADAM | {"bias_correction": SWITCH},
        {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decouple": False},
        use_bias_correction="bias_correction",
    ),
    "dadapt-adagrad": _adapting(
        "D-Adapt AdaGrad", "DAdaptAdaGrad", 12, {"momentum": SHARE, "eps": NOT_NEGATIVE},
        {"momentum": 0.0}, absolute=True,
    ),
    "dadapt-adan": Optimizer(
        "D-Adapt Adan", POPT, "DAdaptAdan",
        ADAPTING | ADAM | {"betas": THREE_BETAS, "weight_decouple": SWITCH},
        {"weight_decay": 0.0, "d0": 1e-6, "betas": (0.98, 0.92, 0.99), "eps": 1e-8}, 20,
        adaptive=True, translated=DECOUPLE | {"no_prox": "weight_decouple"},
    ),
    "dadapt-lion": Optimizer(
        "D-Adapt Lion", POPT, "DAdaptLion", DECOUPLING | {"betas": BETAS, "d0": POSITIVE},
        {"weight_decay": 0.0, "d0": 1e-6, "betas": (0.9, 0.999)}, 8,
        adaptive=True, translated=DECOUPLE,
    ),
    "dadapt-sgd": _adapting(
        "D-Adapt SGD", "DAdaptSGD", 12, {"momentum": SHARE}, {"momentum": 0.9}, absolute=True
    ),
    "adafactor": Optimizer(
        "Adafactor", POPT, "AdaFactor",
        FACTORED | {
            "betas": Argument("numbers", low=0, below=1, count=2, blank=True),
            "decay_rate": Argument("number", below=0),
            "scale_parameter": SWITCH, "relative_step": SWITCH, "warmup_init": SWITCH,
        },
        # The first None: no first moment. The second never caps 1 - step^decay_rate.
        {
            "betas": (None, 1 - 1e-12), "weight_decay": 0.0, "clip_threshold": 1.0,
            "decay_rate": -0.8, "scale_parameter": True, "relative_step": True,
            "warmup_init": False, "eps1": 1e-30, "eps2": 1e-3,
        },
        0.1, shaped=True,
    ),
    "came": Optimizer(
        "CAME", POPT, "CAME", FACTORED | {"betas": THREE_BETAS},
        {"betas": (0.9, 0.999, 0.9999), "weight_decay": 0.0, "eps1": 1e-30, "eps2": 1e-16},
        4.2, shaped=True,
    ),
    "adamw-schedulefree": _averaging(
        "Schedule-free AdamW", "ScheduleFreeAdamW", 8,
        betas=Argument("numbers", above=0, below=1, count=2), ams_bound=SWITCH, decoupling_c=WHOLE,
    ),
    "radam-schedulefree": _averaging(
        "Schedule-free Radam", "ScheduleFreeRAdam", 8,
        betas=Argument("numbers", above=0, below=1, count=2),
    ),
    "sgd-schedulefree": _averaging(
        "Schedule-free SGD", "ScheduleFreeSGD", 4, momentum=INNER_SHARE
    ),
    "adam": Optimizer(
        "Adam", TORCH, "Adam", ADAM | AMSGRAD | {"decoupled_weight_decay": SWITCH}, ADAM_USUAL, 8
    ),
    "adamax": Optimizer("Adamax", TORCH, "Adamax", ADAM, ADAM_USUAL, 8),
    "adagrad": Optimizer(
        "AdaGrad", TORCH, "Adagrad",
        DECAY | EPS | {"lr_decay": NOT_NEGATIVE, "initial_accumulator_value": NOT_NEGATIVE},
        {"weight_decay": 0.0, "eps": 1e-10}, 4,
    ),
    "adadelta": Optimizer(
        "AdaDelta", TORCH, "Adadelta", DECAY | EPS | {"rho": SHARE},
        {"weight_decay": 0.0, "eps": 1e-6, "rho": 0.9}, 8,
    ),
    "asgd": Optimizer(
        "ASGD", TORCH, "ASGD", DECAY | {"lambd": NOT_NEGATIVE, "alpha": POSITIVE, "t0": POSITIVE},
        {"weight_decay": 0.0}, 4,
    ),
    "nadam": Optimizer(
        "NAdam", TORCH, "NAdam",
        ADAM | {"momentum_decay": NOT_NEGATIVE, "decoupled_weight_decay": SWITCH}, ADAM_USUAL, 8,
    ),
    "radam": Optimizer(
        "RAdam", TORCH, "RAdam", ADAM | {"decoupled_weight_decay": SWITCH}, ADAM_USUAL, 8
    ),
    "rmsprop": Optimizer(
        "RMSprop", TORCH, "RMSprop",
        DECAY | EPS | {"alpha": SHARE, "momentum": SHARE, "centered": SWITCH},
        {"weight_decay": 0.0, "eps": 1e-8, "alpha": 0.99}, 4,
    ),
    "rprop": Optimizer(
        "Rprop", TORCH, "Rprop",
        {
            "etas": Argument("numbers", above=0, count=2),
            "step_sizes": Argument("numbers", above=0, count=2),
        },
        {"etas": (0.5, 1.2), "step_sizes": (1e-6, 50.0)}, 8,
    ),
    "sgd": Optimizer(
        "SGD", TORCH, "SGD",
        DECAY | {"momentum": SHARE, "dampening": SHARE, "nesterov": SWITCH},
        {"momentum": 0.0, "weight_decay": 0.0}, 4,
    ),
}  # fmt: skip
"""Every optimizer that can be chosen."""

ADAPTIVE = frozenset(name for name, row in OPTIMIZERS.items() if row.adaptive)
"""Optimizers that find the learning rate themselves: rate 1, one rate for all parts."""
SCHEDULE_FREE = frozenset(name for name, row in OPTIMIZERS.items() if row.schedule_free)
"""Optimizers that average the weights; files, pictures and validation take the average."""
SHAPED = frozenset(name for name, row in OPTIMIZERS.items() if row.shaped)
"""Optimizers whose step depends on a tensor's rows and columns."""

_OTHER_NAMES = {"dadaptation": "dadapt-adam", "sgd8bit": "sgd-nesterov8bit"}

UNFIT = {
    "sparseadam": "it takes sparse gradients only, and those of a network are dense",
    "lbfgs": "it computes the loss several times in each step, which the loop does once",
    "muon": "it takes matrices only, and a network also has convolutions, norms and scales",
}
"""Optimizers of torch that cannot train a network here, and why."""


def unfit(text: str) -> str:
    """Why an optimizer that exists cannot be chosen here; empty for every other name."""
    return UNFIT.get(_plain(text), "")


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.rpartition(".")[2].lower())


def optimizer_named(text: str) -> str | None:
    """Our name of an optimizer as kohya and others write it, in any case; None where it is not ours."""
    plain = _plain(text)
    known = {name.replace("-", ""): name for name in OPTIMIZERS}
    return known.get(plain) or _OTHER_NAMES.get(plain)


def read_optimizer(value: Any) -> Any:
    """A value of `optim.optimizer` with our name for what has another; all else as it is."""
    return (optimizer_named(value) or value) if isinstance(value, str) else value


def optimizer_title(name: str | None) -> str:
    """Its name for people."""
    return OPTIMIZERS[name or "adamw"].title
