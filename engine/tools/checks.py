"""What stands against a tool's request, told from paths and headers alone. No torch.

A screen may call these while the user types; the tools call them before they begin.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from engine.errors import EnvironmentFault, Problem, UsageError
from engine.tools.requests import (
    EXTRACT_RULES,
    RESIZE_RULES,
    ConvertRequest,
    ExtractRequest,
    JoinRequest,
    MergeRequest,
    RankRule,
    ResizeRequest,
    RuleKind,
)

Request = ConvertRequest | MergeRequest | JoinRequest | ExtractRequest | ResizeRequest
FRACTIONS = frozenset({"ratio", "quantile", "error", "sv_fro", "sv_cumulative"})
LARGEST_RANK = 16384
LARGEST_STRENGTH = 1e4


def problems_of(request: Request) -> tuple[Problem, ...]:
    """Everything that paths and numbers tell to be wrong; empty where the tool may begin."""
    return tuple(_paths(request)) + tuple(_numbers(request))


def check(request: Request) -> None:
    """Raises UsageError, or EnvironmentFault where it is only the paths, with all problems."""
    paths, numbers = tuple(_paths(request)), tuple(_numbers(request))
    if numbers:
        raise UsageError(*numbers, *paths)
    if paths:
        raise EnvironmentFault(*paths)


def taken_problem(path: Path) -> Problem:
    """That a file of the output's name is there."""
    return Problem(
        "There is a file of this name.",
        where=str(path),
        remedy="Choose another name, or use --force to replace it.",
        path="output",
    )


def _paths(request: Request) -> Iterable[Problem]:
    yield from _output(request.output, force=request.force)
    for name, path in _inputs(request):
        yield from _input(name, path)


def _inputs(request: Request) -> Iterable[tuple[str, Path]]:
    if isinstance(request, ConvertRequest | ResizeRequest):
        yield "source", request.source
    if isinstance(request, MergeRequest | JoinRequest):
        for network in request.networks:
            yield "networks", network.path
    if not isinstance(request, ResizeRequest) and request.base is not None:
        yield "base", request.base
    if isinstance(request, ExtractRequest):
        yield "tuned", request.tuned


def _input(name: str, path: Path) -> Iterable[Problem]:
    if path.is_dir():
        remedy = "Give a single .safetensors file."
        yield Problem("This is a folder.", where=str(path), remedy=remedy, path=name)
    elif not path.is_file():
        yield Problem("There is no such file.", where=str(path), path=name)
    elif path.suffix.lower() != ".safetensors":
        yield Problem(
            "The tools read .safetensors files only.",
            where=str(path),
            remedy="Convert the file to .safetensors first.",
            path=name,
        )


def _output(path: Path, *, force: bool) -> Iterable[Problem]:
    if path.is_dir():
        remedy = "Give the name of a file in it."
        yield Problem("This is a folder.", where=str(path), remedy=remedy, path="output")
    elif path.suffix.lower() != ".safetensors":
        remedy = f"Call it {path.name}.safetensors."
        yield Problem(
            "The tools write .safetensors files.", where=str(path), remedy=remedy, path="output"
        )
    elif path.exists() and not force:
        yield taken_problem(path)
    elif any(parent.exists() and not parent.is_dir() for parent in path.parents):
        yield Problem("Its folder is a file.", where=str(path.parent), path="output")


def _numbers(request: Request) -> Iterable[Problem]:
    if isinstance(request, MergeRequest | JoinRequest):
        yield from _strengths(request)
    if isinstance(request, ConvertRequest) and request.to == "diff" and request.rule is not None:
        yield Problem("A whole difference has no rank.", path="rule", remedy="Leave the rank out.")
    if isinstance(request, ConvertRequest) and request.to == "diff" and request.program is not None:
        yield from _diff_for(request.program)
    if isinstance(request, ExtractRequest):
        yield from rule_problems(request.rule, EXTRACT_RULES, "rule")
        if request.conv_rule is not None:
            yield from rule_problems(request.conv_rule, EXTRACT_RULES, "conv_rule", least=0)
        if not (request.unet or request.text):
            yield Problem("Neither the U-Net nor the text encoder is to be compared.", path="unet")
    elif isinstance(request, ResizeRequest):
        yield from rule_problems(request.rule, RESIZE_RULES, "rule")
        if request.conv_rule is not None:
            yield from rule_problems(request.conv_rule, RESIZE_RULES, "conv_rule")
    elif not isinstance(request, MergeRequest) and request.rule is not None:
        yield from rule_problems(request.rule, (*EXTRACT_RULES, *RESIZE_RULES), "rule")


def _diff_for(program: str) -> Iterable[Problem]:
    if program == "diffusers":
        yield Problem(
            "diffusers loads no whole differences.",
            path="to",
            remedy="Leave --to out: what is no LoRA becomes one.",
        )


def _strengths(request: MergeRequest | JoinRequest) -> Iterable[Problem]:
    if not request.networks:
        yield Problem("No network is given.", path="networks", remedy="Give at least one file.")
    for network in request.networks:
        if not abs(network.strength) <= LARGEST_STRENGTH:
            yield Problem(
                f"The strength cannot be {network.strength:g}.",
                where=str(network.path),
                path="networks",
            )


def rule_problems(
    rule: RankRule, allowed: Iterable[RuleKind], path: str, *, least: int = 1
) -> Iterable[Problem]:
    """What is wrong with a rank rule."""
    allowed = tuple(dict.fromkeys(allowed))
    if rule.kind not in allowed:
        remedy = f"Known here: {', '.join(allowed)}."
        yield Problem(f"There is no rank rule {rule.kind} here.", path=path, remedy=remedy)
    elif rule.kind == "fixed":
        if rule.value != int(rule.value) or not least <= rule.value <= LARGEST_RANK:
            remedy = f"Give a whole number from {least} to {LARGEST_RANK}."
            yield Problem(f"The rank cannot be {rule.value:g}.", path=path, remedy=remedy)
    elif rule.kind in FRACTIONS and not 0 < rule.value < 1:
        remedy = "Give a number between 0 and 1."
        yield Problem(f"{rule.kind} cannot be {rule.value:g}.", path=path, remedy=remedy)
    elif rule.kind == "sv_ratio" and not rule.value > 1:
        remedy = "Give a number above 1."
        yield Problem(f"sv_ratio cannot be {rule.value:g}.", path=path, remedy=remedy)
    elif rule.kind == "threshold" and not 0 <= rule.value < float("inf"):
        yield Problem(f"threshold cannot be {rule.value:g}.", path=path)
    if rule.limit is not None and not 1 <= rule.limit <= LARGEST_RANK:
        yield Problem(f"The largest rank cannot be {rule.limit}.", path=path)
