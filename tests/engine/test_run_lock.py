"""Who owns a run: one process, told by lock, by birth and by heartbeat, never by a clock."""

import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from engine import run_lock
from engine.errors import RunError
from engine.run_lock import Lock, owner_of
from engine.runs import RunFolder, ask_run
from lyctui.monitor import WatchedRun

HOLD = """
import sys, time
from pathlib import Path
from engine.runs import Lock, RunFolder
Lock(RunFolder(Path(sys.argv[1]))).acquire()
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def folder(tmp_path):
    made = RunFolder(tmp_path / "vexilo_v1")
    made.path.mkdir()
    return made


def sign(folder, *, pid=4711, host="gpu7", born=""):
    """The lock as somebody else has left it."""
    owner = {"pid": pid, "host": host, "since": time.time(), "born": born}
    folder.lock.write_text(json.dumps(owner))


@contextmanager
def heart(folder):
    """Another host shows that it lives, through the file system alone."""
    stopping = threading.Event()

    def beat():
        while not stopping.wait(0.02):
            os.utime(folder.lock)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


@pytest.fixture
def without_locks(monkeypatch):
    """A file system that knows no locks."""

    def refuse(descriptor, *, shared=False):
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(run_lock, "_try_lock", refuse)


@pytest.fixture(autouse=True)
def _short_watch(monkeypatch):
    monkeypatch.setattr(run_lock, "QUIET_SECONDS", 0.6)


def test_a_second_process_is_refused_by_number_and_host(folder):
    command = [sys.executable, "-c", HOLD, str(folder.path)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"held\n"
        words = f"in use by process {first.pid} on {socket.gethostname()}"
        with pytest.raises(RunError, match=words):
            Lock(folder).acquire()
        assert owner_of(folder).pid == first.pid
        first.kill()
        first.wait()
    assert owner_of(folder) is None
    assert Lock(folder).acquire() == ""


def test_the_lock_decides_although_a_number_was_given_out_anew(folder):
    sign(folder, pid=os.getppid(), host=socket.gethostname(), born="an earlier process")
    assert owner_of(folder) is None
    assert Lock(folder).acquire() == ""


def test_two_who_look_at_once_do_not_take_each_other_for_the_owner(folder):
    sign(folder, pid=1, host=socket.gethostname())
    with folder.lock.open() as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        assert owner_of(folder) is None
        assert not WatchedRun(folder.path).live


def test_a_run_on_another_host_is_refused_and_read_only_and_says_where(folder):
    sign(folder)
    with heart(folder):
        with pytest.raises(RunError, match="in use by process 4711 on gpu7"):
            Lock(folder).acquire()
        watched = WatchedRun(folder.path)
        assert watched.live
        assert "gpu7" in watched.read_only
        assert "gpu7" in str(watched.ask("stop"))
        with pytest.raises(RunError, match="on gpu7"):
            ask_run(folder.path, "stop")


@pytest.mark.parametrize("jump", [-86_400.0, 86_400.0])
def test_a_clock_that_was_set_takes_no_run_from_another_host(folder, monkeypatch, jump):
    now = time.time
    sign(folder)
    with heart(folder):
        monkeypatch.setattr(time, "time", lambda: now() + jump)
        with pytest.raises(RunError, match="gpu7"):
            Lock(folder).acquire()


def test_a_dead_owner_on_another_host_is_taken_over(folder):
    sign(folder)
    assert owner_of(folder) is not None, "by its last beat it may live"
    lock = Lock(folder)
    assert lock.acquire() == ""
    assert owner_of(folder).pid == os.getpid()
    lock.release()
    assert owner_of(folder) is None


def test_without_locks_birth_and_heartbeat_decide(folder, without_locks):
    first = Lock(folder)
    assert "heartbeat" in first.acquire()
    assert owner_of(folder).pid == os.getpid()
    with pytest.raises(RunError, match=f"process {os.getpid()} on"):
        Lock(folder).acquire()
    # A dead owner whose number another process has now.
    sign(folder, pid=os.getppid(), host=socket.gethostname(), born="an earlier process")
    assert owner_of(folder) is None
    assert "heartbeat" in Lock(folder).acquire()
    # Where no birth is known, as in a lock of an older version, the heart must stand still.
    sign(folder, pid=os.getppid(), host=socket.gethostname())
    with heart(folder), pytest.raises(RunError, match="in use by process"):
        Lock(folder).acquire()
    assert "heartbeat" in Lock(folder).acquire()


def test_a_folder_that_is_gone_is_said_in_words(tmp_path):
    with pytest.raises(RunError, match="cannot be written"):
        Lock(RunFolder(tmp_path / "unmounted")).acquire()
