"""Learned routes from the sidecar's octets to the agent's table: none is mixed up, cut or lost."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import TYPE_CHECKING, TypeAlias

from hypothesis import given, settings
from hypothesis import strategies as st

from bgp import nlri, wire
from bgp.events import EndOfRib
from bgp.exabgp_events import PeerConnected, PeerDown, PeerUp
from bgp.messages import Desired
from bgp.peer import Peer
from bgp.rib import AdjRibIn
from bgp.route import LearnedRoute
from bgp.sidecar.state import SidecarState
from bgp.updates import Group, Prefixes, Update

if TYPE_CHECKING:
    from bgp.address import IPAddress, IPNetwork
    from bgp.exabgp_events import ExabgpEvent
    from bgp.messages import Outgoing
    from bgp.updates import Shared

PEERS = [ip_address("192.0.2.2"), ip_address("2001:db8::3")]
CONFIGURED = [
    Peer(address, ip_address("192.0.2.1"), 64512, 64512, "192.0.2.1", restart_time_seconds=120) for address in PEERS
]

#: Prefixes of each IP version.
Drawn: TypeAlias = "tuple[list[IPNetwork], list[IPNetwork]]"

#: Few addresses and every kind of length, so that prefixes are often the same, and often the same octets of another
#: IP version.
four = st.builds(
    lambda number, length: IPv4Network((number << 24 & -1 << 32 - length, length)),
    st.integers(0, 1),
    st.integers(0, 32),
)
six = st.builds(
    lambda number, length: IPv6Network((number << 120 & -1 << 128 - length, length)),
    st.integers(0, 1),
    st.sampled_from([0, 7, 8, 128]),
)
by_version = st.tuples(st.lists(four, max_size=4, unique=True), st.lists(six, max_size=4, unique=True))
updates = st.tuples(st.just("update"), by_version, by_version, st.sampled_from([100, 200]))
changes = st.one_of(
    updates,
    updates,
    updates,
    st.tuples(st.sampled_from(["up", "down", "connected", "end 4", "end 6", "lost"])),
)


def rows(prefixes: Drawn) -> list[Prefixes]:
    """Return the prefixes of each version as the sidecar has them."""
    return [
        Prefixes(version, tuple(nlri.split(version, nlri.row(members))))
        for version, members in zip((4, 6), prefixes, strict=True)
    ]


def shared(peer: IPAddress, version: int, preference: int) -> Shared:
    """Return what routes of one update share."""
    next_hop = ip_address("192.0.2.9") if version == 4 else ip_address("2001:db8::9")
    return (next_hop, peer, (64512,), preference, 0, "igp", (), "", ())


def event_of(peer: IPAddress, change: tuple[object, ...]) -> ExabgpEvent:
    """Return what ExaBGP tells."""
    match change:
        case ("update", withdrawn, announced, int(preference)):
            groups = tuple(Group(row, shared(peer, row.version, preference)) for row in rows(announced))  # type: ignore[arg-type]  # drawn so
            return Update(peer, tuple(rows(withdrawn)), groups)  # type: ignore[arg-type]  # drawn so
        case ("up",):
            return PeerUp(peer, 0.0)
        case ("down",):
            return PeerDown(peer, 0.0, "gone")
        case ("connected",):
            return PeerConnected(peer, 0.0)
        case _:
            return EndOfRib(peer, int(str(change[0])[-1]))


class Agent:
    """What an agent makes of the sidecar's lines."""

    def __init__(self) -> None:
        self.rib = AdjRibIn()
        self.rib.configure(CONFIGURED, 0.0)

    def hear(self, message: Outgoing) -> None:
        """Take one line."""
        event = wire.decode(wire.encode(message))
        assert event is not None
        self.rib.feed(event, 0.0)  # type: ignore[arg-type]  # an event: nothing else is sent here

    def routes(self) -> dict[IPNetwork, frozenset[LearnedRoute]]:
        """Return what is left once what is stale has had its time."""
        self.rib.expire(1e6)
        return {prefix: frozenset(found) for prefix, found in self.rib.routes().items()}


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(st.sampled_from(PEERS), changes), max_size=20))
def test_the_agent_knows_what_established_peers_have_announced(
    happened: list[tuple[IPAddress, tuple[object, ...]]],
) -> None:
    """Who listened all the time, or anew in between, and who comes at the end know the same, and it is right."""
    sidecar = SidecarState(Desired(tuple(CONFIGURED)), ())
    agent = Agent()
    agent.hear(sidecar.snapshot())
    told: dict[IPAddress, dict[IPNetwork, LearnedRoute]] = {}
    for peer, change in [*((peer, ("up",)) for peer in PEERS), *happened]:
        if change == ("lost",):
            agent.hear(sidecar.snapshot())
            continue
        if change[0] == "update" and peer not in told:
            continue  # ExaBGP tells of none before its session is up
        message = sidecar.observe(event_of(peer, change))
        if message is not None:
            agent.hear(message)
        match change:
            case ("up",):
                told[peer] = {}
            case ("down",) | ("connected",):
                told.pop(peer, None)
            case ("update", withdrawn, announced, int(preference)):
                note(told[peer], peer, withdrawn, announced, preference)  # type: ignore[arg-type]  # drawn so
    late = Agent()
    late.hear(sidecar.snapshot())
    right: dict[IPNetwork, frozenset[LearnedRoute]] = {}
    for routes in told.values():
        for prefix, route in routes.items():
            right[prefix] = right.get(prefix, frozenset()) | {route}
    assert late.routes() == right
    assert agent.routes() == right


def note(
    routes: dict[IPNetwork, LearnedRoute],
    peer: IPAddress,
    withdrawn: Drawn,
    announced: Drawn,
    preference: int,
) -> None:
    """Take an update into a plain table: the withdrawals come first."""
    for gone in (*withdrawn[0], *withdrawn[1]):
        routes.pop(gone, None)
    for prefix in (*announced[0], *announced[1]):
        routes[prefix] = LearnedRoute(prefix, *shared(peer, prefix.version, preference))
