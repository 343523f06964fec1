"""What the sidecar knows and what it does next, as plain state: no clock, no pipe, no socket.

Three things are compared: what is desired, what ExaBGP has loaded, and what was sent on each session. `next_step`
returns one step towards agreement, which the shell notes and carries out. Three rules come from how
ExaBGP works (measured with 5.0.15):

* Changes go to established sessions only, and each session gets everything, then End-of-RIB, whenever it comes up.
* ExaBGP queues by attributes. Two changes of one prefix with different attributes may be sent in either order while
  both are queued, so the queue is seen empty (`Flush`) between them.
* A neighbour leaves the configuration only after everything was withdrawn from it: with graceful restart its session
  is closed silently, and the peer would keep the routes for the restart time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bgp import exabgp_commands
from bgp.advertisement import outbound
from bgp.events import RoutesRejected, SessionState, SessionStatus, SessionUp
from bgp.exabgp_config import fingerprint, refusal
from bgp.exabgp_events import PeerConnected, PeerDown, PeerUp
from bgp.messages import Desired
from bgp.sidecar.session import Session, lost
from bgp.sidecar.steps import Change, Ending, Flush, Reload
from bgp.updates import Known

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from bgp.address import IPAddress
    from bgp.events import EndOfRib, SessionDown
    from bgp.exabgp_events import ExabgpEvent
    from bgp.peer import Peer
    from bgp.route import Announcement
    from bgp.sidecar.steps import Step
    from bgp.updates import Group, Update


#: How many changes go before a reload that is due.
_CHANGES_BEFORE_RELOAD = 10


class SidecarState:
    """The whole state; `loaded` and the sessions are unknown until `recover`.

    `obstacle` is why ExaBGP cannot be given the neighbours that are desired, or an empty text.
    """

    def __init__(self, desired: Desired, retiring: Iterable[Announcement]) -> None:
        self.desired = Desired()
        self.retiring = {announcement.prefix: announcement for announcement in retiring}
        self.sessions: dict[IPAddress, Session] = {}
        self.loaded: Mapping[IPAddress, str] = {}
        self.obstacle = ""
        self._peers: dict[IPAddress, Peer] = {}
        self._refused: dict[IPAddress, str] = {}
        self._expected: dict[IPAddress, str] = {}
        self._wanted: Mapping[IPAddress, Mapping[str, str]] = {}
        self._changes_before_reload = 0
        self.want(desired)

    def want(self, desired: Desired) -> None:
        """Make this the desired state; what is not announced any more retires until it has been withdrawn."""
        kept = {announcement.prefix for announcement in desired.announcements}
        retiring = {announcement.prefix: announcement for announcement in self.desired.announcements} | self.retiring
        self.retiring = {prefix: announcement for prefix, announcement in retiring.items() if prefix not in kept}
        self.desired = desired
        problems = {peer.address: refusal(peer) for peer in desired.peers}
        self._refused = {address: problem for address, problem in problems.items() if problem}
        self._peers = {peer.address: peer for peer in desired.peers if peer.address not in self._refused}
        self._expected = {address: fingerprint(peer) for address, peer in self._peers.items()}
        self._wanted = _wanted(self._peers.values(), desired.announcements)
        for session in self.sessions.values():
            session.in_sync = False

    def recover(self, established: Mapping[IPAddress, bool], now: float) -> None:
        """Take over what ExaBGP is doing already; what a former sidecar sent is unknown.

        Whatever may have been announced counts as sent, so that it is withdrawn when it is not desired, or as soon as
        it is not any more; what is desired is announced again, which changes nothing at the peer. The queue may still
        hold any of it, with attributes nobody knows.
        """
        # Also what a peer is not to be told any more may have been told it.
        announcements = {**self.retiring, **{each.prefix: each for each in self.desired.announcements}}
        told = {str(prefix): exabgp_commands.attributes(each) for prefix, each in announcements.items()}
        for address, is_established in established.items():
            state = SessionState.ESTABLISHED if is_established else SessionState.IDLE
            known = self.sessions.get(address)
            if known is None or known.state is not state:
                known = self.sessions[address] = Session(state, now)
            if is_established:
                known.presume_sent({**told, **self._wanted.get(address, {})})
        for address in self.sessions.keys() - established.keys():
            del self.sessions[address]

    def learn(self, group: Group) -> None:
        """Take over routes that were learned before."""
        session = self.sessions.get(group.peer)
        if session is not None and session.is_established:
            session.keep(group)

    def observe(self, event: ExabgpEvent) -> SessionUp | SessionDown | Update | EndOfRib | None:
        """Take an event of ExaBGP, and return what a client should hear of it."""
        if isinstance(event, PeerUp):
            self.sessions[event.peer] = Session(SessionState.ESTABLISHED, event.time)
            return SessionUp(event.peer)
        session = self.sessions.get(event.peer)
        if isinstance(event, PeerConnected):
            self.sessions[event.peer] = Session(SessionState.OPENING, event.time)
            return lost(event.peer, session, "the peer connected anew")
        if isinstance(event, PeerDown):
            # The first reason explains the outage; attempts that fail later only repeat it.
            if session is None or session.state is not SessionState.IDLE:
                self.sessions[event.peer] = Session(SessionState.IDLE, event.time, event.reason)
            return lost(event.peer, session, event.reason)
        if session is None:
            return None
        return session.learn(event)

    def snapshot(self) -> Known:
        """Return what is established and learned, also from peers that are leaving: they may be desired again."""
        sessions = self._standing()
        return Known(
            established=frozenset(address for address, _ in sessions),
            ended=frozenset((address, version) for address, session in sessions for version in session.received_ends),
            routes=tuple(group for _, session in sessions for group in session.groups()),
        )

    def rejections(self) -> list[RoutesRejected]:
        """Return what clients were told last of what each session does not pass on, if there is anything.

        A new client is told the same as all others, not what is true by now: `new_rejections` has that for all of them.
        """
        found = [RoutesRejected(address, session.told_rejected) for address, session in self._standing()]
        return [each for each in found if each.rejected]

    def new_rejections(self) -> list[RoutesRejected]:
        """Return what of each session is not passed on, if that is not as it was when this was asked before."""
        found = []
        for address, session in self._standing():
            rejected = session.rejected(address)
            if rejected != session.told_rejected:
                session.told_rejected = rejected
                found.append(RoutesRejected(address, rejected))
        return found

    def statuses(self) -> tuple[SessionStatus, ...]:
        """Return what is observed of every desired peer, in the order they were given."""
        return tuple(self._status(peer.address) for peer in self.desired.peers)

    def next_step(self, deferred: Collection[Step | type[Reload]] = ()) -> Step | None:
        """Return what to do next, leaving out what is deferred; None when nothing (else) is to be done.

        Withdrawals from leaving peers and all other changes come before a reload, End-of-RIB after everything it
        ends. A session whose queue is waited for holds up nobody else, except the reload if that peer is to leave. A
        reload that is due waits for so many changes only: they may never cease.
        """
        due = Reload not in deferred and self._reload_is_due()
        if not due:
            self._changes_before_reload = 0
        elif self._changes_before_reload >= _CHANGES_BEFORE_RELOAD:
            return self._reload()
        changes: dict[Change, list[IPAddress]] = {}
        for address, session in self.sessions.items():
            if not session.is_established or session.in_sync:
                continue
            step = session.next_step(address, self._wanted.get(address, {}), leaving=address not in self._peers)
            if isinstance(step, Change):
                changes.setdefault(step, []).append(address)
            elif step is None:
                session.in_sync, session.announced_last = True, False
            elif step not in deferred:
                return step
        if changes:
            change, peers = next(iter(changes.items()))
            return Change(tuple(peers), change.announce, change.attributes, change.prefixes)
        return self._reload() if due else None

    def note(self, step: Change | Ending | Flush) -> None:
        """Note a step: a change or an ending before its command is written, a flush once the queue was seen empty.

        If the session comes up anew while the command is on its way, its fresh state knows of neither, and everything
        is sent once more.
        """
        self._changes_before_reload += isinstance(step, Change)
        for peer in step.peers if isinstance(step, Change) else (step.peer,):
            session = self.sessions.get(peer)
            if session is not None:
                session.note(step)
                # Whoever was told last comes last: a flow of changes for some must not starve the others.
                self.sessions[peer] = self.sessions.pop(peer)

    def reloaded(self, loaded: Mapping[IPAddress, str]) -> tuple[SessionDown, ...]:
        """Take what ExaBGP has loaded, forget the sessions of neighbours that left, and return what clients hear."""
        self.loaded = loaded
        gone = self.sessions.keys() - loaded.keys()
        events = [lost(address, self.sessions.pop(address), "not configured any more") for address in in_order(gone)]
        return tuple(event for event in events if event is not None)

    def is_loaded(self) -> bool:
        """Say whether ExaBGP has loaded exactly the desired neighbours."""
        return self._expected == dict(self.loaded)

    def in_agreement(self) -> bool:
        """Say whether ExaBGP has loaded what is desired and every established session has everything."""
        return self.is_loaded() and self.has_told_all()

    def has_told_all(self) -> bool:
        """Say whether every established session has everything, whatever is still to be loaded."""
        return all(session.in_sync for session in self.sessions.values() if session.is_established)

    def forget_retired(self) -> bool:
        """Forget what was withdrawn everywhere, and say whether there was anything to forget."""
        forgotten = bool(self.retiring) and self.in_agreement()
        if forgotten:
            self.retiring = {}
        return forgotten

    def _standing(self) -> list[tuple[IPAddress, Session]]:
        return [(address, session) for address, session in self.sessions.items() if session.is_established]

    def _reload(self) -> Reload:
        self._changes_before_reload = 0
        return Reload(tuple(self._peers.values()))

    def _reload_is_due(self) -> bool:
        if self.is_loaded():
            return False
        leaving = (session for address, session in self.sessions.items() if address not in self._peers)
        return not any(session.sent or session.queued for session in leaving if session.is_established)

    def _status(self, address: IPAddress) -> SessionStatus:
        if address in self._refused:
            return SessionStatus(address, SessionState.REFUSED, 0.0, self._refused[address])
        session = self.sessions.get(address)
        if self.obstacle and self._expected[address] != self.loaded.get(address):
            if session is None:
                return SessionStatus(address, SessionState.REFUSED, 0.0, self.obstacle)
            return SessionStatus(address, session.state, session.since, f"changes are not loaded: {self.obstacle}")
        if session is None:
            return SessionStatus(address, SessionState.IDLE, 0.0, "")
        return SessionStatus(address, session.state, session.since, session.info)


def _wanted(peers: Iterable[Peer], announcements: Iterable[Announcement]) -> dict[IPAddress, Mapping[str, str]]:
    """Return the attribute text of each prefix that each peer is to be told.

    Peers that are told the same share one mapping: a mesh has many peers, and they are all alike.
    """
    everything = tuple(announcements)
    shared: dict[tuple[object, ...], Mapping[str, str]] = {}
    found = {}
    for peer in peers:
        kind = (peer.export_rules, peer.local_address if peer.next_hop_self else None)
        if kind not in shared:
            told = (outbound(announcement, peer) for announcement in everything)
            shared[kind] = {str(each.prefix): exabgp_commands.attributes(each) for each in told if each is not None}
        found[peer.address] = shared[kind]
    return found


def in_order(addresses: Iterable[IPAddress]) -> list[IPAddress]:
    """Return the addresses in order, IPv4 first."""
    return sorted(addresses, key=lambda address: (address.version, int(address)))
