"""What the tests of trust share: places of their own, and a run that another program has made up."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.trust.hostile import HOSTILE, NAME


@pytest.fixture(autouse=True)
def _own_places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test writes into the user's folders, or takes its looks from the user's environment."""
    for name in ("STATE", "CONFIG", "CACHE", "RUNS"):
        monkeypatch.setenv(f"LYCTUI_{name}", str(tmp_path / name.lower()))
    for name in ("NO_COLOR", "TMUX", "LYCTUI_ASCII", "LYCTUI_PICTURES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("HOME", str(tmp_path))


def hostile_events(folder: Path) -> list[dict[str, Any]]:
    """Every kind of event, with the hostile text wherever a text can be."""
    now = time.time()
    step = {
        "event": "step", "step": 3, "epoch": 1, "loss": 0.1, "lr": {HOSTILE: 1e-4}, "grad_norm": 1.0,
        "seconds": 0.1, "samples": 1,
    }  # fmt: skip
    events = [
        {
            "event": "started", "run": HOSTILE, "total_steps": 10, "steps_per_epoch": [10],
            "batch_size": 1, "samples_per_epoch": 10, "device": HOSTILE, "notes": [HOSTILE],
        },
        {"event": "phase", "phase": HOSTILE, "done": 1, "total": 2},
        step,
        {"event": "saved", "what": "network", "step": 3, "epoch": 1, "path": f"{NAME}.safetensors"},
        {"event": "sampled", "step": 3, "epoch": 1, "paths": [f"{NAME}.png"], "prompts": [HOSTILE]},
        {"event": "warning", "message": HOSTILE},
        {"event": "waiting", "reason": HOSTILE, "remedy": HOSTILE},
        {"event": "waiting", "reason": ""},
        {
            "event": "rolled back", "step": 3, "to_step": 1, "reason": HOSTILE, "pictures": [NAME],
            "rate_factor": 0.5, "count": 1, "most": 3,
        },
        {"event": "acknowledged", "request": HOSTILE},
        {"event": "proved", "path": f"{NAME}.safetensors", "step": 3, "good": False,
         "findings": [HOSTILE, HOSTILE]},
    ]  # fmt: skip
    return [{"v": 1, "time": now + place, **event} for place, event in enumerate(events)]


def make_hostile_run(folder: Path, state: str = "failed") -> Path:
    """A run folder with hostile name, recipe, log, lock and events; "running" belongs to another host."""
    folder.mkdir(parents=True)
    quoted = json.dumps(HOSTILE, ensure_ascii=True)
    (folder / "run.toml").write_text(f"version = 1\n[data]\ntrigger = {quoted}\n")
    (folder / "run.log").write_text(HOSTILE + "\n", "utf-8", "surrogateescape", newline="")
    (folder / "lock").write_text(json.dumps({"pid": 1, "host": HOSTILE, "since": 1.0}))
    events = hostile_events(folder)
    if state != "running":
        os.utime(folder / "lock", (1.0, 1.0))
        events.append(hostile_end(state))
    lines = [json.dumps(event) for event in events]
    (folder / "events.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def hostile_end(state: str) -> dict[str, Any]:
    """How a run ends that tells lies about its names."""
    problem = {"what": HOSTILE, "where": HOSTILE, "remedy": HOSTILE, "path": HOSTILE}
    told = {"run": HOSTILE, "files": [NAME], "steps": 3, "exit": int(state == "failed")}
    end = {"v": 1, "event": state, "state": state, "time": time.time() + 60, "message": HOSTILE}
    return {**end, **told, "problems": [problem] if state == "failed" else []}


@pytest.fixture
def hostile_run(tmp_path: Path) -> Path:
    """One that failed, where `lyctui` looks for runs."""
    return make_hostile_run(tmp_path / "runs" / NAME)
