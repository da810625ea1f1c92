"""No test reaches a network: internet sockets refuse to connect, resolve or send."""

from __future__ import annotations

import socket
from typing import Any, NoReturn

import pytest

from tests.faults.table import pytest_addoption as pytest_addoption
from tests.faults.table import pytest_collection_modifyitems as pytest_collection_modifyitems
from tests.faults.table import pytest_terminal_summary as pytest_terminal_summary

LOCAL_FAMILIES = frozenset(
    family for name in ("AF_UNIX", "AF_NETLINK") if (family := getattr(socket, name, None))
)


class NetworkUsed(BaseException):
    """Not an Exception, so that no fall-back in a library swallows it."""


def _refused(*_: object, **__: object) -> NoReturn:
    raise NetworkUsed("a test tried to use the network")


def _local_only(original: Any) -> Any:
    def guarded(self: socket.socket, *args: Any) -> Any:
        if self.family not in LOCAL_FAMILIES:
            _refused()
        return original(self, *args)

    return guarded


@pytest.fixture(autouse=True)
def no_internet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sockets of AF_UNIX keep working: the control socket and event loops use them."""
    for method in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, method, _local_only(getattr(socket.socket, method)))
    for function in ("getaddrinfo", "gethostbyname", "create_connection"):
        monkeypatch.setattr(socket, function, _refused)
