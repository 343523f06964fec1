"""The sidecar's decisions, against a model of ExaBGP that queues by attributes as the real one does."""

from __future__ import annotations

import dataclasses
import ipaddress
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgp import nlri
from bgp.events import EndOfRib, RoutesRejected, SessionDown, SessionState, SessionUp
from bgp.exabgp_config import fingerprint
from bgp.exabgp_events import PeerConnected, PeerDown, PeerUp
from bgp.filter import Action, Rule
from bgp.holding import Holding
from bgp.messages import Desired
from bgp.peer import Peer
from bgp.policy import RejectedRoutes, Rejection
from bgp.route import Announcement, LearnedRoute
from bgp.sidecar.state import SidecarState
from bgp.sidecar.steps import Change, Ending, Flush, Reload, Step
from bgp.updates import Group, Prefixes, Refused, Update

if TYPE_CHECKING:
    from collections.abc import Collection

ADDRESSES = tuple(ipaddress.ip_address(f"10.0.0.{number}") for number in (2, 3, 4))
HERE = ipaddress.ip_address("10.0.0.1")
PREFIXES = tuple(ipaddress.ip_network(f"10.9.{number}.0/26") for number in range(3))
PEERS = {address: Peer(address, HERE, 64512, 64512, "10.0.0.1") for address in ADDRESSES}
#: The session's own address, which a peer with `next_hop_self` is told instead of the node's.
SOURCE = ipaddress.ip_address("10.0.0.9")
#: What can be changed of a peer: nothing, what it is told, and what ExaBGP has to load.
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "filtered": {"export_rules": (Rule(Action.REJECT, cidr=PREFIXES[0]),)},
    "by community": {"export_rules": (Rule(Action.REJECT, community=(64512, 2)),)},
    "next hop": {"next_hop_self": True},
    "next hop, filtered": {"next_hop_self": True, "export_rules": (Rule(Action.REJECT, cidr=PREFIXES[1]),)},
    "other times": {"hold_time_seconds": 30},
}


def variant(address: object, name: str) -> Peer:
    """Return one of the peers, changed; its session has another address than the node."""
    return dataclasses.replace(PEERS[address], local_address=SOURCE, **VARIANTS[name])  # type: ignore[index]  # a peer


def told(peer: Peer, announcements: Collection[Announcement]) -> dict[object, str]:
    """Return what a peer must know in the end, worked out apart from the code under test."""
    next_hop = SOURCE if peer.next_hop_self else HERE
    return {
        str(one.prefix): f"next-hop {next_hop} local-preference 100 community [ 64512:{one.communities[0][1]} ]"
        for one in announcements
        if not any(rule.matches(one.prefix, one.communities) for rule in peer.export_rules)
    }


def announced(peer: Any) -> Update:  # noqa: ANN401 - one of ADDRESSES
    """Return an update of a peer with one prefix."""
    row = Prefixes(4, (nlri.row([PREFIXES[2]]),))
    return Update(peer, (), (Group(row, LearnedRoute(PREFIXES[2], peer, peer)[1:]),))


def announcement(prefix: int, community: int) -> Announcement:
    """Return an announcement of one of the prefixes."""
    return Announcement(PREFIXES[prefix], HERE, ((64512, community),))


class Model:
    """ExaBGP and its peers: queues by attributes, reloads, sessions; `has` is what each peer has been told."""

    def __init__(self) -> None:
        self.loaded: dict[object, str] = {}
        self.up: set[object] = set()
        self.has: dict[object, dict[object, str]] = defaultdict(dict)
        self.ended: dict[object, set[object]] = {}
        self.queues: dict[object, dict[str, dict[object, bool]]] = defaultdict(dict)

    def carry_out(self, state: SidecarState, step: Step) -> None:
        """Do what ExaBGP does, and tell the state."""
        if isinstance(step, Reload):
            assert not any(
                self.has[peer] for peer in self.up if peer not in PEERS or peer not in {p.address for p in step.peers}
            )
            loaded: dict[object, str] = {peer.address: fingerprint(peer) for peer in step.peers}
            changed = {peer for peer, text in loaded.items() if peer in self.up and self.loaded[peer] != text}
            self.loaded = loaded
            self.up &= self.loaded.keys()
            for peer in changed:
                self.fall(state, peer)
            state.reloaded({peer.address: fingerprint(peer) for peer in step.peers})
            return
        if isinstance(step, Flush):
            self.send(step.peer)
        state.note(step)
        if isinstance(step, Change):
            for peer in step.peers:
                assert peer in self.up
                queue = self.queues[peer].setdefault(step.attributes, {})
                for prefix in step.prefixes:
                    queue.pop(prefix, None)
                    queue[prefix] = step.announce
        elif isinstance(step, Ending):
            self.send(step.peer)
            self.ended[step.peer] = set(self.has[step.peer])

    def send(self, peer: object) -> None:
        """Empty the queues, one set of attributes after the other."""
        for attributes, changes in self.queues.pop(peer, {}).items():
            for prefix, announced in changes.items():
                if announced:
                    self.has[peer][prefix] = attributes
                else:
                    self.has[peer].pop(prefix, None)

    def rise(self, state: SidecarState, peer: object) -> None:
        """Establish a session if it is configured."""
        if peer in self.loaded and peer not in self.up:
            self.up.add(peer)
            self.queues.pop(peer, None)
            self.has[peer] = {}
            state.observe(PeerUp(peer, 1.0))  # type: ignore[arg-type]  # an address of the model

    def fall(self, state: SidecarState, peer: object) -> None:
        """End a session."""
        if peer in self.up:
            self.up.discard(peer)
            self.queues.pop(peer, None)
            state.observe(PeerDown(peer, 2.0, "reset"))  # type: ignore[arg-type]  # an address of the model


def settle(state: SidecarState, model: Model, deferred: Collection[Step | type[Reload]] = ()) -> None:
    """Carry out every step there is."""
    for _ in range(200):
        step = state.next_step(deferred)
        if step is None:
            return
        model.carry_out(state, step)
    raise AssertionError("no end of steps")


def respawned(state: SidecarState, model: Model) -> SidecarState:
    """Return the state of a new sidecar that has asked for everything; the queues stay as the old one left them."""
    state = SidecarState(state.desired, state.retiring.values())
    state.recover({address: address in model.up for address in ADDRESSES if address in model.loaded}, 3.0)
    state.reloaded({address: model.loaded[address] for address in ADDRESSES if address in model.loaded})
    return state


wishes = st.tuples(
    st.just("want"),
    st.dictionaries(st.sampled_from(ADDRESSES), st.sampled_from(sorted(VARIANTS))),
    st.dictionaries(st.integers(0, 2), st.integers(1, 2)),
)
happenings = st.tuples(st.sampled_from(["rise", "fall", "send"]), st.sampled_from(ADDRESSES))
restarts = st.just(("respawn",))


@given(st.lists(st.one_of(wishes, happenings, restarts, st.tuples(st.just("steps"), st.integers(1, 4))), max_size=30))
def test_every_established_peer_ends_with_exactly_what_is_desired(actions: list[tuple[object, ...]]) -> None:
    """Whatever is wanted, whichever sessions flap and however often the sidecar dies in between."""
    state, model = SidecarState(Desired(), ()), Model()
    for action in actions:
        match action:
            case ("want", addresses, wanted):
                peers = tuple(variant(address, name) for address, name in addresses.items())  # type: ignore[attr-defined]  # a dictionary
                items = wanted.items()  # type: ignore[attr-defined]  # as above
                state.want(Desired(peers, tuple(announcement(prefix, value) for prefix, value in items)))
            case ("rise", peer):
                model.rise(state, peer)
            case ("fall", peer):
                model.fall(state, peer)
            case ("send", peer):
                model.send(peer)
            case ("steps", int(count)):
                for _ in range(count):
                    step = state.next_step()
                    if step is not None:
                        model.carry_out(state, step)
            case ("respawn",):
                state = respawned(state, model)
    settle(state, model)
    assert state.in_agreement()
    wanted_peers = {peer.address for peer in state.desired.peers}
    assert model.loaded.keys() == wanted_peers
    by_address: dict[object, Peer] = {peer.address: peer for peer in state.desired.peers}
    for address in model.up:
        model.send(address)
        assert model.has[address] == told(by_address[address], state.desired.announcements)


def test_a_change_of_filter_or_next_hop_is_told_that_peer_alone_and_resets_nobody() -> None:
    """Neither is anything ExaBGP loads: no reload, and no command for the other peers."""
    first, *others = ADDRESSES
    same = [variant(address, "plain") for address in others]
    blocks = (announcement(0, 1), announcement(1, 1))
    state, model = SidecarState(Desired((variant(first, "plain"), *same), blocks), ()), Model()
    settle(state, model)
    for address in ADDRESSES:
        model.rise(state, address)
    settle(state, model)
    for name in ("filtered", "next hop", "next hop, filtered", "plain"):
        state.want(Desired((variant(first, name), *same), blocks))
        while (step := state.next_step()) is not None:
            assert not isinstance(step, Reload)
            assert not isinstance(step, Change) or step.peers == (first,)
            model.carry_out(state, step)
        model.send(first)
        assert model.has[first] == told(variant(first, name), blocks)
    assert model.up == set(ADDRESSES)


def established(*addresses: object) -> tuple[SidecarState, Model]:
    """Return a state with three peers and two blocks, and sessions with some of the peers."""
    desired = Desired(tuple(PEERS[address] for address in ADDRESSES), (announcement(0, 1), announcement(1, 1)))
    state, model = SidecarState(desired, ()), Model()
    settle(state, model)
    for address in addresses:
        model.rise(state, address)
    return state, model


def test_a_session_gets_everything_before_end_of_rib() -> None:
    """End-of-RIB is the last step on a session that came up."""
    state, model = established(ADDRESSES[0])
    steps = []
    while (step := state.next_step()) is not None:
        steps.append(step)
        model.carry_out(state, step)
    assert [type(step) for step in steps] == [Change, Ending]
    assert model.ended[ADDRESSES[0]] == {str(PREFIXES[0]), str(PREFIXES[1])}


def test_equal_changes_of_several_sessions_are_one_command() -> None:
    """A new block costs one command however many peers there are."""
    state, model = established(*ADDRESSES)
    settle(state, model)
    state.want(Desired(state.desired.peers, (*state.desired.announcements, announcement(2, 1))))
    step = state.next_step()
    assert isinstance(step, Change)
    assert step.peers == ADDRESSES
    model.carry_out(state, step)
    assert state.next_step() is None


def test_a_queue_that_is_waited_for_holds_up_nobody_else() -> None:
    """While one session's flush is deferred, others get their changes and neighbours are reloaded."""
    state, model = established(*ADDRESSES)
    settle(state, model)
    first = ADDRESSES[0]
    state.sessions[ADDRESSES[1]].queued.clear()
    state.sessions[ADDRESSES[2]].queued.clear()
    state.want(Desired(state.desired.peers, (announcement(0, 2), announcement(1, 1))))
    settle(state, model, deferred=[Flush(first)])
    assert model.queues[ADDRESSES[1]]
    assert not state.in_agreement()
    settle(state, model)
    assert state.in_agreement()


def test_what_was_told_does_not_wait_for_a_neighbour_to_be_loaded() -> None:
    """A reload may fail for long; the sessions there are have their changes all the same."""
    state, model = established(*ADDRESSES[:2])
    settle(state, model)
    peers = (PEERS[ADDRESSES[0]], PEERS[ADDRESSES[1]], variant(ADDRESSES[2], "other times"))
    state.want(Desired(peers, (announcement(0, 1), announcement(2, 1))))
    assert not state.has_told_all()
    settle(state, model, deferred=[Reload])
    assert (state.has_told_all(), state.in_agreement()) == (True, False)
    settle(state, model)
    assert state.in_agreement()


def test_a_neighbour_leaves_only_when_its_withdrawals_are_out() -> None:
    """While they are queued there is no reload; afterwards there is."""
    state, model = established(*ADDRESSES)
    settle(state, model)
    leaving = ADDRESSES[0]
    state.want(Desired(state.desired.peers[1:], state.desired.announcements))
    settle(state, model, deferred=[Flush(leaving)])
    assert leaving in model.loaded
    settle(state, model)
    assert leaving not in model.loaded
    assert model.has[leaving] == {}


def test_what_retires_is_kept_until_it_was_withdrawn() -> None:
    """A sidecar that dies before the withdrawal leaves behind what its successor has to withdraw."""
    state, model = established(ADDRESSES[0])
    settle(state, model)
    assert not state.forget_retired()
    state.want(Desired(state.desired.peers, (announcement(0, 1),)))
    assert set(state.retiring) == {PREFIXES[1]}
    assert not state.forget_retired()
    settle(state, model)
    assert state.forget_retired()
    assert not state.retiring


@pytest.mark.parametrize("wanted", [(), (announcement(0, 2),)], ids=["nothing", "other attributes"])
def test_what_is_wanted_right_after_a_restart_replaces_what_the_former_sidecar_sent(
    wanted: tuple[Announcement, ...],
) -> None:
    """The wish comes before the new sidecar sent anything, while what the old one sent is still in the queue."""
    state, model = established(ADDRESSES[0])
    settle(state, model)
    state.want(Desired(state.desired.peers, (announcement(0, 1), announcement(2, 1))))
    settle(state, model)
    state = respawned(state, model)
    state.want(Desired(state.desired.peers, wanted))
    settle(state, model)
    model.send(ADDRESSES[0])
    assert set(model.has[ADDRESSES[0]]) == {str(one.prefix) for one in wanted}
    assert all("64512:2" in attributes for attributes in model.has[ADDRESSES[0]].values())


def test_everything_wanted_is_sent_again_after_a_restart() -> None:
    """What the former sidecar sent is not known for certain, so the new one repeats it once, and End-of-RIB."""
    state, model = established(ADDRESSES[0])
    settle(state, model)
    state = respawned(state, model)
    steps = []
    while (step := state.next_step()) is not None:
        steps.append(step)
        model.carry_out(state, step)
    assert [step.prefixes for step in steps if isinstance(step, Change)] == [(str(PREFIXES[0]), str(PREFIXES[1]))]
    assert steps[-1] == Ending(ADDRESSES[0])


def test_a_peer_that_is_leaving_is_in_the_snapshot_until_it_left() -> None:
    """It may be wanted again before its session ends, and would announce nothing again."""
    state, model = established(ADDRESSES[0])
    settle(state, model)
    state.observe(announced(ADDRESSES[0]))
    state.want(Desired())
    assert [route.peer for route in state.snapshot().routes] == [ADDRESSES[0]]
    settle(state, model)
    assert state.snapshot().routes == ()


def test_only_the_end_of_an_established_session_is_a_loss() -> None:
    """Attempts that fail are no news, and the first reason of an outage is the one that is shown."""
    state, _ = established()
    peer = ADDRESSES[0]
    assert state.observe(PeerConnected(peer, 1.0)) is None
    assert state.observe(PeerDown(peer, 2.0, "refused")) is None
    assert state.observe(PeerUp(peer, 3.0)) == SessionUp(peer)
    assert state.observe(PeerDown(peer, 4.0, "hold timer")) == SessionDown(peer, "hold timer")
    assert state.observe(PeerDown(peer, 5.0, "refused")) is None
    status = state.statuses()[0]
    assert (status.state, status.since, status.info) == (SessionState.IDLE, 4.0, "hold timer")


def test_a_snapshot_holds_what_was_learned_on_sessions_that_stand() -> None:
    """Routes, ends and sessions of an established peer; nothing of one that is down."""
    state, _ = established(ADDRESSES[0], ADDRESSES[1])
    for peer in ADDRESSES[:2]:
        state.observe(announced(peer))
        state.observe(EndOfRib(peer, 4))
    state.observe(PeerDown(ADDRESSES[1], 2.0, "reset"))
    snapshot = state.snapshot()
    assert snapshot.established == {ADDRESSES[0]}
    assert snapshot.ended == {(ADDRESSES[0], 4)}
    assert [route.peer for route in snapshot.routes] == [ADDRESSES[0]]


def refused(peer: Any, reason: Rejection, *prefixes: int) -> Update:  # noqa: ANN401 - one of ADDRESSES
    """Return an update of a peer in which these prefixes count as withdrawn."""
    row = Prefixes(4, tuple(nlri.row([PREFIXES[prefix]]) for prefix in prefixes))
    return Update(peer, (row,), (), (Refused(reason, row),))


def test_what_is_not_passed_on_is_told_once_for_each_session_and_while_it_is_so() -> None:
    """Counted by prefix, however often it is announced, until it is withdrawn or announced well."""
    state, model = established(*ADDRESSES)
    settle(state, model)
    peer = ADDRESSES[0]
    state.observe(announced(peer))
    assert (state.rejections(), state.new_rejections()) == ([], [])
    for _ in range(2):
        state.observe(refused(peer, Rejection.MALFORMED, 0, 2))
    state.observe(refused(peer, Rejection.LONG_ATTRIBUTES, 1))
    told = [
        RejectedRoutes(peer, Rejection.LONG_ATTRIBUTES, 1, (PREFIXES[1],)),
        RejectedRoutes(peer, Rejection.MALFORMED, 2, (PREFIXES[0], PREFIXES[2])),
    ]
    assert state.new_rejections() == state.rejections() == [RoutesRejected(peer, tuple(told))]
    assert state.new_rejections() == []
    assert state.snapshot().routes == ()
    state.observe(announced(peer))
    state.observe(Update(peer, (Prefixes(4, (nlri.row([PREFIXES[1]]),)),), ()))
    told = [RejectedRoutes(peer, Rejection.MALFORMED, 1, (PREFIXES[0],))]
    assert state.new_rejections() == [RoutesRejected(peer, tuple(told))]
    assert [group.prefixes.parts for group in state.snapshot().routes] == [(nlri.row([PREFIXES[2]]),)]
    state.observe(PeerDown(peer, 2.0, "reset"))
    state.observe(PeerUp(peer, 3.0))
    assert (state.rejections(), state.new_rejections()) == ([], [])
    state.observe(refused(peer, Rejection.MALFORMED, 0))
    assert state.new_rejections() == [RoutesRejected(peer, tuple(told))]


def test_a_new_client_is_told_the_same_of_what_is_not_passed_on_as_those_before_it() -> None:
    """What is told to all later is what differs from that: nobody may have been told anything else."""
    state, model = established(*ADDRESSES)
    settle(state, model)
    peer = ADDRESSES[0]
    state.observe(refused(peer, Rejection.MALFORMED, 0))
    told = state.new_rejections()
    assert told
    state.observe(refused(peer, Rejection.MALFORMED, 1))
    assert state.rejections() == told
    state.observe(Update(peer, (Prefixes(4, (nlri.row([PREFIXES[1]]),)),), ()))
    assert (state.rejections(), state.new_rejections()) == (told, [])


def test_beyond_the_bound_of_a_session_routes_are_only_counted() -> None:
    """Clients hear of them as withdrawn; what was known before stays, and may change."""
    state, model = established(ADDRESSES[0])
    settle(state, model)
    peer = ADDRESSES[0]
    (group,) = announced(peer).announced
    state.sessions[peer].known = Holding(lambda _: 0, 2)
    parts = tuple(nlri.row([prefix]) for prefix in PREFIXES)
    state.observe(Update(peer, (), (Group(Prefixes(4, parts[:2]), group.shared),)))
    heard = state.observe(Update(peer, (), (Group(Prefixes(4, parts), group.shared),)))
    assert isinstance(heard, Update)
    assert heard.withdrawn == (Prefixes(4, parts[2:]),)
    assert [group.prefixes.parts for group in heard.announced] == [parts[:2]]
    assert [group.prefixes.parts for group in state.snapshot().routes] == [parts[:2]]
    full = RejectedRoutes(peer, Rejection.SESSION_FULL, 1, ())
    assert state.new_rejections() == [RoutesRejected(peer, (full,))]


def test_changes_that_never_cease_do_not_hold_up_a_reload() -> None:
    """A peer that is wanted is loaded although something else is to be announced at every moment."""
    state, model = established(ADDRESSES[0])
    settle(state, model)
    new = Peer(SOURCE, HERE, 64512, 64512, "10.0.0.1")
    peers = (*state.desired.peers, new)
    for number in range(100):
        state.want(Desired(peers, (announcement(0, 1 + number % 2),)))
        step = state.next_step()
        if isinstance(step, Reload):
            break
        assert step is not None
        model.carry_out(state, step)
    assert step == Reload(peers)


def test_changes_for_some_that_never_cease_do_not_hold_up_the_others() -> None:
    """With something new for everybody at every moment, each session still hears of every other change."""
    apart = (variant(ADDRESSES[0], "plain"), variant(ADDRESSES[1], "next hop"))  # nothing can be told both at once
    state, model = SidecarState(Desired(apart, ()), ()), Model()
    settle(state, model)
    for peer in apart:
        model.rise(state, peer.address)
    settle(state, model)
    told: list[object] = []
    for number in range(40):
        state.want(Desired(apart, (announcement(number % 3, 1),)))
        step = state.next_step()
        assert isinstance(step, Change)
        told += step.peers
        model.carry_out(state, step)
    assert [told.count(peer.address) for peer in apart] == [20, 20]
