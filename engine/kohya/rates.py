"""Learning rates and optimizer."""

from __future__ import annotations

import ast
from typing import Any

from engine.inert import inert
from engine.kohya.given import Work
from engine.kohya.names import OLDER_OPTIMIZERS, OPTIMIZERS
from engine.kohya.report import Row, shown
from engine.settings.optimizers import OPTIMIZERS as KINDS

BY_LOWER = {name.lower(): ours for name, ours in OPTIMIZERS.items()} | OLDER_OPTIMIZERS
LIBRARIES = ("torch.optim.", "bitsandbytes.optim.", "bnb.optim.", "pytorch_optimizer.")
FACTORED = frozenset({"adafactor"})


def rates(work: Work) -> None:
    """Rates of each part. In kohya a part without a rate of its own has the learning rate."""
    lr = work.number("learning_rate")
    if lr is not None:
        work.taken("learning_rate", "optim.lr", lr)
    else:
        lr = 2e-6
        work.default("learning_rate", "optim.lr", lr, differs=not work.has("unet_lr"))
        work.row("learning_rate", "translated", ("optim.lr",), "blank: kohya takes 2e-6")
    unet, te = work.number("unet_lr"), _first_rate(work)
    if unet is not None:
        work.taken("unet_lr", "optim.unet_lr", unet)
    work.row("unet_lr", "no effect", (), "blank: the learning rate")
    work.set("optim.te_lr", lr if te is None else te)
    note = f"blank: {lr:g}" if te is None else ""
    work.row("text_encoder_lr", "taken", ("optim.te_lr",), note)
    if "text_encoder_lr" not in work.given:
        frozen = work.flag("network_train_unet_only") or work.flag("cache_text_encoder_outputs")
        work.default("text_encoder_lr", "optim.te_lr", lr, differs=not frozen)
    _one_part(work)


def _first_rate(work: Work) -> float | None:
    """The text encoders' rate; of several, kohya's LoRA trainers use the first."""
    found = work.given.get("text_encoder_lr")
    if found is None or not isinstance(found.value, (list, tuple)):
        return work.number("text_encoder_lr")
    try:
        every = [float(one) for one in found.value]
    except (TypeError, ValueError):
        work.wrong("text_encoder_lr", "a number")
        return None
    if len(every) > 1:
        note = "the first of several is used, as in kohya; optim.te2_lr sets the second encoder's"
        work.row("text_encoder_lr", "translated", ("optim.te_lr",), note)
    return every[0] if every else None


def _one_part(work: Work) -> None:
    if work.flag("network_train_unet_only"):
        work.translated(
            "network_train_unet_only", "optim.te_lr", 0.0, "text encoders keep a rate of 0"
        )
        _idle_rate(work, "text_encoder_lr", "network_train_unet_only")
    if work.flag("network_train_text_encoder_only"):
        note = "the U-Net keeps a rate of 0"
        work.translated("network_train_text_encoder_only", "optim.unet_lr", 0.0, note)
        _idle_rate(work, "unet_lr", "network_train_text_encoder_only")
    if work.flag("cache_text_encoder_outputs"):
        work.set("optim.te_lr", 0.0)
        work.translated(
            "cache_text_encoder_outputs", "data.cache_text", True,
            "text encoders whose outputs are cached are not trained",
        )  # fmt: skip
        _idle_rate(work, "text_encoder_lr", "cache_text_encoder_outputs")
    for name in ("network_train_unet_only", "network_train_text_encoder_only"):
        work.row(name, "no effect", (), "off")
    stop = work.number("stop_text_encoder_training")
    if stop:
        note = (
            "kohya takes it and ignores it for LoRA, so it stays off:"
            " set optim.te_stop_percent to switch it on"
        )
        work.idle("stop_text_encoder_training", note)
    work.row("stop_text_encoder_training", "no effect", (), "off")


def _idle_rate(work: Work, name: str, switch: str) -> None:
    """The rate of a part that a switch leaves untrained says nothing."""
    if work.has(name):
        work.retell(name, "no effect", (), f"{switch} leaves it untrained")
    paths = {"text_encoder_lr": ("optim.te_lr",), "unet_lr": ("optim.unet_lr",)}[name]
    work.extra = [row for row in work.extra if row.settings != paths or row.status != "default"]


def optimizer(work: Work) -> None:
    """Optimizer and its arguments."""
    name = work.text("optimizer_type")
    if name is None:
        name = "AdamW"
        for switch, meant in (("use_8bit_adam", "AdamW8bit"), ("use_lion_optimizer", "Lion")):
            if work.flag(switch):
                name = meant
                work.row(switch, "translated", ("optim.optimizer",), meant)
        work.default("optimizer_type", "optim.optimizer", "adamw", differs=True)
    ours = BY_LOWER.get(_bare(name))
    if ours is None:
        note = "no such optimizer here; AdamW takes its place, with the same rates"
        work.set("optim.optimizer", "adamw")
        work.unsupported("optimizer_type", note)
        ours = "adamw"
    else:
        same = ours == name.lower()
        status: Any = "taken" if same else "translated"
        work.set("optim.optimizer", ours)
        work.row("optimizer_type", status, ("optim.optimizer",), "" if same else ours)
    arguments(work, ours)


def _bare(name: str) -> str:
    lower = name.strip().lower()
    for library in LIBRARIES:
        if lower not in BY_LOWER:
            lower = lower.removeprefix(library)
    return lower


def arguments(work: Work, optimizer: str) -> None:
    """`name=value` texts: those that are settings become settings, the others go along."""
    kept: list[str] = []
    texts = work.items("optimizer_args")
    last = {text.strip().partition("=")[0]: place for place, text in enumerate(texts)}
    for place, text in enumerate(texts):
        name, equals, value = text.strip().partition("=")
        key = f"optimizer_args: {inert(name, 60)}"
        if not equals:
            work.extra.append(Row(key, "", "unsupported", (), "has no value: name=value"))
            continue
        if last[name] != place:
            again = Row(key, shown("", value), "no effect", (), "given again, which wins")
            work.extra.append(again)
            continue
        settled = _setting(name, value, optimizer)
        if settled is not None:
            path, read = settled
            work.set(path, read)
            work.extra.append(Row(key, shown("", value), "taken", (path,)))
            continue
        theirs = _passed(name, value, optimizer)
        if not _known(theirs, optimizer):
            why = KINDS[optimizer].left_out.get(
                name, f"{KINDS[optimizer].title} has none of that name here"
            )
            work.extra.append(Row(key, shown("", value), "unsupported", (), why))
            continue
        kept += theirs
        note = "" if theirs == [f"{name}={value}"] else ", ".join(theirs)
        status: Any = "translated" if note else "taken"
        work.extra.append(Row(key, shown("", value), status, ("optim.arguments",), note))
    if kept:
        work.set("optim.arguments", kept)
    work.listed("optimizer_args")


def _setting(name: str, value: str, optimizer: str) -> tuple[str, Any] | None:
    """The setting that an argument is, and its value; None where it is none."""
    read = literal(value)
    number = isinstance(read, (int, float)) and not isinstance(read, bool)
    if name == "weight_decay" and number:
        return "optim.weight_decay", read
    if name == "eps" and number:
        return "optim.eps", read
    if name == "d_coef" and number and optimizer == "prodigy":
        return "optim.d_coef", read
    if name == "betas" and isinstance(read, tuple) and len(read) == 2:
        return "optim.betas", list(read)
    return None


def _passed(name: str, value: str, optimizer: str) -> list[str]:
    read = literal(value)
    if name == "eps" and optimizer in FACTORED and isinstance(read, tuple) and len(read) == 2:
        return [f"eps1={read[0]}", f"eps2={read[1]}"]
    return [f"{KINDS[optimizer].translated.get(name, name)}={value}"]


def _known(texts: list[str], optimizer: str) -> bool:
    return all(text.partition("=")[0] in KINDS[optimizer].arguments for text in texts)


def literal(text: str) -> Any:
    """A value as sd-scripts reads it: a Python literal; the text itself where it is none."""
    if len(text) > 200:
        return text
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
