"""The repairs of ExaBGP that can be seen without running it."""

from __future__ import annotations

import time

import pytest
from exabgp.reactor.delay import Delay

from bgp.sidecar import repairs


@pytest.fixture
def delay(monkeypatch: pytest.MonkeyPatch) -> Delay:
    """Return a repaired pause between tries to connect; ExaBGP's own is back afterwards."""
    for name in ("increase", "backoff"):
        monkeypatch.setattr(Delay, name, getattr(Delay, name))
    repairs.try_again_soon()
    return Delay()


def test_a_clock_set_back_holds_up_no_session(delay: Delay, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pause is waited for, but never for longer than the longest pause."""
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    for _ in range(3):
        delay.increase()
    assert delay.backoff()
    now -= 3600
    assert not delay.backoff()
