"""Texts from outside on screens, in lines, in JSON and in pages: shown as they are written, never obeyed."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from PIL import Image
from safetensors.torch import save_file
from textual.pilot import Pilot

from engine.errors import Problem, RunError
from engine.events import EVENTS, Ended, from_dict
from engine.runs import list_runs, read_events
from lyctui import outcome, report, text
from lyctui.app import LyctuiApp
from lyctui.capture import Output
from lyctui.monitor import WatchedRun
from lyctui.plain_monitor import follow, json_line
from lyctui.screens.problem import ProblemScreen
from lyctui.verbs import check, import_, info, output, runs
from lyctui.verbs.flags import Asked
from lyctui.verbs.recipes import load
from tests.trust.conftest import hostile_events, make_hostile_run
from tests.trust.hostile import HOSTILE, MARK, NAME, OBEYED, assert_harmless, screen_text

SIZE = (120, 40)
Said = pytest.CaptureFixture[str]


async def until(pilot: Pilot[Any], condition: Callable[[], object], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not (pilot.app.screen.is_mounted and condition()):
        assert time.monotonic() < end, screen_text(pilot.app)
        await pilot.pause()
        await asyncio.sleep(0.01)


# A watched run ------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_json", [False, True])
def test_a_run_of_another_program_as_lines(hostile_run: Path, capfd: Said, as_json: bool) -> None:
    follow(WatchedRun(hostile_run), json_lines=as_json)
    said = capfd.readouterr().out
    assert_harmless(said)
    if as_json:
        found = [json.loads(line) for line in said.splitlines()]
        assert found[0]["run"] == HOSTILE, "programs get the text as it is, escaped"
        assert said.isascii()


@pytest.mark.parametrize("as_json", [False, True])
def test_the_list_of_runs(hostile_run: Path, capsys: Said, as_json: bool) -> None:
    assert runs.show_runs(as_json=as_json) == 0
    assert_harmless(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("state", "screens"),
    [
        ("running", {"RunScreen", "TextScreen", "LogScreen", "HelpScreen"}),
        ("finished", {"ResultsScreen", "TextScreen", "LogScreen", "HelpScreen"}),
        ("failed", {"ProblemScreen"}),
    ],
)
async def test_every_screen_of_a_watched_run(tmp_path: Path, state: str, screens: set[str]) -> None:
    app = LyctuiApp(run=WatchedRun(make_hostile_run(tmp_path / "runs" / NAME, state)))
    seen = set()
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: MARK in screen_text(app))
        for key in ("", "e", "l", "v", "f1"):
            before = app.screen
            if key:
                await pilot.press(key)
            await pilot.pause()
            await until(pilot, lambda: MARK in screen_text(app) or app.screen is not before)  # noqa: B023
            assert_harmless(screen_text(app), tells=False)
            seen.add(type(app.screen).__name__)
            if app.screen is not before:
                await pilot.press("escape")
                await until(pilot, lambda: app.screen is before)  # noqa: B023 (awaited here)
        app.notify(HOSTILE)
        await until(pilot, lambda: "<script>" in screen_text(app))
        assert_harmless(screen_text(app))
    assert seen >= screens, seen


async def test_a_problem_with_names_of_strangers(hostile_run: Path) -> None:
    app = LyctuiApp(run=WatchedRun(hostile_run))
    async with app.run_test(size=SIZE) as pilot:
        error = RunError(Problem(HOSTILE, where=HOSTILE, remedy=HOSTILE, path="run.name"))
        app.push_screen(ProblemScreen(error.problems))
        await until(pilot, lambda: isinstance(app.screen, ProblemScreen))
        await until(pilot, lambda: MARK in screen_text(app))
        assert_harmless(screen_text(app))


async def test_the_start_page_and_the_lists_behind_it(hostile_run: Path, tmp_path: Path) -> None:
    from lyctui.draft import Draft
    from lyctui.paths import paths
    from lyctui.screens.welcome import WelcomeScreen

    draft = Draft()
    draft.set("data.trigger", HOSTILE)
    draft.set("data.folder", f"/{NAME}")
    draft.set("run.name", HOSTILE)
    draft.save(paths().drafts)
    app = LyctuiApp(WelcomeScreen)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: isinstance(app.screen, WelcomeScreen))
        await app.workers.wait_for_complete()
        await until(pilot, lambda: MARK in screen_text(app))
        assert_harmless(screen_text(app))


def test_lines_after_the_screen(hostile_run: Path, capfd: Said) -> None:
    watched = WatchedRun(hostile_run)
    watched.wait(0)
    out = Output(1)
    for line in outcome.closing_lines(watched.snapshot(), hostile_run):
        out.line(line)
    out.close()
    assert_harmless(capfd.readouterr().out)


def test_the_window_is_never_named_by_a_stranger(monkeypatch: pytest.MonkeyPatch) -> None:
    app = LyctuiApp()
    written: list[str] = []
    monkeypatch.setattr(type(app), "is_headless", property(lambda _: False))
    monkeypatch.setattr(
        app, "_driver", type("Driver", (), {"write": lambda _, w: written.append(w)})()
    )
    monkeypatch.setenv("LYCTUI_NOTIFY", "osc9")
    monkeypatch.setenv("TERM", "xterm")
    app.window_title(HOSTILE)
    app.tell_end(HOSTILE)
    assert len(written) == 2
    for each in written:
        assert_harmless(each.removeprefix("\x1b]0;").removeprefix("\x1b]9;").removesuffix("\x07"))


# Events that lie ----------------------------------------------------------------------------------

ODD = [None, True, -1, 2**70, 1e300, "7", "", [], [1], {}, {"a": HOSTILE}, HOSTILE, ["x"] * 3]


def test_events_of_any_kind_are_shown_or_left_out(hostile_run: Path) -> None:
    """Each value of each kind of event replaced by one of another kind, and all of it drawn."""
    shown = 0
    for event in hostile_events(hostile_run):
        for name in event:
            for odd in ODD:
                lines = drawn(hostile_run, {**event, name: odd})
                shown += len(lines)
                assert_harmless("\n".join(lines), tells=False)
    assert shown > 100


def drawn(folder: Path, data: dict[str, Any]) -> list[str]:
    from engine.snapshot import Reducer

    event = from_dict(data)
    if event is None:
        return []
    assert json.loads(json_line(event))["v"] == 1
    snapshot = Reducer("r").apply_all([event])
    lines = [report.plain(report.event_line(event, folder) or ())]
    lines += [report.plain(line) for line in report.number_lines(snapshot)]
    lines += [report.plain(report.time_line(snapshot)), report.phase_words(snapshot)]
    lines += [report.plain(line) for line in report.log_lines(snapshot, folder, 9, text.signs())]
    lines += [report.plain(line) for line in report.sample_lines(snapshot.samples, folder)]
    return [text.inert(line) for line in [*lines, *outcome.closing_lines(snapshot, folder)]]


def test_lines_that_are_no_events_are_left_out(hostile_run: Path) -> None:
    events = hostile_run / "events.jsonl"
    good, _ = read_events(events)
    with events.open("ab") as file:
        for line in (
            b"[" * 100_000,
            b'{"a":' * 100_000,
            b"\xff\xfe",
            b"9" * 10_000,
            b"null",
            b"{}",
        ):
            file.write(line + b"\n")
        file.write(b'{"v":1,"event":["step"]}\n{"v":1,"event":"step"}\n')
    found, _ = read_events(events)
    assert found == good
    assert isinstance(found[-1], Ended)
    assert {type(each).name for each in found} | {"score", "validated"} == set(EVENTS)
    (row,) = list_runs(hostile_run.parent)
    assert row.state == "failed"


def test_numbers_that_are_none_are_still_json() -> None:
    data = {"event": "step", "step": 1, "epoch": 1, "loss": float("nan"), "lr": {"unet": 1e-4},
            "grad_norm": float("inf"), "seconds": 1.0, "samples": 1}  # fmt: skip
    event = from_dict(data)
    assert event is not None
    line = json_line(event)
    assert "NaN" not in line and "Infinity" not in line
    assert json.loads(line)["loss"] is None


def test_a_picture_of_a_watched_run_is_read_with_care(tmp_path: Path) -> None:
    """Its events name any path: a pipe would wait, a device would never end, others call programs."""
    import os

    from lyctui.widgets.picture import MOST_ROWS, half_cells
    from tests.trust.bounded import bounded

    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "device.png").symlink_to("/dev/zero")
    (tmp_path / "page.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    for name in ("pipe.png", "device.png", "page.png"):
        with bounded(), pytest.raises(OSError):
            half_cells(tmp_path / name, 20)
    Image.new("RGB", (1, 50_000)).save(tmp_path / "line.png")
    assert len(half_cells(tmp_path / "line.png", 40)) == MOST_ROWS


# Verbs --------------------------------------------------------------------------------------------


def hostile_folder(root: Path) -> Path:
    """Pictures, captions, folders and other things with hostile names and words."""
    folder = root / f"3_{NAME} word"
    folder.mkdir(parents=True)
    for number in range(3):
        Image.new("RGB", (512, 512), (number * 40, 0, 0)).save(folder / f"{number}{NAME}.png")
        (folder / f"{number}{NAME}.txt").write_bytes(HOSTILE.encode() + b" {")
    (folder / f"{NAME}.heic").write_bytes(b"x")
    (folder / f"cut{NAME}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (folder / f"lonely{NAME}.txt").write_bytes(b"x")
    (folder / f"dir{NAME}").mkdir()
    (folder / f"link{NAME}.png").symlink_to(f"nowhere{NAME}")
    return root


@pytest.mark.parametrize("as_json", [False, True])
def test_a_folder_of_pictures_is_checked(tmp_path: Path, capsys: Said, as_json: bool) -> None:
    folder = hostile_folder(tmp_path / f"data{NAME}")
    check.check_folder(folder, reg=None, trigger=HOSTILE, class_word=HOSTILE, as_json=as_json)
    said = capsys.readouterr()
    assert_harmless(said.out)
    assert_harmless(said.err, tells=False)
    if as_json:
        assert all(json.loads(line)["v"] == 1 for line in said.out.splitlines())


METADATA = (
    "ss_output_name", "modelspec.title", "modelspec.author", "modelspec.description",
    "ss_training_comment", "ss_tag_frequency", "ss_sd_model_name", "ss_network_module",
    "ss_base_model_version", "modelspec.trigger_phrase", "lyctui.recipe", "ss_dataset_dirs",
)  # fmt: skip


def hostile_network(path: Path) -> Path:
    names = ("lora_unet_x", f"lora_unet_{HOSTILE}", HOSTILE)
    tensors = {
        f"{name}.lora_{end}.weight": torch.ones(4, 4) for name in names for end in ("up", "down")
    }
    tensors |= {f"{HOSTILE}.weird": torch.ones(1)}
    save_file(tensors, path, dict.fromkeys(METADATA, HOSTILE) | {HOSTILE: HOSTILE})
    return path


@pytest.mark.parametrize("as_json", [False, True])
def test_a_network_file_is_looked_into(tmp_path: Path, capsys: Said, as_json: bool) -> None:
    path = hostile_network(tmp_path / f"{NAME}.safetensors")
    info.show_info(path, as_json=as_json, norms=True)
    said = capsys.readouterr()
    assert_harmless(said.out)
    assert_harmless(said.err, tells=False)


@pytest.mark.parametrize("as_json", [False, True])
def test_a_recipe_is_planned(tmp_path: Path, capsys: Said, as_json: bool) -> None:
    quoted = json.dumps(HOSTILE)
    recipe = tmp_path / f"{NAME}.toml"
    key = json.dumps("a" + HOSTILE)
    recipe.write_text(
        f"version = 1\n{key} = 1\n[model]\npath = {quoted}\n[data]\nfolder = {quoted}\n{key} = 2\n"
        f"[optim]\noptimizer = {quoted}\n[run]\nname = {quoted}\n"
    )
    with pytest.raises(typer.Exit), output.reporting(as_json):
        load(recipe, Asked())
    said = capsys.readouterr()
    assert_harmless(said.out + said.err)


@pytest.mark.parametrize("as_json", [False, True])
def test_a_configuration_of_kohyas_is_imported(tmp_path: Path, capsys: Said, as_json: bool) -> None:
    path = tmp_path / f"{NAME}.json"
    keys = ("pretrained_model_name_or_path", "train_data_dir", "output_name", "output_dir", "optimizer",
            "LoRA_type", "sample_prompts", "wandb_api_key", "additional_parameters", HOSTILE)  # fmt: skip
    path.write_text(json.dumps(dict.fromkeys(keys, HOSTILE) | {"epoch": 3, "train_batch_size": 2}))
    with suppress(typer.Exit):
        import_.import_config(path, output=None, dataset_config=None, as_json=as_json)
    said = capsys.readouterr()
    assert_harmless(said.out + said.err)


@pytest.mark.parametrize("as_json", [False, True])
def test_errors_of_libraries_are_said(capsys: Said, as_json: bool) -> None:
    output.unforeseen(ValueError(HOSTILE), as_json=as_json)
    said = capsys.readouterr()
    assert OBEYED.search(said.out + said.err) is None


# Pages --------------------------------------------------------------------------------------------


def test_a_contact_sheet_shows_markup_as_text() -> None:
    from engine.sheet.page import _words

    shown = _words(HOSTILE)
    assert "<" not in shown and OBEYED.search(shown) is None
