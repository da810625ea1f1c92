"""The other programs warn about themselves while they are imported; one thread for all of them."""

import importlib
import warnings

import pytest

from tests.one_thread import one_thread as one_thread


@pytest.fixture(scope="session")
def lycoris():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("lycoris.modules")
