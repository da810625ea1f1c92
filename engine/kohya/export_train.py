"""Rates, schedule, length, files and preview pictures as arguments of sd-scripts."""

from __future__ import annotations

import re
from collections.abc import Sequence

from engine.kohya.export import Draft, written_value
from engine.kohya.names import ENDS_LOW, OPTIMIZERS, SAMPLER_ARGS
from engine.prompts import parse_prompt
from engine.settings.optimizers import OPTIMIZERS as KINDS
from engine.settings.walk import number_text

THEIR_OPTIMIZERS = {ours: theirs for theirs, ours in OPTIMIZERS.items()}
BENT = {
    "rex": ("schedule.cycles", "schedule.power"),
    "cosine_with_min_lr": ("schedule.cycles",),
    "warmup_stable_decay": ("schedule.cycles",),
}
"""Settings without effect on a schedule here that would bend the one that kohya gets."""
SAMPLER_FLAG = re.compile(r"(?:^|\s)--ss +(\S+)")
OWN_ARGUMENTS = ("weight_decay", "betas", "eps", "d_coef")


def idle(draft: Draft) -> None:
    """Settings that are left out, since they would change there what they do not change here."""
    draft.elsewhere.update(BENT.get(draft.recipe.schedule.scheduler, ()))


def rates(draft: Draft) -> None:
    """Rates of each part, optimizer and schedule."""
    optim = draft.recipe.optim
    if optim.lr is None:
        draft.differs("optim.lr", "left open here; sd-scripts takes 2e-6")
    else:
        draft.add("learning_rate", optim.lr, paths=("optim.lr",))
    draft.said("optim.unet_lr", "optim.te_lr")
    if optim.unet_lr == 0:
        draft.add("network_train_text_encoder_only")
    elif optim.unet_lr is not None:
        draft.add("unet_lr", optim.unet_lr)
    if optim.te_lr is None:
        draft.differs("optim.te_lr", "left open here; sd-scripts takes the learning rate")
    elif optim.te_lr == 0:
        draft.add("network_train_unet_only")
    else:
        draft.add("text_encoder_lr", optim.te_lr)
    _optimizer(draft)
    _schedule(draft)


def _optimizer(draft: Draft) -> None:
    optim = draft.recipe.optim
    name = optim.optimizer
    if name is None:
        draft.differs("optim.optimizer", "left open here; sd-scripts takes AdamW")
        return
    draft.add("optimizer_type", THEIR_OPTIMIZERS[name], paths=("optim.optimizer",))
    args = _arguments(draft)
    if args:
        draft.add("optimizer_args", *args)


def _arguments(draft: Draft) -> list[str]:
    optim = draft.recipe.optim
    assert optim.optimizer is not None
    kind = KINDS[optim.optimizer]
    args = []
    for key in ("weight_decay", "eps"):
        value = getattr(optim, key)
        if value is not None:
            args.append(f"{key}={number_text(value)}")
        draft.said(f"optim.{key}")
    if optim.betas is not None:
        args.append(f"betas={','.join(number_text(one) for one in optim.betas)}")
    draft.said("optim.betas")
    if optim.d_coef != 1.0 and optim.optimizer == "prodigy":
        args.append(f"d_coef={number_text(optim.d_coef)}")
        draft.said("optim.d_coef")
    theirs = {ours: name for name, ours in kind.translated.items()}
    for text in _joined_eps(optim.arguments, optim.optimizer):
        name, _, value = text.partition("=")
        args.append(f"{theirs.get(name, name)}={value}")
        if (name in OWN_ARGUMENTS or name not in kind.arguments) and text in optim.arguments:
            draft.differs("optim.arguments", f"{name} is read as a setting of its own")
    draft.said("optim.arguments")
    return args


def _joined_eps(texts: Sequence[str], optimizer: str) -> list[str]:
    """kohya's Adafactor takes both epsilons as one pair."""
    given = dict(text.partition("=")[::2] for text in texts)
    if optimizer != "adafactor" or not {"eps1", "eps2"} <= given.keys():
        return list(texts)
    pair = f"eps={given.pop('eps1')},{given.pop('eps2')}"
    return [pair, *(f"{name}={value}" for name, value in given.items())]


def _schedule(draft: Draft) -> None:
    schedule = draft.recipe.schedule
    name: str = schedule.scheduler
    if name == "rex":
        draft.differs("schedule.scheduler", "kohya has no rex; polynomial comes near")
        name = "polynomial"
    draft.add("lr_scheduler", name, paths=("schedule.scheduler",))
    if schedule.warmup_steps is not None:
        draft.add("lr_warmup_steps", schedule.warmup_steps, paths=("schedule.warmup_steps",))
        if schedule.warmup_percent is not None or schedule.warmup_steps == 0:
            draft.elsewhere.update(("schedule.warmup_percent", "schedule.warmup_steps"))
    elif schedule.warmup_percent is None:
        draft.differs("schedule.warmup_percent", "left open here; sd-scripts takes none")
    else:
        _warmup_share(draft, schedule.warmup_percent)
    if name == "constant" and (schedule.warmup_steps or schedule.warmup_percent):
        draft.differs("warmup", "kohya refuses constant with a warmup")
    if schedule.rules and name == "piecewise_constant":
        draft.add("lr_scheduler_args", f"step_rules={schedule.rules}", paths=("schedule.rules",))
    _decay(draft)
    if name in ENDS_LOW:
        # sd-scripts takes 0 where it is missing; every other schedule has none.
        draft.add("lr_scheduler_min_lr_ratio", schedule.min_lr_ratio)
        draft.said("schedule.min_lr_ratio")
    if schedule.warmup_percent or schedule.warmup_steps:
        draft.differs("warmup", "kohya's first step has a rate of 0, ours has 1/warmup of it")


def _warmup_share(draft: Draft, percent: float) -> None:
    if percent >= 100:
        draft.differs("schedule.warmup_percent", "kohya takes shares below 1 alone")
        return
    if percent:
        draft.add("lr_warmup_steps", number_text(round(percent / 100, 12)))
    draft.said("schedule.warmup_percent")


def _decay(draft: Draft) -> None:
    schedule = draft.recipe.schedule
    if schedule.decay_percent != 20.0 or schedule.scheduler == "warmup_stable_decay":
        if schedule.decay_percent >= 100:
            draft.differs("schedule.decay_percent", "kohya takes shares below 1 alone")
            return
        draft.add("lr_decay_steps", number_text(round(schedule.decay_percent / 100, 12)))
        draft.said("schedule.decay_percent")


def length(draft: Draft) -> None:
    """Epochs or steps, precision, attention."""
    train = draft.recipe.train
    if train.max_steps is None:
        draft.add("max_train_epochs", train.epochs, paths=("train.epochs", "train.max_steps"))
    else:
        draft.add("max_train_steps", train.max_steps, paths=("train.max_steps",))
        draft.differs(
            "train.epochs", f"kohya counts steps alone; {train.epochs} epochs end the run here, too"
        )
    draft.said("train.network_precision", "train.attention")
    if train.network_precision != "fp32":
        draft.add(f"full_{train.network_precision}")
    if train.attention == "sdpa":
        draft.add("sdpa")
    elif train.attention == "xformers":
        draft.add("xformers")
        draft.elsewhere.add("train.attention")
    else:
        draft.differs("train.attention", "kohya's plain attention is its own")
        draft.written.discard("train.attention")


def files(draft: Draft) -> None:
    """Names, kinds and number of files, and trackers."""
    save, run = draft.recipe.save, draft.recipe.run
    for name, value, path in (
        ("output_name", run.name, "run.name"),
        ("output_dir", run.folder, "run.folder"),
    ):
        if value is not None:
            draft.add(name, value)
        draft.said(path)
    draft.add("save_model_as", "safetensors")
    precision = "float" if save.precision == "fp32" else save.precision
    draft.add("save_precision", precision, paths=("save.precision",))
    if save.metadata == "minimal":
        draft.add("no_metadata", paths=("save.metadata",))
    if save.keep_last is not None:
        _kept(draft, save.keep_last)
    _trackers(draft)


def _kept(draft: Draft, files: int) -> None:
    save = draft.recipe.save
    if save.every_epochs:
        draft.add("save_last_n_epochs", files, paths=("save.keep_last",))
    if save.every_steps:
        # It keeps the files of so many steps and the one before them.
        steps = (files - 1) * save.every_steps
        draft.add("save_last_n_steps", steps, paths=("save.keep_last",))
    if save.every_epochs and save.every_steps:
        words = f"kohya keeps {files} files of epochs and as many of steps"
        draft.differs("save.keep_last", words)


def _trackers(draft: Draft) -> None:
    run = draft.recipe.run
    names = [name for name in ("tensorboard", "wandb") if getattr(run, name)]
    if names:
        draft.add("log_with", "all" if len(names) == 2 else names[0])
        draft.add("logging_dir", "logs")
    draft.said("run.tensorboard", "run.wandb")
    if run.wandb:
        draft.add("log_tracker_name", run.wandb_project, paths=("run.wandb_project",))


def samples(draft: Draft) -> str:
    """Preview pictures: gives the lines of the prompt file."""
    sample = draft.recipe.sample
    if sample.every_epochs:
        draft.add("sample_every_n_epochs", sample.every_epochs)
    if sample.every_steps and not sample.every_epochs:
        draft.add("sample_every_n_steps", sample.every_steps)
    elif sample.every_steps:
        draft.differs("sample.every_steps", "kohya takes epochs or steps")
    draft.said("sample.every_epochs", "sample.every_steps")
    theirs = SAMPLER_ARGS.get(sample.sampler)
    if theirs is None:
        draft.differs("sample.sampler", "kohya's pictures have no such sampler; ddim is taken")
    elif theirs != "ddim":
        draft.add("sample_sampler", theirs)
    draft.said("sample.sampler")
    draft.elsewhere.update(
        f"sample.{key}"
        for key in ("prompts", "negative", "steps", "guidance", "width", "height", "seed")
    )
    if sample.prompts_file is not None and not sample.prompts:
        draft.add("sample_prompts", sample.prompts_file, paths=("sample.prompts_file",))
    if sample.prompts:
        draft.elsewhere.add("sample.prompts_file")
    lines = [
        _prompt(draft, line)
        for text in sample.prompts
        for line in text.splitlines()
        if line.strip()
    ]
    return "\n".join(lines) + "\n" if lines else ""


def _theirs(draft: Draft, line: str, sampler: str | None) -> str:
    """The line with kohya's name of its sampler; without the flag where kohya has none."""
    if sampler is None:
        return line
    name = SAMPLER_ARGS.get(sampler)
    if name is None:
        words = "kohya has no {}: these pictures take the sampler of the others"
        draft.differs("sample.prompts", words.format(f"--ss {sampler}"))
    return SAMPLER_FLAG.sub(f" --ss {name}" if name else "", line, count=1).strip()


def _prompt(draft: Draft, line: str) -> str:
    """A prompt with every value that kohya would take from elsewhere."""
    sample, found = draft.recipe.sample, parse_prompt(line)[0]
    line = _theirs(draft, line, found.sampler)
    width, height = draft.recipe.data.resolution or (None, None)
    wanted = {
        "w": (found.width, sample.width or width),
        "h": (found.height, sample.height or height),
        "d": (found.seed, sample.seed),
        "s": (found.steps, sample.steps),
        "l": (found.guidance, sample.guidance),
    }
    flags = [
        f"--{letter} {written_value(value)}"
        for letter, (own, value) in wanted.items()
        if own is None and value is not None
    ]
    if found.negative is None and sample.negative:
        flags.append(f"--n {sample.negative}")
    if found.negative is not None:
        # The words after --n reach to the end of the line or the next flag.
        head, mark, tail = line.partition("--n ")
        return " ".join([head.strip(), *flags, mark + tail.strip()])
    return " ".join([line.strip(), *flags])
