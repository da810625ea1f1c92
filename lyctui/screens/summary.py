"""The review in words: one line a group of settings, and what the run will cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.settings.network import TITLES, asked
from lyctui import text
from lyctui.fields import number_text
from lyctui.readers import loading_words
from lyctui.report import Line
from lyctui.text import Signs
from lyctui.widgets.menu import Row
from lyctui.wizard import Wizard

if TYPE_CHECKING:
    from engine.plan import Plan
    from engine.settings import Recipe

BAR_CELLS = 30
MOST_NOTICES = 4
WORDS_CELLS = 45
HEAD_CELLS = 15
"""What stands before the words of a line: sign, digit, name."""


def review_rows(wizard: Wizard, width: int) -> list[Row]:
    """Base, data, network, optimizer, batch, length, samples: each with its origin."""
    if wizard.filled is None:
        return [Row(page, page, "not complete yet") for page in ("model", "dataset", "training")]
    recipe = wizard.filled.recipe
    return [
        Row("model/base", "Base", _with(_base(wizard, recipe), "the file")),
        Row("dataset/data", "Data", _with(_data(wizard), "you")),
        Row(
            "network/network",
            "Network",
            _with(_network(recipe), _from(wizard, "network.algorithm", width)),
        ),
        Row(
            "training/optim",
            "Optimizer",
            _with(_optim(recipe), _from(wizard, "optim.optimizer", width)),
        ),
        Row(
            "training/batch",
            "Batch",
            _with(_batch(recipe), _from(wizard, "train.batch_size", width)),
        ),
        Row(
            "training/length",
            "Length",
            _with(_length(wizard, recipe), _from(wizard, "train.epochs", width)),
        ),
        Row(
            "samples/samples",
            "Samples",
            _with(_samples(recipe), _from(wizard, "sample.prompts", width)),
        ),
        Row(
            "samples/name",
            "Name",
            _with(text.inert(recipe.run.name or ""), _from(wizard, "run.name", width)),
        ),
    ]


def _with(words: str, origin: str) -> str:
    return f"{text.pad(words, WORDS_CELLS)}  {text.inert(origin)}"


def _from(wizard: Wizard, path: str, width: int) -> str:
    origin = wizard.origin(path)
    room = width - HEAD_CELLS - WORDS_CELLS
    full = f"preset {origin.reason}" if origin.source == "preset" else origin.reason
    return full if full and text.cells(full) <= room else origin.source


def _base(wizard: Wizard, recipe: Recipe) -> str:
    name = text.inert(recipe.model.path.name) if recipe.model.path else "none"
    model = wizard.model
    if model is None:
        return name
    family = (model.family or "").upper() or "family at load"
    prediction: str = recipe.model.prediction
    if prediction == "auto":
        prediction = f"{model.prediction or 'type at load'}{'?' * model.prediction_assumed}"
    kind = f"{family}, {prediction}"
    return f"{text.fit_middle(name, WORDS_CELLS - text.cells(kind) - 2)}  {kind}"


def _data(wizard: Wizard) -> str:
    survey = wizard.survey
    if survey is None:
        return "reading …"
    reg = f" + {survey.reg_images} reg" if survey.reg_images else ""
    plan = wizard.plan
    buckets = f", {text.counted(len(plan.buckets), 'bucket')}" if plan is not None else ""
    return f"{text.counted(survey.training_images, 'picture')}{reg}{buckets}, {survey.captioned} captioned"


def _network(recipe: Recipe) -> str:
    optim = recipe.optim
    text_parts = {
        (True, True): "text encoders",
        (True, False): "text encoder",
        (False, True): "second text encoder",
    }
    parts = ["U-Net"] if optim.unet_lr else []
    if optim.te_lr or optim.te2_lr:
        parts.append(text_parts[bool(optim.te_lr), bool(optim.te2_lr)])
    where = f"{_layers(recipe)}, {' + '.join(parts) or 'nothing'}"
    whole = f"{_size(recipe)}, {where}"
    short = whole.replace("text encoder", "TE")
    return whole if text.cells(whole) <= WORDS_CELLS else short


def _size(recipe: Recipe) -> str:
    """ "LoRA 32/16", "LoKr full, factor 8", "LoHa 16/8, DoRA input, norms"."""
    network = recipe.network
    rank, alpha = asked(network, "rank"), asked(network, "alpha")
    words = TITLES[network.algorithm]
    if rank is not None:
        words += f" {rank}"
    if alpha is not None and isinstance(rank, int):
        words += f"/{number_text(alpha)}"
    more = []
    if asked(network, "factor") is not None:
        more.append(f"factor {asked(network, 'factor')}")
    if asked(network, "dora", "off") != "off":
        more.append(f"DoRA {asked(network, 'dora')}")
    if network.train_norm:
        more.append("norms")
    return ", ".join([words, *more])


def _layers(recipe: Recipe) -> str:
    own = recipe.network.targets_file
    return text.fit_middle(own.name, 16) if own is not None else recipe.network.targets


def _optim(recipe: Recipe) -> str:
    optim, schedule = recipe.optim, recipe.schedule
    rates = f"LR {_rate(optim.unet_lr)}, TE {_rate(optim.te_lr)}"
    if optim.te2_lr is not None and optim.te2_lr != optim.te_lr:
        rates += f"/{_rate(optim.te2_lr)}"
    whole = f"{optim.optimizer}, {rates}, {schedule.scheduler}"
    warmup = f", {number_text(schedule.warmup_percent)} % warmup" if schedule.warmup_percent else ""
    return whole + warmup if text.cells(whole + warmup) <= WORDS_CELLS else whole


def _rate(value: float | None) -> str:
    return number_text(float(f"{value or 0:.3g}"))


def _batch(recipe: Recipe) -> str:
    train = recipe.train
    precision = "fp32" if train.precision == "no" else str(train.precision)
    ckpt = "on" if train.checkpointing else "off"
    width, height = recipe.data.resolution or (0, 0)
    return f"{train.batch_size}, {width}x{height} px, {precision}, checkpointing {ckpt}"


def _length(wizard: Wizard, recipe: Recipe) -> str:
    steps = f", {text.counted(wizard.plan.steps, 'step')}" if wizard.plan is not None else ""
    every = recipe.save.every_epochs
    saved = f", saved every {text.counted(every, 'epoch')}" if every > 1 else ", saved every epoch"
    return f"{text.counted(recipe.train.epochs, 'epoch')}{steps}{saved if every else ', saved at the end'}"


def _samples(recipe: Recipe) -> str:
    prompts = recipe.sample.prompts
    if not prompts:
        return "none"
    return f"{text.counted(len(prompts), 'prompt')}: {text.fit(text.inert(prompts[0]), 30)}"


# what it costs ------------------------------------------------------------------------------


def cost_lines(wizard: Wizard, signs: Signs, width: int) -> list[Line]:
    """Memory, time, disk, readers, files, command, notices."""
    plan = wizard.plan
    if plan is None:
        return [((wizard.looking_at or "The plan is being made …", "dim"),)]
    lines = [
        *_memory(plan, signs, width),
        *_time_and_disk(plan),
        *_loads_in(plan, width),
        *_files(plan),
    ]
    if wizard.looking_at:
        lines.append((("  " + wizard.looking_at, "dim"),))
    for notice in plan.notices[:MOST_NOTICES]:
        first, *rest = text.wrap(text.inert(notice), width)
        lines.append(((f"{signs.warning} ", "warning"), (first, "")))
        lines += [(("  " + line, ""),) for line in rest]
    return lines


def _memory(plan: Plan, signs: Signs, width: int) -> list[Line]:
    memory, free = plan.memory, plan.sizes.memory_free
    share = min(1.0, memory.total / free) if free else 1.0
    role = "error" if memory.total > free else "accent"
    words = f"{memory.low / 2**30:.1f} to {memory.high / 2**30:.1f} GiB of {free / 2**30:.1f} free (estimate)  "
    cells = max(4, min(BAR_CELLS, width - text.cells(words) - 8))
    full = round(cells * share)
    parts = " · ".join(
        f"{name} {size / 2**30:.1f}" for name, size in memory.parts.items() if size >= 5e7
    )
    return [
        (
            ("  Memory  ", "dim"),
            (words, ""),
            (signs.full * full, role),
            (signs.empty * (cells - full), "empty"),
        ),
        ((f"          {parts}", "dim"),),
    ]


def _time_and_disk(plan: Plan) -> list[Line]:
    from engine.hardware import disk_free

    time = text.span(*plan.seconds) if plan.seconds else "known after the first five steps"
    line: tuple[tuple[str, str], ...] = (("  Time    ", "dim"), (time, ""))
    folder = plan.recipe.run.folder
    if folder is not None:
        free = text.filesize(disk_free(folder))
        line = (
            *line,
            ("   Disk  ", "dim"),
            (f"{text.filesize(plan.sizes.disk_bytes)} of {free}", ""),
        )
    return [line]


def _loads_in(plan: Plan, width: int) -> list[Line]:
    first, *rest = text.wrap(loading_words(plan.sizes.network.readers), width - 11)
    return [
        (("  Loads in ", "dim"), (first, "")),
        *(((f"{'':11}{line}", ""),) for line in rest),
    ]


def _files(plan: Plan) -> list[Line]:
    recipe = plan.recipe
    if recipe.run.folder is None:
        return []
    name = recipe.run.name or "run"
    place = recipe.run.folder / name
    size = "" if plan.sizes.file_bytes is None else f" ({text.filesize(plan.sizes.file_bytes)})"
    more = f" + {plan.sizes.files - 1}" if plan.sizes.files > 1 else ""
    shown = f"{text.fit_middle(text.home(place), 34)}/  {text.inert(name)}.safetensors{size}{more}"
    recipe_path = text.home(place / "run.toml")
    return [
        (("  Files   ", "dim"), (shown, "")),
        (("  The same from the command line:  ", "dim"),),
        ((f"    lyctui train {recipe_path}", ""),),
    ]
