"""Schedule of the learning rate: warmup, decay, cycles and lowest rate."""

from __future__ import annotations

from engine.inert import inert
from engine.kohya.given import Work
from engine.kohya.names import ENDS_LOW
from engine.kohya.report import Row, shown
from engine.settings.schedule import Schedule

SCHEDULERS = (
    "constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts",
    "cosine_with_min_lr", "polynomial", "piecewise_constant", "inverse_sqrt",
    "warmup_stable_decay", "adafactor",
)  # fmt: skip
WARMUPS = ("warmup_percent", "warmup_steps")
OUR_DECAY = Schedule().decay_percent


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
    _ends_low(work, name)
    if name == "constant" and any(work.values.get(f"schedule.{key}") for key in WARMUPS):
        words = "kohya refuses it for constant; here the rate rises first"
        work.extra.append(Row("warmup", "", "translated", ("schedule.scheduler",), words))
    _decay(work, name)


def _rules(work: Work, name: str, own: bool) -> None:
    for text in work.items("lr_scheduler_args"):
        key, _, value = text.partition("=")
        row = f"lr_scheduler_args: {inert(key, 60)}"
        if key == "step_rules" and name == "piecewise_constant":
            work.set("schedule.rules", value)
            work.extra.append(Row(row, shown("", value), "taken", ("schedule.rules",)))
        else:
            note = "belongs to lr_scheduler_type" if own else f"{name} takes no such argument here"
            work.extra.append(Row(row, shown("", value), "unsupported", (), note))
    work.listed("lr_scheduler_args")


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


def _ends_low(work: Work, name: str) -> None:
    """Lowest rate and cycles of the two schedules that end above 0; a missing ratio is 0."""
    if name not in ENDS_LOW:
        return
    ratio, path = "lr_scheduler_min_lr_ratio", "schedule.min_lr_ratio"
    if path not in work.values:
        work.default(ratio, path, 0.0, differs=True)
        work.row(ratio, "translated", (path,), "blank: 0")
        if name == "cosine_with_min_lr":
            note = "kohya refuses the schedule without lr_scheduler_min_lr_ratio; here it ends at 0"
            work.retell("lr_scheduler", "taken", ("schedule.scheduler",), note)
    cycles = work.values.get("schedule.cycles", 1)
    if cycles != 1:
        note = f"kohya bends {name} through {cycles / 2:g} waves; here it falls once"
        work.set("schedule.cycles", 1)
        work.retell("lr_scheduler_num_cycles", "unsupported", (), note)


def _decay(work: Work, name: str) -> None:
    """Decay as a share of the steps. In kohya a missing one is 0: the rate never falls."""
    path, falls = "schedule.decay_percent", name == "warmup_stable_decay"
    decay = work.number("lr_decay_steps")
    if decay is None:
        if falls:
            work.default("lr_decay_steps", path, 0.0, differs=True)
            work.row("lr_decay_steps", "translated", (path,), "blank: 0, the rate never falls")
        return
    # Epochs win over steps, and nobody knows here how many steps they are.
    total = None if work.whole("max_train_epochs") else work.whole("max_train_steps")
    share = decay if decay < 1 else decay / total if total and decay <= total else None
    if share is not None:
        percent = round(share * 100, 10)
        work.translated("lr_decay_steps", path, percent, f"{percent:g} % of the steps")
    elif not falls:
        work.idle("lr_decay_steps", f"{name} has no decay of its own")
    elif total:
        work.unsupported("lr_decay_steps", f"more than the run has; {OUR_DECAY:g} % is taken")
    else:
        note = f"steps of decay need max_train_steps; {OUR_DECAY:g} % is taken"
        work.unsupported("lr_decay_steps", note)
