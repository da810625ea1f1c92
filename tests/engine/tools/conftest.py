"""Tools work on one thread here."""

import pytest

from tests.engine.tools.tiny_files import Tiny
from tests.one_thread import one_thread as one_thread


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Tiny:
    return Tiny(tmp_path_factory.mktemp("tiny"))
