"""Single facts in the words of an explanation."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from controller.diagnosis.judge import Judge
    from controller.diagnosis.snapshot import Delivery
    from ipam.address import IPNetwork
    from ipam.block import Block


def pool_facts(judge: Judge, network: IPNetwork) -> Iterator[tuple[str, str]]:
    """Yield the pool that a network lies in."""
    pool = judge.snapshot.pool_of(network)
    if pool is None:
        yield "pool", "none"
        return
    disabled = ", disabled" if pool.disabled else ""
    yield "pool", f"{pool.name}, {pool.cidr} in blocks of /{pool.block_prefix_length}{disabled}"


def block_facts(judge: Judge, block: Block) -> Iterator[tuple[str, str]]:
    """Yield a block with its owner and use, and its pool."""
    yield "block", block_text(block)
    yield from pool_facts(judge, block.cidr)


def block_text(block: Block) -> str:
    """Return a block with its owner and use."""
    owner = "owned by no node" if block.affinity is None else f"owned by {block.affinity}"
    return f"{block.cidr}, {owner}, {block.in_use} of {block.size} addresses in use"


def announcement_facts(judge: Judge, delivery: Delivery | None) -> Iterator[tuple[str, str]]:
    """Yield what is announced by whom and by which rule, or why nothing is."""
    if delivery is None:
        yield "announced", "not as a whole, since no node owns it"
        return
    withheld = judge.snapshot.withheld(delivery)
    report = judge.reports.get(delivery.node)
    if withheld is not None:
        yield "announced", f"not: {withheld}"
    elif report is not None and delivery.prefix not in report.announced:
        yield "announced", f"not, though {delivery.node} has to announce {delivery.prefix}: {delivery.rule.value}"
    else:
        how = "" if report is not None else " by the store; its agent does not answer"
        yield "announced", f"{delivery.prefix} by {delivery.node}{how}: {delivery.rule.value}"


def moment(epoch_seconds: float) -> str:
    """Return a time for people, in UTC."""
    return datetime.fromtimestamp(epoch_seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
