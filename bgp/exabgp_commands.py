"""What ExaBGP's API process writes: one command a line (ExaBGP 5, "API: commands").

Every command that changes something names its neighbours, so that nothing is queued for a session that is not there:
one neighbour with queued routes and no session makes ExaBGP put off every reload.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bgp.address import IPAddress, IPNetwork
    from bgp.route import Announcement

SHOW_NEIGHBOURS: Final = "show neighbor json"
SHOW_CONFIGURATION: Final = "show neighbor configuration"
#: With the setting api.show-routes-format v2 the answer is one JSON document a route; v1 repeats every route before it.
SHOW_ROUTES: Final = "show adj-rib in json"
RELOAD: Final = "reload"
#: How many prefixes one line carries.
MAX_PREFIXES: Final = 500
_FAMILY = {4: "ipv4 unicast", 6: "ipv6 unicast"}


def announce(peers: Iterable[IPAddress], attributes: str, prefixes: Iterable[IPNetwork | str]) -> str:
    """Return the line that announces the prefixes with these attributes to the peers."""
    return f"{_neighbours(peers)} announce attributes {attributes} nlri {_words(prefixes)}"


def withdraw(peers: Iterable[IPAddress], attributes: str, prefixes: Iterable[IPNetwork | str]) -> str:
    """Return the line that withdraws them; the attributes must be those they were announced with.

    ExaBGP queues changes by attributes and sends one queue after the other: with other attributes a withdrawal may
    overtake, or be overtaken by, an announcement of the same prefix.
    """
    return f"{_neighbours(peers)} withdraw attributes {attributes} nlri {_words(prefixes)}"


def end_of_rib(peers: Iterable[IPAddress], version: int) -> str:
    """Return the line that tells the peers that all prefixes of this IP version have been announced."""
    return f"{_neighbours(peers)} announce eor {_FAMILY[version]}"


def show_queue(peer: IPAddress) -> str:
    """Return the line whose answer holds the peer's configuration and what is queued for it."""
    return f"show neighbor {peer} configuration"


def attributes(announcement: Announcement) -> str:
    """Return the attribute text: equal announcements have equal texts."""
    text = f"next-hop {announcement.next_hop} local-preference {announcement.local_preference}"
    if announcement.communities:
        values = " ".join(f"{as_number}:{value}" for as_number, value in announcement.communities)
        text += f" community [ {values} ]"
    return text


def _neighbours(peers: Iterable[IPAddress]) -> str:
    return " , ".join(f"neighbor {peer}" for peer in peers)


def _words(prefixes: Iterable[IPNetwork | str]) -> str:
    return " ".join(map(str, prefixes))
