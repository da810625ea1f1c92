"""The arguments of kohya's own networks and of LyCORIS, one by one."""

from __future__ import annotations

from typing import Any

from engine.kohya.given import FALSE, Work, nearest
from engine.kohya.names import FULL_DIM, NETWORK_ARGS, OLDER_ARGS
from engine.settings.walk import Setting, setting

ARGS = "network_args."
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


def knows(algorithm: str, key: str) -> Setting | None:
    """The setting as the algorithm has it; None where it has none."""
    row = setting(f"network.{key}", algorithm)
    return row if row is not None and algorithm in row.algorithms else None


def argument(work: Work, name: str, algorithm: str) -> None:
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
        used = work.flag(f"{ARGS}dora_wd") and knows(algorithm, "dora") is not None
        paths, note = (("network.dora",), "") if used else ((), "there are no magnitudes")
        work.row(name, "taken" if used else "no effect", paths, note)
    elif bare == "full_matrix" and algorithm == "lokr":
        if work.flag(name):
            work.translated(name, "network.rank", "full", "both factors whole")
            work.retell("network_dim", "no effect", (), "full_matrix makes both factors whole")
        work.row(name, "no effect", (), "off")
    elif bare == "train_norm":
        _typed(work, name, "train_norm", algorithm)
    elif theirs in NETWORK_ARGS:
        _typed(work, name, NETWORK_ARGS[theirs], algorithm)
    else:
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
    row = knows(algorithm, key)
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
    elif knows(algorithm, "dora") is None:
        work.unsupported(name, f"{algorithm} has no magnitudes here")
    else:
        axis = "input" if output is False else "output"
        note = "" if output is not None else "of the outputs, as LyCORIS 3.2 and later have it"
        work.translated(name, "network.dora", axis, note)


def _loraplus(work: Work, name: str) -> None:
    """One ratio for every part; kohya can have two."""
    ratio = work.number(name)
    if ratio is None:
        work.idle(name, "off")
        return
    if ratio == 0:
        note = "kohya trains the second factors with a rate of 0 then; LoRA+ stays off here"
        work.unsupported(name, note)
        return
    known = work.values.get("optim.loraplus_ratio")
    if known not in (None, ratio):
        work.unsupported(name, f"one ratio holds for every part: {known:g}")
    elif name == f"{ARGS}loraplus_lr_ratio":
        work.taken(name, "optim.loraplus_ratio", ratio)
    else:
        work.translated(name, "optim.loraplus_ratio", ratio, "one ratio holds for every part")
