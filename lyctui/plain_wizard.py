"""The wizard as numbered questions: the same draft, the same settings, the same engine, no screen.

Every question shows its recommended answer in brackets; Enter takes it. Meant for screen readers,
dumb terminals and scripts that answer on standard input.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from engine.errors import EngineError, Problem
from engine.runs import default_runs_folder, list_runs
from lyctui import text
from lyctui.draft import Draft, list_drafts
from lyctui.fields import MANY_LINES, FieldError, FormField, form_field, from_text, to_text
from lyctui.monitor import LiveRun, RunView, WatchedRun, open_run, reopen_run
from lyctui.plain_talk import Back, More, Quit, Talk
from lyctui.presets import list_presets
from lyctui.recent import recent_models, remember_model
from lyctui.steps import NAMES, page_fields, step
from lyctui.wizard import Wizard

EXIT_INTERRUPT = 130
HELP = (
    "Enter takes the answer in brackets, - empties it. ? explains, < goes one question back, "
    "more asks all settings of a page, quit leaves and keeps the draft."
)


def run_plain(draft: Draft | None = None) -> int:
    """The plain wizard on standard input and output; gives the exit code."""
    return ask_plain(sys.stdin, sys.stdout, draft)


def ask_plain(stdin: TextIO, stdout: TextIO, draft: Draft | None = None) -> int:
    """Ask everything, then train; gives the exit code."""
    talk = Talk(stdin, stdout)
    try:
        run = _answers(talk, draft) if draft is not None else _menu(talk)
    except Quit as leaving:
        return leaving.code
    except KeyboardInterrupt:
        talk.say("\nNothing was started.")
        return EXIT_INTERRUPT
    except EngineError as error:
        for problem in error.problems:
            talk.say(f"Error: {problem}")
        return error.exit_code
    if run is None:
        return 0
    from lyctui.plain_monitor import follow

    return follow(run)


# what to do ---------------------------------------------------------------------------------


def _menu(talk: Talk) -> RunView | None:
    from lyctui.screens.welcome import machine_lines, menu_rows, read_machine, read_shelf

    talk.say("lyctui")
    for line in machine_lines(read_machine()):
        talk.say("".join(part for part, _ in line).strip())
    talk.say()
    rows = menu_rows(read_shelf())
    place = talk.choose("What do you want to do?", [f"{row.title}: {row.note}" for row in rows], 0)
    match rows[place].key:
        case "drafts":
            return _answers(talk, _pick_draft(talk))
        case "resume":
            return _resume(talk)
        case "watch":
            return _watch(talk)
        case "file":
            return _answers(talk, _network_draft(talk))
        case "demo":
            from lyctui.demo.run import open_demo

            return open_demo()
        case _:
            return _answers(talk, Draft())


def _pick_draft(talk: Talk) -> Draft:
    drafts = list_drafts().drafts
    rows = [f"{one.title}, {one.page} page, {text.age(one.saved_at)}" for one in drafts]
    return drafts[talk.choose("Which draft?", rows, 0)]


def _resume(talk: Talk) -> RunView | None:
    from lyctui.screens.resume import EXACT

    runs = [run for run in list_runs(default_runs_folder()) if run.resumable]
    if not runs:
        talk.say("No run can go on; a finished one is trained on with more epochs:")
        talk.say("  lyctui resume NAME --set train.epochs=N")
        return None
    rows = [f"{run.name}: {run.state}, step {run.step} of {run.total_steps}" for run in runs]
    place = talk.choose("Which run goes on?", rows, 0)
    talk.say(f"Exact: {EXACT}.")
    return reopen_run(runs[place].folder)


def _watch(talk: Talk) -> RunView:
    runs = [run for run in list_runs(default_runs_folder()) if run.state == "running"]
    return WatchedRun(runs[talk.choose("Which run?", [run.name for run in runs], 0)].folder)


def _network_draft(talk: Talk) -> Draft:
    from lyctui.fields import text_path
    from lyctui.network_file import draft_from_network, read_network_facts

    while True:
        path = talk.ask("Path of the network file:")
        try:
            facts = read_network_facts(text_path(path))
        except EngineError as error:
            _tell(talk, error.problems)
            continue
        talk.say(f"{facts.words}. Its weights are exact; optimizer, step and order start fresh.")
        return draft_from_network(facts)


# the pages ------------------------------------------------------------------------------------


def _answers(talk: Talk, draft: Draft) -> LiveRun | None:
    wizard = Wizard(draft)
    wizard.begin()
    wizard.settle()
    talk.say(HELP)
    try:
        return _pages(talk, wizard)
    except (Quit, KeyboardInterrupt) as leaving:
        if wizard.draft.answers:
            wizard.draft.save()
            talk.say("Nothing was started. The draft is kept; lyctui offers to continue it.")
        if isinstance(leaving, Quit):
            raise
        return _interrupted()
    finally:
        wizard.close()


def _interrupted() -> LiveRun | None:
    raise Quit(EXIT_INTERRUPT)


def _pages(talk: Talk, wizard: Wizard) -> LiveRun | None:
    page = wizard.draft.page if wizard.draft.page in NAMES else NAMES[0]
    while True:
        wizard.draft.page = page
        if wizard.draft.answers:
            wizard.draft.save()
        try:
            if page == "review":
                choice = _review(talk, wizard)
                if choice in NAMES:
                    page = choice
                    continue
                if choice == "start":
                    return _start(talk, wizard)
                _save(talk, wizard)
                return None
            _page(talk, wizard, page)
            page = NAMES[NAMES.index(page) + 1]
        except Back:
            page = NAMES[max(0, NAMES.index(page) - 1)]


def _page(talk: Talk, wizard: Wizard, page: str) -> None:
    """Ask one page until it is valid."""
    number = NAMES.index(page) + 1
    talk.say(f"\nStep {number} of {len(NAMES)}, {page}: {step(page).question}")
    if page == "goal":
        _goal(talk, wizard)
        return
    if page == "network":
        _algorithm(talk, wizard)
    if page == "model":
        for path in recent_models():
            talk.say(f"  used lately: {text.home(path)}")
    depth = 0
    while True:
        try:
            _fields(talk, wizard, page, depth)
        except More:
            depth = 2
            continue
        wizard.settle()
        _report(talk, wizard, page)
        if page == "model" and depth == 0:
            _prediction(talk, wizard)
        problems = wizard.page_problems(page)
        if not problems:
            return
        _tell(talk, problems)


def _goal(talk: Talk, wizard: Wizard) -> None:
    presets = list_presets()
    names = [preset.name for preset in presets]
    here = names.index(wizard.draft.preset) if wizard.draft.preset in names else 0
    rows = [f"{preset.title}: {preset.for_whom}" for preset in presets] + ["Something else"]
    place = talk.choose("Goal", rows, here)
    if place < len(presets):
        wizard.draft.choose_preset(names[place], presets[place].values)
        talk.say(f"{presets[place].why} {presets[place].differs}".strip())
    else:
        wizard.draft.choose_preset("none", {})
    wizard.update()


def _algorithm(talk: Talk, wizard: Wizard) -> None:
    """The table of algorithms, then the advice for who wants it; then what the choice means."""
    from lyctui.algorithms import algorithm_answers, algorithms, answer
    from lyctui.network_lines import algorithm_rows, chosen_words

    names = algorithms()
    while True:
        wizard.settle()
        rows = [*algorithm_rows(wizard), "Advice: too little or too much learnt, or a wish"]
        place = talk.choose("Algorithm", rows, names.index(wizard.draft.algorithm))
        if place < len(names):
            break
        _advice(talk, wizard)
    if names[place] != wizard.draft.algorithm:
        answer(wizard.draft, algorithm_answers(wizard.draft, names[place]))
        wizard.update()
        wizard.settle()
    for words in chosen_words(wizard):
        talk.say(words)


def _advice(talk: Talk, wizard: Wizard) -> None:
    """What the guides change, by number; what is chosen is taken at once."""
    from lyctui.advice import TOPICS, changes, consequence, outcome_of
    from lyctui.algorithms import answer
    from lyctui.network_numbers import outcome

    topics = list(TOPICS)
    rows = [f"{one.title}: {one.note}" for one in TOPICS.values()]
    try:
        topic = topics[talk.choose("What do you want from the next training?", rows)]
        offered = changes(wizard, topic)
        before = outcome(wizard, wizard.draft) if wizard.hardware is not None else None
        rows = [
            f"{one.title}. {one.reason} {consequence(one, before, outcome_of(wizard, one))}"
            for one in offered
        ]
        place = talk.choose("Which change?", [*rows, "None of them"], len(rows))
    except Back:
        return
    if place < len(offered):
        answer(wizard.draft, offered[place].answers)
        wizard.update()
        talk.say(f"Taken: {offered[place].title}.")


def _fields(talk: Talk, wizard: Wizard, page: str, depth: int) -> None:
    forms = page_fields(page, wizard.draft.algorithm, depth)
    place = 0
    while place < len(forms):
        try:
            _question(talk, wizard, forms[place], f"{place + 1} of {len(forms)}")
            place += 1
        except Back:
            if place == 0:
                raise
            place -= 1


def _prediction(talk: Talk, wizard: Wizard) -> None:
    """Asked only where the file does not tell it."""
    if wizard.model is not None and wizard.model.prediction_assumed:
        _question(talk, wizard, form_field("model.prediction"), "The file does not tell")


def _question(talk: Talk, wizard: Wizard, form: FormField, number: str) -> None:
    while True:
        wizard.settle()
        now = to_text(form, wizard.effective(form.path)).replace("\n", " | ")
        unit = f" in {form.unit}" if form.unit else ""
        choices = (
            f" ({', '.join(value for _, value in form.options() if value)})" if form.picks else ""
        )
        answer = talk.ask(
            f"{number}. {form.label}{unit}{choices} [{now or form.blank or 'empty'}]:"
        )
        match answer.strip():
            case "":
                return
            case "?":
                _explain(talk, wizard, form)
                continue
            case "<":
                raise Back
            case "more":
                raise More
        if form.kind in MANY_LINES:
            answer = answer.replace(" | ", "\n")
        if _take(talk, wizard, form, answer):
            return


def _take(talk: Talk, wizard: Wizard, form: FormField, answer: str) -> bool:
    """Whether an answer holds; what is wrong with it is said."""
    before = wizard.draft.answers.get(form.path)
    try:
        wizard.set(form.path, from_text(form, "" if answer.strip() == "-" else answer))
    except FieldError as error:
        _tell(talk, (error.problem,))
        return False
    problem = wizard.problem_at(form.path)
    if problem is None:
        return True
    _tell(talk, (problem,))
    if before is None:
        wizard.clear(form.path)
    else:
        wizard.set(form.path, before)
    return False


def _explain(talk: Talk, wizard: Wizard, form: FormField) -> None:
    from lyctui.guides import explain, run_numbers

    talk.say(form.help)
    if form.range:
        talk.say(f"It may be {form.range}.")
    _, origin = wizard.recommended(form.path)
    if origin.reason:
        talk.say(f"Recommended because: {origin.reason}.")
    numbers = run_numbers(wizard.plan) if wizard.plan is not None else {}
    talk.say(explain(form.path, numbers))


def _report(talk: Talk, wizard: Wizard, page: str) -> None:
    """What was found on the way."""
    if page == "model" and wizard.model is not None:
        talk.say(
            f"Found: {wizard.model.title}, prediction {wizard.model.prediction or 'not told'} "
            f"({wizard.model.prediction_source})."
        )
    if page == "dataset" and wizard.survey is not None:
        for finding in wizard.findings:
            if finding.level != "error":
                talk.say(f"{finding.level}: {finding.message}")
        if wizard.survey.layout == "none":
            return
    if wizard.plan is not None:
        from engine.plan import arithmetic_line

        talk.say(arithmetic_line(wizard.plan))


def _tell(talk: Talk, problems: Sequence[Problem]) -> None:
    for problem in problems:
        talk.say(f"Error: {problem.what} {problem.remedy}".strip())


# review -------------------------------------------------------------------------------------


def _review(talk: Talk, wizard: Wizard) -> str:
    """ "start", "save" or the page to go back to."""
    from lyctui.screens.summary import cost_lines, review_rows
    from lyctui.text import UNICODE_SIGNS

    wizard.look_again()
    wizard.settle()
    talk.say(f"\nStep {len(NAMES)} of {len(NAMES)}, review")
    for row in review_rows(wizard, 120):
        talk.say(f"{row.title}: {' '.join(row.note.split())}")
    for line in cost_lines(wizard, UNICODE_SIGNS, 100):
        talk.say(
            " ".join("".join(part for part, role in line if role != "empty").split()).replace(
                "█", ""
            )
        )
    open_page = wizard.first_open_page()
    problems = [one for name in NAMES for one in wizard.page_problems(name)]
    if problems:
        _tell(talk, problems)
        return open_page if open_page != "review" else "training"
    rows = [
        "Start training",
        "Save the recipe only",
        *(f"Change the page {name}" for name in NAMES[:-1]),
    ]
    place = talk.choose("What now?", rows)
    return ("start", "save", *NAMES)[place]


def _start(talk: Talk, wizard: Wizard) -> LiveRun:
    wizard.warm_up()
    filled = wizard.filled
    assert filled is not None, "a review without problems has a filled recipe"
    origins = {path: origin.to_dict() for path, origin in filled.origins.items()}
    run = open_run(filled.recipe, origins)
    wizard.draft.delete()
    if filled.recipe.model.path is not None:
        remember_model(Path(filled.recipe.model.path))
    talk.say(f"Training begins. Folder: {run.folder}")
    return run


def _save(talk: Talk, wizard: Wizard) -> None:
    from lyctui.screens.review import write_recipe_file

    path = write_recipe_file(wizard)
    talk.say(f"The recipe is written; nothing was started. Train it: lyctui train {path}")
