"""The table says what it shows: every row is filled in the short form too, and the page is whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.faults.table import FAULTS, Ledger, rows_of

MODULES = 7
"""Test modules that inject faults."""

pytest_plugins = ["pytester"]


def test_every_row_is_filled_by_the_tests_of_this_form(request: pytest.FixtureRequest) -> None:
    """A test that fills none of the rows that it names fails by itself."""
    here = Path(__file__).parent
    items = [item for item in request.session.items if item.path.parent == here and rows_of(item)]
    if len({item.path for item in items}) < MODULES:
        pytest.skip("only some of the fault tests were chosen")
    assert set().union(*map(rows_of, items)) == set(FAULTS)


def test_a_row_that_a_test_has_not_named_is_refused() -> None:
    ledger = Ledger(lambda name, value: None, frozenset({"spike"}))
    with ledger.fault("spike"):
        pass
    with pytest.raises(AssertionError, match="stopped"), ledger.fault("stopped"):
        pass


def test_an_error_of_any_kind_is_a_loss() -> None:
    told: list[Any] = []
    ledger = Ledger(lambda name, value: told.append(value))
    with ledger.fault("spike", "a step"):
        raise KeyError("x")
    assert told == [("spike", 1, 0, ["a step: KeyError: 'x'"])]
    assert ledger.lost


INI = """
[pytest]
markers = fault(names): rows
asyncio_default_fixture_loop_scope = function
"""
TESTS = """
import os, signal
import pytest
from tests.faults.table import ledger

@pytest.mark.fault("spike")
@pytest.mark.parametrize("number", range(3))
def test_it(ledger, number):
    if number == 2:
        raise KeyboardInterrupt
    with ledger.fault("spike") as lost:
        lost += ["the | step"] * number
"""


def test_a_page_that_is_cut_short_is_whole_and_says_so(
    pytester: pytest.Pytester, tmp_path: Path
) -> None:
    page = tmp_path / "faults.md"
    pytester.makeconftest("from tests.faults.table import *")
    pytester.makeini(INI)
    pytester.makepyfile(TESTS)
    options = ("-p", "no:cacheprovider", f"--faults={page}")
    done = pytester.inline_run(*options, no_reraise_ctrlc=True)
    assert done.ret == pytest.ExitCode.INTERRUPTED
    lines = page.read_text("utf-8").splitlines()
    assert "Cut short: 2 of 3 tests had run." in lines
    assert "1 tests failed." in lines
    assert any(line.startswith("Never injected: ") for line in lines)
    last = lines[-1].split(" | ")
    assert [last[0], *last[2:]] == ["| spike", "2", "1", "the \\| step |"]
    assert not list(tmp_path.glob(".*"))
