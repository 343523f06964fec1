"""What is told of touched prefixes is enough: whatever happens to the peers, no other prefix has other routes."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from bgp.events import EndOfRib, RoutesChanged, SessionDown, SessionUp, SpeakerLost, SpeakerSnapshot
from bgp.peer import Peer
from bgp.rib import AdjRibIn
from bgp.route import LearnedRoute
from controller.agent.selection import Grounds, Selection
from controller.ports import InterfaceAddress

if TYPE_CHECKING:
    from bgp.events import SpeakerEvent
    from ipam.address import IPAddress, IPNetwork

HERE = ip_address("192.0.2.1")
ADDRESSES = [ip_address("192.0.2.2"), ip_address("192.0.2.3")]
POOL = ip_network("10.0.0.0/16")
PREFIXES = [ip_network(f"10.0.{number}.0/26") for number in range(3)]
UPLINK = InterfaceAddress("eth0", 2, HERE, ip_network("192.0.2.0/24"), scope_global=True)


@dataclass(frozen=True)
class Configured:
    """These peers are configured from now on."""

    peers: tuple[Peer, ...]


@dataclass(frozen=True)
class Passed:
    """So many seconds have passed."""

    seconds: int


def route(prefix: IPNetwork, peer: IPAddress, preference: int) -> LearnedRoute:
    """Return a route of a peer."""
    return LearnedRoute(prefix, peer, peer, local_preference=preference)


addresses = st.sampled_from(ADDRESSES)
prefixes = st.lists(st.sampled_from(PREFIXES), max_size=3, unique=True)
preferences = st.sampled_from([100, 200])
updates = st.builds(
    lambda peer, withdrawn, announced, preference: RoutesChanged(
        peer, tuple(withdrawn), tuple([route(prefix, peer, preference)] for prefix in announced)
    ),
    addresses,
    prefixes,
    prefixes,
    preferences,
)
snapshots = st.builds(
    lambda peer, announced, preference: SpeakerSnapshot(
        frozenset({peer}), frozenset({(peer, 4)}), tuple([route(prefix, peer, preference)] for prefix in announced)
    ),
    addresses,
    prefixes,
    preferences,
)


def configured(chosen: list[IPAddress]) -> Configured:
    """Return that these are the peers."""
    return Configured(
        tuple(Peer(address, HERE, 64512, 64512, "192.0.2.1", restart_time_seconds=10) for address in chosen)
    )


configurations = st.lists(addresses, unique=True).map(configured)
steps = st.one_of(
    updates,
    updates,
    configurations,
    st.builds(Passed, st.sampled_from([1, 11])),
    st.builds(SessionUp, addresses),
    st.builds(SessionDown, addresses, st.just("reset")),
    st.builds(EndOfRib, addresses, st.sampled_from([4, 6])),
    st.builds(SpeakerLost, st.just("gone")),
    snapshots,
)


def grounds() -> Grounds:
    """Return what routes are judged by, which does not change here."""
    return Grounds(
        as_number=64512,
        own_addresses=(HERE,),
        own_blocks=(),
        interfaces=(UPLINK,),
        next_hops=frozenset(ADDRESSES),
        block_length_of={POOL: 26},
        peers=(),
        overfull=None,
    )


@settings(max_examples=400)
@given(st.lists(st.tuples(steps, st.booleans()), max_size=30), st.sets(st.sampled_from(PREFIXES)))
def test_a_selection_of_touched_prefixes_is_that_of_all(
    history: list[tuple[SpeakerEvent | Configured | Passed, bool]], held: set[IPNetwork]
) -> None:
    """After each decision, made after any number of events, what is used and refused is as if all had been judged."""
    rib, selection, now = AdjRibIn(), Selection(), 0
    for number, (step, decides) in enumerate([(configured(ADDRESSES), False), *history]):
        if isinstance(step, Passed):
            now += step.seconds
        elif isinstance(step, Configured):
            rib.configure(step.peers, now)
        else:
            rib.feed(step, now)
        if decides:
            rib.expire(now)
            local = frozenset(held if number % 2 else ())
            selection.update(grounds(), local, rib.routes(), rib.take_touched())
            whole = Selection()
            whole.update(grounds(), local, rib.routes())
            assert selection.routes() == whole.routes()
            assert sorted(map(str, selection.refused())) == sorted(map(str, whole.refused()))


def test_a_peer_that_was_configured_once_is_touched_once_when_it_is_not_any_more() -> None:
    """Its session stands for a while: what is configured meanwhile changes none of its routes."""
    rib = AdjRibIn()
    rib.configure(configured(ADDRESSES).peers, 0.0)
    for address, prefix in zip(ADDRESSES, PREFIXES, strict=False):
        rib.feed(SessionUp(address), 0.0)
        rib.feed(RoutesChanged(address, (), ([route(prefix, address, 100)],)), 0.0)
    assert set(rib.take_touched()) == set(PREFIXES[:2])
    rib.configure(configured(ADDRESSES[:1]).peers, 1.0)
    assert set(rib.take_touched()) == {PREFIXES[1]}
    rib.configure(configured(ADDRESSES[:1]).peers, 2.0)
    assert set(rib.take_touched()) == set()
    rib.configure(configured(ADDRESSES).peers, 3.0)
    assert set(rib.take_touched()) == {PREFIXES[1]}
    assert rib.routes().keys() == set(PREFIXES[:2])
