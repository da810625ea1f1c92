"""A run, its pictures, its export and its screens in one process: no network, no secret, nothing elsewhere."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
REPOSITORY = Path(__file__).parents[2]
SECRETS = {
    "WANDB_API_KEY": "canary-of-wandb-0123456789abcdef",
    "HF_TOKEN": "hf_canaryofthehub0123456789",
    "AWS_SECRET_ACCESS_KEY": "canary-of-the-cloud",
    "MY_OWN_PASSWORD": "canary-of-a-person",
}


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """What the process touched, and the folder that is all the user has."""
    root = tmp_path_factory.mktemp("life")
    places = {
        f"LYCTUI_{name}": str(root / name.lower()) for name in ("STATE", "CONFIG", "CACHE", "RUNS")
    }
    keep = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL") if name in os.environ}
    environment = keep | places | SECRETS | {
        "HOME": str(root), "TMPDIR": str(root), "TERM": "xterm-256color", "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "", "PYTHONDONTWRITEBYTECODE": "1",
        "HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "0",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "tests.trust.victim", str(root)],
        cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300, umask=0o022,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return root, json.loads(done.stdout.splitlines()[-1])


def test_nothing_looks_at_a_network(life: tuple[Path, dict[str, Any]]) -> None:
    assert life[1]["network"] == []


def test_nothing_is_written_elsewhere_and_no_program_started(
    life: tuple[Path, dict[str, Any]],
) -> None:
    assert life[1]["written"] == []
    assert [each for each in life[1]["programs"] if "uname" not in each] == []


def test_no_secret_of_the_environment_is_in_any_file(life: tuple[Path, dict[str, Any]]) -> None:
    files = [path for path in life[0].rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert {"run.toml", "events.jsonl", "lyctui.log", "small.safetensors", "kohya.toml"} <= names
    for path in files:
        body = path.read_bytes()
        found = [name for name, secret in SECRETS.items() if secret.encode() in body]
        assert not found, path
        assert b"MY_OWN_PASSWORD" not in body, f"{path} holds the environment"


def test_a_report_of_a_crash_is_there_without_local_variables(
    life: tuple[Path, dict[str, Any]],
) -> None:
    report = (life[0] / "state" / "lyctui.log").read_text()
    assert "RuntimeError: of 32 letters" in report


def test_what_tells_of_its_owner_is_the_owners_alone(life: tuple[Path, dict[str, Any]]) -> None:
    root = life[0]
    run = root / "runs" / "small"
    private = [run / name for name in ("run.toml", "events.jsonl", "run.log")]
    private += [each for each in (root / "state").rglob("*") if each.is_file()]
    for path in private:
        if path.exists():
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    for folder in (root / "state", run / "state"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700, folder
    shared = run / "small.safetensors"
    assert stat.S_IMODE(shared.stat().st_mode) == 0o644, "a network file is made to be given away"


def test_drafts_and_what_was_used_lately_are_private(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lyctui.draft import Draft
    from lyctui.paths import add_to_log, paths
    from lyctui.recent import remember_model

    state = tmp_path / "deep" / "state"
    monkeypatch.setenv("LYCTUI_STATE", str(state))
    before = os.umask(0)
    try:
        draft = Draft().save()
        remember_model(tmp_path)
        add_to_log("words")
    finally:
        os.umask(before)
    assert {draft, paths().log, state / "recent_models.json"} == {
        path for path in state.rglob("*") if path.is_file()
    }
    for path in (*state.rglob("*"), state, state.parent):
        wanted = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path


def test_libraries_are_told_to_stay_offline_before_they_are_imported(
    life: tuple[Path, dict[str, Any]],
) -> None:
    """Whatever the shell says: nothing here asks for a model by its name."""
    assert life[1]["told"] == [True, True, "1", "false", "1"]
