"""The way in from other processes: open to its owner, deaf to garbage, and never the run's end."""

import contextlib
import errno
import logging
import os
import socket
import stat
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from engine.control import Control
from engine.errors import RunError
from engine.listener import MOST_CLIENTS, Listener, allowed, peer_of
from engine.runs import Lock, RunFolder, ask_run

NOBODY = 65534
AS_NOBODY = """
import os, sys
from pathlib import Path
from engine.errors import RunError
from engine.runs import RunFolder, ask_run
import engine.runs, socket
folder = RunFolder(Path(sys.argv[1]))
os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    print("asked:", ask_run(folder.path, "stop"))
except RunError as error:
    print("refused:", error)
try:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(folder.socket))
        client.sendall(b"stop\\n")
        print("answer:", client.recv(100).decode().strip())
except OSError as error:
    print("answer:", type(error).__name__)
try:
    (folder.requests / "stop").touch()
    print("left a file")
except OSError as error:
    print("file:", type(error).__name__)
"""


@pytest.fixture
def run(tmp_path):
    """A run folder with an owner that listens: `run()`; all are closed in the end."""
    with contextlib.ExitStack() as closing:

        def start(folder=None, beat=None):
            folder = folder or RunFolder(tmp_path / "run")
            folder.path.mkdir(parents=True, exist_ok=True)
            lock, control = Lock(folder), Control()
            lock.acquire()
            closing.callback(lock.release)
            listener = Listener(folder, control, beat or lock.beat)
            start.notice = listener.start()
            closing.callback(listener.stop)
            return folder, control, listener

        yield start


def connected(folder):
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(folder.socket))
    client.settimeout(20)
    return client


def test_only_this_user_and_root_may_ask():
    assert allowed(os.getuid())
    assert allowed(0), "root may do anything to the run anyway"
    assert not allowed(os.getuid() + 1)
    one, other = socket.socketpair()
    with one, other:
        assert peer_of(one) == os.getuid()


def test_a_stranger_at_the_socket_is_told_so(run, monkeypatch):
    folder, control, _ = run()
    monkeypatch.setattr("engine.listener.allowed", lambda user: False)
    with connected(folder) as client:
        client.sendall(b"stop\n")
        assert client.recv(100) == b"refused: another user\n"
    with pytest.raises(RunError, match="refused: another user"):
        ask_run(folder.path, "stop")
    assert control.take() == ()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_another_user_can_neither_ask_nor_leave_a_file(run, tmp_path):
    for path in (tmp_path, *tmp_path.parents[:3]):
        path.chmod(0o755)
    folder, control, _ = run()
    command = [sys.executable, "-c", AS_NOBODY, str(folder.path)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert "belongs to another user" in done.stdout
    assert "answer: PermissionError" in done.stdout
    assert "file: PermissionError" in done.stdout
    # Even with both open to everybody the kernel says who asks.
    folder.socket.chmod(0o777)
    folder.requests.chmod(0o777)
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert "answer: refused: another user" in done.stdout
    assert "left a file" in done.stdout
    with connected(folder) as client:
        client.sendall(b"save\n")
        assert client.recv(100) == b"asked to save\n"
    waited = Control()
    for _ in range(200):
        if not list(folder.requests.iterdir()):
            break
        waited.wait(0.05)
    assert list(folder.requests.iterdir()) == [], "a stranger's file is taken away"
    assert control.take() == ("save",), "and not obeyed"


def test_silent_clients_keep_nobody_waiting(run):
    folder, control, _ = run()
    silent = [connected(folder) for _ in range(MOST_CLIENTS - 4)]
    try:
        assert ask_run(folder.path, "stop") == "asked to stop"
        assert control.take() == ("stop",)
        silent += [connected(folder) for _ in range(MOST_CLIENTS)]
        assert ask_run(folder.path, "save") == "asked to save"
        assert silent[0].recv(10) == b"", "who says nothing is left"
    finally:
        for client in silent:
            client.close()


@pytest.mark.parametrize("words", [b"\x00\xff\x1b[2J\n", b"stop; rm -rf /\n", b"x" * 5000, b"\n"])
def test_garbage_is_refused_and_the_next_one_is_heard(run, words):
    folder, control, _ = run()
    with connected(folder) as client:
        client.sendall(words)
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(100) == b"refused: not a request\n"
    with connected(folder) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.sendall(b"st")
    assert ask_run(folder.path, "pause") == "asked to pause"
    assert control.take() == ("pause",)


def test_what_a_dead_owner_left_is_cleared_not_obeyed(run, tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.requests.mkdir(parents=True, mode=0o755)
    (folder.requests / "stop").touch()
    (folder.requests / "notes.txt").write_text("a user's own")
    folder.socket.touch()
    _, control, listener = run(folder)
    assert run.notice == ""
    assert stat.S_IMODE(folder.requests.stat().st_mode) == 0o700
    assert stat.S_IMODE(folder.socket.stat().st_mode) == 0o600
    assert ask_run(folder.path, "save") == "asked to save"
    assert control.take() == ("save",)
    listener.stop()
    assert [path.name for path in folder.requests.iterdir()] == ["notes.txt"]


def test_control_files_are_never_cleared_through_a_link(run, tmp_path):
    elsewhere = tmp_path / "pictures"
    elsewhere.mkdir()
    (elsewhere / "stop").write_text("a picture's caption")
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    folder.requests.symlink_to(elsewhere)
    _, control, listener = run(folder)
    assert ask_run(folder.path, "save") == "asked to save"
    assert control.take() == ("save",)
    listener.stop()
    assert (elsewhere / "stop").read_text() == "a picture's caption"


def test_a_file_system_without_sockets_has_control_files(run, monkeypatch):
    def refuse(self):
        raise OSError(errno.EOPNOTSUPP, "no sockets")

    monkeypatch.setattr(Listener, "_bind", refuse)
    folder, control, _ = run()
    assert run.notice == ""
    assert ask_run(folder.path, "sample").startswith("left sample")
    assert control.wait(20)
    assert control.take() == ("sample",)


def test_a_run_that_nobody_can_ask_trains_and_says_so(run, tmp_path, monkeypatch):
    def refuse(self):
        raise OSError(errno.EOPNOTSUPP, "no sockets")

    monkeypatch.setattr(Listener, "_bind", refuse)
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    folder.requests.write_text("in the way")
    run(folder)
    assert "this window only" in run.notice
    with pytest.raises(RunError, match="cannot be reached"):
        ask_run(folder.path, "stop")


def test_trouble_in_the_thread_is_logged_once_and_passes(run, monkeypatch, caplog):
    beaten = 0

    def beat():
        nonlocal beaten
        beaten += 1
        if beaten < 3:
            raise RuntimeError("unforeseen") if beaten == 1 else OSError(errno.EIO, "gone")

    monkeypatch.setattr("engine.listener.BEAT_SECONDS", 0.05)
    with caplog.at_level(logging.ERROR, logger="engine"):
        folder, control, _ = run(beat=beat)
        assert ask_run(folder.path, "stop") == "asked to stop"
        waiting = Control()
        for _ in range(400):
            if beaten > 3:
                break
            waiting.wait(0.02)
    assert beaten > 3
    assert control.take() == ("stop",)
    assert len([each for each in caplog.records if "may be lost" in each.message]) == 1
