"""Requests from other processes to a run: a socket, and control files beside it. No torch.

Who may ask: the user that the run belongs to, and root, who may do anything to it anyway. One thread
serves everybody and waits for nobody: whoever connects and says nothing, or too much, is left.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from engine.control import REQUESTS, Control
from engine.run_lock import BEAT_SECONDS
from engine.runs import REFUSED, RunFolder, short_socket_path

LONGEST_REQUEST = 64
"""Bytes; no request has as many."""
PATIENCE_SECONDS = 1.0
"""A client that has not asked by then is left."""
MOST_CLIENTS = 32
"""Who connects while so many wait takes the place of the one that waits longest."""


@dataclass(slots=True, eq=False)
class _Client:
    """Somebody who has connected and not asked yet."""

    socket: socket.socket
    until: float
    said: bytes = b""


class Listener:
    """Takes requests while a run lives, and shows that it does. Its troubles never end the run."""

    def __init__(self, folder: RunFolder, control: Control, beat: Callable[[], None]) -> None:
        self._folder = folder
        self._control = control
        self._beat = beat
        self._stopping = False
        self._server: socket.socket | None = None
        self._has_files = False
        self._clients: list[_Client] = []
        self._selector = selectors.DefaultSelector()
        self._wake, self._waker = socket.socketpair()
        self._troubled = False
        self._thread = threading.Thread(target=self._listen, name="control", daemon=True)

    def start(self) -> str:
        """Open the socket (0600) and the folder for control files (0700), and listen.

        Gives a notice to show: "" unless neither can be had.
        """
        with contextlib.suppress(OSError):
            self._folder.socket.unlink(missing_ok=True)
        self._has_files = self._open_files()
        # Some network file systems refuse sockets: control files remain.
        with contextlib.suppress(OSError):
            self._server = self._bind()
        self._thread.start()
        if self._server is not None or self._has_files:
            return ""
        return "The run can be asked from this window only: its folder takes no control files."

    def _open_files(self) -> bool:
        """Make the folder of control files, or take the one that a dead owner left, emptied."""
        folder = self._folder.requests
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            # Never through a link: what it leads to is not ours to open or to clear.
            if folder.is_symlink() or not allowed(folder.stat().st_uid):
                return False
            folder.chmod(0o700)
            self._clear_files()
        except OSError:
            return False
        return True

    def _clear_files(self) -> None:
        # What was asked of an owner that has died is not asked of the next one.
        for word in REQUESTS:
            with contextlib.suppress(OSError):
                (self._folder.requests / word).unlink()

    def _bind(self) -> socket.socket:
        if not hasattr(socket, "AF_UNIX"):
            raise OSError("no Unix sockets here")
        server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with short_socket_path(self._folder.socket) as address:
                server.bind(address)
            # Nobody can connect before `listen`. A umask would change what other threads write.
            self._folder.socket.chmod(0o600)
            server.listen(MOST_CLIENTS)
        except OSError:
            server.close()
            raise
        server.setblocking(False)
        return server

    def stop(self) -> None:
        """Close and remove both ways in."""
        self._stopping = True
        with contextlib.suppress(OSError):
            self._waker.send(b"!")
        if self._thread.is_alive():
            self._thread.join(2 * BEAT_SECONDS)
        for each in (self._server, self._wake, self._waker, self._selector):
            if each is not None:
                with contextlib.suppress(OSError):
                    each.close()
        with contextlib.suppress(OSError):
            self._folder.socket.unlink(missing_ok=True)
        if self._has_files:
            self._clear_files()
            with contextlib.suppress(OSError):
                self._folder.requests.rmdir()

    # In the thread ------------------------------------------------------------------------

    def _listen(self) -> None:
        self._selector.register(self._wake, selectors.EVENT_READ)
        if self._server is not None:
            self._selector.register(self._server, selectors.EVENT_READ)
        while not self._stopping:
            began = time.monotonic()
            try:
                self._turn()
            except Exception:
                self._tell_trouble()
                # Whatever does not go away must not keep a core busy.
                time.sleep(max(0.0, began + BEAT_SECONDS - time.monotonic()))
        with contextlib.suppress(Exception):  # `stop` may have waited long enough
            self._leave(self._clients)

    def _tell_trouble(self) -> None:
        if not self._troubled:
            self._troubled = True
            logging.getLogger("engine").exception("requests from other processes may be lost")

    def _turn(self) -> None:
        """Serve whoever has come until the next beat."""
        with contextlib.suppress(OSError):
            self._beat()
        if self._has_files:
            self._read_files()
        until = time.monotonic() + BEAT_SECONDS
        while not self._stopping and (left := until - time.monotonic()) > 0:
            for key, _ in self._selector.select(left):
                if key.fileobj is self._server:
                    self._welcome(self._server)
                elif isinstance(key.data, _Client):
                    self._hear(key.data)
        now = time.monotonic()
        self._leave([client for client in self._clients if client.until <= now])

    def _welcome(self, server: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            connection, _ = server.accept()
            connection.setblocking(False)
            client = _Client(connection, time.monotonic() + PATIENCE_SECONDS)
            self._leave(self._clients[: len(self._clients) + 1 - MOST_CLIENTS])
            self._clients.append(client)
            self._selector.register(connection, selectors.EVENT_READ, client)

    def _hear(self, client: _Client) -> None:
        try:
            heard = client.socket.recv(LONGEST_REQUEST)
        except OSError:
            self._leave([client])
            return
        client.said += heard
        if not heard or b"\n" in client.said or len(client.said) >= LONGEST_REQUEST:
            with contextlib.suppress(OSError):
                client.socket.send(self._answer(client).encode() + b"\n")
            self._leave([client])

    def _answer(self, client: _Client) -> str:
        if not _may_ask(client.socket):
            return f"{REFUSED}: another user"
        words = client.said.split(b"\n")[0].decode("ascii", errors="replace")
        return self._ask(words.strip())

    def _leave(self, clients: list[_Client]) -> None:
        for client in list(clients):
            if client in self._clients:
                self._clients.remove(client)
                self._selector.unregister(client.socket)
                client.socket.close()

    def _read_files(self) -> None:
        with contextlib.suppress(OSError):
            for path in list(self._folder.requests.iterdir()):
                with contextlib.suppress(OSError):
                    self._read_file(path)

    def _read_file(self, path: Path) -> None:
        """Take one control file away, and what it asks; a stranger's is taken away only."""
        strange = not allowed(path.lstat().st_uid)
        if strange or path.name in REQUESTS:
            path.unlink()
        if not strange:
            self._ask(path.name)

    def _ask(self, word: str) -> str:
        if word not in REQUESTS:
            return f"{REFUSED}: not a request"
        self._control.ask(word)  # type: ignore[arg-type]  # checked against the set of words above
        return f"asked to {word}"


def allowed(user: int) -> bool:
    """Whether this user id may ask: the one of this process, or root."""
    return not hasattr(os, "getuid") or user in (os.getuid(), 0)


def _may_ask(connection: socket.socket) -> bool:
    if not hasattr(socket, "SO_PEERCRED"):
        return True  # the socket's mode already keeps others out
    return allowed(peer_of(connection))


def peer_of(connection: socket.socket) -> int:
    """User id at the other end of a Unix socket, as the kernel knows it."""
    size = struct.calcsize("3i")
    said = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    _, user, _ = struct.unpack("3i", said)
    return int(user)
