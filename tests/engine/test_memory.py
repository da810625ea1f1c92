"""Memory going short: what says so, one more attempt, words that hold nothing, and what the host has."""

from __future__ import annotations

import errno
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import engine.memory
from engine.errors import OutOfMemory, Problem
from engine.memory import available_host_bytes, in_words, is_out_of_memory, tried_again
from tests.faults.allocator import AllocatorLimit

torch.set_num_threads(1)


def raised_by(work: Any) -> BaseException:
    try:
        work()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def test_what_torch_and_python_really_raise_is_known() -> None:
    assert is_out_of_memory(raised_by(lambda: torch.empty(1 << 50)))
    assert is_out_of_memory(raised_by(lambda: bytearray(1 << 60)))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("std::bad_alloc"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
)
def test_what_libraries_say_of_it_is_known(error: BaseException) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        ValueError("out of memory"),
        OSError(errno.ENOSPC, "No space left on device"),
        OutOfMemory("There is not enough memory for this picture."),
        KeyboardInterrupt(),
    ],
)
def test_other_errors_are_none(error: BaseException) -> None:
    assert not is_out_of_memory(error)


def test_the_second_attempt_begins_with_nothing_of_the_first() -> None:
    limit, seen = AllocatorLimit(100_000), []

    def work() -> int:
        seen.append(limit.live)
        first = torch.zeros(15_000)
        return len(torch.zeros(15_000)) + len(first)

    def make_room() -> None:
        assert limit.live == 0
        limit.limit_bytes = 200_000

    with limit:
        assert tried_again(work, make_room) == 30_000
    assert seen == [0, 0] and limit.refused == 1


def test_the_second_error_goes_on_and_others_are_not_tried_again() -> None:
    calls: list[int] = []

    def fails(error: Exception) -> None:
        calls.append(1)
        raise error

    with pytest.raises(MemoryError):
        tried_again(lambda: fails(MemoryError()))
    assert len(calls) == 2
    with pytest.raises(ValueError, match="wrong"):
        tried_again(lambda: fails(ValueError("wrong")))
    assert len(calls) == 3


def test_words_hold_nothing_of_what_failed() -> None:
    limit = AllocatorLimit(100_000)

    def work() -> None:
        held = torch.zeros(15_000)
        torch.zeros(15_000)
        del held

    with limit:
        try:
            in_words(work, Problem("Too large."))
        except OutOfMemory as error:
            assert str(error) == "Too large." and error.__context__ is None
            assert limit.live == 0, "the error is still here, what was made is not"
        else:
            raise AssertionError("nothing was raised")


# What the host has --------------------------------------------------------------------------------


def groups(monkeypatch: pytest.MonkeyPatch, root: Path, membership: str, **files: str) -> int:
    """What is available in a machine of 1000 bytes with these control groups."""
    monkeypatch.setattr(
        engine.memory.psutil, "virtual_memory", lambda: SimpleNamespace(available=1000)
    )
    monkeypatch.setattr(engine.memory, "CGROUPS", root)
    monkeypatch.setattr(engine.memory, "MEMBERSHIP", root / "cgroup")
    (root / "cgroup").write_text(membership)
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return available_host_bytes()


def test_a_machine_without_limits_has_what_the_system_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert groups(monkeypatch, tmp_path, "0::/a\n", a__memory_dot_max="max\n") == 1000
    (tmp_path / "cgroup").unlink()
    assert available_host_bytes() == 1000


def test_a_group_leaves_its_limit_less_its_use_but_for_cached_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = groups(
        monkeypatch,
        tmp_path,
        "0::/a/b\n",
        a__b__memory_dot_max="max\n",
        a__memory_dot_max="700\n",
        a__memory_dot_current="500\n",
        a__memory_dot_stat="anon 400\ninactive_file 100\n",
    )
    assert found == 300, "a group above counts too"


def test_groups_of_the_first_version_are_read_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = groups(
        monkeypatch,
        tmp_path,
        "5:devices:/x\n4:memory:/docker/1\n",
        memory__memory_dot_limit_in_bytes="600\n",
        memory__memory_dot_usage_in_bytes="800\n",
    )
    assert found == 0, "in a container the path is the host's, and nothing is less than nothing"
