"""Tiny models on the disk, written once for all tests of this folder; never changed in place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from engine.models.family import BaseModel
from engine.models.load import load_model
from engine.models.quiet import import_quietly
from tests.tiny import write_tiny_sd1, write_tiny_sd1_folder


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Several test runs share the machine, and one thread gives the same bits each time."""
    import_quietly()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_sd1(tmp_path_factory.mktemp("tiny") / "tiny.safetensors", seed=1)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_sd1_folder(tmp_path_factory.mktemp("tiny") / "folder", seed=1)


@pytest.fixture(scope="session")
def shared_model(tiny_file: Path) -> BaseModel:
    """For tests that do not change the model."""
    return load_model(tiny_file)
