"""Containers that are started with one address at once: whatever the order, one has it, and nobody takes it away."""

from __future__ import annotations

import ipaddress
import itertools
import random
from typing import TYPE_CHECKING, Final

from controller.docker.values import endpoint_of_handle

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tests.contract.docker.conftest import Node

NETWORK: Final = "a" * 64
ADDRESS: Final = ipaddress.ip_address("10.244.7.7")
POOL: Final = {"PoolID": "tortie/4/ipv4"}
#: The most calls that dockerd makes for one container here.
CALLS: Final = 4


class Rival:
    """A container that is started with the address and ended at once, call by call, as dockerd does."""

    def __init__(self, node: Node, number: int) -> None:
        self._node = node
        self._endpoint = {"NetworkID": NETWORK, "EndpointID": str(number) * 64}
        self._next = "request"
        #: Whether dockerd believes that the container has the address.
        self.lives = False

    async def go_on(self) -> None:
        """Make the next call; there is none any more once all is over."""
        if self._next == "request":
            self._next = (
                "create" if await self._call("/IpamDriver.RequestAddress", **POOL, Address=str(ADDRESS)) else ""
            )
        elif self._next == "create":
            interface = {"Address": f"{ADDRESS}/32"}
            self.lives = await self._call("/NetworkDriver.CreateEndpoint", **self._endpoint, Interface=interface)
            self._next = "delete" if self.lives else "release"
        elif self._next == "delete":
            self.lives = False
            assert await self._call("/NetworkDriver.DeleteEndpoint", **self._endpoint)
            self._next = "release"
        elif self._next == "release":
            assert await self._call("/IpamDriver.ReleaseAddress", **POOL, Address=str(ADDRESS))
            self._next = ""

    async def _call(self, path: str, **request: object) -> bool:
        return (await self._node.call(path, request))[0] == 200

    @property
    def endpoint_id(self) -> str:
        """The id of its attachment."""
        return self._endpoint["EndpointID"]


async def run(node: Node, order: Iterable[int], rival_count: int) -> int:
    """Have each rival go on in this order, check after each call, and return how many had the address."""
    rivals = [Rival(node, number) for number in range(rival_count)]
    had = set()
    for number in order:
        await rivals[number].go_on()
        living = [each.endpoint_id for each in rivals if each.lives]
        had |= set(living)
        holder = node.assigner.holders().get(ADDRESS)
        assert living in ([], [None if holder is None else endpoint_of_handle(holder.handle)]), order
        assert not any(each.given_up for each in node.plugin._state.endpoints.values()), order
    assert node.assigner.holders() == {}, order
    assert node.plugin._state.endpoints == {}
    return len(had)


async def create_network(node: Node) -> None:
    """Create the network."""
    data = [{"AddressSpace": "tortie-local", "Pool": "10.244.0.0/16"}]
    await node.ask("/NetworkDriver.CreateNetwork", NetworkID=NETWORK, IPv4Data=data)


def interleavings() -> Iterator[tuple[int, ...]]:
    """Return every order in which two can make all their calls."""
    places = range(2 * CALLS)
    for first in itertools.combinations(places, CALLS):
        yield tuple(0 if place in first else 1 for place in places)


async def test_two_at_once_in_every_order(node: Node) -> None:
    """The one who is refused takes nothing from the other, and nothing is left or freed twice in the end."""
    await create_network(node)
    counts = [await run(node, order, 2) for order in interleavings()]
    assert set(counts) == {1, 2}


async def test_three_at_once_in_many_orders(node: Node) -> None:
    """A third may have the address as soon as nobody has it."""
    await create_network(node)
    calls = [number for number in range(3) for _ in range(CALLS)]
    counts = set()
    for seed in range(100):
        random.Random(seed).shuffle(calls)  # noqa: S311  the same order for the same seed
        counts.add(await run(node, tuple(calls), 3))
    assert counts >= {1, 2}


async def test_what_was_collected_counts_as_given_to_nobody(node: Node) -> None:
    """Whoever has the address next releases it alone."""
    await create_network(node)
    for _ in range(3):
        await node.ask("/IpamDriver.RequestAddress", **POOL, Address=str(ADDRESS))
    await node.assigner.release(f"docker-request/{ADDRESS}")
    assert await run(node, [0] * CALLS, 1) == 1
