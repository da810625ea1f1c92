"""Signals that end or save a run at drawn instants: it leaves by itself, and its resume loses nothing."""

from __future__ import annotations

import random
import signal
import time

import pytest

from tests.faults.golden import Golden
from tests.faults.table import Ledger
from tests.faults.victim import Job, Victim

pytestmark = pytest.mark.slow

FAULT = "SIGTERM, SIGINT, SIGHUP, SIGUSR1"
CODES = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGHUP: 0, signal.SIGUSR1: 0}
LEADING_IN = 0.05
"""Seconds from the fork until the handlers are set."""


def program(job: Job) -> int:
    """The run as `lyctui resume --plain` has it: handlers set, the session in a thread, lines told."""
    import engine.assemble
    from engine.session import Session, stored_recipe
    from lyctui.monitor import EventFeed, LiveRun
    from lyctui.plain_monitor import follow
    from lyctui.signals import Signals

    signals = Signals().install()
    engine.assemble._load_base = lambda *given: job.base  # type: ignore[assignment]
    feed = EventFeed()
    session = Session(
        stored_recipe(job.folder), job.folder, resume=job.resume, cache=job.cache, on_event=feed
    )
    return follow(LiveRun(session, feed), signals=signals)


def signalled(golden: Golden, ledger: Ledger, number: signal.Signals, seed: int) -> None:
    """Send a signal at a drawn instant, resume where the run has left, and compare."""
    rng = random.Random(f"{number.name} {seed}")
    folder = golden.new_run()
    with ledger.fault(FAULT, f"{number.name}, seed {seed}") as lost:
        job = golden.job(folder)
        victim = Victim(lambda: program(job), folder.with_name(f"{folder.name}.log"))
        time.sleep(LEADING_IN + rng.uniform(0.0, 0.9) * golden.seconds)
        victim.send(number)
        end = victim.wait()
        # A signal may come after the last step: the run is then finished.
        assert end.code in (CODES[number], 0), end.said()
        if end.code:
            golden.resumed(folder)
        lost += golden.differences(folder, deaths=0, asked=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_at_some_instant(quick: Golden, ledger: Ledger, number: signal.Signals) -> None:
    signalled(quick, ledger, number, seed=1)


@pytest.mark.faults_long
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("number", list(CODES))
def test_a_signal_at_many_instants(
    quick: Golden, ledger: Ledger, number: signal.Signals, seed: int
) -> None:
    signalled(quick, ledger, number, seed)
