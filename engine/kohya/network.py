"""The network: module, sizes and layers of kohya's own networks and of LyCORIS."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from engine.errors import Problem
from engine.inert import inert
from engine.kohya.given import Given, Work
from engine.kohya.names import FULL_DIM, KOHYA_CONV, THEIR_NAMES
from engine.kohya.network_args import ARGS, argument, knows
from engine.kohya.report import Row, shown
from engine.settings.network import TargetPreset
from engine.settings.walk import algorithms

MODULES = {
    "networks.lora": "lora",
    "networks.lora_fa": "lora",
    "networks.dylora": "dylora",
    "networks.oft": "diag-oft",
    "networks.loha": "loha",
    "networks.lokr": "lokr",
    "locon.locon_kohya": "locon",
    "lycoris.kohya": "lora",
    "lycoris.locon_kohya": "locon",
}
OWN = frozenset({"networks.lora", "networks.lora_fa", "networks.dylora", "locon.locon_kohya"})
"""Modules whose convolutions are those of the residual and sampling blocks alone."""


def network(work: Work) -> None:
    """The section of the network."""
    _spread_list(work)
    module = work.text("network_module") or "networks.lora"
    if "network_module" not in work.given:
        work.extra.append(
            Row("network_module", "", "default", (), "missing: networks.lora is taken")
        )
    algorithm = _algorithm(work, module)
    if algorithm is None:
        return
    work.set("network.algorithm", algorithm)
    _sizes(work, algorithm)
    _targets(work, module, algorithm)
    for name in [name for name in work.given if name.startswith(ARGS) and name not in work.rows]:
        argument(work, name, algorithm)
    if algorithm == "lokr" and module == "lycoris.kohya" and f"{ARGS}factor" not in work.given:
        work.default("factor", "network.factor", -1, differs=True)
    _dropout(work, algorithm)
    _start(work, algorithm)


def _spread_list(work: Work) -> None:
    """Each `name=value` of the list as an argument of its own; the last of equal names counts."""
    for text in work.items("network_args"):
        name, equals, value = text.strip().partition("=")
        before = work.given.get(f"{ARGS}{name}")
        if before is not None:
            told = shown(before.key, before.value)
            work.extra.append(Row(before.key, told, "no effect", (), "given again, which wins"))
        value = value.strip().strip('"')
        key = f"network_args: {inert(name, 60)}"
        work.given[f"{ARGS}{name}"] = Given(value if equals else None, key)
    work.listed("network_args")


def _algorithm(work: Work, module: str) -> str | None:
    algo = work.text(f"{ARGS}algo") if module == "lycoris.kohya" else None
    if module not in MODULES:
        what = f"network_module {shown('', module)} trains no network that is known here."
        remedy = f"Known are {', '.join(MODULES)}."
        work.problems.append(Problem(what, remedy=remedy, path="network_module"))
        return None
    ours = {theirs: own for own, theirs in THEIR_NAMES.items()}
    name = MODULES[module] if algo is None else ours.get(algo.lower(), algo.lower())
    if name not in algorithms():
        what = f"The algorithm {shown('', name)} is not known here."
        remedy = f"Known are {', '.join(algorithms())}."
        work.problems.append(Problem(what, remedy=remedy, path="network.algorithm"))
        return None
    if name == "lora" and module in OWN and work.whole(f"{ARGS}conv_dim") is not None:
        name = "locon"
    notes = {
        "networks.lora_fa": ("unsupported", "its down factors are never trained; here both are"),
        "networks.oft": ("unsupported", "there the rank counts blocks, here it is the largest block"),
    }  # fmt: skip
    status: Any
    status, note = notes.get(module, ("translated", name))
    work.row("network_module", status, ("network.algorithm",), note)
    given = work.given.get(f"{ARGS}algo")
    if given is not None and given.key == "LoRA_type":
        work.silent.add(f"{ARGS}algo")
    work.row(f"{ARGS}algo", "taken" if algo == name else "translated", ("network.algorithm",))
    return name


def _sizes(work: Work, algorithm: str) -> None:
    rank, alpha = work.whole("network_dim"), work.number("network_alpha")
    if knows(algorithm, "rank") is None:
        for name in ("network_dim", "network_alpha"):
            work.idle(name, f"{algorithm} has no such size")
        return
    if rank is None:
        work.default("network_dim", "network.rank", 4, differs=True)
    elif algorithm == "lokr" and rank >= FULL_DIM:
        work.translated("network_dim", "network.rank", "full", "nothing limits the rank")
    else:
        work.taken("network_dim", "network.rank", rank)
    if knows(algorithm, "alpha") is None:
        work.idle("network_alpha", f"{algorithm} has no alpha")
    elif alpha is None:
        work.default("network_alpha", "network.alpha", 1.0, differs=True)
    else:
        note = "0 means the same as the rank" if alpha == 0 else ""
        work.taken("network_alpha", "network.alpha", alpha, note)


def _targets(work: Work, module: str, algorithm: str) -> None:
    """Which layers. LyCORIS has presets; kohya's networks take the transformers and the text encoders."""
    if module not in OWN:
        _preset(work)
        return
    conv = work.whole(f"{ARGS}conv_dim")
    if conv is None and module == "locon.locon_kohya":
        conv = 4
    name = f"{ARGS}preset"
    work.row(name, "no effect", (), f"{module} has no presets")
    if module == "networks.dylora":
        work.default("unit", "network.block_size", 1, differs=f"{ARGS}unit" not in work.given)
    if conv is None:
        work.set("network.targets", "attn-mlp")
        work.row(f"{ARGS}conv_dim", "no effect", (), "no convolutions")
        work.row(f"{ARGS}conv_alpha", "no effect", (), "no convolutions")
        return
    work.set("network.targets", "full")
    work.set("network.overrides", [{"pattern": KOHYA_CONV, "exclude": True}])
    if module == "networks.dylora":
        note = "rank and alpha of the whole network hold for them"
        work.row(f"{ARGS}conv_dim", "translated", ("network.targets", "network.overrides"), note)
        work.row(f"{ARGS}conv_alpha", "no effect", (), note)
        return
    work.set("network.conv_rank", conv)
    note = "kohya's own set: without conv_in, conv_out and the time embedding"
    if conv == 0:
        # sd-scripts walks the residual blocks even so: their 1 x 1 convolutions have the rank.
        note = f"{note}; no convolutions but those of 1 × 1"
    paths = ("network.conv_rank", "network.targets", "network.overrides")
    work.row(f"{ARGS}conv_dim", "translated", paths, note)
    _conv_alpha(work)


def _conv_alpha(work: Work) -> None:
    """Alpha of kohya's own convolutions: 1 where it is missing; 0 is as much as their rank."""
    name = f"{ARGS}conv_alpha"
    alpha = work.number(name)
    if alpha is None:
        work.default("conv_alpha", "network.conv_alpha", 1.0, differs=name not in work.given)
        work.row(name, "translated", ("network.conv_alpha",), "blank: 1")
    else:
        note = "0 means the same as the rank" if alpha == 0 else ""
        work.taken(name, "network.conv_alpha", alpha, note)


def _preset(work: Work) -> None:
    name = f"{ARGS}preset"
    preset = work.text(name)
    if preset is None:
        work.set("network.targets", "full")
        if name not in work.given:
            words = "missing: LyCORIS takes full"
            work.extra.append(Row("preset", "", "default", ("network.targets",), words))
        work.row(name, "translated", ("network.targets",), "blank: full")
        preset = "full"
    elif preset in get_args(TargetPreset):
        work.taken(name, "network.targets", preset)
    elif preset.endswith((".toml", ".json")):
        note = "a file of your own names the layers"
        work.translated(name, "network.targets_file", work.folder / Path(preset), note)
    else:
        work.set("network.targets", "full")
        work.unsupported(name, "no such choice of layers here; full is taken")
        preset = "full"
    if preset == "full" and work.values.get("model.family") == "sdxl":
        work.set("network.overrides", [{"pattern": KOHYA_CONV, "exclude": True}])
        note = "LyCORIS under kohya never trains conv_in, conv_out and the time embedding of SDXL"
        work.extra.append(Row("preset", "full", "translated", ("network.overrides",), note))


def _dropout(work: Work, algorithm: str) -> None:
    value = work.number("network_dropout")
    if "network.dropout" in work.values:
        work.row("network_dropout", "no effect", (), "dropout in network_args wins")
    elif value and knows(algorithm, "dropout") is None:
        work.unsupported("network_dropout", f"{algorithm} has no dropout of its own here")
    elif value:
        work.taken("network_dropout", "network.dropout", value)
    work.row("network_dropout", "no effect", (), "off")


def _start(work: Work, algorithm: str) -> None:
    """A network file to start from decides its own sizes."""
    weights = work.path("network_weights")
    from_file = work.flag("dim_from_weights")
    if weights is None:
        work.row("dim_from_weights", "no effect", (), "there is no network file")
        return
    work.taken("network_weights", "network.weights", weights, "it is copied, never changed")
    sizes = {f"network.{key}" for key in ("rank", "alpha", "conv_rank", "conv_alpha")}
    for path in sizes:
        work.values.pop(path, None)
    note = "the network file's is taken"
    for name, row in list(work.rows.items()):
        if sizes & set(row.settings):
            others = [path for path in row.settings if path not in sizes]
            work.retell(name, "translated", ("network.weights", *others), note)
    work.extra = [row for row in work.extra if not sizes & set(row.settings)]
    if from_file is not None:
        work.idle("dim_from_weights", "rank and alpha always come from the file")
