"""Children are forked: the test's own process computes with one thread. Golden runs that tests share."""

from __future__ import annotations

import pytest

from tests.faults.golden import Golden
from tests.faults.recipes import brief, rich
from tests.faults.table import ledger as ledger
from tests.faults.table import length_of
from tests.one_thread import one_thread as one_thread


@pytest.fixture(scope="session")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Golden:
    """A run of `rich`."""
    root = tmp_path_factory.mktemp("golden")
    return Golden(rich(root), root, keep_base=True)


@pytest.fixture(scope="session")
def quick(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Golden:
    """A run of `brief`."""
    root = tmp_path_factory.mktemp("quick")
    return Golden(brief(root), root, keep_base=True, prove=length_of(pytestconfig) != "short")
