"""Learning rates, optimizer and schedule."""

from __future__ import annotations

import ast
from typing import Any

from engine.kohya.given import Work
from engine.kohya.names import OLDER_OPTIMIZERS, OPTIMIZERS
from engine.kohya.report import Row, shown
from engine.settings.optimizers import OPTIMIZERS as KINDS

BY_LOWER = {name.lower(): ours for name, ours in OPTIMIZERS.items()} | OLDER_OPTIMIZERS
LIBRARIES = ("torch.optim.", "bitsandbytes.optim.", "bnb.optim.", "pytorch_optimizer.")
SCHEDULERS = (
    "constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts",
    "cosine_with_min_lr", "polynomial", "piecewise_constant", "inverse_sqrt",
    "warmup_stable_decay", "adafactor",
)  # fmt: skip
WARMUPS = ("warmup_percent", "warmup_steps")
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
    work.row("text_encoder_lr", "taken", ("optim.te_lr",), "" if te else f"blank: {lr:g}")
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
    if work.flag("network_train_text_encoder_only"):
        note = "the U-Net keeps a rate of 0"
        work.translated("network_train_text_encoder_only", "optim.unet_lr", 0.0, note)
    if work.flag("cache_text_encoder_outputs"):
        work.set("optim.te_lr", 0.0)
        work.translated(
            "cache_text_encoder_outputs", "data.cache_text", True,
            "text encoders whose outputs are cached are not trained",
        )  # fmt: skip
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
    for text in work.items("optimizer_args"):
        name, equals, value = text.strip().partition("=")
        key = f"optimizer_args: {name}"
        if not equals:
            work.extra.append(Row(key, "", "unsupported", (), "has no value: name=value"))
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
    work.row(
        "optimizer_args", "taken", (), "see each below" if work.has("optimizer_args") else "none"
    )


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


def schedule(work: Work) -> None:
    """Schedule, warmup and decay."""
    name = work.text("lr_scheduler")
    if name is None:
        work.default("lr_scheduler", "schedule.scheduler", "constant", differs=True)
        name = "constant"
    if name in SCHEDULERS:
        work.taken("lr_scheduler", "schedule.scheduler", name)
    else:
        work.set("schedule.scheduler", "cosine")
        work.unsupported("lr_scheduler", "no such schedule here; cosine takes its place")
    own = work.text("lr_scheduler_type")
    if own:
        note = f"own schedules of torch are not loaded; the schedule is {name}"
        work.unsupported("lr_scheduler_type", note)
    _rules(work, name, bool(own))
    _warmup(work)
    if name == "constant" and any(work.values.get(f"schedule.{key}") for key in WARMUPS):
        words = "kohya refuses it for constant; here the rate rises first"
        work.extra.append(Row("warmup", "", "translated", ("schedule.scheduler",), words))
    _decay(work)


def _rules(work: Work, name: str, own: bool) -> None:
    for text in work.items("lr_scheduler_args"):
        key, _, value = text.partition("=")
        row = f"lr_scheduler_args: {key}"
        if key == "step_rules" and name == "piecewise_constant":
            work.set("schedule.rules", value)
            work.extra.append(Row(row, shown("", value), "taken", ("schedule.rules",)))
        else:
            note = "belongs to lr_scheduler_type" if own else f"{name} takes no such argument here"
            work.extra.append(Row(row, shown("", value), "unsupported", (), note))
    work.row(
        "lr_scheduler_args",
        "taken",
        (),
        "see each below" if work.has("lr_scheduler_args") else "none",
    )


def _warmup(work: Work) -> None:
    """Warmup in percent from the GUI; in steps, or as a share below 1, from sd-scripts."""
    path = "schedule.warmup_percent"
    percent = work.number("lr_warmup_percent")
    steps = work.number("lr_warmup_steps")
    if steps is not None and "lr_warmup_steps" in work.given:
        if 0 < steps < 1:
            share = round(steps * 100, 10)
            work.translated("lr_warmup_steps", path, share, f"{share:g} % of the steps")
        elif steps:
            work.set("schedule.warmup_steps", int(steps))
            work.row("lr_warmup_steps", "taken", ("schedule.warmup_steps",))
        else:
            work.translated("lr_warmup_steps", path, 0.0, "no warmup")
        work.row("lr_warmup_percent", "no effect", (), "lr_warmup_steps wins")
    elif percent is not None:
        whole = float(int(percent))
        note = "" if whole == percent else f"the GUI cuts it to {int(percent)}"
        if work.has("dataset_config") and not work.whole("max_train_steps"):
            whole, note = 0.0, "with dataset_config and no max_train_steps the GUI sends no warmup"
        work.set(path, whole)
        work.row("lr_warmup_percent", "translated" if note else "taken", (path,), note)
    else:
        work.default("lr_warmup_steps", path, 0.0, differs="lr_warmup_percent" not in work.given)
        work.row("lr_warmup_percent", "taken", (path,), "none")


def _decay(work: Work) -> None:
    decay = work.number("lr_decay_steps")
    if not decay:
        return
    total = work.whole("max_train_steps")
    share = decay if decay < 1 else decay / total if total and decay <= total else None
    if share is None:
        work.unsupported("lr_decay_steps", "steps of decay need max_train_steps; 20 % is taken")
    else:
        percent = round(share * 100, 10)
        work.translated(
            "lr_decay_steps", "schedule.decay_percent", percent, f"{percent:g} % of the steps"
        )
