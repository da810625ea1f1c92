"""What the file tools are asked, and what they answer. Plain values; no torch.

A screen makes a request, checks it (`engine.tools.checks`) while the user types, and runs the tool in a
thread of its own:

    from engine.tools.convert import convert   # torch comes with this import
    report = convert(ConvertRequest(source, output, program="comfyui"), progress)

The tools: convert.convert, merge.merge, join.join, extract.extract, resize.resize. Each writes one file,
whole or not at all, and raises an EngineError in words where it cannot.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

Precision = Literal["keep", "fp32", "fp16", "bf16"]
"""Number format of the weights that are written; "keep" is that of the input."""
Program = Literal["comfyui", "a1111", "forge", "diffusers", "lycoris"]
Names = Literal["keep", "kohya", "diffusers", "sgm", "peft"]
"""Spelling of the module names: as they are; as the family is usually written; kohya's with diffusers'
blocks; kohya's with the blocks of the original U-Net; the dotted paths of PEFT."""
Form = Literal["keep", "lora", "diff"]
GloraLayout = Literal["new", "old"]
RuleKind = Literal[
    "fixed", "threshold", "ratio", "quantile", "error", "sv_ratio", "sv_fro", "sv_cumulative"
]

PRECISIONS: tuple[Precision, ...] = ("keep", "fp32", "fp16", "bf16")
PROGRAMS: tuple[Program, ...] = ("comfyui", "a1111", "forge", "diffusers", "lycoris")
NAMES: tuple[Names, ...] = ("keep", "kohya", "diffusers", "sgm", "peft")
FORMS: tuple[Form, ...] = ("keep", "lora", "diff")
EXTRACT_RULES: tuple[RuleKind, ...] = ("fixed", "threshold", "ratio", "quantile", "error")
RESIZE_RULES: tuple[RuleKind, ...] = ("fixed", "sv_ratio", "sv_fro", "sv_cumulative", "error")

Progress: TypeAlias = Callable[[int, int, str], None]
"""Called with (done, total, name) before each tensor or module; may raise Cancelled."""


class Cancelled(Exception):
    """Raised by a progress callback to stop a tool; nothing is left behind."""


def silent(done: int, total: int, name: str) -> None:
    """A progress callback that tells nothing."""


@dataclass(frozen=True, slots=True)
class RankRule:
    """How many singular values S of a change are kept.

    fixed          the value itself
    threshold      those above the value
    ratio          those above value * max(S)
    quantile       the first ones, until value * sum(S) is reached
    error          as few as keep the relative error of the change at or below the value
    sv_ratio       those above max(S) / value
    sv_fro         as few as keep value * |S|
    sv_cumulative  as few as keep value * sum(S)
    """

    kind: RuleKind
    value: float
    limit: int | None = None
    """Never more than this many."""


@dataclass(frozen=True, slots=True)
class Weighted:
    """A network file and its strength."""

    path: Path
    strength: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertRequest:
    """One network file in another form."""

    source: Path
    output: Path
    program: Program | None = None
    """Write what this program loads; chooses form, layout and names."""
    to: Form = "keep"
    """"lora" or "diff" for every module; "keep" leaves the algorithm, as far as `program` allows."""
    names: Names = "keep"
    glora: GloraLayout | None = None
    rule: RankRule | None = None
    """For all that becomes a LoRA; None keeps what is exact, else at most rank 64."""
    base: Path | None = None
    """The base model, for forms that cannot be told without it."""
    precision: Precision = "keep"
    force: bool = False
    """Whether a file that is there may be replaced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeRequest:
    """Networks into a checkpoint: W + sum of strength * change, in fp32, cast once."""

    base: Path
    networks: tuple[Weighted, ...]
    output: Path
    precision: Precision = "keep"
    force: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinRequest:
    """Networks into one network."""

    networks: tuple[Weighted, ...]
    output: Path
    to: Form = "keep"
    """"keep" puts the ranks of LoRAs side by side, which is exact, and makes a LoRA of the rest."""
    rule: RankRule | None = None
    base: Path | None = None
    precision: Precision = "keep"
    force: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractRequest:
    """The difference of two checkpoints as a network."""

    base: Path
    tuned: Path
    output: Path
    rule: RankRule = RankRule("fixed", 32)
    conv_rule: RankRule | None = None
    """For convolutions beyond one pixel; None is `rule`. A fixed rank of 0 leaves them out."""
    diff: bool = False
    """Write whole differences instead of a LoRA."""
    norms: bool = False
    """Write the differences of norm layers too."""
    unet: bool = True
    text: bool = True
    precision: Precision = "fp16"
    force: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ResizeRequest:
    """A LoRA or LoKr with other ranks."""

    source: Path
    output: Path
    rule: RankRule
    conv_rule: RankRule | None = None
    precision: Precision = "keep"
    force: bool = False


@dataclass(frozen=True, slots=True)
class ModuleReport:
    """What became of one module."""

    name: str
    """As it is written; of a merge the layer's name."""
    algorithm: str
    """What it is now: lora, lokr, full, norm."""
    rank: int | None = None
    error: float = 0.0
    """|written - exact| / |exact| of its change, rounding included; 0 where tensors were copied."""


@dataclass(frozen=True, slots=True)
class ToolReport:
    """What a tool has written."""

    tool: str
    output: Path
    bytes: int
    precision: str
    """Number format of the weights: fp16; "mixed" where there are several."""
    modules: tuple[ModuleReport, ...]
    error: float
    """|written - exact| / |exact| over all changes together; 0 where all is exact."""
    skipped: tuple[str, ...] = ()
    """What was left out, by name and with the reason."""
    notes: tuple[str, ...] = ()
    """What the user should know about the file."""

    @property
    def worst(self) -> ModuleReport | None:
        """The module with the largest error, or None where all are exact."""
        found = max(self.modules, key=lambda module: module.error, default=None)
        return found if found is not None and found.error > 0 else None

    @property
    def ranks(self) -> dict[int, int]:
        """Rank to number of modules, ascending."""
        ranks = sorted(module.rank for module in self.modules if module.rank is not None)
        return {rank: ranks.count(rank) for rank in dict.fromkeys(ranks)}

    def to_dict(self) -> dict[str, Any]:
        """As JSON shows it."""
        worst = self.worst
        return {
            "tool": self.tool,
            "output": str(self.output),
            "bytes": self.bytes,
            "precision": self.precision,
            "error": self.error,
            "worst": None if worst is None else {"name": worst.name, "error": worst.error},
            "ranks": {str(rank): count for rank, count in self.ranks.items()},
            "modules": [asdict(module) for module in self.modules],
            "skipped": list(self.skipped),
            "notes": list(self.notes),
        }
