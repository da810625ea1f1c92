"""The pictures: folder, trigger and class, what was found in them, and what they come to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

from textual.widget import Widget

from engine.errors import Problem
from lyctui import text
from lyctui.report import Line, folded
from lyctui.screens.model import bring_lines
from lyctui.screens.page import WizardPage
from lyctui.widgets.lines import Lines

if TYPE_CHECKING:
    from engine.data.findings import Finding
    from engine.data.survey import Concept

PERSON_WORDS = frozenset(
    ["person", "people", "man", "woman", "boy", "girl", "child", "actor", "actress", "singer"]
)
CONSENT = (
    "If this is a living person or a living artist's work: ask them first, and look at what the "
    "licence of the base model allows. (Said once.)"
)
MOST_FINDINGS = 12
MOST_CONCEPTS = 8


class DatasetPage(WizardPage):
    """Folder, names and findings; the arithmetic below follows every key."""

    page: ClassVar[str] = "dataset"
    INTRODUCTION: ClassVar[str] = (
        "A folder of pictures, or a folder of folders named like 10_trigger class. "
        "Guide 001: 15 to 50 pictures are the useful range for a subject, 50 to 200 for a style; "
        "quality before number, with varied poses and backgrounds."
    )

    def tail(self) -> Iterable[Widget]:
        """The report."""
        yield Lines(id="becomes")
        yield Lines(id="report")

    def on_mount(self) -> None:
        """The line on consent is shown on the first visit only."""
        self.consent = not self.wizard.draft.consent_shown and self._about_people()
        if self.consent:
            self.wizard.draft.consent_shown = True
        super().on_mount()

    def _about_people(self) -> bool:
        draft = self.wizard.draft
        words = {
            str(draft.value("data.class_word") or "").lower(),
            *draft.preset.lower().split("-"),
        }
        return bool(words & (PERSON_WORDS | {"style", "photographs", "photos"}))

    def must_wait(self) -> bool:
        """The folder is listed before the next page; decoding goes on meanwhile."""
        return self.wizard.reading_pictures

    def told_already(self, problem: Problem) -> bool:
        """What is wrong with the pictures stands in the report."""
        return not problem.path and bool(self.wizard.draft.value("data.folder"))

    # showing ------------------------------------------------------------------------------

    def show_page(self) -> None:
        """What the names make, and what was found."""
        self.query_one("#becomes", Lines).show(folded(self._becomes(), self._room() + 2))
        self.query_one("#report", Lines).show(self._report())

    def _becomes(self) -> list[Line]:
        from engine.data.folders import folder_name

        wizard = self.wizard
        trigger, class_word = (
            str(wizard.effective(p) or "") for p in ("data.trigger", "data.class_word")
        )
        repeats = wizard.effective("data.repeats") or 0
        survey = wizard.survey
        if survey is not None and survey.layout == "parent":
            return [
                (
                    (
                        "  Folder names give repeats and texts; the fields fill what they leave open.",
                        "dim",
                    ),
                )
            ]
        if not trigger and not class_word:
            return [
                (
                    (
                        "  The trigger is an invented word (vexilo), the class says what it is.",
                        "dim",
                    ),
                )
            ]
        name = text.inert(folder_name(trigger, class_word, int(repeats)))
        lines: list[Line] = [
            (
                ("  Becomes ", "dim"),
                (name, "strong"),
            ),
            ((f"    {_explained(int(repeats), trigger, class_word)}", "dim"),),
        ]
        lines += [
            ((f"{self.host.signs.warning} ", "warning"), (line, ""))
            for line in name_warnings(trigger, class_word)
        ]
        return lines

    def _report(self) -> list[Line]:
        wizard, signs = self.wizard, self.host.signs
        lines: list[Line] = []
        if self.consent:
            lines += [((line, "dim"),) for line in text.wrap(CONSENT, self._room())]
        if not wizard.draft.value("data.folder"):
            return lines + [((line, "dim"),) for line in bring_lines("pictures/", "lyctui/data/")]
        for problem in wizard.survey_problems:
            words = text.wrap(text.inert(f"{problem.what} {problem.remedy}"), self._room())
            lines += _marked(signs.error, "error", words)
        survey = wizard.survey
        if survey is None:
            return lines if lines else [(("reading the folder …", "dim"),)]
        lines += [concept_line(one) for one in survey.concepts[:MOST_CONCEPTS]]
        if len(survey.concepts) > MOST_CONCEPTS:
            lines.append(((f"  … and {len(survey.concepts) - MOST_CONCEPTS} more folders", "dim"),))
        lines += [
            (
                (
                    f"  {text.fit_middle(text.home(one.path), 30)}  skipped: {text.inert(one.reason)}",
                    "dim",
                ),
            )
            for one in survey.skipped[:3]
        ]
        lines += self._decoded()
        for finding in wizard.findings[:MOST_FINDINGS]:
            lines += self._finding(finding)
        lines += self._buckets()
        return lines

    def _decoded(self) -> list[Line]:
        survey, signs = self.wizard.survey, self.host.signs
        assert survey is not None
        count = text.counted(len(survey.items), "picture")
        if not survey.decoded:
            return [
                ((f"{signs.later} ", "dim"), (f"{count} listed; every one is decoded now", "dim"))
            ]
        if any(finding.level == "error" for finding in self.wizard.findings):
            return []
        return [((f"{signs.done} ", "done"), (f"{count}, every one decoded", ""))]

    def _finding(self, finding: Finding) -> list[Line]:
        signs = self.host.signs
        sign, role = {
            "error": (signs.error, "error"),
            "warning": (signs.warning, "warning"),
            "note": (signs.later, "dim"),
        }[finding.level]
        names = text.listed((text.inert(name) for name in finding.files), 2)
        words = f"{text.inert(finding.message)}{f' ({names})' if names else ''}"
        if finding.level != "note" and finding.remedy:
            words += f" {text.inert(finding.remedy)}"
        return _marked(sign, role, text.wrap(words, self._room()))

    def _buckets(self) -> list[Line]:
        plan = self.wizard.plan
        if plan is None or not plan.buckets:
            return []
        rows = sorted(plan.buckets, key=lambda row: -row.images)
        shown = " · ".join(f"{row.width}×{row.height} {row.images}" for row in rows[:5])
        more = f" · {len(rows) - 5} more" if len(rows) > 5 else ""
        return [(("  Buckets ", "dim"), (text.fit(shown + more, self._room() - 8), ""))]

    def _room(self) -> int:
        return max(30, self.query_one("#form").size.width - 5)


def concept_line(concept: Concept) -> Line:
    """One folder: name, pictures, captions."""
    census = concept.census
    captioned = concept.images - census.none
    parts = [f"{text.counted(concept.images, 'picture')} × {concept.repeats}"]
    parts.append(
        "all captioned"
        if captioned == concept.images
        else f"{captioned} captioned, {census.none} without"
    )
    if concept.is_reg:
        parts.insert(0, "regularisation")
    name = text.pad(text.inert(concept.name), 24)
    return (("  ", ""), (name, "strong"), (" " + " · ".join(parts), ""))


def name_warnings(trigger: str, class_word: str) -> list[str]:
    """What is odd about trigger and class."""
    found = []
    if "," in trigger:
        found.append("The trigger holds a comma, so captions read it as two tags.")
    if trigger and trigger.strip().lower() == class_word.strip().lower():
        found.append("Trigger and class are the same word: the base already knows it.")
    if trigger and len(trigger.strip()) < 3:
        found.append(
            "So short a trigger means something to most bases; guide 001 invents a longer word."
        )
    if trigger and not class_word:
        found.append("Without a class word the network must learn what kind of thing it is, too.")
    return found


def _explained(repeats: int, trigger: str, class_word: str) -> str:
    words = text.inert(" ".join(part for part in (trigger, class_word) if part))
    return f"each picture {text.counted(repeats, 'time')} an epoch; without a caption: “{words}”"


def _marked(sign: str, role: str, lines: list[str]) -> list[Line]:
    head: list[Line] = [((f"{sign} ", role), (lines[0], ""))] if lines else []
    return head + [(("  " + line, ""),) for line in lines[1:]]
