"""The routers people run, as route reflector and as top of rack: routes cross, and restarts lose no packet."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from typing import TYPE_CHECKING

import pytest

from tests.interop.fabric import PASSWORD, Fabric
from tests.interop.routers import Bird, Frr, GoBgp

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    from tests.interop.flows import Pings
    from tests.interop.hosts import Host

_DEADLINE_SECONDS = 40.0
_numbers = itertools.count(1)


@pytest.fixture(params=[Bird, Frr, GoBgp], ids=["bird", "frr", "gobgp"])
def program(request: pytest.FixtureRequest) -> type:
    """Give each router program in turn."""
    return request.param  # type: ignore[no-any-return]  # pytest does not know


@pytest.fixture(params=[True, False], ids=["reflector", "tor"])
async def fabric(request: pytest.FixtureRequest, program: type, tmp_path: Path) -> AsyncIterator[Fabric]:
    """Give two hosts with a wired workload each, and the router program in each of its roles."""
    made = Fabric(f"tr{os.getpid()}n{next(_numbers)}", tmp_path, program, reflector=request.param)
    try:
        await made.start()
        for host in made.hosts:
            await until(made, host.is_ready, "agent ready")
            host.wire()
        made.complete()
        yield made
    finally:
        await made.close()


async def until(fabric: Fabric, condition: Callable[[], object], what: str) -> None:
    """Wait until the condition holds, checking it often."""
    end = time.monotonic() + _DEADLINE_SECONDS
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < end, f"not {what} in {_DEADLINE_SECONDS} s\n{fabric.log()}"
        await asyncio.sleep(0.05)


async def until_told_everything(fabric: Fabric) -> None:
    """Wait until every host has both sessions and was told on each that nothing is missing."""

    def told() -> bool:
        return all(
            host.observer.ended >= {(peer, peer.version) for peer in host.link.router}
            and host.established() == set(map(str, host.link.router))
            for host in fabric.hosts
        )

    await until(fabric, told, "told everything on every session")


async def until_routed(fabric: Fabric, *, reachable: bool = True) -> None:
    """Wait until each host's kernel has the routes to the other's blocks, by the right gateways, or none of them."""
    wanted = {
        (source.name, block): fabric.gateways(source, target, block) if reachable else set()
        for source, target, block in fabric.ways()
    }

    def routed() -> bool:
        return wanted == {(source.name, block): source.routes(block) for source, _, block in fabric.ways()}

    await until(fabric, routed, f"routed as {wanted}")


async def until_more_replies(fabric: Fabric, flows: Sequence[Pings], count: int = 100) -> None:
    """Wait until every flow has had so many more replies."""
    wanted = [len(flow.replies()) + count for flow in flows]

    def replied() -> bool:
        return all(len(flow.replies()) >= number for flow, number in zip(flows, wanted, strict=True))

    await until(fabric, replied, f"replied {count} times more")


async def test_routes_cross_are_withdrawn_and_survive_restarts_of_either_side(fabric: Fabric) -> None:
    """Over sessions with passwords of both IP versions; no packet is lost when speaker or router are killed.

    Each host reaches the other by the blocks the router told it of; the router forwards by what the hosts told it.
    """
    await until_told_everything(fabric)
    await until_routed(fabric)
    check_what_was_told(fabric)

    flows = [*fabric.ping(*fabric.hosts), *fabric.ping(*reversed(fabric.hosts))]
    await until_more_replies(fabric, flows)
    await restart_speaker(fabric, fabric.hosts[0])
    await until_more_replies(fabric, flows)
    await restart_router(fabric)
    await until_more_replies(fabric, flows)
    assert [flow.finish() for flow in flows] == [set()] * len(flows)

    await change_while_the_router_is_down(fabric)
    await fabric.announce()
    await until_routed(fabric, reachable=False)
    assert not fabric.known_to_router()
    await fabric.announce(4, 6)
    await until_routed(fabric)


async def test_a_wrong_password_brings_no_session(program: type, tmp_path: Path) -> None:
    """While all other sessions come up, the kernel refuses what one of them says; with the right one it stands, too."""
    fabric = Fabric(f"tr{os.getpid()}n{next(_numbers)}", tmp_path, program, reflector=True)
    right, wrong = fabric.hosts
    four, six = map(str, wrong.link.router)
    fabric.passwords[wrong.name, 4] = "another.password"
    try:
        await fabric.start()
        await until(fabric, lambda: right.established() == {four, six}, "in sessions with the right password")
        await until(fabric, lambda: six in wrong.established(), "in the session beside the wrong one")
        await until(fabric, fabric.refused_segments, "refused")
        assert wrong.established() == {six}
        fabric.passwords[wrong.name, 4] = PASSWORD
        await fabric.write_peers()
        await until(fabric, lambda: wrong.established() == {four, six}, "in a session with the right password")
    finally:
        await fabric.close()


def check_what_was_told(fabric: Fabric) -> None:
    """Check that the router has each block by its host's own address, and tells it to the other as its role demands."""
    for source, target, block in fabric.ways():
        own = {end for end in target.link.host if end.version == block.version}
        assert fabric.router.next_hops(block) == own
        for told in (route for (_, prefix), route in source.observer.routes.items() if prefix == block):
            if fabric.reflector:
                assert (told.as_path, told.originator_id) == ((), str(target.link.host[0]))
                assert told.cluster_list == (fabric.router_id,)
            else:
                assert told.as_path == (fabric.router_as, fabric.session_as_of(target))
                assert (told.local_preference, told.originator_id) == (100, "")


async def restart_speaker(fabric: Fabric, host: Host) -> None:
    """Kill a host's speaker and start it again once its sessions are down; the router keeps the host's routes."""
    known = fabric.known_to_router()
    host.kill_speaker()
    await until(fabric, lambda: not host.established(), "sessions down")
    assert fabric.known_to_router() == known
    host.start_speaker()
    await until_told_everything(fabric)
    await until_routed(fabric)


async def change_while_the_router_is_down(fabric: Fabric) -> None:
    """Let the hosts give up announcing IPv6 meanwhile; when the router is back only those routes go."""
    fabric.router.kill()
    await until(fabric, lambda: not any(host.established() for host in fabric.hosts), "sessions down")
    await fabric.announce(4)
    gone = [str(block) for _, _, block in fabric.ways() if block.version == 6]
    await until(fabric, lambda: not any(each in host.desired() for host in fabric.hosts for each in gone), "told less")
    assert all(source.routes(block) for source, _, block in fabric.ways())
    fabric.router.start(restarted=True)

    def only_ipv6_is_gone() -> bool:
        found = {block: source.routes(block) for source, _, block in fabric.ways()}
        assert all(found[block] for block in found if block.version == 4)
        return not any(found[block] for block in found if block.version == 6)

    await until(fabric, only_ipv6_is_gone, "rid of the IPv6 routes")
    await until_told_everything(fabric)


async def restart_router(fabric: Fabric) -> None:
    """Kill the router's program and start it again once the hosts have noticed; they keep its routes."""
    fabric.router.kill()
    await until(fabric, lambda: not any(host.established() for host in fabric.hosts), "sessions down")
    assert all(source.routes(block) for source, _, block in fabric.ways())
    fabric.router.start(restarted=True)
    await until_told_everything(fabric)
    await until_routed(fabric)
