"""The repairs of ExaBGP that can be seen without running it."""

from __future__ import annotations

import time
from collections import deque
from types import SimpleNamespace

import pytest
from exabgp.reactor.delay import Delay
from exabgp.reactor.peer import Peer
from exabgp.rib.outgoing import OutgoingRIB

from bgp.sidecar import repairs


@pytest.fixture
def delay(monkeypatch: pytest.MonkeyPatch) -> Delay:
    """Return a repaired pause between tries to connect; ExaBGP's own is back afterwards."""
    for name in ("increase", "backoff"):
        monkeypatch.setattr(Delay, name, getattr(Delay, name))
    repairs.try_again_soon()
    return Delay()


def test_an_end_of_rib_that_was_not_sent_does_not_begin_the_next_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would end the peer's patience with routes that are still to come."""
    for owner, name in ((OutgoingRIB, "replace_restart"), (Peer, "_main")):
        monkeypatch.setattr(owner, name, getattr(owner, name))
    repairs.begin_sessions_with_nothing_queued()
    neighbor = SimpleNamespace(eor=deque(["ipv4 unicast"]))
    Peer._main(SimpleNamespace(neighbor=neighbor))
    assert not neighbor.eor


def test_a_clock_set_back_holds_up_no_session(delay: Delay, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pause is waited for, but never for longer than the longest pause."""
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    for _ in range(3):
        delay.increase()
    assert delay.backoff()
    now -= 3600
    assert not delay.backoff()
