"""Pickled checkpoints of strangers: nothing in them runs, none takes the memory, honest ones load."""

from __future__ import annotations

import io
import os
import pickle
import re
import tarfile
import zipfile
from collections import OrderedDict
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.errors import ModelError
from engine.models.ckpt import read_pickled
from engine.models.load import load_model
from engine.models.source import open_vae
from tests.tiny import write_tiny_sd1_folder
from tests.trust.bounded import bounded
from tests.trust.pickles import acting, bloated, legacy, saved, zipped

QUIET = settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
FRAMES = {"bare": bytes, "zip": zipped, "legacy": legacy}
TENSORS = {"x": torch.arange(6.0).view(2, 3), "y": torch.ones(4, dtype=torch.float16)}


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("kind", acting(Path("canary")))
def test_nothing_in_a_pickle_runs(tmp_path: Path, kind: str, frame: str) -> None:
    canary = tmp_path / "canary"
    path = tmp_path / "model.ckpt"
    path.write_bytes(FRAMES[frame](acting(canary)[kind]))
    with pytest.raises(ModelError) as caught:
        read_pickled(path)
    assert not canary.exists()
    (problem,) = caught.value.problems
    assert "whole checkpoint" in problem.what or "could run code" in problem.what
    assert problem.remedy and problem.path == "model.path"


def test_these_pickles_would_have_run(tmp_path: Path) -> None:
    """Otherwise the test above shows nothing."""
    for kind in ("os.system by reduce", "exec", "protocol 5", "STACK_GLOBAL", "INST", "OBJ"):
        canary = tmp_path / kind
        pickle.loads(acting(canary)[kind])
        assert canary.exists(), kind


def test_what_would_have_been_called_is_named(tmp_path: Path) -> None:
    for kind, told in [("os.system by reduce", "posix.system"), ("STACK_GLOBAL", "os.system")]:
        (tmp_path / "m.ckpt").write_bytes(zipped(acting(tmp_path / "c")[kind]))
        with pytest.raises(ModelError, match=told):
            read_pickled(tmp_path / "m.ckpt")


def test_a_called_name_is_shown_without_its_escapes(tmp_path: Path) -> None:
    (tmp_path / "m.ckpt").write_bytes(zipped(b"\x80\x02cos\n\x1b]0;owned\x07[b]\n."))
    with pytest.raises(ModelError) as caught:
        read_pickled(tmp_path / "m.ckpt")
    assert str(caught.value).isprintable() or "\x1b" not in str(caught.value)


@pytest.mark.parametrize("frame", ["zip", "legacy"])
@pytest.mark.parametrize("kind", bloated())
def test_pickles_that_swell_are_refused(tmp_path: Path, kind: str, frame: str) -> None:
    path = tmp_path / "model.ckpt"
    path.write_bytes(FRAMES[frame](bloated()[kind]))
    with bounded(), pytest.raises(ModelError):
        read_pickled(path)


@cache
def archives() -> dict[str, bytes]:
    """Archives that lie, swell or lead elsewhere."""
    honest = saved(TENSORS)
    packed = zipped(b"\x80\x02}" + b"]" * 1000 + b".", zipfile.ZIP_DEFLATED)
    bomb = zipped(bytes(300_000_000), zipfile.ZIP_DEFLATED)
    entries = io.BytesIO()
    with zipfile.ZipFile(entries, "w") as archive:
        archive.writestr("../../archive/data.pkl", b"\x80\x02}.")
    twice = io.BytesIO()
    with zipfile.ZipFile(twice, "w") as archive, pytest.warns(UserWarning):
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        archive.writestr("archive/data.pkl", b"\x80\x02cos\nsystem\n.")
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as old:
        for member in ("storages", "tensors", "pickle"):
            info = tarfile.TarInfo(member)
            info.size = 6
            old.addfile(info, io.BytesIO(b"\x80\x02]q\x00."))
    return {
        "packed": packed,
        "packed bomb": bomb,
        "a name that leads out": entries.getvalue(),
        "one name twice": twice.getvalue(),
        "two ends": honest + honest[-22:],
        "a comment": honest[:-2] + b"\x04\x00evil",
        "TorchScript": zipped(b"\x80\x02}.", **{"archive/constants.pkl": b"\x80\x02)."}),
        "tar of torch 0.1": tar.getvalue(),
        "cut in the middle": honest[: len(honest) // 2],
        "cut at the end": honest[:-1],
        "half legacy": saved(TENSORS, _use_new_zipfile_serialization=False)[:-20],
        "nothing": b"",
        "zeros": bytes(5000),
        "text": b"version https://git-lfs.github.com/spec/v1\n",
        "no tensors": zipped(b"\x80\x02}."),
    }


@pytest.mark.parametrize("kind", archives())
def test_archives_that_lie_are_refused(tmp_path: Path, kind: str) -> None:
    (tmp_path / "inner").mkdir()
    path = tmp_path / "inner" / "model.ckpt"
    path.write_bytes(archives()[kind])
    with bounded(), pytest.raises(ModelError):
        read_pickled(path)
    assert [each.name for each in tmp_path.rglob("*")] == ["inner", "model.ckpt"]


@pytest.mark.parametrize("zip_format", [True, False])
@pytest.mark.parametrize("side", [10**4, 10**7, 2**40])
def test_a_shape_that_the_file_does_not_hold_is_refused(
    tmp_path: Path, side: int, zip_format: bool
) -> None:
    """One number stretched over any shape costs nothing, until something adds it to another."""
    path = tmp_path / "m.ckpt"
    wide = torch.zeros(1).expand(side, side if side < 2**32 else 1)
    path.write_bytes(saved({"x": wide}, _use_new_zipfile_serialization=zip_format))
    with bounded(), pytest.raises(ModelError, match="not a whole checkpoint"):
        read_pickled(path)


def test_many_names_for_the_same_numbers_are_refused(tmp_path: Path) -> None:
    large = torch.zeros(100_000)
    torch.save({f"t{n}": large for n in range(50)}, tmp_path / "m.ckpt")
    with pytest.raises(ModelError, match="not a whole checkpoint"):
        read_pickled(tmp_path / "m.ckpt")


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_what_is_no_file_is_not_opened(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "m.ckpt"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    with bounded(), pytest.raises(ModelError):
        read_pickled(path)


@pytest.mark.parametrize("zip_format", [True, False])
def test_honest_checkpoints_load(tmp_path: Path, zip_format: bool) -> None:
    parameter = torch.nn.Parameter(torch.ones(3))
    tied = torch.arange(8.0)
    content = {
        "epoch": 7,
        "global_step": 10**12,
        "rate": 1e-4,
        "best": np.float64(0.25),
        "steps": np.int64(3),
        "device": torch.device("cpu"),
        "dtype": torch.bfloat16,
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "groups": [{"params": [0, 1]}]},
        "state_dict": OrderedDict(TENSORS)
        | {"p": parameter, "turned": tied.view(2, 4).T, "tied": tied, "bf16": tied.bfloat16()},
    }
    path = tmp_path / "m.ckpt"
    torch.save(content, path, _use_new_zipfile_serialization=zip_format)
    found = read_pickled(path)
    assert list(found) == ["x", "y", "p", "turned", "tied", "bf16"]
    assert torch.equal(found["turned"], tied.view(2, 4).T)
    assert torch.equal(found["x"], TENSORS["x"])
    assert found["y"].dtype == torch.float16
    assert not found["p"].requires_grad
    module = torch.nn.Linear(3, 2)
    torch.save(module.state_dict(), path, _use_new_zipfile_serialization=zip_format)
    assert torch.equal(read_pickled(path)["weight"], module.weight)


@given(data=st.data(), zip_format=st.booleans())
@QUIET
def test_changed_bytes_never_end_in_another_exception(
    tmp_path: Path, data: st.DataObject, zip_format: bool
) -> None:
    body = bytearray(saved(TENSORS, _use_new_zipfile_serialization=zip_format))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "m.ckpt"
    path.write_bytes(body)
    try:
        found = read_pickled(path)
    except ModelError as error:
        assert error.problems[0].remedy
    else:
        assert all(tensor.numel() < 100 for tensor in found.values())


# Every other door ---------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_pickles_of_a_model_folder_go_the_same_road(tmp_path: Path, part: str) -> None:
    folder = write_tiny_sd1_folder(tmp_path / "folder")
    for file in (folder / part).glob("*.safetensors"):
        stem = "pytorch_model" if part == "text_encoder" else file.stem
        file.unlink()
        canary = tmp_path / "canary"
        (folder / part / f"{stem}.bin").write_bytes(zipped(acting(canary)["os.system by reduce"]))
    with pytest.raises(ModelError, match="could run code"):
        load_model(folder)
    assert not canary.exists()


def test_a_pickled_vae_goes_the_same_road(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    (tmp_path / "vae.pt").write_bytes(legacy(acting(canary)["exec"]))
    with pytest.raises(ModelError, match="could run code") as caught:
        open_vae(tmp_path / "vae.pt", {"scaling_factor": 0.18215})
    assert caught.value.problems[0].path == "model.vae"
    assert not canary.exists()


def test_no_source_loads_what_it_does_not_know() -> None:
    """Pickles have one door. Whoever opens another one has to say here why it is safe."""
    root = Path(__file__).parents[2]
    doors = re.compile(
        r"pickle\.load|torch\.load\(|n(?:um)?py?\.load\(|\byaml\.|\bmarshal\b|\bshelve\b|joblib"
        r"|(?<![.\w])(?<!def )(?:eval|exec|__import__)\(|os\.(?:system|popen)|shell=True"
        r"|trust_remote_code|from_pretrained\(|torch\.(?:hub|jit)|find_class|Unpickler\b"
    )
    found = {
        (path.relative_to(root).as_posix(), door)
        for top in ("engine", "lyctui", "presets")
        for path in (root / top).rglob("*.py")
        for door in doors.findall(path.read_text("utf-8"))
    }
    assert found == {("engine/models/ckpt.py", "torch.load(")}
