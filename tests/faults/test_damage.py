"""A state that is damaged on the disk is named and passed over, and nothing but time is lost."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.checkpoint.state import list_states
from engine.runs import RunFolder
from tests.faults import points
from tests.faults.golden import Golden, lines_of
from tests.faults.table import Ledger
from tests.faults.victim import CRASHED

pytestmark = [pytest.mark.slow, pytest.mark.fault("state damaged")]

FILES = (
    "network.safetensors",
    "optimizer.safetensors",
    "averaged.safetensors",
    "state.json",
    "manifest.json",
)
Damage = Callable[[Path], None]


def cut_off(file: Path) -> None:
    """The second half of the file is gone."""
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flipped(file: Path) -> None:
    """One bit in its middle is another one."""
    body = bytearray(file.read_bytes())
    body[len(body) // 2] ^= 4
    file.write_bytes(body)


def missing(file: Path) -> None:
    """It is not there."""
    file.unlink()


def empty(file: Path) -> None:
    """It has no byte, as after a power cut."""
    file.write_bytes(b"")


def half_renamed(state: Path) -> None:
    """The state still has its temporary name."""
    state.replace(state.with_name(f".{state.name}.tmp"))


CASES = [(how, name) for name in FILES for how in (cut_off, flipped, missing, empty)]
SHORT = [(flipped, FILES[1])]


@pytest.fixture(scope="module")
def killed(quick: Golden) -> Path:
    """A run that died in its last step, with two states."""
    folder = quick.new_run()
    end = quick.job(folder, points.in_backward(8).plant, changes=("save.state_minutes=1e-6",)).run()
    assert end.killed, end.said()
    assert len(list_states(RunFolder(folder).states)) == 2
    return folder


def copied(folder: Path, to: Path) -> Path:
    """A copy of a run under its own name; run folders may be moved."""
    ignored = shutil.ignore_patterns("control.sock")
    return Path(shutil.copytree(folder, to / folder.name, ignore=ignored))


def falls_back(golden: Golden, folder: Path, name: str) -> list[str]:
    """Resume a run whose newest state is damaged; what was lost."""
    golden.resumed(folder)
    told = [
        line["message"]
        for line in lines_of(RunFolder(folder).events)
        if isinstance(line, dict) and line["event"] == "warning"
    ]
    lost = golden.differences(folder)
    return lost if any(name in message for message in told) else [*lost, f"{name} is not named"]


def damaged(golden: Golden, ledger: Ledger, folder: Path, how: Damage, file: str) -> None:
    newest = list_states(RunFolder(folder).states)[-1]
    with ledger.fault("state damaged", f"{file} {how.__name__}") as lost:
        how(newest / file)
        lost += falls_back(golden, folder, newest.name)


@pytest.mark.parametrize(("how", "file"), SHORT)
def test_a_damaged_newest_state_falls_back(
    quick: Golden, ledger: Ledger, killed: Path, tmp_path: Path, how: Damage, file: str
) -> None:
    damaged(quick, ledger, copied(killed, tmp_path), how, file)


@pytest.mark.faults_long
@pytest.mark.parametrize(("how", "file"), CASES)
def test_every_damage_to_every_file_falls_back(
    quick: Golden, ledger: Ledger, killed: Path, tmp_path: Path, how: Damage, file: str
) -> None:
    damaged(quick, ledger, copied(killed, tmp_path), how, file)


@pytest.mark.faults_long
def test_a_state_that_was_not_renamed_is_not_used(
    quick: Golden, ledger: Ledger, killed: Path, tmp_path: Path
) -> None:
    folder = copied(killed, tmp_path)
    newest = list_states(RunFolder(folder).states)[-1]
    with ledger.fault("state damaged", "half renamed") as lost:
        half_renamed(newest)
        lost += falls_back(quick, folder, newest.name)


def test_where_every_state_is_damaged_the_run_says_so_and_loses_no_file(
    quick: Golden, ledger: Ledger, killed: Path, tmp_path: Path
) -> None:
    folder = copied(killed, tmp_path)
    states = list_states(RunFolder(folder).states)
    with ledger.fault("state damaged", "all of them") as lost:
        for state in states:
            cut_off(state / "optimizer.safetensors")
        before = sorted(path for path in folder.rglob("*") if path.suffix == ".safetensors")
        end = quick.job(folder, resume=True).run()
        assert end.signal == 0 and end.code not in (0, CRASHED), end.said()
        said = end.said()
        lost += [f"{state.name} is not named" for state in states if state.name not in said]
        after = sorted(path for path in folder.rglob("*") if path.suffix == ".safetensors")
        lost += [f"gone: {path.name}" for path in before if path not in after]
