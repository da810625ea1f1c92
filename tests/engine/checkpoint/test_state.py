"""A state comes back as it went, survives damage by falling back, and is never half there."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from engine.checkpoint import folders
from engine.checkpoint.state import (
    Identity,
    Place,
    State,
    damage,
    list_states,
    mend,
    newest_step,
    read_newest,
    state_bytes,
    write_state,
)
from engine.checkpoint.tensors import read_tensors, write_tensors
from engine.errors import RunError
from engine.optim.groups import one_group
from engine.optim.optimizers import OptimizerChoice, build_optimizer

FILES = ["averaged.safetensors", "network.safetensors", "optimizer.safetensors", "state.json"]


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
        averaged={"a": torch.randn(3, 4)},
        guard={"rate_factor": 0.5, "rollbacks": 1, "rows": 3, "skipped_steps": 2},
        kind=type(made).__name__,
    )


def equal(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    return type(a) is type(b) and a == b


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A folder with the states of steps 10 and 20."""
    for step in (10, 20):
        write_state(tmp_path, state(step), keep=2)
    return tmp_path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def falls_back(folder: Path) -> str:
    """What is said of the state of step 20, which is passed over for that of step 10."""
    read, (said,) = read_newest(folder)
    assert read.place.step == 10
    assert "step-00000020 was passed over" in said
    return said


# There and back -----------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adamw", "adamw8bit", "prodigy"])
def test_round_trip_is_exact(tmp_path: Path, optimizer: str) -> None:
    written = state(12, optimizer)
    write_state(tmp_path, written, keep=2)
    read, skipped = read_newest(tmp_path)
    assert skipped == []
    for field in State.__dataclass_fields__:
        assert equal(getattr(read, field), getattr(written, field)), field


KINDS = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32,
    torch.int16, torch.int8, torch.uint8, torch.bool,
]  # fmt: skip


def test_tensors_of_every_kind_and_shape_come_back(tmp_path: Path) -> None:
    base = torch.arange(24).reshape(2, 3, 4)
    written = {str(kind): base.to(kind) for kind in KINDS}
    written |= {
        "scalar": torch.tensor(2.5), "empty": torch.zeros(0, 3), "odd": torch.ones(7).bool(),
        "turned": base.float().permute(2, 0, 1), "part": base.float()[:, 1], "ünïcode \"q\"": base,
    }  # fmt: skip
    told = write_tensors(tmp_path / "a.safetensors", written)
    read = read_tensors(tmp_path / "a.safetensors")
    assert equal({name: read[name] for name in written}, written)
    assert told.bytes == (tmp_path / "a.safetensors").stat().st_size
    with pytest.raises(TypeError, match="complex64"):
        write_tensors(tmp_path / "b.safetensors", {"a": torch.zeros(1, dtype=torch.complex64)})


def test_a_state_that_was_read_needs_its_file_no_more(saved: Path) -> None:
    read, _ = read_newest(saved)
    before = read.network["a"].clone()
    for file in (saved / "step-00000020").iterdir():
        os.truncate(file, 0)
    assert torch.equal(read.network["a"], before)


def test_the_size_is_known_before(tmp_path: Path) -> None:
    written = state(10)
    size = sum(file.stat().st_size for file in write_state(tmp_path, written, keep=2).iterdir())
    assert size <= state_bytes(written) < size + 200_000


def test_a_state_is_for_its_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        path = write_state(tmp_path / "state", state(10), keep=2)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.iterdir()} == {0o600}


# What is kept -------------------------------------------------------------------------------


def test_oldest_states_are_removed(saved: Path) -> None:
    write_state(saved, state(30), keep=2)
    assert names(saved) == ["step-00000020", "step-00000030"]


def flip(file: Path, place: int = -1) -> None:
    body = bytearray(file.read_bytes())
    body[len(body) // 2 if place < 0 else place] ^= 1
    file.write_bytes(bytes(body))


def test_the_last_good_state_stays_while_newer_ones_are_damaged(saved: Path) -> None:
    write_state(saved, state(30), keep=3)
    for step in (20, 30):
        flip(saved / f"step-{step:08d}" / "network.safetensors")
    write_state(saved, state(40), keep=2)
    assert [path.name for path in list_states(saved) if not damage(path)] == [
        "step-00000010",
        "step-00000040",
    ]
    write_state(saved, state(50), keep=2)
    assert names(saved) == ["step-00000040", "step-00000050"]


def test_hashes_that_this_process_knows_are_not_made_again(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[str] = []
    plain = folders.file_sha256

    def counted(path: Path) -> str:
        hashed.append(path.parent.name)
        return plain(path)

    monkeypatch.setattr(folders, "file_sha256", counted)
    write_state(saved, state(30), keep=2)
    assert set(hashed) == {".step-00000030.tmp"}, "the new one, read back; none of the others"


def test_going_back_to_an_early_state_leaves_the_later_ones_behind(saved: Path) -> None:
    write_state(saved, state(30), keep=9)
    assert read_newest(saved, step=10)[0].place.step == 10
    write_state(saved, state(15), keep=2)
    assert read_newest(saved)[0].place.step == 15
    assert names(saved) == ["step-00000010", "step-00000015"]


def test_the_same_step_written_again_replaces_the_old_one(saved: Path) -> None:
    again = replace(state(20), scaler={"scale": 2.0})
    write_state(saved, again, keep=2)
    assert names(saved) == ["step-00000010", "step-00000020"]
    assert read_newest(saved)[0].scaler == {"scale": 2.0}


def test_a_disk_that_keeps_other_bytes_costs_no_older_state(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write

    def forgetful(to: int, data: Any) -> int:
        body = bytearray(data)
        if len(body) > 1000:
            body[-1] ^= 1
        return write(to, bytes(body))

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", forgetful)
        with pytest.raises(OSError, match="has changed since it was written"):
            write_state(saved, state(30), keep=1)
    assert names(saved) == ["step-00000010", "step-00000020"]
    assert all(damage(path) == "" for path in list_states(saved))


@pytest.mark.parametrize("wanted", ["step-00000030", "link"])
def test_what_is_not_ours_keeps_its_name(saved: Path, wanted: str) -> None:
    (saved / "theirs").mkdir()
    place = saved / "step-00000030"
    if wanted == "link":
        place.symlink_to(saved / "theirs")
    else:
        place.write_text("theirs")
    with pytest.raises(FileExistsError):
        write_state(saved, state(30), keep=2)
    assert place.is_symlink() or place.read_text() == "theirs"


# Damage -------------------------------------------------------------------------------------


@pytest.mark.parametrize("victim", FILES)
def test_a_flipped_bit_falls_back_to_the_state_before(saved: Path, victim: str) -> None:
    flip(saved / "step-00000020" / victim)
    assert f"{victim} has changed" in falls_back(saved)


@pytest.mark.parametrize("victim", FILES)
@pytest.mark.parametrize("length", [0, 100])
def test_a_truncated_or_empty_file_falls_back(saved: Path, victim: str, length: int) -> None:
    os.truncate(saved / "step-00000020" / victim, length)
    assert f"{victim} has another size" in falls_back(saved)


@pytest.mark.parametrize("victim", FILES)
def test_a_missing_file_falls_back(saved: Path, victim: str) -> None:
    (saved / "step-00000020" / victim).unlink()
    assert f"{victim} is missing" in falls_back(saved)


def test_a_flipped_bit_anywhere_in_a_manifest_is_found_or_harmless(saved: Path) -> None:
    file = saved / "step-00000020" / "manifest.json"
    whole = file.read_bytes()
    told = json.loads(whole)
    harmless = 0
    for place in range(len(whole)):
        body = bytearray(whole)
        body[place] ^= 1 << place % 8
        file.write_bytes(bytes(body))
        if damage(file.parent) == "":
            assert json.loads(bytes(body)) == told, f"byte {place}"
            harmless += 1
    assert harmless < len(whole) / 8, "white space only"


def without(name: str) -> Callable[[dict[str, Any]], Any]:
    return lambda told: {key: value for key, value in told.items() if key != name}


LIES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no network": (without("network.safetensors"), "lacks network.safetensors"),
    "no averages": (without("averaged.safetensors"), "lacks averaged.safetensors"),
    "no numbers": (without("state.json"), "lacks state.json"),
    "no files": (lambda told: {}, "lacks"),
    "a list": (lambda told: list(told), "missing or broken"),
    "a word": (lambda told: "all is well", "missing or broken"),
    "null": (lambda told: None, "missing or broken"),
    "beyond the folder": (
        lambda told: told | {"../../outside": {"bytes": 3, "sha256": "0" * 64}}, "missing or broken",
    ),
    "an absolute path": (
        lambda told: told | {"/etc/passwd": {"bytes": 3, "sha256": "0" * 64}}, "missing or broken",
    ),
    "itself": (
        lambda told: told | {"manifest.json": {"bytes": 3, "sha256": "0" * 64}}, "missing or broken",
    ),
    "no hash": (lambda told: told | {"state.json": {"bytes": 3}}, "missing or broken"),
    "a word for a size": (
        lambda told: told | {"state.json": {"bytes": "3", "sha256": "0" * 64}}, "missing or broken",
    ),
    "a list for a hash": (
        lambda told: told | {"state.json": {"bytes": 3, "sha256": [1]}}, "missing or broken",
    ),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_a_manifest_that_lies_is_damage(saved: Path, lie: str) -> None:
    change, said = LIES[lie]
    file = saved / "step-00000020" / "manifest.json"
    told = json.loads(file.read_text())
    file.write_text(json.dumps(change(told)))
    if lie == "no averages":
        (file.parent / "averaged.safetensors").unlink()
    assert said in falls_back(saved)


def test_a_file_beside_those_of_the_manifest_is_damage(saved: Path) -> None:
    (saved / "step-00000020" / "x\x1b[31m").touch()
    assert "not in its manifest" in falls_back(saved)
    assert "\x1b" not in falls_back(saved)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"1"])
def test_a_broken_manifest_is_damage(saved: Path, body: bytes) -> None:
    (saved / "step-00000020" / "manifest.json").write_bytes(body)
    assert "manifest is missing or broken" in falls_back(saved)


def test_a_linked_file_is_not_followed(saved: Path, tmp_path: Path) -> None:
    file = saved / "step-00000020" / "network.safetensors"
    shutil.copy(file, tmp_path / "elsewhere")
    file.unlink()
    file.symlink_to(tmp_path / "elsewhere")
    assert "network.safetensors is missing" in falls_back(saved)


def test_links_files_and_strange_names_are_no_states(saved: Path, tmp_path: Path) -> None:
    (saved / "step-00000099").symlink_to(saved / "step-00000010")
    (saved / "step-00000098").write_text("a file")
    for name in ("step-abc", "step-7", "step-0000003x", "stepping"):
        (saved / name).mkdir()
    assert [path.name for path in list_states(saved)] == ["step-00000010", "step-00000020"]
    assert newest_step(saved) == 20
    assert read_newest(saved)[1] == []


def test_an_empty_state_folder_is_named(saved: Path) -> None:
    (saved / "step-00000030").mkdir()
    read, (said,) = read_newest(saved)
    assert read.place.step == 20
    assert "step-00000030 was passed over" in said


def rewritten(path: Path, name: str, body: bytes) -> None:
    """Change a file of a state and its manifest with it, as somebody else's program would."""
    import hashlib

    (path / name).write_bytes(body)
    told = json.loads((path / "manifest.json").read_text())
    told[name] = {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    (path / "manifest.json").write_text(json.dumps(told))


@pytest.mark.parametrize("name", ["network.safetensors", "optimizer.safetensors"])
def test_a_file_with_the_right_hash_that_holds_no_tensors_is_passed_over(
    saved: Path, name: str
) -> None:
    rewritten(saved / "step-00000020", name, b"\x10" + bytes(200))
    assert "cannot be read" in falls_back(saved)


def changed(path: Path, **changes: Any) -> None:
    body = json.loads((path / "state.json").read_text())
    rewritten(path, "state.json", json.dumps(body | changes).encode())


@pytest.mark.parametrize("key", ["place", "identity", "optimizer"])
@pytest.mark.parametrize("value", [None, [], {"a": 1, "b": 2}])
def test_numbers_of_another_kind_are_passed_over(saved: Path, key: str, value: Any) -> None:
    changed(saved / "step-00000020", **{key: value})
    if (key, value) in (("optimizer", None), ("optimizer", [])):
        assert read_newest(saved)[1] == [], "told when it is put back"
    else:
        assert "cannot be read" in falls_back(saved)


def test_nothing_readable_is_said_in_words(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="No state was saved yet"):
        read_newest(tmp_path)
    path = write_state(tmp_path, state(10), keep=2)
    (path / "state.json").write_text("{")
    with pytest.raises(RunError, match=r"No saved state can be read.*is damaged"):
        read_newest(tmp_path)
    with pytest.raises(RunError, match="Saved are: 10"):
        read_newest(tmp_path, step=11)


def test_a_damaged_state_that_was_asked_for_is_not_replaced_by_another(saved: Path) -> None:
    flip(saved / "step-00000020" / "state.json")
    with pytest.raises(RunError, match=r"step 20 cannot be read.*state.json.*Saved are: 10, 20"):
        read_newest(saved, step=20)
    assert read_newest(saved, step=10)[0].place.step == 10


# Other versions -----------------------------------------------------------------------------


def test_a_state_of_the_first_format_is_read(saved: Path) -> None:
    path = saved / "step-00000020"
    body = json.loads((path / "state.json").read_text())
    for key in ("guard", "kind", "files"):
        del body[key]
    rewritten(path, "state.json", json.dumps(body | {"format": 1}).encode())
    read, skipped = read_newest(saved)
    assert (read.place.step, skipped) == (20, [])
    assert (read.guard, read.kind) == ({}, "")
    assert equal(read.optimizer, state(20).optimizer)


@pytest.mark.parametrize(("form", "said"), [
    (3, "newer version of lyctui"), (10**9, "newer version of lyctui"), (0, "does not know"),
    (None, "does not know"), ("2", "does not know"), (2.0, "does not know"), (True, "does not know"),
])  # fmt: skip
def test_a_state_of_another_version_is_refused_in_words(saved: Path, form: Any, said: str) -> None:
    changed(saved / "step-00000020", format=form)
    told = falls_back(saved)
    assert said in told
    assert "damaged" not in told


def test_a_newer_state_may_have_other_files_and_is_never_removed(saved: Path) -> None:
    path = saved / "step-00000020"
    rewritten(path, "more.bin", b"1")
    changed(path, format=3, files=["all.bin"])
    assert "newer version" in falls_back(saved)
    for step in (15, 30, 40):
        write_state(saved, state(step), keep=2)
    assert names(saved) == ["step-00000020", "step-00000030", "step-00000040"]


# Cut short ----------------------------------------------------------------------------------


def test_a_half_written_state_is_named_and_removed(saved: Path) -> None:
    half = saved / ".step-00000030.tmp"
    shutil.copytree(saved / "step-00000020", half)
    assert read_newest(saved)[0].place.step == 20
    assert mend(saved) == ["The state step-00000030 was half written and is not used."]
    assert names(saved) == ["step-00000010", "step-00000020"]
    assert mend(saved) == []
    half.mkdir()
    write_state(saved, state(30), keep=3)
    assert names(saved) == ["step-00000010", "step-00000020", "step-00000030"]


def test_a_state_set_aside_is_put_back_where_the_new_one_has_no_name_yet(saved: Path) -> None:
    (saved / "step-00000020").rename(saved / ".step-00000020.old")
    shutil.copytree(saved / "step-00000010", saved / ".step-00000020.tmp")
    told = mend(saved)
    assert any("was being replaced; the one before it was put back" in line for line in told)
    assert any("half written" in line for line in told)
    assert names(saved) == ["step-00000010", "step-00000020"]
    assert read_newest(saved)[0].place.step == 20


def test_a_state_set_aside_goes_once_the_new_one_is_whole(saved: Path) -> None:
    shutil.copytree(saved / "step-00000020", saved / ".step-00000020.old")
    assert mend(saved) == []
    assert names(saved) == ["step-00000010", "step-00000020"]


def test_a_state_set_aside_comes_back_where_the_new_one_is_damaged(saved: Path) -> None:
    shutil.copytree(saved / "step-00000020", saved / ".step-00000020.old")
    flip(saved / "step-00000020" / "network.safetensors")
    assert "put back" in mend(saved)[0]
    read, skipped = read_newest(saved)
    assert (read.place.step, skipped) == (20, [])


def test_strangers_among_hidden_names_stay(saved: Path) -> None:
    for name in (".step-abc.tmp", ".step-00000010.bak", ".other.tmp"):
        (saved / name).mkdir()
    (saved / ".step-00000030.tmp").symlink_to(saved / "step-00000010")
    mend(saved)
    assert {".step-abc.tmp", ".step-00000010.bak", ".other.tmp", ".step-00000030.tmp"} <= set(
        names(saved)
    )
    assert mend(saved / "nowhere") == []


# A power cut --------------------------------------------------------------------------------


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, str]]]:
    """Every open for writing, write, fsync, rename and removal of this process, by what it concerns."""
    made: list[tuple[str, str]] = []
    opened, write, sync, rename = os.open, os.write, os.fsync, Path.replace
    rmtree = shutil.rmtree

    def path_of(descriptor: int) -> str:
        return Path(f"/proc/self/fd/{descriptor}").readlink().name

    def open_(path: Any, flags: int, *more: Any, **named: Any) -> int:
        if flags & os.O_CREAT:
            made.append(("create", Path(path).name))
        return opened(path, flags, *more, **named)

    def write_(descriptor: int, data: Any) -> int:
        made.append(("write", path_of(descriptor)))
        return write(descriptor, data)

    def sync_(descriptor: int) -> None:
        made.append(("fsync", path_of(descriptor)))
        sync(descriptor)

    def replace_(self: Path, target: Path) -> Path:
        made.append(("rename", f"{self.name} -> {Path(target).name}"))
        return rename(self, target)

    def rmtree_(path: Any, *more: Any, **named: Any) -> None:
        made.append(("remove", Path(path).name))
        rmtree(path, *more, **named)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", open_)
        patched.setattr(os, "write", write_)
        patched.setattr(os, "fsync", sync_)
        patched.setattr(Path, "replace", replace_)
        patched.setattr(shutil, "rmtree", rmtree_)
        yield made


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
@pytest.mark.parametrize("again", [False, True], ids=["first time", "step saved again"])
def test_a_power_cut_at_any_call_finds_a_whole_state(
    saved: Path, calls: list[tuple[str, str]], again: bool
) -> None:
    """Bytes are safe after fsync of their file, names after fsync of their folder: the order says it."""
    step = 20 if again else 30
    calls.clear()
    write_state(saved, state(step), keep=2)
    name, half = f"step-{step:08d}", f".step-{step:08d}.tmp"
    manifest = calls.index(("create", "manifest.json"))
    for file in FILES:
        last_write = max(at for at, call in enumerate(calls) if call == ("write", file))
        synced = calls.index(("fsync", file))
        assert last_write < synced < manifest, file
    assert half in [what for kind, what in calls[:manifest] if kind == "fsync"], "their names too"
    named = calls.index(("rename", f"{half} -> {name}"))
    assert manifest < calls.index(("fsync", "manifest.json")) < named
    after_manifest = [call for call in calls[manifest:named] if call == ("fsync", half)]
    assert after_manifest, "the folder before its rename"
    parent = calls.index(("fsync", saved.name), named)
    removed = [at for at, call in enumerate(calls) if call[0] == "remove"]
    assert removed and min(removed) > parent, "nothing goes before the new name is on the disk"
    if again:
        assert calls.index(("rename", f"{name} -> .{name}.old")) < named
        assert calls[min(removed)] == ("remove", f".{name}.old")


class FailingAt:
    """Lets one of os.write and os.fsync fail, at its call number `at`."""

    def __init__(self, patched: pytest.MonkeyPatch, at: int, number: int) -> None:
        self._calls, self._at, self._number = 0, at, number
        for name in ("write", "fsync"):
            patched.setattr(os, name, partial(self._call, getattr(os, name)))

    def _call(self, real: Callable[..., Any], *given: Any) -> Any:
        self._calls += 1
        if self._calls == self._at:
            raise OSError(self._number, os.strerror(self._number))
        return real(*given)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_at_any_call_costs_no_state(
    saved: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    before = {path: path.read_bytes() for path in saved.rglob("*") if path.is_file()}
    written = state(30)
    for at in range(1, 100):
        with monkeypatch.context() as patched:
            FailingAt(patched, at, number)
            try:
                write_state(saved, written, keep=2)
            except OSError as error:
                assert error.errno == number
            else:
                break
        if (saved / "step-00000030").exists():
            assert damage(saved / "step-00000030") == "", "only its name may be unsafe yet"
        assert {path: path.read_bytes() for path in before} == before
        assert not [name for name in names(saved) if name.endswith(".tmp")]
    assert at > 2 * len(FILES)
    assert names(saved) == ["step-00000020", "step-00000030"]
