"""The other programs warn about themselves while they are imported; one thread for all of them."""

import importlib
import warnings
from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(scope="session")
def lycoris():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("lycoris.modules")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
