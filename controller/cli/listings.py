"""How each kind of resource is read and shown: its key, its order, its columns and its document."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

from controller.cli.ipam_configure import setting_rows
from controller.datamodel import keys
from controller.datamodel.blocks import decode_block, decode_usage
from controller.datamodel.records import decode_configuration, decode_pool, decode_reservation
from controller.resources import API_VERSION, resource_document
from controller.resources.fields import ONLY_NAME, community_text
from ipam.configuration import IpamConfiguration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from ipam.address import IPNetwork
    from ipam.block import Block
    from ipam.pool import Pool
    from ipam.reservation import Reservation
    from ipam.summary import BlockSummary


class Ranged(Protocol):
    """What stands for a range of addresses."""

    @property
    def cidr(self) -> IPNetwork:
        """The range."""
        ...


T = TypeVar("T")
R = TypeVar("R", bound=Ranged)


@dataclass(frozen=True, slots=True)
class Listing(Generic[T]):
    """How the records under `prefix` are shown.

    A table has the first `narrow` columns unless all are asked for. `default` is what holds without a record.
    """

    prefix: str
    decode: Callable[[str, bytes], T]
    name: Callable[[T], str]
    in_order: Callable[[Sequence[T]], list[T]]
    headers: Sequence[str]
    narrow: int
    rows: Callable[[T], Sequence[Sequence[object]]]
    document: Callable[[T], Mapping[str, object]]
    default: T | None = None


def by_address(ranged: Iterable[R]) -> list[R]:
    """Return things in the order of their addresses, IPv4 first."""
    # Integers compare ten times as fast as networks do, and there may be tens of thousands.
    return sorted(ranged, key=lambda each: (each.cidr.version, int(each.cidr.network_address), each.cidr.prefixlen))


def time_text(epoch_seconds: float) -> str:
    """Return a time as it is printed, in UTC."""
    return datetime.fromtimestamp(epoch_seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _pool_row(pool: Pool) -> Sequence[object]:
    return (
        pool.name,
        pool.cidr,
        f"/{pool.block_prefix_length}",
        pool.disabled,
        pool.assignment.value,
        pool.nat_outgoing,
        pool.disable_bgp_export,
        pool.node_selector,
        ", ".join(map(community_text, pool.communities)) or "-",
    )


def _summary_row(block: Block | BlockSummary) -> Sequence[object]:
    return (block.cidr, block.affinity or "-", f"{block.in_use} of {block.size}")


def _block_row(block: Block) -> Sequence[object]:
    return (
        *_summary_row(block),
        time_text(block.claimed_at),
        block.sequence,
        ", ".join(sorted(block.holding_nodes() - {block.affinity or ""})) or "-",
    )


def _block_document(block: Block) -> Mapping[str, object]:
    assignments = [
        {
            "address": str(address),
            "handle": holder.handle,
            "node": holder.node,
            "workload": holder.workload,
            "namespace": holder.namespace,
            "interface": holder.interface,
            "createdAt": time_text(holder.created_at),
            "sticky": holder.sticky,
        }
        for address, holder in block.assignments()
    ]
    resting = [
        {"address": str(block.address_at(ordinal)), "until": time_text(rest.until), "keptFor": rest.kept_for}
        for ordinal, rest in sorted(block.resting.items())
    ]
    spec = {
        "cidr": str(block.cidr),
        "affinity": block.affinity,
        "claimedAt": time_text(block.claimed_at),
        "sequence": block.sequence,
        "size": block.size,
        "inUse": block.in_use,
        "assignments": assignments,
        "resting": resting,
    }
    return {"apiVersion": API_VERSION, "kind": "Block", "metadata": {"name": str(block.cidr)}, "spec": spec}


POOLS: Final = Listing(
    keys.POOLS,
    decode_pool,
    lambda pool: pool.name,
    by_address,
    ("NAME", "CIDR", "BLOCK SIZE", "DISABLED", "ASSIGNMENT", "NAT", "NO BGP EXPORT", "NODE SELECTOR", "COMMUNITIES"),
    4,
    lambda pool: [_pool_row(pool)],
    resource_document,
)
RESERVATIONS: Final[Listing[Reservation]] = Listing(
    keys.RESERVATIONS,
    decode_reservation,
    lambda reservation: reservation.name,
    list,
    ("NAME", "RESERVED CIDRS"),
    2,
    lambda reservation: [(reservation.name, ", ".join(map(str, reservation.cidrs)))],
    resource_document,
)
BLOCKS: Final = Listing(
    keys.BLOCKS,
    decode_block,
    lambda block: str(block.cidr),
    by_address,
    ("CIDR", "AFFINITY", "IN USE", "CLAIMED", "SEQUENCE", "ALSO HELD BY"),
    6,
    lambda block: [_block_row(block)],
    _block_document,
)
#: The narrow table of blocks needs their short summaries only.
SUMMARIES: Final[Listing[BlockSummary]] = Listing(
    keys.USAGE,
    decode_usage,
    lambda summary: str(summary.cidr),
    by_address,
    BLOCKS.headers[:3],
    3,
    lambda summary: [_summary_row(summary)],
    lambda _: {},
)
CONFIGURATION: Final = Listing(
    keys.IPAM_CONFIGURATION,
    decode_configuration,
    lambda _: ONLY_NAME,
    list,
    ("SETTING", "VALUE"),
    2,
    setting_rows,
    resource_document,
    default=IpamConfiguration(),
)
