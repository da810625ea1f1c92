"""`lyctui check`: every problem of a folder of pictures at once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from engine.data.captions import CaptionRules
from engine.data.findings import Finding, error_of, merged
from engine.data.lengths import cut_captions
from engine.data.names import class_text
from engine.data.survey import Survey, SurveyRules, survey
from engine.errors import Problem, UsageError
from engine.planning.lengths import caption_reader
from lyctui import text
from lyctui.verbs.output import reporting, say, say_json

SIGNS = {"error": "✗", "warning": "!", "note": "·"}
RANK = {"error": 0, "warning": 1, "note": 2}
USUAL_TOKENS = 75
"""What is read of a caption unless a recipe asks for more."""
NAMED = 6
"""How many files a line names; --json names all."""


def check_folder(
    folder: Path, *, reg: Path | None, trigger: str, class_word: str, as_json: bool
) -> int:
    """Say what is in the folder and everything that is odd; 4 where it cannot be trained."""
    with reporting(as_json):
        _require_folder(folder)
        found = survey(
            SurveyRules(
                folder=folder.expanduser(),
                reg_folder=reg.expanduser() if reg is not None else None,
                text=class_text(trigger, class_word),
                reg_text=class_text("", class_word),
                trigger=trigger,
            )
        )
        cut = cut_captions(found.items, CaptionRules(), caption_reader(), USUAL_TOKENS)
        found = replace(found, findings=merged(found.findings, cut))
        findings = sorted(found.findings, key=lambda finding: RANK[finding.level])
        if as_json:
            _say_objects(found, findings)
        else:
            _say_lines(found, findings)
        error = error_of(found.findings)
        return error.exit_code if error is not None else 0


def _require_folder(folder: Path) -> None:
    if folder.expanduser().is_dir():
        return
    what = "This is not a folder." if folder.expanduser().exists() else "There is no such folder."
    remedy = "Give the folder that holds the pictures, or the folder above it."
    raise UsageError(Problem(what, where=str(folder), remedy=remedy))


def _say_objects(found: Survey, findings: list[Finding]) -> None:
    for finding in findings:
        say_json(
            {
                "finding": finding.check,
                "level": finding.level,
                "folder": finding.folder,
                "files": list(finding.files),
                "details": list(finding.details),
                "message": finding.message,
                "remedy": finding.remedy,
                "fix": finding.fix or None,
            }
        )
    say_json({"summary": _summary(found)})


def _summary(found: Survey) -> dict[str, int]:
    levels = found.levels()
    return {
        "errors": levels["error"],
        "warnings": levels["warning"],
        "notes": levels["note"],
        "images": len(found.items),
    }


def _say_lines(found: Survey, findings: list[Finding]) -> None:
    for concept in found.concepts:
        kind = "regularisation, " if concept.is_reg else ""
        census = concept.census
        captions = concept.images - census.none
        words = f"{kind}{text.counted(concept.images, 'picture')} × {concept.repeats}"
        caption = f'{captions} with captions, text "{text.inert(concept.text)}"'
        say(f"{text.inert(concept.name)}  {words}, {caption}")
    for skip in found.skipped:
        say(f"{text.inert(skip.path.name)}  skipped: {text.inert(skip.reason)}")
    for finding in findings:
        say(f"{SIGNS[finding.level]} {text.inert(finding.message)}{_files(finding)}")
        if finding.remedy:
            say(f"  {text.inert(finding.remedy)}")
    counts = _summary(found)
    parts = [text.counted(counts[name + "s"], name) for name in ("error", "warning", "note")]
    say(f"{text.counted(counts['images'], 'usable picture')}; {', '.join(parts)}")


def _files(finding: Finding) -> str:
    details = finding.details or ("",) * len(finding.files)
    names = [
        text.inert(f"{name}: {detail}" if detail else name)
        for name, detail in zip(finding.files, details, strict=True)
    ]
    return f" [{text.inert(finding.folder)}] {text.listed(names, NAMED)}" if names else ""
