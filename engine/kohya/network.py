"""The network: module, sizes and arguments of kohya's own networks and of LyCORIS."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from engine.errors import Problem
from engine.kohya.given import FALSE, TRUE, Given, Work
from engine.kohya.names import FULL_DIM, KOHYA_CONV, NETWORK_ARGS, OLDER_ARGS, THEIR_NAMES
from engine.kohya.rates import literal
from engine.kohya.report import Row, shown
from engine.settings.network import TargetPreset
from engine.settings.walk import Setting, algorithms, setting

ARGS = "network_args."
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
CONSTRAINT_NOTE = "LyCORIS reads constraint, and the GUI sends constrain: it had no effect"
IDLE_ARGS = {
    "bypass_mode": "how the sum is computed; the result is the same",
    "rank_dropout_scale": "it never arrives in LyCORIS; dropped ranks are always made up for here",
    "constrain": CONSTRAINT_NOTE,
    "train_on_input": "LyCORIS does not read it from the arguments; its preset ia3 has it where"
    " it belongs",
    "train_t5xxl": "belongs to another family of models",
    "train_llm_adapter": "belongs to another family of models",
    "disable_conv_cp": "an old switch: use_tucker counts",
}
BLOCK_NOTE = "blocks of their own are written as network.overrides; all blocks are alike now"
UNSUPPORTED_ARGS = dict.fromkeys(
    (
        "down_lr_weight", "mid_lr_weight", "up_lr_weight", "block_lr", "block_lr_zero_threshold",
        "block_dims", "block_alphas", "conv_block_dims", "conv_block_alphas",
    ),
    BLOCK_NOTE,
)  # fmt: skip
LORAPLUS = ("loraplus_lr_ratio", "loraplus_unet_lr_ratio", "loraplus_text_encoder_lr_ratio")


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
        _argument(work, name, algorithm)
    if algorithm == "lokr" and module == "lycoris.kohya" and f"{ARGS}factor" not in work.given:
        work.default("factor", "network.factor", -1, differs=True)
    _dropout(work, algorithm)
    _start(work, algorithm)


def _spread_list(work: Work) -> None:
    """Each `name=value` of the list as an argument of its own."""
    for text in work.items("network_args"):
        name, equals, value = text.strip().partition("=")
        value = value.strip().strip('"')
        work.given.setdefault(
            f"{ARGS}{name}", Given(value if equals else None, f"network_args: {name}")
        )
    listed = "see each below" if work.has("network_args") else "none"
    work.row("network_args", "taken", (), listed)


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
    if name == "lora" and module in OWN and work.whole(f"{ARGS}conv_dim"):
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


def _knows(algorithm: str, key: str) -> Setting | None:
    """The setting as the algorithm has it; None where it has none."""
    row = setting(f"network.{key}", algorithm)
    return row if row is not None and algorithm in row.algorithms else None


def _sizes(work: Work, algorithm: str) -> None:
    rank, alpha = work.whole("network_dim"), work.number("network_alpha")
    if _knows(algorithm, "rank") is None:
        for name in ("network_dim", "network_alpha"):
            work.idle(name, f"{algorithm} has no such size")
        return
    if rank is None:
        work.default("network_dim", "network.rank", 4, differs=True)
    elif algorithm == "lokr" and rank >= FULL_DIM:
        work.translated("network_dim", "network.rank", "full", "nothing limits the rank")
    else:
        work.taken("network_dim", "network.rank", rank)
    if _knows(algorithm, "alpha") is None:
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
    conv = work.whole(f"{ARGS}conv_dim") or (4 if module == "locon.locon_kohya" else 0)
    name = f"{ARGS}preset"
    work.row(name, "no effect", (), f"{module} has no presets")
    if not conv:
        work.set("network.targets", "attn-mlp")
        work.row(f"{ARGS}conv_dim", "no effect", (), "no convolutions")
        work.row(f"{ARGS}conv_alpha", "no effect", (), "no convolutions")
        return
    work.set("network.targets", "full")
    work.set("network.overrides", [{"pattern": KOHYA_CONV, "exclude": True}])
    work.set("network.conv_rank", conv)
    work.set("network.conv_alpha", work.number(f"{ARGS}conv_alpha") or 1.0)
    note = "kohya's own set: without conv_in, conv_out and the time embedding"
    paths = ("network.conv_rank", "network.targets", "network.overrides")
    work.row(f"{ARGS}conv_dim", "translated", paths, note)
    work.row(f"{ARGS}conv_alpha", "taken", ("network.conv_alpha",))


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


def _argument(work: Work, name: str, algorithm: str) -> None:
    """One argument of the network."""
    bare = name.removeprefix(ARGS)
    theirs = OLDER_ARGS.get(bare, bare)
    if bare in IDLE_ARGS:
        work.idle(name, IDLE_ARGS[bare])
    elif bare in UNSUPPORTED_ARGS:
        work.unsupported(name, UNSUPPORTED_ARGS[bare])
    elif bare in LORAPLUS:
        _loraplus(work, name)
    elif bare == "dora_wd":
        _dora(work, name, algorithm)
    elif bare == "wd_on_output":
        work.row(name, "taken" if work.flag(f"{ARGS}dora_wd") else "no effect", ("network.dora",))
    elif bare == "full_matrix" and algorithm == "lokr":
        if work.flag(name):
            work.translated(name, "network.rank", "full", "both factors whole")
        work.row(name, "no effect", (), "off")
    elif bare == "train_norm":
        _typed(work, name, "train_norm", algorithm)
    elif theirs in NETWORK_ARGS:
        _typed(work, name, NETWORK_ARGS[theirs], algorithm)
    else:
        from engine.kohya.given import nearest

        known = (
            *NETWORK_ARGS,
            *IDLE_ARGS,
            *UNSUPPORTED_ARGS,
            *OLDER_ARGS,
            "train_norm",
            "dora_wd",
            "preset",
        )
        work.row(name, "unknown", (), nearest(bare, known))


def _typed(work: Work, name: str, key: str, algorithm: str) -> None:
    """An argument that is a setting of ours, read as that setting's kind."""
    row = _knows(algorithm, key)
    off = str(work.given[name].value).strip().lower() in (*FALSE, "0.0")
    if row is None:
        status: Any = "no effect" if off else "unsupported"
        work.row(name, status, (), f"{algorithm} has no such setting here")
        return
    path = f"network.{key}"
    if row.kind == "switch":
        _switch(work, name, path)
    elif row.kind in ("whole", "mixed"):
        _whole(work, name, path, algorithm)
    elif row.kind == "number":
        number = work.number(name)
        if number is not None:
            note = (
                "LyCORIS 4.1 drops rows of the change itself" if "dropout" in key and number else ""
            )
            work.taken(name, path, number, note)
    else:
        text = work.text(name)
        if text is not None:
            work.taken(name, path, text)
    work.row(name, "no effect", (), "blank")


def _switch(work: Work, name: str, path: str) -> None:
    if path == "network.decompose_both":
        _decompose_both(work, name)
        return
    on = work.flag(name)
    if on is not None:
        work.values[path] = bool(work.values.get(path)) or on
        work.row(name, "taken", (path,))


def _decompose_both(work: Work, name: str) -> None:
    """LyCORIS takes the text of this argument unread, and any text is true: "False" switches it on."""
    if work.values.get("network.rank") == "full":
        work.idle(name, "both factors are whole")
        return
    on = work.flag(name)
    note = (
        "" if on else 'LyCORIS takes the text "False" for on; set network.decompose_both to false'
    )
    work.set("network.decompose_both", True)
    work.row(name, "taken" if on else "translated", ("network.decompose_both",), note)


def _whole(work: Work, name: str, path: str, algorithm: str) -> None:
    number = work.whole(name)
    if number is None:
        return
    if path == "network.conv_rank" and number >= FULL_DIM:
        work.idle(name, "as the rank")
    else:
        work.taken(name, path, number)


def _dora(work: Work, name: str, algorithm: str) -> None:
    on, output = work.flag(name), work.flag(f"{ARGS}wd_on_output")
    if not on:
        work.idle(name, "off")
    elif _knows(algorithm, "dora") is None:
        work.unsupported(name, f"{algorithm} has no magnitudes here")
    else:
        axis = "input" if output is False else "output"
        note = "" if output is not None else "of the outputs, as LyCORIS 3.2 and later have it"
        work.translated(name, "network.dora", axis, note)


def _loraplus(work: Work, name: str) -> None:
    """One ratio for every part; kohya can have two."""
    ratio = work.number(name)
    if not ratio:
        work.idle(name, "off")
        return
    known = work.values.get("optim.loraplus_ratio")
    if known not in (None, ratio):
        work.unsupported(name, f"one ratio holds for every part: {known:g}")
    elif name == f"{ARGS}loraplus_lr_ratio":
        work.taken(name, "optim.loraplus_ratio", ratio)
    else:
        work.translated(name, "optim.loraplus_ratio", ratio, "one ratio holds for every part")


def _dropout(work: Work, algorithm: str) -> None:
    value = work.number("network_dropout")
    if "network.dropout" in work.values:
        work.row("network_dropout", "no effect", (), "dropout in network_args wins")
    elif value and _knows(algorithm, "dropout") is None:
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
    for key in ("rank", "alpha", "conv_rank", "conv_alpha"):
        work.values.pop(f"network.{key}", None)
    note = "the network file's is taken"
    for name, row in list(work.rows.items()):
        if row.settings in (("network.rank",), ("network.alpha",), ("network.conv_alpha",)):
            del work.rows[name]
            work.translated(name, "network.weights", weights, note)
    work.extra = [
        row for row in work.extra if row.settings not in (("network.rank",), ("network.alpha",))
    ]
    if from_file is not None:
        work.idle("dim_from_weights", "rank and alpha always come from the file")


__all__ = ["TRUE", "literal", "network"]
