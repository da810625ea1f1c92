"""`lyctui sample`: pictures of a run or of network files, as a contact sheet."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from engine.errors import NetworkFileError, Problem, UsageError
from engine.runs import default_cache_folder, default_runs_folder, find_run
from lyctui import terminal, text
from lyctui.verbs.output import reporting, say, say_json, tell
from lyctui.verbs.resume import is_network_file
from lyctui.verbs.tools import INTERRUPTED, shown_progress

if TYPE_CHECKING:
    from engine.prompts import Prompt
    from engine.sheet.outputs import Places
    from engine.sheet.values import Cell, Row, Sheet, SheetRequest, Wishes


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """What is painted, and where the sheet goes."""

    names: Sequence[str]
    run: str | None
    out: Path | None
    grid: Path | None
    html: Path | None
    force: bool


def sample_networks(
    targets: Targets,
    wishes: Wishes,
    *,
    prompts: Sequence[str],
    prompts_file: Path | None,
    strengths: str,
    plain: bool,
    as_json: bool,
) -> int:
    """Paint what is asked, say what was written."""
    with reporting(as_json):
        asked = replace(
            wishes,
            strengths=strengths_of(strengths),
            prompts=_given_prompts(prompts, prompts_file),
        )
        request, places = settled(targets, asked)
        try:
            with shown_progress(plain=plain, as_json=as_json) as progress:
                from engine.sheet.make import make_sheet
                from engine.sheet.outputs import write_sheet

                sheet = make_sheet(request, default_cache_folder(), progress)
                sheet = write_sheet(sheet, places)
        except KeyboardInterrupt:
            tell("Stopped. No sheet was written; the pictures made so far are kept for the next.")
            raise typer.Exit(INTERRUPTED) from None
        if as_json:
            _say_objects(sheet)
        else:
            _say_words(sheet, plain=plain)
        return 0 if sheet.pictures else 1


def _given_prompts(lines: Sequence[str], file: Path | None) -> tuple[Prompt, ...]:
    """Prompts given on the command line; mistakes are told with the flag's name."""
    from engine.prompt_files import all_prompts

    try:
        return all_prompts(lines, file)
    except UsageError as error:
        raise UsageError(
            *(
                replace(one, where=one.where.replace("sample.prompts", "--prompt"), path="")
                for one in error.problems
            )
        ) from None


def strengths_of(typed: str) -> tuple[float, ...]:
    """Numbers with commas between; raises UsageError for anything else."""
    try:
        found = tuple(float(part) for part in re.split(r"[,\s]+", typed.strip()) if part)
    except ValueError:
        found = ()
    if not found:
        what = f"These are no strengths: {typed}"
        raise UsageError(Problem(what, remedy="Write --strengths 0,0.6,1, say.", path="strengths"))
    return found


def settled(targets: Targets, wishes: Wishes) -> tuple[SheetRequest, Places]:
    """The request and where its sheet goes; raises EngineError before anything is loaded."""
    from engine.sheet.ask import request_for_files, request_for_run
    from engine.sheet.outputs import file_places, run_places

    files = [name for name in targets.names if is_network_file(name)]
    runs = [name for name in targets.names if name not in files]
    root = default_runs_folder()
    if runs and (files or len(runs) > 1):
        remedy = "Give one run, or any number of network files."
        raise UsageError(Problem("Runs and files cannot be mixed.", remedy=remedy))
    if runs:
        folder = find_run(runs[0], root)
        places = _chosen(targets, run_places(folder))
        return request_for_run(folder, wishes), places
    paths = [Path(name).expanduser() for name in files]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise NetworkFileError(
            *(Problem("There is no such file.", where=str(path)) for path in missing)
        )
    places = _chosen(targets, file_places(paths[0]))
    run = None if targets.run is None else find_run(targets.run, root)
    return request_for_files(paths, wishes, run), places


def _chosen(targets: Targets, usual: Places) -> Places:
    """The places that were asked for, else the usual ones, which are always made anew."""
    from engine.sheet.outputs import Places

    out = None if targets.out is None else targets.out.expanduser()
    if out is not None and out.exists() and not out.is_dir():
        raise UsageError(Problem("This is no folder.", where=str(out), path="out"))
    grid, page = targets.grid, targets.html
    asked = Places(
        grid=None if grid is None else grid.expanduser(),
        page=None if page is None else page.expanduser(),
    )
    if not targets.force:
        asked.check()
    if out is not None:
        return Places(
            grid=asked.grid or out / "sheet.png",
            page=asked.page or out / "sheet.html",
            pictures=out,
        )
    return asked if asked.grid or asked.page else usual


def _say_objects(sheet: Sheet) -> None:
    for row in sheet.rows:
        for cell in row.cells:
            say_json(cell_object(row, cell))
    summary = {
        "grid": sheet.grid,
        "html": sheet.page,
        "pictures": sheet.pictures,
        "written": [str(path) for path in sheet.written],
        "left_out": list(sheet.left_out),
    }
    say_json({"summary": {name: _as_text(value) for name, value in summary.items()}})


def _as_text(value: object) -> object:
    return str(value) if isinstance(value, Path) else value


def cell_object(row: Row, cell: Cell) -> dict[str, object]:
    """One picture as the machine interface has it."""
    shot = cell.shot
    return {
        "file": None if row.file is None else str(row.file.path),
        "epoch": None if row.file is None else row.file.epoch,
        "strength": row.strength,
        "prompt": shot.prompt,
        "seed": shot.seed,
        "sampler": shot.sampler,
        "picture": None if cell.path is None else str(cell.path),
        "note": cell.note,
    }


def _say_words(sheet: Sheet, *, plain: bool) -> None:
    if not plain and terminal.is_terminal() and terminal.shows_pictures():
        from lyctui.widgets.sheet import print_sheet

        print_sheet(sheet)
    for row in sheet.rows:
        for cell in row.cells:
            if cell.note:
                tell(f"! {text.inert(row.label)}: {text.inert(cell.note)}")
    for line in sheet.left_out:
        tell(f"! {text.inert(line)}")
    say(f"pictures   {sheet.pictures}, painted on {text.inert(sheet.base)}")
    for name, path in (("grid", sheet.grid), ("page", sheet.page)):
        if path is not None:
            say(f"{name:<10} {text.inert(path)}")
    if sheet.written:
        say(f"single     {len(sheet.written)} in {text.inert(sheet.written[0].parent)}")
