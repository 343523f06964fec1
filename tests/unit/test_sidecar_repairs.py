"""The repairs of ExaBGP that can be seen without running it."""

from __future__ import annotations

import time
from collections import deque
from itertools import islice
from types import SimpleNamespace

import pytest
from exabgp.bgp.message.update.attribute.attributes import Attributes
from exabgp.bgp.message.update.nlri.cidr import CIDR
from exabgp.bgp.message.update.nlri.inet import INET
from exabgp.logger import log
from exabgp.protocol.family import AFI, SAFI
from exabgp.protocol.ip import IP, NoNextHop
from exabgp.reactor.delay import Delay
from exabgp.reactor.peer import Peer
from exabgp.rib.change import Change
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


@pytest.mark.parametrize("ending", ["sent", "lost", "begun anew"])
def test_changes_are_shown_as_queued_until_the_last_of_them_is_written(
    ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each IPv6 prefix is a message, and a round sends 25: a peer that leaves is to hear of all of them."""
    for name in ("updates", "queued_changes", "replace_restart"):
        monkeypatch.setattr(OutgoingRIB, name, getattr(OutgoingRIB, name))
    monkeypatch.setattr(OutgoingRIB, "sent_now", [], raising=False)
    monkeypatch.setattr(Peer, "_main", Peer._main)
    monkeypatch.setattr(log, "debug", lambda *_: None)
    repairs.show_what_is_being_sent()
    repairs.begin_sessions_with_nothing_queued()
    queue = OutgoingRIB(cache=False, families=[(AFI.ipv6, SAFI.unicast)])
    for number in range(30):
        prefix = INET(AFI.ipv6, SAFI.unicast)
        prefix.cidr, prefix.nexthop = CIDR(IP.pton(f"fd21::{number:x}:0"), 122), NoNextHop
        queue.add_to_rib(Change(prefix, Attributes()))
    assert len(list(queue.queued_changes())) == 1
    sending = queue.updates(True)
    assert len(list(islice(sending, 25))) == 25
    assert len(list(queue.queued_changes())) == 1
    queue.clear()  # as a reload does, which does not end what is being sent
    assert len(list(queue.queued_changes())) == 1
    if ending == "sent":
        assert len(list(sending)) == 5
    elif ending == "lost":
        sending.close()
    else:
        queue.replace_restart([], [])
    assert not list(queue.queued_changes())


def test_a_clock_set_back_holds_up_no_session(delay: Delay, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pause is waited for, but never for longer than the longest pause."""
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    for _ in range(3):
        delay.increase()
    assert delay.backoff()
    now -= 3600
    assert not delay.backoff()
