"""What is repaired in ExaBGP 5.0.15, in this process, before it starts.

Each repair names what it repairs, so that it can go when a later release needs it no more. They replace attributes of
ExaBGP's classes, which is the only way in: it has no setting for any of them. ExaBGP reads its settings when it is
imported, so this module is imported only after they are made.
"""

from __future__ import annotations

import time
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Final

from exabgp.bgp.message.update.attribute.mprnlri import MPRNLRI
from exabgp.bgp.neighbor import Neighbor
from exabgp.reactor.api.processes import ProcessError, Processes
from exabgp.reactor.delay import Delay
from exabgp.reactor.loop import Reactor
from exabgp.reactor.peer import Peer
from exabgp.reactor.protocol import Protocol
from exabgp.rib.incoming import IncomingRIB
from exabgp.rib.outgoing import OutgoingRIB

from bgp.sidecar import connections

if TYPE_CHECKING:
    from collections.abc import Iterator

#: The pause before a session is tried again doubles from the first to the longest, in seconds.
_FIRST_PAUSE_SECONDS: Final = 0.25
_LONGEST_PAUSE_SECONDS: Final = 2.0
#: The third and fourth octet of MP_REACH_NLRI: SAFI 1, and a next hop of two IPv6 addresses (RFC 4760, section 3).
_UNICAST_WITH_TWO_ADDRESSES: Final = bytes([1, 32])


def apply() -> None:
    """Make every repair; before ExaBGP starts, and once."""
    forget_routes_of_ended_sessions()
    keep_global_next_hops()
    end_only_what_was_begun()
    survive_a_dead_api_process()
    try_again_soon()
    share_what_is_announced()
    reload_whatever_other_peers_do()
    show_what_is_being_sent()
    begin_sessions_with_nothing_queued()
    connections.take_peers_back()
    connections.check_hops_of_accepted_connections()  # before the former: it wraps what is there
    connections.forget_passwords_of_former_peers()
    connections.change_peers_without_a_connection()
    connections.wait_for_what_is_open()


def forget_routes_of_ended_sessions() -> None:
    """Empty a peer's Adj-RIB-In when its session ends.

    ExaBGP keeps it, so that after the next session `show adj-rib in` lists routes the peer never announced on it.
    """
    IncomingRIB.reset = IncomingRIB.clear


def keep_global_next_hops() -> None:
    """Pass over the link-local address that a router on the same link adds to its global one (RFC 2545, section 3).

    ExaBGP makes a route of each of the two, and keeps the last one, whose next hop tells nothing without its link.
    """
    unpack = MPRNLRI.unpack.__func__

    def unpack_global(cls: Any, data: Any, direction: Any, negotiated: Any) -> Any:  # noqa: ANN401 - ExaBGP's
        if data[2:4] == _UNICAST_WITH_TWO_ADDRESSES:
            data = bytes(data[:3]) + bytes([16]) + bytes(data[4:20]) + bytes(data[36:])
        return unpack(cls, data, direction, negotiated)

    MPRNLRI.unpack = classmethod(unpack_global)


def end_only_what_was_begun() -> None:
    """Send no End-of-RIB of a family that the peer does not speak; GoBGP ends the session over it.

    ExaBGP sends what it is told to send of every family (RFC 4760, section 8: only what both sides offered is used).
    """
    new_eors = Protocol.new_eors

    def new_negotiated_eors(self: Any, *family: Any) -> Any:  # noqa: ANN401 - ExaBGP's
        if family and family not in self.negotiated.families:
            return iter(())
        return new_eors(self, *family)

    Protocol.new_eors = new_negotiated_eors


def survive_a_dead_api_process() -> None:
    """Drop what is written to an API process that has died and is about to be started again.

    ExaBGP resets the session whose update it could not hand over, and then stops every peer for good, because it
    remembers the process as broken. The new process asks for everything anyway.
    """
    write = Processes.write

    def write_or_drop(self: Any, process: str, text: str, neighbor: Any = None) -> bool:  # noqa: ANN401 - ExaBGP's
        try:
            return bool(write(self, process, text, neighbor))
        except (ProcessError, KeyError):
            self._broken.clear()
            return False

    Processes.write = write_or_drop


def try_again_soon() -> None:
    """Keep the pauses between tries to connect short.

    ExaBGP waits 1, 2, 3 and up to 60 seconds, so a host that was down for an hour would be reached up to a minute after
    it is back (RFC 4271, section 8.2.1.3, leaves the time to the implementation).
    """

    def increase(self: Any) -> None:  # noqa: ANN401 - ExaBGP's
        self._time = time.time() + self._next
        self._next = min(max(2 * self._next, _FIRST_PAUSE_SECONDS), _LONGEST_PAUSE_SECONDS)

    def backoff(self: Any) -> bool:  # noqa: ANN401 - ExaBGP's
        return bool(0 <= self._time - time.time() <= _LONGEST_PAUSE_SECONDS)

    Delay.increase = increase
    Delay.backoff = backoff


def share_what_is_announced() -> None:
    """Queue one and the same change for every peer it is for.

    ExaBGP copies it in depth for each, in case its next hop is the word `self`; we always give the address. The copies
    took three quarters of the time of announcing prefixes to many peers.
    """
    remove_self = Neighbor.remove_self

    def remove_self_if_any(self: Any, change: Any) -> Any:  # noqa: ANN401 - ExaBGP's
        return remove_self(self, change) if change.nlri.nexthop.SELF else change

    Neighbor.remove_self = remove_self_if_any


def reload_whatever_other_peers_do() -> None:
    """Put a reload off only for what it would lose: changes and End-of-RIB queued for sessions that stand.

    ExaBGP puts it off, and forgets it, while anything is queued for anybody. A peer whose session ended while a command
    was on its way would keep it from loading that peer's new password, and everything else, for ever.
    """

    def pending(self: Any) -> bool:  # noqa: ANN401 - ExaBGP's
        standing = (peer.neighbor for peer in self._peers.values() if peer.established())
        return any(neighbor.rib.outgoing.pending() or neighbor.eor for neighbor in standing)

    Reactor._pending_adjribout = pending  # noqa: SLF001 - see above


def show_what_is_being_sent() -> None:
    """Show changes as queued until all of them are written.

    ExaBGP empties the queue when it begins to send, and sends 25 messages a round; of IPv6 each prefix is one. One
    change is shown, which is all that the sidecar wants to know. A reload does not wait for them: they are sent on.
    """
    updates = OutgoingRIB.updates

    def updates_shown(self: Any, grouped: Any) -> Iterator[Any]:  # noqa: ANN401 - ExaBGP's
        sending = self._new_nlri  # ExaBGP lays it aside and begins another one
        self.sent_now = [*self.sent_now, sending]
        try:
            yield from updates(self, grouped)
        finally:
            self.sent_now = [other for other in self.sent_now if other is not sending]

    def first_queued_change(self: Any) -> Iterator[Any]:  # noqa: ANN401 - ExaBGP's
        return islice(chain.from_iterable(each.values() for each in [*self.sent_now, self._new_nlri]), 1)

    OutgoingRIB.sent_now = []
    OutgoingRIB.updates = updates_shown
    OutgoingRIB.queued_changes = first_queued_change


def begin_sessions_with_nothing_queued() -> None:
    """Forget what was queued for a peer when its session comes up.

    It was on its way when the last session ended, and may have been withdrawn since; the sidecar tells a session that
    comes up everything. ExaBGP would have the routes of its configuration sent at this moment, and there are none. An
    End-of-RIB that is left would come before all routes, and the peer would forget those that it kept for us.
    """
    main = Peer._main  # noqa: SLF001 - see above

    def replace_restart(self: Any, previous: Any, new: Any) -> None:  # noqa: ANN401, ARG001 - ExaBGP's
        self.clear()
        self.sent_now = []

    def main_with_nothing_queued(self: Any) -> Any:  # noqa: ANN401 - ExaBGP's
        self.neighbor.eor.clear()
        return main(self)

    OutgoingRIB.replace_restart = replace_restart
    Peer._main = main_with_nothing_queued  # noqa: SLF001 - see above
