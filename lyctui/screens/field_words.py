"""What a page of the wizard says of one setting: beside its field, and where it is explained."""

from __future__ import annotations

from lyctui.fields import FormField, shown_value, suggestion, to_text
from lyctui.widgets.setting_field import Look
from lyctui.wizard import Wizard

MORE = " F1: more."
IDLE_ON: dict[str, tuple[tuple[str, ...], str]] = {
    "optim.te2_lr": (("sd1", "sd2"), "only SDXL has it"),
    "model.clip_skip": (("sdxl",), "not on SDXL"),
}
"""Settings that do nothing on bases of some families, and why."""


def field_look(wizard: Wizard, form: FormField) -> Look:
    """How one field stands: what was typed, what is recommended and why, what is wrong."""
    path = form.path
    value, origin = wizard.recommended(path)
    mine = path in wizard.draft.answers
    chosen = wizard.draft.answers.get(path)
    recommended = to_text(form, value)
    typed = to_text(form, chosen) if mine else ""
    differs = mine and bool(recommended) and typed != recommended
    problem = wizard.problem_at(path)
    idle = why_idle(wizard, path)
    note = f"no effect: {idle}" if idle else suggestion(form, chosen, value, differs=differs)
    if not note and not mine and origin.source != "default":
        note = f"{origin.source} {origin.reason}" if origin.source == "preset" else origin.reason
    elif not note and not mine:
        note = origin.reason or ("" if value is not None else form.blank)
    return Look(
        text=typed,
        recommended=recommended,
        note=note,
        changed=differs,
        problem=f"{problem.what} {problem.remedy}".strip() if problem else "",
    )


def why_idle(wizard: Wizard, path: str) -> str:
    """Why a setting does nothing beside the present answers; empty where it does something."""
    from engine.settings.idle import idle_reason

    family = None if wizard.model is None else wizard.model.family
    if path in IDLE_ON and family in IDLE_ON[path][0]:
        return IDLE_ON[path][1]
    return idle_reason(wizard.plan.recipe, path) if wizard.plan is not None else ""


def short_help(wizard: Wizard, form: FormField) -> str:
    """Two or three sentences."""
    value, origin = wizard.recommended(form.path)
    parts = [f"{form.label}: {form.help}"]
    idle = why_idle(wizard, form.path)
    if idle:
        parts.append(f"It has no effect now: {idle}.")
    if form.range:
        parts.append(f"It may be {form.range}.")
    if value is not None and origin.source != "you" and origin.reason:
        why = origin.reason if origin.source != "preset" else f"preset {origin.reason}"
        parts.append(f"Recommended: {shown_value(form, value)}{f' ({why})' if why else ''}.")
    return " ".join(parts) + MORE


def full_help(wizard: Wizard, form: FormField) -> str:
    """The guide text of a setting with this run's numbers, below its short help."""
    from lyctui.guides import explain, run_numbers

    numbers = run_numbers(wizard.plan) if wizard.plan is not None else {}
    with_guide = explain(form.path, numbers)
    head = short_help(wizard, form).removesuffix(MORE)
    return f"{head}\n\n{with_guide}" if with_guide else head
