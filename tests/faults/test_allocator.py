"""The limit that tests put on memory: what it counts, when it refuses, and that it changes no numbers."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import nn

from tests.faults.allocator import AllocatorLimit

torch.set_num_threads(1)
KIB = 1024


def kibibytes(count: int) -> torch.Tensor:
    return torch.zeros(count * KIB // 4)


def test_what_lives_is_counted_once_and_what_is_dropped_no_more() -> None:
    before = kibibytes(8)
    limit = AllocatorLimit()
    with limit:
        old = before.view(2, -1)[0]
        new = kibibytes(4)
        view = new.view(2, -1)
        assert limit.live == 4 * KIB, "neither old storages nor views are counted"
        new += 1
        assert limit.live == 4 * KIB
        copy = new + 1
        assert limit.live == limit.peak == 8 * KIB
        del new
        assert limit.live == 8 * KIB, "a view holds it"
        del view, copy
    assert limit.live == 0 and limit.peak == 8 * KIB and limit.refused == 0
    del old


def test_a_request_beyond_the_limit_is_refused_and_holds_nothing() -> None:
    limit = AllocatorLimit(10 * KIB)
    with limit:
        kept = kibibytes(6)
        with pytest.raises(torch.OutOfMemoryError, match=r"of 10240 are in use"):
            kibibytes(6)
        assert limit.live == 6 * KIB and limit.refused == 1
        del kept
        assert len(kibibytes(6)) == 6 * KIB // 4


def test_only_the_first_requests_are_refused_where_memory_is_in_pieces() -> None:
    limit = AllocatorLimit(KIB, only_first=2)
    with limit:
        for _ in range(2):
            with pytest.raises(torch.OutOfMemoryError):
                kibibytes(6)
        assert len(kibibytes(6)) == 6 * KIB // 4
    assert limit.refused == 2


def test_a_backward_pass_is_limited_and_its_numbers_are_those_without() -> None:
    layers = nn.Sequential(nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 64))
    rows = torch.randn(32, 64, generator=torch.Generator().manual_seed(1))

    def gradients() -> list[torch.Tensor]:
        return list(torch.autograd.grad(layers(rows).square().mean(), list(layers.parameters())))

    expected = gradients()
    limit = AllocatorLimit()
    with limit:
        found = gradients()
    assert all(torch.equal(*pair) for pair in zip(expected, found, strict=True))
    with limit:
        loss = layers(rows).square().mean()
        limit.limit_bytes = limit.live + 4 * KIB
        with pytest.raises(torch.OutOfMemoryError):
            loss.backward()


def test_a_method_is_limited_in_the_thread_that_calls_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Runner:
        def work(self) -> str:
            try:
                kibibytes(6)
            except torch.OutOfMemoryError:
                return "refused"
            return "made"

    limit = AllocatorLimit(KIB)
    monkeypatch.setattr(Runner, "work", limit.around(Runner.work))
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(Runner().work()))
    thread.start()
    thread.join()
    assert found == ["refused"]
    assert len(kibibytes(6)) == 6 * KIB // 4, "this thread is free of it"
