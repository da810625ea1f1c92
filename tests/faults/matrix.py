"""Algorithms, optimizers and precisions whose runs are made to die, and which of them go together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path
from shutil import copyfile
from typing import Any

from engine.settings import Recipe
from engine.settings.rules import rules

Section = dict[str, Any]

FORMS: dict[str, Section] = {
    "lora": {"algorithm": "lora", "dropout": 0.1, "rank_dropout": 0.1},
    "lora-dora-input": {"algorithm": "lora", "dora": "input", "train_norm": True},
    "lora-dora-output": {"algorithm": "lora", "dora": "output", "scalar": True, "rs_lora": True},
    "locon": {"algorithm": "locon", "targets": "full", "rank": 2, "tucker": True},
    "loha": {"algorithm": "loha", "targets": "unet-convblock-only", "rank": 2, "tucker": True},
    "lokr-full": {"algorithm": "lokr", "rank": "full", "factor": 4, "module_dropout": 0.1},
    "lokr-parts": {"algorithm": "lokr", "rank": 2, "factor": -1, "scalar": True, "max_norm": 0.5},
    "lokr-dora": {"algorithm": "lokr", "rank": 2, "factor": 4, "dora": "output"},
    "ia3": {"algorithm": "ia3", "targets": "ia3", "max_norm": 0.5, "module_dropout": 0.2},
    "dylora": {"algorithm": "dylora", "block_size": 2, "dropout": 0.1},
    "glora": {"algorithm": "glora", "rank": 2, "scalar": True, "rank_dropout": 0.2},
    "diag-oft": {"algorithm": "diag-oft", "rank": 8, "constraint": 1e-4, "rescaled": True},
    "boft": {"algorithm": "boft", "rank": 16, "module_dropout": 0.1},
    "full": {"algorithm": "full", "targets": "unet-up-blocks"},
    "t-lora": {"algorithm": "t-lora", "rank_dropout": 0.1, "orthogonality": 0.1},
    "overrides": {
        "algorithm": "lora",
        "overrides": [
            {"pattern": ".*attn2.*", "algorithm": "lokr", "rank": "full"},
            {"pattern": "mid_block.*", "exclude": True},
            {"pattern": ".*to_v", "rank": 2},
        ],
    },
}
"""Each algorithm, and its forms whose state differs."""
ADAPTIVE: Section = {"lr": 1.0, "te_lr": 1.0}
FAMILIES: dict[str, Section] = {
    "adamw": {},
    "adamw8bit": {},
    "sgd-nesterov": {},
    "lion8bit": {},
    "adafactor": {},
    "came": {},
    "prodigy": ADAPTIVE,
    "dadapt-adan": ADAPTIVE,
    "dadapt-sgd": ADAPTIVE,
    "adamw-schedulefree": {},
    "sgd-schedulefree": {},
    "nadam": {},
    "asgd": {},
}
"""One optimizer of each kind of state."""
PRECISIONS: dict[str, Section] = {
    "fp32": {"precision": "no"},
    "bf16": {"precision": "bf16"},
    "fp16": {"precision": "fp16"},
    "network-bf16": {"precision": "no", "network_precision": "bf16"},
    "all-bf16": {"precision": "bf16", "network_precision": "bf16"},
}
EXTRAS: tuple[dict[str, Section], ...] = (
    {"train": {"accumulation": 2}, "optim": {"te_stop_percent": 50}},
    {"train": {"ema_decay": 0.9}, "data": {"flip": True, "caption_dropout": 0.3}},
    {"data": {"reg_folder": "reg"}, "optim": {"te_lr": 0.0}},
    {"data": {"masked_loss": "folder", "mask_folder": "masks"}, "save": {"state_minutes": 1e-6}},
    {"data": {"cache_latents": "off", "colour": True}, "train": {"accumulation": 2}},
    {"data": {"validation": 0.5, "workers": 2}, "schedule": {"scheduler": "rex"}},
)
"""What else is on, one after the other over the cases."""


@dataclass(frozen=True, slots=True)
class Case:
    """One combination."""

    form: str
    family: str
    precision: str
    extra: int

    def __str__(self) -> str:
        return f"{self.form}-{self.family}-{self.precision}-{self.extra}"

    @property
    def seed(self) -> str:
        """What the instants of its deaths are drawn from."""
        return str(self)

    def sections(self, root: Path) -> dict[str, Section]:
        """The recipe; what is a folder lies below `root`."""
        network: Section = {"targets": "attn-only", "rank": 4} | FORMS[self.form]
        if network["algorithm"] in ("ia3", "full"):
            del network["rank"]
        values: dict[str, Section] = {
            "data": {"folder": str(root / "img"), "trigger": "vexilo", "class_word": "emblem",
                     "resolution": [128, 128], "bucket_min": 64, "bucket_max": 256, "workers": 0,
                     "keep_tokens": 1},
            "network": network,
            "optim": {"optimizer": self.family, "lr": 2e-3, "te_lr": 1e-3, **FAMILIES[self.family]},
            "schedule": {"warmup_percent": 0},
            "objective": {"min_snr_gamma": 1.0, "noise_offset": 0.1},
            "train": {"epochs": 2, "batch_size": 1, "checkpointing": False, "device": "cpu",
                      "seed": 1, "threads": 1, **PRECISIONS[self.precision]},
            "sample": {"at_start": False, "every_epochs": 0},
            "save": {"precision": "fp32"},
            "run": {"name": "case", "folder": str(root / "runs")},
        }  # fmt: skip
        for section, changed in EXTRAS[self.extra].items():
            placed = {
                key: str(root / value) if key.endswith("_folder") else value
                for key, value in changed.items()
            }
            if section == "optim" and self.family in FAMILIES and "lr" in FAMILIES[self.family]:
                placed = {key: value for key, value in placed.items() if key != "te_lr"}
            values[section] = {**values.get(section, {}), **placed}
        return values

    def recipe(self, root: Path, base: Path) -> Recipe:
        """The recipe over a base model."""
        model = {"path": str(base), "clip_skip": 1}
        return Recipe.model_validate({"model": model, **self.sections(root)})

    @property
    def micro_batches(self) -> int:
        """Forwards of a step."""
        return int(EXTRAS[self.extra].get("train", {}).get("accumulation", 1))


def refused(case: Case) -> bool:
    """Whether the settings say no to it in words."""
    return bool(rules(case.recipe(Path("/nowhere"), Path("/nowhere/base.safetensors"))))


def all_cases() -> list[Case]:
    """The whole product without what is refused; where an extra is, the next one takes its place."""
    found = []
    for number, (form, family, precision) in enumerate(product(FORMS, FAMILIES, PRECISIONS)):
        tried = (
            Case(form, family, precision, (number + shift) % len(EXTRAS))
            for shift in range(len(EXTRAS))
        )
        case = next((case for case in tried if not refused(case)), None)
        if case is not None:
            found.append(case)
    return found


Value = tuple[str, str]
"""What is chosen, and how."""
SLOW_PRECISIONS = ("bf16", "all-bf16", "fp16")
"""A base in half precision: slow on a CPU."""
SLOW_EXTRAS = (4, 5)
"""Pictures encoded at each draw, and processes that load."""


def values(case: Case) -> set[Value]:
    """Each of its values."""
    return {("extra", str(case.extra)), *_crossed(case)}


def pairs(case: Case) -> set[tuple[Value, ...]]:
    """Every two of form, optimizer and precision."""
    return set(combinations(_crossed(case), 2))


def _crossed(case: Case) -> list[Value]:
    return [("form", case.form), ("family", case.family), ("precision", case.precision)]


def every_value(cases: Sequence[Case]) -> list[Case]:
    """A few cheap ones in which every value of `cases` occurs."""
    return _covering(cases, values)


def every_pair(cases: Sequence[Case]) -> list[Case]:
    """Those of `every_value`, and more until every pair of values occurs that occurs in `cases`."""
    return _covering(cases, pairs, every_value(cases))


def _covering(
    cases: Sequence[Case], parts: Callable[[Case], set[Any]], begun: Sequence[Case] = ()
) -> list[Case]:
    """Greedy: the case with the most parts that are not there yet, the cheapest of several."""
    own = {case: parts(case) for case in cases}
    left = set().union(*own.values()).difference(*(own[case] for case in begun))
    chosen = list(begun)
    while left:
        best = max(cases, key=lambda case: (len(left & own[case]), -_cost(case)))
        chosen.append(best)
        left -= own[best]
    return chosen


def _cost(case: Case) -> int:
    return (case.precision in SLOW_PRECISIONS) + (case.extra in SLOW_EXTRAS)


def draw_data(root: Path) -> None:
    """A few of the demo's pictures, class pictures and masks below `root`."""
    from PIL import Image, ImageDraw

    from presets import DEMO_PATH

    for name, count in (("img", 2), ("reg", 1)):
        (source,) = (DEMO_PATH / name).iterdir()
        target = root / name / f"1_{source.name.partition('_')[2]}"
        target.mkdir(parents=True)
        for picture in sorted(source.glob("*.png"))[:count]:
            copyfile(picture, target / picture.name)
            for text in source.glob(f"{picture.stem}.txt"):
                copyfile(text, target / text.name)
            _mask(picture, root / "masks" / picture.name, Image, ImageDraw)


def _mask(picture: Path, target: Path, image: Any, draw: Any) -> None:
    target.parent.mkdir(exist_ok=True)
    with image.open(picture) as opened:
        mask = image.new("L", opened.size, 60)
    draw.Draw(mask).ellipse((10, 10, 90, 90), fill=255)
    mask.save(target)
