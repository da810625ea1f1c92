"""Signals that end or save a run at drawn instants: it leaves by itself, and its resume loses nothing."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest

from tests.faults.golden import Golden
from tests.faults.table import Ledger
from tests.faults.victim import Job, Victim

FAULT = "SIGTERM, SIGINT, SIGHUP, SIGUSR1"
pytestmark = [pytest.mark.slow, pytest.mark.fault(FAULT)]
CODES = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGHUP: 0, signal.SIGUSR1: 0}
READY = "handlers are set"


def program(job: Job) -> int:
    """The run as `lyctui resume --plain` has it: handlers set, the session in a thread, lines told."""
    from engine.session import Session, stored_recipe
    from lyctui.monitor import EventFeed, LiveRun
    from lyctui.plain_monitor import follow
    from lyctui.signals import Signals

    job.prepare()
    signals = Signals().install()
    os.write(2, READY.encode())
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
        log = folder.with_name(f"{folder.name}.log")
        victim = Victim(lambda: program(job), log)
        deadline = time.monotonic() + 60
        # Before that a signal ends any program; it has not begun anything yet.
        while not (log.exists() and READY in log.read_text("utf-8", "replace")):
            assert time.monotonic() < deadline
            time.sleep(0.003)
        time.sleep(rng.uniform(0.0, 0.9) * golden.seconds)
        victim.send(number)
        end = victim.wait()
        # A signal may come after the last step: the run is then finished.
        assert end.code in (CODES[number], 0), end.said()
        if end.code:
            golden.resumed(folder)
        lost += golden.differences(folder, deaths=0, asked=True)


@pytest.mark.parametrize("number", list(CODES))
def test_a_signal_at_some_instant(quick: Golden, ledger: Ledger, number: signal.Signals) -> None:
    signalled(quick, ledger, number, seed=1)


@pytest.mark.faults_long
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("number", list(CODES))
def test_a_signal_at_many_instants(
    quick: Golden, ledger: Ledger, number: signal.Signals, seed: int
) -> None:
    signalled(quick, ledger, number, seed)
