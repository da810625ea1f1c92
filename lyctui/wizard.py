"""The wizard between its pages: the draft, what is known of machine, model and pictures, the newest plan.

Looking at files happens in threads; a page hears of news through `listen` and asks for everything
again. Full screen and plain mode stand on the same object. No torch, no screen.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from engine.errors import EngineError, Problem
from engine.planning.disk import disk_at
from engine.planning.facts import Facts, draw_seed
from engine.planning.fill import Filled, fill
from engine.planning.filler import Origin
from lyctui.background import Latest
from lyctui.draft import Checked, Draft
from lyctui.steps import NAMES, page_of
from lyctui.wizard_reads import inspect, names_in, survey_of, whole_survey

if TYPE_CHECKING:
    from engine.data.findings import Finding
    from engine.data.survey import Survey
    from engine.hardware import Hardware
    from engine.models.detect import ModelFacts
    from engine.plan import Plan
    from engine.settings import Recipe

Listener = Callable[[], None]


class Wizard:
    """Everything the pages share. Methods are for the screen's thread; jobs only hand in answers."""

    def __init__(self, draft: Draft | None = None, *, hardware: Hardware | None = None) -> None:
        self.draft = draft or Draft()
        self.hardware = hardware
        self.model: ModelFacts | None = None
        self.model_problems: tuple[Problem, ...] = ()
        self.found_models: tuple[ModelFacts, ...] | None = None
        """Models of the usual folders, once they were looked for."""
        self.survey: Survey | None = None
        self.survey_problems: tuple[Problem, ...] = ()
        self.looked_at: tuple[int, int] = (0, 0)
        """Pictures decoded so far, and how many there are."""
        self.plan: Plan | None = None
        self.plan_problems: tuple[Problem, ...] = ()
        self.filled: Filled | None = None
        self.fill_problems: tuple[Problem, ...] = ()
        self.checked = Checked(None)
        self.unreadable: dict[str, Problem] = {}
        """Fields whose text is no value yet, by path; their last good value stays in the draft."""
        self.taken_names: frozenset[str] = frozenset()
        self.adamw8bit_works: bool | None = None
        """Whether a real 8-bit step worked; tried while the review is open."""
        self._planned_for: Survey | None = None
        self._seed = draw_seed()
        self._listeners: list[Listener] = []
        self._model_key: object = None
        self._data_key: object = None
        self._told_key: object = None
        """What the present survey, or its failure, is an answer to."""
        self._machine: Latest[Any] = Latest("machine", self._machine_read)
        self._model_job: Latest[Any] = Latest("model", self._model_read)
        self._quick_job: Latest[Any] = Latest("pictures", self._quick_read)
        self._full_job: Latest[Any] = Latest("decoding", self._full_read)
        self._plan_job: Latest[Any] = Latest("plan", self._plan_made)
        self._lock = threading.RLock()

    # listening ----------------------------------------------------------------------------

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Be told of news, from any thread; gives the function that ends it."""
        self._listeners.append(listener)

        def stop() -> None:
            with contextlib.suppress(ValueError):
                self._listeners.remove(listener)

        return stop

    def _tell(self) -> None:
        for listener in tuple(self._listeners):
            with contextlib.suppress(Exception):  # A page that has gone must not stop the others.
                listener()

    def close(self) -> None:
        """End the jobs; nothing is told any more."""
        self._listeners.clear()
        for job in self._jobs:
            job.close()

    def settle(self, timeout: float = 30.0) -> bool:
        """Wait until no job runs (plain mode, tests); decoding leads to a plan, so it comes last."""
        return all(job.wait(timeout) for job in self._jobs)

    @property
    def _jobs(self) -> tuple[Latest[Any], ...]:
        return self._machine, self._model_job, self._quick_job, self._full_job, self._plan_job

    @property
    def looking_at(self) -> str:
        """What is being looked at now, in words; empty when all is known."""
        if self._machine.busy and self.hardware is None:
            return "reading the hardware"
        if self._model_job.busy:
            return "reading the model"
        if self._quick_job.busy:
            return "reading the pictures"
        if self._full_job.busy:
            done, total = self.looked_at
            return f"decoding pictures, {done} of {total}" if total else "decoding pictures"
        return ""

    @property
    def reading_model(self) -> bool:
        """Whether nothing is known yet of the model that is named now."""
        return self._model_key is not None and self.model is None and not self.model_problems

    @property
    def reading_pictures(self) -> bool:
        """Whether what was told of the pictures is not of the folder that is named now."""
        return self._data_key is not None and self._told_key != self._data_key

    # answers ------------------------------------------------------------------------------

    def begin(self) -> None:
        """Read the machine and everything that the draft names."""
        if self.hardware is None:
            from engine.hardware import read_hardware

            self._machine.ask(lambda wanted: read_hardware())
        self.update()

    def set(self, path: str, value: Any) -> None:
        """Answer a question."""
        self.unreadable.pop(path, None)
        self.draft.set(path, value)
        self.update()

    def clear(self, path: str) -> None:
        """Take the recommended value again."""
        self.unreadable.pop(path, None)
        self.draft.clear(path)
        self.update()

    def cannot_read(self, path: str, problem: Problem) -> None:
        """Remember that a field's text is no value; the page cannot be left forward with it."""
        self.unreadable[path] = problem

    def update(self) -> None:
        """Check all answers again, fill what is open, and look at files that changed."""
        with self._lock:
            self.checked = self.draft.check()
            recipe = self.checked.recipe
            if recipe is not None:
                self._look_at_model(recipe)
                self._look_at_pictures(recipe)
            self._fill()

    def _fill(self) -> None:
        recipe = self.checked.recipe
        if recipe is None or self.hardware is None:
            return
        facts = self.facts()
        try:
            self.filled = fill(recipe, facts, self._given())
        except EngineError as error:
            self.fill_problems = error.problems
            return
        self.fill_problems = ()
        self._make_plan(self.filled, facts)

    def facts(self) -> Facts:
        """What is known now."""
        assert self.hardware is not None
        return Facts(
            hardware=self.hardware,
            model=self.model,
            survey=self.survey,
            adamw8bit_works=self.adamw8bit_works,
            taken_names=self.taken_names,
            disk_at=disk_at,
            drawn_seed=self._seed,
        )

    def _given(self) -> dict[str, Origin]:
        preset = self.draft.preset
        return {
            path: Origin("you") if self.draft.origin(path) == "you" else Origin("preset", preset)
            for path in self.draft.values()
        }

    def warm_up(self) -> None:
        """Import what training needs, and try one 8-bit step where the optimizer hangs on it.

        Runs in a thread while the review is open; a failure shows when training starts.
        """
        with contextlib.suppress(Exception):
            import torch  # noqa: F401

            filled = self.filled
            if filled is None or filled.device.gpu is None or self._no_cuda():
                return
            if self.adamw8bit_works is None and self.draft.value("optim.optimizer") is None:
                from engine.optim.probe import adamw8bit_works

                self.adamw8bit_works = adamw8bit_works(filled.device.torch_name)[0]
                with self._lock:
                    self._fill()
                self._tell()

    # values for a form ----------------------------------------------------------------------

    def effective(self, path: str) -> Any:
        """The value a run would have now: answered, of the preset, or filled."""
        source = self.filled.recipe if self.filled is not None else self.checked.recipe
        if path in self.draft.answers:
            return self.draft.answers[path]
        return _at(source, path) if source is not None else self.draft.value(path)

    def origin(self, path: str) -> Origin:
        """Where that value comes from, and why."""
        if path in self.draft.answers:
            return Origin("you")
        if self.filled is not None and path in self.filled.origins:
            return self.filled.origins[path]
        if path in self.draft.below:
            return Origin("preset", self.draft.preset)
        return Origin("default")

    def recommended(self, path: str) -> tuple[Any, Origin]:
        """The value without your answer, and where it would come from."""
        if path not in self.draft.answers:
            return self.effective(path), self.origin(path)
        without = Draft(
            preset=self.draft.preset,
            preset_values=self.draft.preset_values,
            answers={key: value for key, value in self.draft.answers.items() if key != path},
        )
        recipe = without.check().recipe
        if recipe is None or self.hardware is None:
            return self.draft.below.get(path), Origin("preset", self.draft.preset)
        given = {key: Origin("preset", self.draft.preset) for key in without.below}
        try:
            filled = fill(recipe, self.facts(), given)
        except EngineError:
            return None, Origin("default")
        return _at(filled.recipe, path), filled.origins.get(path, Origin("default"))

    # problems -------------------------------------------------------------------------------

    def problem_at(self, path: str) -> Problem | None:
        """What is wrong with one setting."""
        if path in self.unreadable:
            return self.unreadable[path]
        every = (*self.checked.problems, *self.fill_problems, *self.plan_problems)
        return next((problem for problem in every if problem.path == path), None)

    def page_problems(self, page: str) -> tuple[Problem, ...]:
        """Everything that keeps a page from being done."""
        found = [problem for path, problem in self.unreadable.items() if page_of(path) == page]
        every = (*self.checked.problems, *self.fill_problems, *self.plan_problems)
        found += [problem for problem in every if problem.path and page_of(problem.path) == page]
        if page == "model":
            found += self._model_missing()
        elif page == "dataset":
            found += self._pictures_missing()
        elif page == "review":
            found += [problem for problem in every if not problem.path]
            found += self._no_cuda()
        return tuple(found)

    def _no_cuda(self) -> list[Problem]:
        """A GPU that the installed torch cannot use is found before the start, not after."""
        build = self.hardware.torch if self.hardware is not None else None
        if self.filled is None or self.filled.device.gpu is None or build is None or build.cuda:
            return []
        name = self.filled.device.gpu.name
        what = f"The installed torch {build.version} is a build without CUDA and cannot use {name}."
        remedy = (
            "Install a CUDA build of torch, or set Device to cpu (training page, all settings)."
        )
        return [Problem(what, remedy=remedy)]

    def _model_missing(self) -> list[Problem]:
        if not self.draft.value("model.path"):
            what = "No base model is chosen."
            remedy = "Choose a checkpoint file from the list, or give its path."
            return [Problem(what, remedy=remedy, path="model.path")]
        return [*self.model_problems, *self._model_contradictions()]

    def _model_contradictions(self) -> list[Problem]:
        """Family and prediction type that are not the file's; VAE and network that do not fit."""
        recipe = self.checked.recipe
        if self.model is None or self.model_problems or recipe is None or self.model.family is None:
            return []
        from engine.models.detect import settle_choice
        from engine.models.vae_facts import vae_problems
        from engine.planning.start import family_problem

        try:
            settle_choice(
                self.model, family=recipe.model.family, prediction=recipe.model.prediction
            )
        except EngineError as error:
            return list(error.problems)
        # The network page tells it too, but it is here that another base is chosen.
        stranger = family_problem(recipe.network.weights, self.model.family)
        problems = [] if stranger is None else [replace(stranger, path="model.path")]
        return [*problems, *vae_problems(recipe.model.vae, self.model)]

    def _pictures_missing(self) -> list[Problem]:
        if not self.draft.value("data.folder"):
            remedy = "Give the folder that holds them, or the folder above it."
            return [Problem("No pictures are chosen.", remedy=remedy, path="data.folder")]
        errors = (one for one in self.findings if one.level == "error")
        return [*self.survey_problems, *(finding.problem() for finding in errors)]

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What was found in the pictures; with a plan also what becomes of them in the buckets."""
        if self.survey is None:
            return ()
        if self.plan is not None and self._planned_for is self.survey:
            return self.plan.findings
        return self.survey.findings

    def first_open_page(self) -> str:
        """The first page that is not done; review when all are."""
        return next((page for page in NAMES[:-1] if self.page_problems(page)), "review")

    def reachable(self, page: str) -> bool:
        """Whether the way to a page is valid."""
        before = NAMES[: NAMES.index(page)]
        return not any(self.page_problems(one) for one in before)

    # jobs -------------------------------------------------------------------------------------

    def _machine_read(self, answer: Hardware | BaseException) -> None:
        if isinstance(answer, BaseException):
            self.fill_problems = _problems(answer, "The hardware could not be read.")
        else:
            self.hardware = answer
        with self._lock:
            self._fill()
        self._tell()

    def _look_at_model(self, recipe: Recipe) -> None:
        path = recipe.model.path
        if path == self._model_key:
            return
        self._model_key = path
        self.model, self.model_problems = None, ()
        if path is not None:
            self._model_job.ask(lambda wanted: inspect(path.expanduser()))

    def look_again(self) -> None:
        """Read model and pictures anew: files may have changed meanwhile."""
        self._model_key = self._data_key = None
        self.update()

    def _model_read(self, answer: ModelFacts | BaseException) -> None:
        with self._lock:
            if isinstance(answer, BaseException):
                self.model, self.model_problems = None, _problems(answer, "It cannot be read.")
            else:
                self.model = answer
                self.model_problems = tuple(_as_problems(answer.problems, "model.path"))
            self._fill()
        self._tell()

    def _look_at_pictures(self, recipe: Recipe) -> None:
        from engine.planning.rules import survey_rules

        if recipe.data.folder is None:
            self._data_key, self.survey, self.survey_problems = None, None, ()
            return
        rules = survey_rules(recipe.data)
        # How long a caption may be decides what is said of it.
        key = repr((rules, recipe.model.max_tokens, recipe.model.weighted_prompts))
        if key == self._data_key:
            return
        self._data_key = key
        self.survey_problems = ()
        self._full_job.ask(lambda wanted: None)
        self._quick_job.ask(lambda wanted: (key, recipe, survey_of(rules, False, wanted)))

    def _quick_read(self, answer: Any) -> None:
        if self._survey_failed(answer):
            return
        key, recipe, found = answer
        with self._lock:
            self._told_key = key
            self.survey = found
            self.looked_at = (0, len(found.items))
            self._fill()
        self._tell()
        self._full_job.ask(lambda wanted: whole_survey(recipe, wanted, self._decoded))

    def _decoded(self, done: int, total: int) -> None:
        self.looked_at = (done, total)
        if done % 8 == 0:
            self._tell()

    def _full_read(self, answer: Any) -> None:
        if self._survey_failed(answer):
            return
        with self._lock:
            self.survey = answer
            self._fill()
        self._tell()

    def _survey_failed(self, answer: Any) -> bool:
        if not isinstance(answer, BaseException):
            return False
        with self._lock:
            self.survey = None
            self._told_key = self._data_key
            self.survey_problems = _problems(answer, "The pictures could not be read.")
            self._fill()
        self._tell()
        return True

    def _make_plan(self, filled: Filled, facts: Facts) -> None:
        from engine.plan import plan_filled

        def make(wanted: Callable[[], None]) -> tuple[frozenset[str], Survey | None, Plan]:
            names = names_in(filled.recipe.run.folder)
            return names, facts.survey, plan_filled(filled, facts)

        self._plan_job.ask(make)

    def _plan_made(self, answer: Any) -> None:
        if isinstance(answer, BaseException):
            self.plan, self.plan_problems = None, _problems(answer, "No plan can be made.")
        else:
            names, self._planned_for, self.plan = answer
            self.plan_problems = self.plan.problems
            if names != self.taken_names:
                self.taken_names = names
                with self._lock:
                    self._fill()
        self._tell()


def _at(recipe: Recipe, path: str) -> Any:
    section, _, key = path.partition(".")
    return getattr(getattr(recipe, section, None), key, None)


def _problems(error: BaseException, otherwise: str) -> tuple[Problem, ...]:
    if isinstance(error, EngineError):
        return error.problems
    return (Problem(f"{otherwise} ({type(error).__name__}: {error})"),)


def _as_problems(found: Iterable[Any], path: str) -> Iterable[Problem]:
    for one in found:
        yield one if isinstance(one, Problem) else Problem(str(one), path=path)
