"""Configurations of strangers: deep, huge, of other encodings, or no files at all; refused in words."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from engine.errors import EngineError
from engine.kohya.load import import_file
from engine.models.detect import inspect_model
from engine.networks.files import read_network
from engine.networks.headers import read_header
from engine.networks.preset_files import read_preset as read_layers
from engine.prompt_files import all_prompts
from engine.run_lock import read_owner
from engine.runs import RunFolder, read_events, run_info
from engine.settings.check import parse
from engine.settings.toml import read_toml
from engine.sheet.ask import run_files
from lyctui.config import read_config
from lyctui.draft import Draft, list_drafts
from lyctui.presets import read_preset
from lyctui.recent import recent_models
from lyctui.screens.results import trigger
from tests.trust.bounded import bounded

DEEP = 20_000
CONTENTS: dict[str, bytes] = {
    "nothing": b"",
    "lists in lists": b'{"a":' + b"[" * DEEP + b"]" * DEEP + b"}",
    "tables in tables": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "open lists": b"[" * 50_000,
    "deep TOML": b"a = " + b"[" * DEEP + b"]" * DEEP,
    "deep tables": b"[" + b"a." * 5_000 + b"b]\n",
    "dotted keys": b"a." * 5_000 + b"b = 1\n",
    "huge number in TOML": b"version = 1\n[train]\nepochs = " + b"9" * 10_000 + b"\n",
    "huge number in JSON": b'{"LoRA_type":"Standard","epoch":' + b"9" * 10_000 + b"}",
    "huge float": b'{"LoRA_type":"Standard","epoch":1e999999,"version":1,"saved_at":1e999}',
    "no numbers": b'{"epoch":NaN,"max_train_steps":-Infinity}',
    "one key twice": b'{"LoRA_type":"Standard","epoch":1,"epoch":2}',
    "one TOML key twice": b"version = 1\nversion = 2\n",
    "half characters": b'{"LoRA_type":"\\ud800","output_name":"\\udfff\\u0000"}',
    "other kinds": b'{"version":1,"preset":[],"answers":7,"preset_values":"x","page":null}',
    "a text": b'"text"',
    "UTF-16": '{"LoRA_type":"Standard"}'.encode("utf-16"),
    "bytes": bytes(range(256)) * 10,
    "zeros": bytes(5000),
    "escapes": b'\x1b]0;owned\x07[b]\x00 = "\x9b"',
    "escaped escapes": b'"\\u001b[2J" = "\\u001b]52;c;x\\u0007"\n[data]\ntrigger = "\\u0000"\n',
}


def special(path: Path, kind: str) -> None:
    match kind:
        case "a pipe":
            os.mkfifo(path)
        case "a device":
            path.symlink_to("/dev/zero")
        case "a folder":
            path.mkdir()
        case "a link in a circle":
            path.symlink_to(path)
        case "a gigabyte":
            with path.open("wb") as file:
                file.truncate(1 << 30)


SPECIAL = ("a pipe", "a device", "a folder", "a link in a circle", "a gigabyte")


def in_run(name: str, read: Callable[[Path], object]) -> Callable[[Path], object]:
    def do(path: Path) -> object:
        path.rename(path.with_name(name))
        return read(path.parent)

    return do


READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "recipe": ("a.toml", lambda path: parse(read_toml(path))),
    "preset": ("a.toml", read_preset),
    "choice of layers": ("a.toml", read_layers),
    "prompts in TOML": ("a.toml", lambda path: all_prompts((), path)),
    "prompts in JSON": ("a.json", lambda path: all_prompts((), path)),
    "prompts in lines": ("a.txt", lambda path: all_prompts((), path)),
    "kohya's JSON": ("a.json", import_file),
    "kohya's TOML": ("a.toml", import_file),
    "kohya's command": ("a.sh", import_file),
    "events": ("events.jsonl", read_events),
    "the events of a run": ("events.jsonl", lambda path: run_info(path.parent)),
    "lock": ("lock", read_owner),
    "manifest": ("manifest.json", lambda path: run_files(RunFolder(path.parent))),
    "a run's recipe": ("run.toml", lambda path: trigger(path.parent)),
    "draft": ("a.json", lambda path: list_drafts(path.parent)),
    "config": ("config.toml", read_config),
    "network": ("a.safetensors", read_network),
    "header": ("a.safetensors", read_header),
    "base model": ("a.safetensors", inspect_model),
}  # fmt: skip
OWN = ("draft", "config", "lock", "manifest", "a run's recipe")
"""Written by the program itself, in its own folders: nobody puts pipes there."""


@pytest.mark.parametrize("reader", READERS)
def test_any_content_is_read_or_refused_in_words(tmp_path: Path, reader: str) -> None:
    name, read = READERS[reader]
    for number, (kind, body) in enumerate(CONTENTS.items()):
        path = tmp_path / str(number) / name
        path.parent.mkdir()
        path.write_bytes(body)
        try:
            with bounded(seconds=60):
                read(path)
        except EngineError as error:
            for problem in error.problems:
                assert problem.what, kind
                assert "\x1b" not in str(problem) and "\x9b" not in str(problem), kind


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("reader", [name for name in READERS if name not in OWN])
def test_what_is_no_such_file_is_refused_at_once(tmp_path: Path, reader: str, kind: str) -> None:
    name, read = READERS[reader]
    path = tmp_path / name
    special(path, kind)
    if "events" in reader and kind == "a gigabyte":
        return  # A run's own file, of any length, and read as it grows.
    with bounded(seconds=60), suppress(EngineError):
        read(path)


def test_what_the_program_remembers_may_be_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LYCTUI_STATE", str(tmp_path))
    for body in CONTENTS.values():
        (tmp_path / "recent_models.json").write_bytes(body)
        assert isinstance(recent_models(), tuple)
        with suppress(ValueError):
            (tmp_path / "d.json").write_bytes(body)
            Draft.load(tmp_path / "d.json")


def test_a_manifest_names_no_file_outside_its_run(tmp_path: Path) -> None:
    outside = tmp_path / "outside.safetensors"
    outside.write_bytes(b"x")
    run = tmp_path / "run"
    run.mkdir()
    (run / "own.safetensors").write_bytes(b"x")
    names = ["../outside.safetensors", str(outside), "own.safetensors", "..", "", "a\x00b"]
    entries = [{"file": name, "step": place, "epoch": 1} for place, name in enumerate(names)]
    (run / "manifest.json").write_text(json.dumps(entries))
    assert [each.path.name for each in run_files(RunFolder(run))] == ["own.safetensors"]
