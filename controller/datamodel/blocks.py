"""The JSON of blocks in the store, and of the keys that say whose they are."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any

from controller.datamodel import keys
from controller.datamodel.codec import decoded, encoded
from ipam.block import Block, Holder, Rest
from ipam.summary import BlockSummary

if TYPE_CHECKING:
    from ipam.address import IPNetwork


def encode_block(block: Block) -> bytes:
    """Return a block's record."""
    return encoded(
        {
            "cidr": str(block.cidr),
            "affinity": block.affinity,
            "claimed_at": block.claimed_at,
            "holders": {ordinal: _holder_fields(holder) for ordinal, holder in block.holders.items()},
            "free": list(block.free),
            "sequence": block.sequence,
            "ordinal_sequence": dict(block.ordinal_sequence),
            "resting": {ordinal: [rest.until, rest.kept_for] for ordinal, rest in block.resting.items()},
        }
    )


def decode_block(key: str, value: bytes) -> Block:
    """Return the block a record describes; raises `MalformedRecord`, also for a record that lies under a wrong key."""

    def build(fields: dict[str, Any]) -> Block:
        cidr = ipaddress.ip_network(fields["cidr"])
        if keys.block(cidr) != key:
            raise ValueError(f"it describes {cidr}, whose key is {keys.block(cidr)}")
        block = Block(
            cidr=cidr,
            affinity=None if fields["affinity"] is None else str(fields["affinity"]),
            claimed_at=float(fields["claimed_at"]),
            holders={int(ordinal): _holder(holder) for ordinal, holder in fields["holders"].items()},
            free=tuple(int(ordinal) for ordinal in fields["free"]),
            sequence=int(fields["sequence"]),
            ordinal_sequence={int(ordinal): int(number) for ordinal, number in fields["ordinal_sequence"].items()},
            resting={int(ordinal): _rest(*rest) for ordinal, rest in fields["resting"].items()},
        )
        block.check()
        return block

    return decoded(key, value, build)


def encode_usage(block: Block) -> bytes:
    """Return the record of a block's summary."""
    summary = BlockSummary.of(block)
    return encoded(
        {
            "affinity": summary.affinity,
            "claimed_at": summary.claimed_at,
            "in_use": summary.in_use,
            "resting_count": summary.resting_count,
            "rested_at": summary.rested_at,
        }
    )


def decode_usage(key: str, value: bytes) -> BlockSummary:
    """Return the summary that a record describes; raises `MalformedRecord`."""
    return decoded(
        key,
        value,
        lambda fields: BlockSummary(
            cidr=keys.cidr_of(key),
            affinity=None if fields["affinity"] is None else str(fields["affinity"]),
            claimed_at=float(fields["claimed_at"]),
            in_use=int(fields["in_use"]),
            resting_count=int(fields["resting_count"]),
            rested_at=float(fields["rested_at"]),
        ),
    )


def encode_share(block: Block) -> bytes:
    """Return the record under a share key: the block's sequence when its node was last told of it.

    Whoever changes another node's block writes that node's share key too. The sequence makes the value a new one, as
    it must be: writing the same value again would wake nobody.
    """
    return encoded({"sequence": block.sequence})


def decode_share(key: str, value: bytes) -> int:
    """Return the block's sequence of which a share key tells; raises `MalformedRecord`."""
    return decoded(key, value, lambda fields: int(fields["sequence"]))


def share_cidr(key: str) -> IPNetwork | None:
    """Return the block that a key below a node's share is about; None for the anchor and whatever else is no block."""
    try:
        return keys.cidr_of(key)
    except ValueError:
        return None


def _holder_fields(holder: Holder) -> dict[str, Any]:
    return {
        "handle": holder.handle,
        "node": holder.node,
        "workload": holder.workload,
        "namespace": holder.namespace,
        "interface": holder.interface,
        "created_at": holder.created_at,
        "sticky": holder.sticky,
    }


def _holder(fields: dict[str, Any]) -> Holder:
    return Holder(
        handle=str(fields["handle"]),
        node=str(fields["node"]),
        workload=str(fields["workload"]),
        namespace=str(fields["namespace"]),
        interface=str(fields["interface"]),
        created_at=float(fields["created_at"]),
        sticky=bool(fields["sticky"]),
    )


def _rest(until: float, kept_for: str | None) -> Rest:
    return Rest(float(until), None if kept_for is None else str(kept_for))
