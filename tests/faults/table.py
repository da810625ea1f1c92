"""The table of faults: what was injected, how often it was survived, and what was lost.

`pytest --faults docs/faults.md` runs the long form and writes the page; `--faults-all` with it the whole
product of algorithms, optimizers and precisions. A test names its rows with `@pytest.mark.fault(...)`.
"""

from __future__ import annotations

import contextlib
import datetime
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

PROPERTY = "fault"
FAULTS = {
    "killed at a random instant": "SIGKILL from outside, after a part of the run's own time that was drawn",
    "killed in a step": (
        "SIGKILL around each forward, in each backward, between the batches of an accumulation,"
        " around each update"
    ),
    "killed in a picture or a measurement": "SIGKILL in a preview, or in a validation",
    "killed in a cache write": "SIGKILL before each change to the cache folder, and with a write torn in half",
    "killed in a save": (
        "SIGKILL before each open, write, fsync, rename and removal of network file, state and manifest,"
        " and with each write torn in half"
    ),
    "killed in an event": "SIGKILL before a line of events.jsonl, and after half of it",
    "killed in another file": "SIGKILL at changes to lock, log, pictures and prompts",
    "killed in a resume": "SIGKILL while the state is verified, read and put back; then resumed again",
    "killed in a change of the recipe": "SIGKILL while a resume with changed settings rewrites run.toml",
    "power cut in a save": "as killed in a save, and what was not yet synced is cut in half",
    "killed and resumed twice": "SIGKILL in the run, SIGKILL in its resume, and resumed again",
    "other loader workers": "killed with one number of loader workers, resumed with another",
    "matrix": "algorithm x optimizer x precision: killed once or twice at drawn instants on the demo base",
    "stopped": "asked to stop at a step, and resumed",
    "SIGTERM, SIGINT, SIGHUP, SIGUSR1": "sent to the program at drawn instants; it leaves by itself or goes on",
    "state damaged": "a file of the newest state cut off, a bit flipped, gone, or half renamed",
    "disk full in a save": (
        "ENOSPC at each change to the disk of a save, then room again; a preview that does not fit is left out"
        " and said"
    ),
    "disk full in the cache": "ENOSPC at each change to the disk in the cache",
    "folder read-only": "EROFS at each change of a save, then writable again",
    "folder gone": "the run's folder is moved away while it runs",
    "not a number in latents": "NaN in the latents of one picture in one step",
    "not a number in gradients": "NaN in one gradient of one step",
    "not a number in the loss": "NaN in the loss of one step",
    "spike": "the loss of three steps a hundred times too high",
    "memory short in a step": "the allocator refuses in a step, once and always",
    "memory short in caching": "the allocator refuses while latents are encoded",
    "memory short in a picture": "the allocator refuses while a preview is made",
    "memory short in a save": "the allocator refuses while a file is written",
    "picture removed": "a picture is removed while the run goes on",
    "picture replaced": "another picture under the same name while the run goes on",
    "picture unreadable": "a picture is cut off while the run goes on",
    "caption edited": "a caption is edited while the run goes on",
    "base replaced": "another base model under the same name while the run goes on",
    "clock set": "the clock jumps a day back or forward in the run",
    "two processes on one folder": "a second process takes up a run that has an owner",
}
"""What each fault is."""
HEAD = """# Faults

What dies, breaks or runs short while a run goes on, how often it was made to happen, and what was lost.
A run that was killed is resumed in a fresh process and compared with one that was not: the bytes of all
tensors, loss, learning rate and gradient norm of every step each time it was computed, the pictures, the
manifest, and that nothing is left behind. The commands: `make faults` for this table, which holds every
pair of algorithm, optimizer and precision and takes about an hour on two cores; with `--faults-all` their
whole product, an hour more. Every row, and every algorithm, optimizer and precision, is shown by the
short form of the same tests too, which runs with `make test`.
"""


Length = Literal["short", "long", "all"]


def length_of(config: pytest.Config) -> Length:
    """How long the tests may take, as the command line says."""
    if config.getoption("--faults") is None:
        return "short"
    return "all" if config.getoption("--faults-all") else "long"


@dataclass(slots=True)
class Row:
    """One fault."""

    injected: int = 0
    survived: int = 0
    lost: list[str] = field(default_factory=list)


class Ledger:
    """What one test injected. A fault that is not survived fails the test when it ends."""

    def __init__(
        self, record: Callable[[str, Any], None], rows: frozenset[str] = frozenset(FAULTS)
    ) -> None:
        """`rows` are those that the test says it fills."""
        self._record = record
        self._rows = rows
        self.lost: list[str] = []

    @contextlib.contextmanager
    def fault(self, name: str, detail: object = "") -> Iterator[list[str]]:
        """Inject `name` within it; what is put into the list, or an error, is a loss."""
        assert name in self._rows, name
        lost: list[str] = []
        try:
            yield lost
        except AssertionError as error:
            lost.append(str(error) or "an assertion failed")
        except Exception as error:
            lost.append(f"{type(error).__name__}: {error}")
        words = [f"{detail}: {each}" if str(detail) else each for each in lost]
        self.lost += words
        self._record(PROPERTY, (name, 1, 0 if lost else 1, [word[:300] for word in words[:3]]))


@pytest.fixture
def ledger(
    record_property: Callable[[str, Any], None], request: pytest.FixtureRequest
) -> Iterator[Ledger]:
    """Where a test tells what it injected."""
    kept = Ledger(record_property, rows_of(request.node))
    yield kept
    if kept.lost:
        pytest.fail("\n".join(kept.lost), pytrace=False)


def rows_of(item: pytest.Item) -> frozenset[str]:
    """The rows that a test says it fills: those of its marks, and its parameter `fault`."""
    named = {name for mark in item.iter_markers("fault") for name in mark.args}
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    return frozenset(named | {parameters["fault"]} if "fault" in parameters else named)


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--faults PAGE`, `--faults-all`."""
    parser.addoption(
        "--faults", metavar="PAGE", default=None, help="run the long fault tests and write the page"
    )
    parser.addoption(
        "--faults-all",
        action="store_true",
        help="with --faults: every algorithm with every optimizer in every precision, which takes hours",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The long form runs only where it is asked for."""
    if config.getoption("--faults") is not None:
        return
    long = [item for item in items if item.get_closest_marker("faults_long")]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if not item.get_closest_marker("faults_long")]


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the table, and write the page where it was asked for, also where the tests were cut short."""
    reports = [each for several in terminalreporter.stats.values() for each in several]
    rows: dict[str, Row] = {}
    for report in reports:
        if getattr(report, "when", "") == "call":
            _add(rows, report.user_properties)
    if not rows:
        return
    rows = {name: rows[name] for name in FAULTS if name in rows}
    terminalreporter.write_sep("=", "faults")
    width = max(map(len, rows))
    terminalreporter.write_line(f"{'fault':{width}} | injected | survived | lost")
    for name, row in rows.items():
        lost = "; ".join(row.lost[:2]) or "nothing"
        terminalreporter.write_line(
            f"{name:{width}} | {row.injected:8} | {row.survived:8} | {lost}"
        )
    page = config.getoption("--faults")
    if page:
        done = {report.nodeid for report in reports if getattr(report, "when", "") == "call"}
        never = [name for name in FAULTS if name not in rows]
        notes = _notes(done, terminalreporter._session.testscollected, _failed(reports), never)
        temporary = Path(page).with_name(f".{Path(page).name}.tmp")
        temporary.write_text(_page(rows, notes), encoding="utf-8")
        temporary.replace(page)


def _failed(reports: list[Any]) -> int:
    """Tests that failed in any of their parts."""
    return len({report.nodeid for report in reports if getattr(report, "failed", False)})


def _notes(done: set[str], collected: int, failed: int, never: list[str]) -> list[str]:
    """What a reader of the page has to know beside the rows."""
    found = []
    if len(done) < collected:
        found.append(f"Cut short: {len(done)} of {collected} tests had run.")
    if failed:
        found.append(f"{failed} tests failed.")
    if never:
        found.append(f"Never injected: {', '.join(never)}.")
    return found


def _add(rows: dict[str, Row], properties: list[tuple[str, Any]]) -> None:
    for key, value in properties:
        if key == PROPERTY:
            name, injected, survived, lost = value
            row = rows.setdefault(name, Row())
            row.injected += injected
            row.survived += survived
            row.lost += lost


def _page(rows: dict[str, Row], notes: list[str]) -> str:
    import torch

    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    today = datetime.date.today().isoformat()
    lines = [
        HEAD,
        f"{today}, commit {commit or 'unknown'}, torch {torch.__version__}, CPU, one thread a process.",
        *notes,
        "",
        "| fault | what it is | injected | survived | lost |",
        "|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        lost = "; ".join(row.lost[:3]).replace("|", "\\|").replace("\n", " ") or "nothing"
        lines.append(f"| {name} | {FAULTS[name]} | {row.injected} | {row.survived} | {lost} |")
    return "\n".join([*lines, ""])
