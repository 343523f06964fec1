"""What the service manager is told, and that nothing depends on it."""

from __future__ import annotations

import logging
import os
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from controller.agent.notify import notify

if TYPE_CHECKING:
    from collections.abc import Iterator

VARIABLE = "NOTIFY_SOCKET"


@pytest.fixture
def manager() -> Iterator[socket.socket]:
    """Return the service manager's socket, not yet bound."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(10)
        yield manager


@pytest.fixture
def directory() -> Iterator[Path]:
    """Return a directory whose name is short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="notify-") as directory:
        yield Path(directory)


def test_a_socket_in_the_file_system_is_told(
    manager: socket.socket, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state arrives as it is, in one datagram."""
    manager.bind(str(directory / "notify"))
    monkeypatch.setenv(VARIABLE, str(directory / "notify"))
    notify("READY=1")
    notify("STOPPING=1")
    assert [manager.recv(100), manager.recv(100)] == [b"READY=1", b"STOPPING=1"]


def test_an_abstract_socket_is_told(manager: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name begins with `@` in the environment, with a zero byte in the kernel."""
    name = f"tortie-test-{os.getpid()}"
    manager.bind("\0" + name)
    monkeypatch.setenv(VARIABLE, "@" + name)
    notify("READY=1")
    assert manager.recv(100) == b"READY=1"


@pytest.mark.parametrize("value", [None, ""])
def test_without_a_service_manager_nothing_happens(
    value: str | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An agent started by hand has nobody to tell."""
    monkeypatch.delenv(VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(VARIABLE, value)
    notify("READY=1")
    assert caplog.records == []


@pytest.mark.parametrize("name", ["gone", "x" * 200])
def test_an_unreachable_service_manager_is_no_error(
    name: str, directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told to the log alone."""
    monkeypatch.setenv(VARIABLE, str(directory / name))
    with caplog.at_level(logging.WARNING):
        notify("READY=1")
    assert [record.message for record in caplog.records] == ["service manager was not told"]
