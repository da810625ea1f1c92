"""Flags of their own for the settings asked most; every setting has `--set section.key=value`.

The table repeats what the declarations say, so that `--help` needs no pydantic; a test compares both.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag and the setting it sets; its text is read as `--set` reads it."""

    name: str
    path: str
    help: str
    metavar: str


FLAGS = (
    Flag("--model", "model.path", "Base model", "FILE"),
    Flag("--data", "data.folder", "Pictures", "DIR"),
    Flag("--trigger", "data.trigger", "Trigger", "WORD"),
    Flag("--class", "data.class_word", "Class", "WORD"),
    Flag("--repeats", "data.repeats", "Repeats", "N"),
    Flag("--resolution", "data.resolution", "Resolution: 512, or 512,768", "W[,H]"),
    Flag("--targets", "network.targets", "Layers", "PRESET"),
    Flag("--algorithm", "network.algorithm", "Algorithm", "NAME"),
    Flag("--rank", "network.rank", "Rank", "N"),
    Flag("--alpha", "network.alpha", "Alpha", "X"),
    Flag("--optimizer", "optim.optimizer", "Optimizer", "NAME"),
    Flag("--lr", "optim.lr", "Learning rate", "X"),
    Flag("--epochs", "train.epochs", "Epochs", "N"),
    Flag("--batch-size", "train.batch_size", "Batch size", "N"),
    Flag("--device", "train.device", "Device: auto, cpu, a number, a UUID", "NAME"),
    Flag("--seed", "train.seed", "Seed", "N"),
    Flag("--name", "run.name", "Name", "NAME"),
)
PANEL = "Settings"


@dataclass(frozen=True, slots=True)
class Asked:
    """Settings given on the command line, as text."""

    flags: dict[str, str] = field(default_factory=dict)
    """By dotted path."""
    sets: tuple[str, ...] = ()
    """`section.key=value`, as typed."""

    def __bool__(self) -> bool:
        return bool(self.flags or self.sets)


def settings_flags(verb: Callable[..., None]) -> Callable[..., None]:
    """Give a verb every settings flag and `--set`; it receives them as its parameter `asked`."""
    own = inspect.signature(verb, eval_str=True)
    parameters = [item for name, item in own.parameters.items() if name != "asked"]
    parameters += [_parameter(flag) for flag in FLAGS]
    parameters.append(_set_parameter())

    @functools.wraps(verb)
    def wrapped(**values: Any) -> None:
        flags = {}
        for flag in FLAGS:
            given = values.pop(_variable(flag))
            if given is not None:
                flags[flag.path] = given
        sets = tuple(values.pop("set_") or ())
        verb(**values, asked=Asked(flags, sets))

    wrapped.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {item.name: item.annotation for item in parameters}
    return wrapped


def _variable(flag: Flag) -> str:
    return flag.path.replace(".", "_")


def _parameter(flag: Flag) -> inspect.Parameter:
    option = typer.Option(
        flag.name,
        help=f"{flag.help} ({flag.path})",
        metavar=flag.metavar,
        rich_help_panel=PANEL,
        show_default=False,
    )
    return inspect.Parameter(
        _variable(flag),
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[str | None, option],
    )


def _set_parameter() -> inspect.Parameter:
    option = typer.Option(
        "--set",
        help="Any setting: --set optim.lr=2e-4 (may be repeated; `lyctui explain` lists all)",
        metavar="KEY=VALUE",
        rich_help_panel=PANEL,
        show_default=False,
    )
    return inspect.Parameter(
        "set_",
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[list[str] | None, option],
    )
