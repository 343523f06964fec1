"""What a GC says is still in use: the key `cni.dev/valid-attachments` of its network configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from controller.cni.failures import CniFailure, ErrorCode, shown

if TYPE_CHECKING:
    from controller.cni.network_configuration import Unchecked

_KEY = "cni.dev/valid-attachments"


class Attachment(NamedTuple):
    """One container on the network, through one of its interfaces."""

    container_id: str
    interface: str


def parse_valid_attachments(fields: Unchecked) -> frozenset[Attachment] | None:
    """Return the attachments that are still in use, None if the key is not there; raises `CniFailure`.

    A runtime without containers writes null for an empty list. One that leaves the key out has not said that nothing is
    in use, and one entry that makes no sense spoils the list: what it may have named must not be taken away.
    """
    if _KEY not in fields:
        return None
    entries = fields[_KEY]
    if entries is None:
        return frozenset()
    if not isinstance(entries, list):
        raise _invalid(entries)
    return frozenset(map(_attachment, entries))


def _attachment(entry: object) -> Attachment:
    named = entry if isinstance(entry, dict) else {}
    container_id, interface = named.get("containerID"), named.get("ifname")
    if not (isinstance(container_id, str) and container_id and isinstance(interface, str) and interface):
        raise _invalid(entry)
    return Attachment(container_id, interface)


def _invalid(value: object) -> CniFailure:
    return CniFailure(
        ErrorCode.INVALID_CONFIG,
        f"{_KEY} has {shown(value)} and must be a list of objects with containerID and ifname",
        "nothing was collected; the container runtime makes this list",
    )
