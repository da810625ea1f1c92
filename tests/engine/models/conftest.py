"""Tiny models on the disk, written once for all tests of this folder; never changed in place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from engine.models.family import BaseModel
from engine.models.load import load_model
from engine.models.quiet import import_quietly
from tests.engine.models.stock import SEED
from tests.tiny import write_tiny_sd1, write_tiny_sd1_folder
from tests.tiny_families import (
    FAMILIES,
    Family,
    FamilyModules,
    family_modules,
    write_tiny,
    write_tiny_folder,
)


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


@pytest.fixture(scope="session")
def family_files(tmp_path_factory: pytest.TempPathFactory, tiny_file: Path) -> dict[Family, Path]:
    """A single file of each family, all of the same seed."""
    folder = tmp_path_factory.mktemp("families")
    others = {f: write_tiny(folder / f"{f}.safetensors", f, seed=SEED) for f in FAMILIES[1:]}
    return {"sd1": tiny_file, **others}


@pytest.fixture(scope="session")
def family_folders(
    tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path
) -> dict[Family, Path]:
    """The same models as folders."""
    folder = tmp_path_factory.mktemp("families")
    return {
        "sd1": tiny_folder,
        **{f: write_tiny_folder(folder / f, f, seed=SEED) for f in FAMILIES[1:]},
    }


@pytest.fixture(scope="session")
def family_models(family_files: dict[Family, Path]) -> dict[Family, BaseModel]:
    """The files, loaded; for tests that do not change the models."""
    return {family: load_model(path) for family, path in family_files.items()}


@pytest.fixture(scope="session")
def family_originals() -> dict[Family, FamilyModules]:
    """The modules that the files were written from; not to be changed."""
    return {family: family_modules(family, SEED) for family in FAMILIES}
