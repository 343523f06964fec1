"""Which attachment each link belongs to: a link is named after container and interface, not after the network.

Two networks may be asked for by the same interface, of which only one can have it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from controller.cni.workload_ports import Addresses, LinkWork

#: So many links that are gone may be remembered besides as many as there are.
_SPARE_COUNT: Final = 64


class LinkOwners:
    """Remembers the handle that each link was made for; those of links that were there before are looked up once."""

    def __init__(self, addresses: Addresses, links: LinkWork) -> None:
        self._addresses = addresses
        self._links = links
        self._handle_of: dict[str, str] = {}

    def learn(self, host_name: str, handle: str) -> None:
        """Take note that a link is about to be made for this handle."""
        present = self._links.index_of
        if len(self._handle_of) > 2 * len(present) + _SPARE_COUNT:
            self._handle_of = {name: each for name, each in self._handle_of.items() if name in present}
        self._handle_of[host_name] = handle

    def owner(self, host_name: str) -> str | None:
        """Return the handle of the attachment that a link belongs to; None without a link or without an attachment."""
        if host_name not in self._links.index_of:
            return None
        if host_name not in self._handle_of:
            held = {holder.interface: holder.handle for holder in self._addresses.holders().values()}
            self._handle_of = held | self._handle_of
        return self._handle_of.get(host_name)
