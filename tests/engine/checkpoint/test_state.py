"""A state comes back as it went, survives damage by falling back, and is never half there."""

from pathlib import Path

import pytest
import torch
from torch import nn

from engine.checkpoint.atomic import copy_new, new_folder, write_text
from engine.checkpoint.state import (
    Identity,
    Place,
    State,
    damage,
    list_states,
    read_newest,
    write_state,
)
from engine.errors import RunError
from engine.optim.groups import one_group
from engine.optim.optimizers import OptimizerChoice, build_optimizer


def state(step: int, optimizer: str = "adamw") -> State:
    torch.manual_seed(step)
    parameter = nn.Parameter(torch.randn(64, 128))
    made = build_optimizer(OptimizerChoice(optimizer), [one_group("unet", 1e-3, parameter)])
    parameter.square().sum().backward()
    made.step()
    return State(
        place=Place(step, 2, step - 10),
        identity=Identity("recipe", "data", "base", 2, {"torch": "2"}, "x86"),
        network={"a": torch.randn(3, 4), "b": torch.randn(())},
        optimizer=made.state_dict(),
        scaler={"scale": 65536.0},
        session={"seconds": 1.5, "lineage": ["r@1"]},
    )


def equal(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    return type(a) is type(b) and a == b


@pytest.mark.parametrize("optimizer", ["adamw", "adamw8bit", "prodigy"])
def test_round_trip_is_exact(tmp_path: Path, optimizer: str) -> None:
    written = state(12, optimizer)
    write_state(tmp_path, written, keep=2)
    read, skipped = read_newest(tmp_path)
    assert skipped == []
    for field in ("place", "identity", "network", "optimizer", "scaler", "session"):
        assert equal(getattr(read, field), getattr(written, field)), field


def test_oldest_states_are_removed(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        write_state(tmp_path, state(step), keep=2)
    assert [path.name for path in list_states(tmp_path)] == ["step-00000020", "step-00000030"]


@pytest.mark.parametrize("victim", ["network.safetensors", "optimizer.safetensors", "state.json"])
def test_a_flipped_bit_falls_back_to_the_state_before(tmp_path: Path, victim: str) -> None:
    write_state(tmp_path, state(10), keep=2)
    newest = write_state(tmp_path, state(20), keep=2)
    body = bytearray((newest / victim).read_bytes())
    body[len(body) // 2] ^= 1
    (newest / victim).write_bytes(bytes(body))
    read, skipped = read_newest(tmp_path)
    assert read.place.step == 10
    assert "step-00000020" in skipped[0]
    assert victim in skipped[0]


def test_a_truncated_or_lost_file_is_damage(tmp_path: Path) -> None:
    path = write_state(tmp_path, state(10), keep=2)
    assert damage(path) == ""
    (path / "optimizer.safetensors").unlink()
    assert "optimizer.safetensors is missing" in damage(path)
    (path / "manifest.json").unlink()
    assert "manifest" in damage(path)


def test_nothing_readable_is_said_in_words(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="No state was saved yet"):
        read_newest(tmp_path)
    path = write_state(tmp_path, state(10), keep=2)
    (path / "state.json").write_text("{")
    with pytest.raises(RunError, match="damaged"):
        read_newest(tmp_path)
    with pytest.raises(RunError, match="Saved are: 10"):
        read_newest(tmp_path, step=11)


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    target = tmp_path / "step-1"
    with pytest.raises(RuntimeError), new_folder(target) as temporary:
        (temporary / "a").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_the_same_step_written_again_replaces_the_old_one(tmp_path: Path) -> None:
    write_state(tmp_path, state(10), keep=2)
    write_state(tmp_path, state(10), keep=2)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000010"]


def test_copies_never_replace_a_file(tmp_path: Path) -> None:
    source = tmp_path / "a.safetensors"
    source.write_text("new")
    folder = tmp_path / "loras"
    assert copy_new(source, folder).name == "a.safetensors"
    (folder / "a.safetensors").write_text("theirs")
    assert copy_new(source, folder).name == "a_2.safetensors"
    assert (folder / "a.safetensors").read_text() == "theirs"
    assert sorted(path.name for path in folder.iterdir()) == ["a.safetensors", "a_2.safetensors"]


def test_text_is_written_whole(tmp_path: Path) -> None:
    write_text(tmp_path / "a.json", "{}")
    assert (tmp_path / "a.json").read_text() == "{}"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
