"""What dockerd is answered: to real requests in their order, in any other, twice, at once, and after restarts."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import random
import re
from typing import TYPE_CHECKING, Any

import pytest

from controller.docker.leftovers import Leftovers
from controller.docker.ruleset import ruleset
from controller.docker.values import link_name
from controller.errors import PermanentError

if TYPE_CHECKING:
    from tests.contract.docker.conftest import Node

NETWORK, ENDPOINT, OTHER = "a" * 64, "b" * 64, "c" * 64
#: The methods that end something.
ENDS = (
    "/NetworkDriver.RevokeExternalConnectivity",
    "/NetworkDriver.Leave",
    "/NetworkDriver.DeleteEndpoint",
    "/IpamDriver.ReleaseAddress",
    "/IpamDriver.ReleasePool",
    "/NetworkDriver.DeleteNetwork",
)


def web_port(host_port: int) -> dict[str, object]:
    """Return the options that publish port 80."""
    return {
        "com.docker.network.portmap": [
            {"Proto": 6, "IP": "", "Port": 80, "HostIP": "", "HostPort": host_port, "HostPortEnd": host_port}
        ]
    }


async def create_network(node: Node, *, internal: bool = False) -> str:
    """Create the network and return its pool's id."""
    pool = await node.ask("/IpamDriver.RequestPool", AddressSpace="tortie-local", Pool="10.244.0.0/16")
    await node.ask(
        "/NetworkDriver.CreateNetwork",
        NetworkID=NETWORK,
        Options={"com.docker.network.internal": internal},
        IPv4Data=[{"AddressSpace": "tortie-local", "Pool": pool["Pool"]}],
    )
    return str(pool["PoolID"])


async def create_endpoint(node: Node, pool_id: str, endpoint_id: str = ENDPOINT) -> str:
    """Create an endpoint and return its address."""
    answer = await node.ask("/IpamDriver.RequestAddress", PoolID=pool_id)
    interface = {"Address": answer["Address"]}
    await node.ask("/NetworkDriver.CreateEndpoint", NetworkID=NETWORK, EndpointID=endpoint_id, Interface=interface)
    return str(answer["Address"]).partition("/")[0]


def nothing_is_left(node: Node) -> None:
    """Check that no container has anything on the node."""
    assert node.kernel.links == {}
    assert node.kernel.ruleset == ruleset([], {})
    assert node.assigner.holders() == {}
    assert node.state()["networks"] == node.state()["endpoints"] == []


async def test_recorded_calls_are_answered_as_recorded(node: Node, recorded: list[dict[str, Any]]) -> None:
    """The same requests on the same node are answered the same, and in the end nothing is left."""
    for each in recorded:
        assert await node.call(each["path"], each["request"]) == (each["status"], each["answer"]), each
    nothing_is_left(node)


def with_own_pools(calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the calls with the pools of the node in place of those they speak of."""
    text = json.dumps(calls)
    for other, own in (
        (r"pool-10\.77\.0\.0/16", "tortie/4/ipv4"),
        (r"pool-fd79::/64", "tortie/6/ipv6"),
        (r"\b10\.77\.", "10.244."),
        (r"\bfd79::", "fd00:244::"),
    ):
        text = re.sub(other, own, text)
    found: list[dict[str, Any]] = json.loads(text)
    return found


@pytest.mark.parametrize("kind", ["recorded", "other pools", "other pools' calls with own pools"])
@pytest.mark.parametrize("seed", range(8))
async def test_recorded_calls_in_any_order_twice_and_at_once(
    node: Node, recorded: list[dict[str, Any]], of_other_pools: list[dict[str, Any]], kind: str, seed: int
) -> None:
    """Every call has an answer and no defect shows; once everything has been ended nothing is left."""
    if kind != "recorded":
        recorded = of_other_pools if kind == "other pools" else with_own_pools(of_other_pools)
    calls = [*recorded, *recorded]
    random.Random(seed).shuffle(calls)  # noqa: S311  the same order for the same seed
    at_once = asyncio.Semaphore(16)
    got: list[str] = []

    async def call(each: dict[str, Any]) -> None:
        async with at_once:
            status, answer = await node.call(each["path"], each["request"])
        assert status == 200 or (status == 500 and "defect" not in answer["Err"] and answer["Err"]), (each, answer)
        if each["path"] == "/IpamDriver.RequestAddress" and status == 200:
            got.append(str(answer["Address"]).partition("/")[0])

    await asyncio.gather(*map(call, calls))
    wired = [address for link in node.kernel.links.values() for address in link.addresses]
    assert len(wired) == len(set(wired))
    holders = node.assigner.holders()
    for link in node.kernel.links.values():
        assert {holders[address].interface for address in link.addresses} == {link.host_name}

    for each in (each for each in recorded if each["path"] in ENDS):
        await node.call(each["path"], each["request"])
    for network in {str(each["request"]["NetworkID"]) for each in recorded if each["path"].endswith("CreateNetwork")}:
        await node.ask("/NetworkDriver.DeleteNetwork", NetworkID=network)
    for address in got:
        version = ipaddress.ip_address(address).version
        await node.ask("/IpamDriver.ReleaseAddress", PoolID=f"tortie/{version}/", Address=address)
    nothing_is_left(node)


async def test_a_restart_in_between_changes_no_answer(node: Node, recorded: list[dict[str, Any]]) -> None:
    """Whatever the agent must know of networks and endpoints outlives it, at any moment."""
    for number, each in enumerate(recorded):
        if number % 9 == 5:
            await node.stop()
            await node.start()
        assert await node.call(each["path"], each["request"]) == (each["status"], each["answer"]), each
    nothing_is_left(node)


async def test_an_address_is_not_freed_by_the_end_of_its_endpoint_alone(node: Node) -> None:
    """Between the two calls that end it nobody else can have it, or the second would take it from them."""
    pool_id = await create_network(node)
    address = await create_endpoint(node, pool_id)
    await node.ask("/NetworkDriver.DeleteEndpoint", NetworkID=NETWORK, EndpointID=ENDPOINT)
    assert address in await node.refused("/IpamDriver.RequestAddress", PoolID=pool_id, Address=address)
    await node.ask("/IpamDriver.ReleaseAddress", PoolID=pool_id, Address=address)
    await node.ask("/IpamDriver.RequestAddress", PoolID=pool_id, Address=address)


async def test_a_late_release_takes_no_address_from_a_container(node: Node) -> None:
    """The endpoint keeps its link and address; the address is free when the endpoint ends."""
    pool_id = await create_network(node)
    address = await create_endpoint(node, pool_id)
    await node.ask("/NetworkDriver.Join", NetworkID=NETWORK, EndpointID=ENDPOINT)
    await node.ask("/IpamDriver.ReleaseAddress", PoolID=pool_id, Address=address)
    assert len(node.kernel.links) == 1
    assert ipaddress.ip_address(address) in node.assigner.holders()
    await node.ask("/NetworkDriver.DeleteEndpoint", NetworkID=NETWORK, EndpointID=ENDPOINT)
    assert node.assigner.holders() == {}


async def test_an_address_whose_release_failed_can_be_had_at_once(node: Node) -> None:
    """The store was down while the container stopped, and dockerd never releases twice."""
    pool_id = await create_network(node)
    address = await create_endpoint(node, pool_id)
    ended = {"NetworkID": NETWORK, "EndpointID": ENDPOINT}
    await node.ask("/NetworkDriver.DeleteEndpoint", **ended)
    node.store.down = True
    assert "the store is down" in await node.refused("/IpamDriver.ReleaseAddress", PoolID=pool_id, Address=address)
    node.store.down = False
    await node.ask("/IpamDriver.RequestAddress", PoolID=pool_id, Address=address)
    assert [holder.handle for holder in node.assigner.holders().values()] == [f"docker-request/{address}"]


def leftovers_of(node: Node) -> Leftovers:
    """Return what looks for addresses left behind, apart from the one that the plugin has at work."""
    state, alone = node.plugin._state, node.backend.alone
    return Leftovers(addresses=node.assigner, links=node.links, state=state, alone=alone)


async def test_an_address_that_dockerd_never_released_comes_back(node: Node) -> None:
    """Not before it is sure that no release is on its way, and not from who lives or is about to."""
    pool_id = await create_network(node)
    lost, stays = [await create_endpoint(node, pool_id, endpoint) for endpoint in (ENDPOINT, OTHER)]
    asked = await node.ask("/IpamDriver.RequestAddress", PoolID=pool_id)
    await node.ask("/NetworkDriver.DeleteEndpoint", NetworkID=NETWORK, EndpointID=ENDPOINT)
    leftovers = leftovers_of(node)
    await leftovers.look()
    assert ipaddress.ip_address(lost) in node.assigner.holders()
    await leftovers.look()
    assert set(map(str, node.assigner.holders())) == {stays, asked["Address"].partition("/")[0]}
    await node.ask("/IpamDriver.RequestAddress", PoolID=pool_id, Address=lost)


async def test_what_has_a_link_is_not_left_behind(node: Node) -> None:
    """Also where the agent's file was lost and it knows of no endpoint: a container is behind the link."""
    pool_id = await create_network(node)
    address = await create_endpoint(node, pool_id)
    await node.ask("/NetworkDriver.Join", NetworkID=NETWORK, EndpointID=ENDPOINT)
    await node.stop()
    (node.directory / "docker.json").unlink()
    await node.start()
    leftovers = leftovers_of(node)
    for _ in range(3):
        await leftovers.look()
    assert address in await node.refused("/IpamDriver.RequestAddress", PoolID=pool_id, Address=address)


async def test_a_link_that_was_given_back_is_ended_without_a_call(node: Node) -> None:
    """Nobody answered when the container ended; what is only just made, or in a container, stays."""
    pool_id = await create_network(node)
    for endpoint in (ENDPOINT, OTHER):
        await create_endpoint(node, pool_id, endpoint)
        await node.ask("/NetworkDriver.Join", NetworkID=NETWORK, EndpointID=endpoint)
    await node.ask("/NetworkDriver.ProgramExternalConnectivity", EndpointID=ENDPOINT, Options=web_port(18082))
    drivers = node.plugin._networks
    await drivers.resync()
    taken = node.kernel.links[link_name(OTHER)]
    node.kernel.taken.add(taken.container_name)
    await drivers.resync()
    assert list(node.kernel.links.values()) == [taken]
    assert tuple(node.assigner.holders()) == taken.addresses
    assert [each["id"] for each in node.state()["endpoints"]] == [OTHER]
    assert "18082" not in node.kernel.ruleset


async def join_both(node: Node) -> set[str]:
    """Attach one container by two endpoints, and return the names of its links."""
    pool_id = await create_network(node)
    for endpoint in (ENDPOINT, OTHER):
        await create_endpoint(node, pool_id, endpoint)
        await node.ask("/NetworkDriver.Join", EndpointID=endpoint, SandboxKey="/var/run/docker/netns/1f2e")
    return {link_name(ENDPOINT), link_name(OTHER)}


async def test_the_links_of_one_container_carry_each_others_addresses(node: Node) -> None:
    """From the second network on and as long as it has both, also after a restart of the agent."""
    assert await join_both(node) == node.kernel.shared
    for link in node.kernel.links.values():
        assert all(f'"{link.host_name}" . {address}' in node.kernel.ruleset for address in node.assigner.holders())
    await node.stop()
    await node.start()
    await node.ask("/NetworkDriver.Leave", EndpointID=OTHER)
    assert node.kernel.shared == set()
    assert node.kernel.ruleset == ""


async def test_containers_of_one_network_each_carry_no_others_addresses(node: Node) -> None:
    """Each is in a namespace of its own."""
    pool_id = await create_network(node)
    for number, endpoint in enumerate((ENDPOINT, OTHER)):
        await create_endpoint(node, pool_id, endpoint)
        await node.ask("/NetworkDriver.Join", EndpointID=endpoint, SandboxKey=f"/var/run/docker/netns/{number}")
    assert (node.kernel.shared, node.kernel.ruleset) == (set(), "")


async def test_a_second_network_that_cannot_be_guarded_is_refused(node: Node) -> None:
    """The container keeps its first one, which needs no rules."""
    pool_id = await create_network(node)
    for endpoint in (ENDPOINT, OTHER):
        await create_endpoint(node, pool_id, endpoint)
    await node.ask("/NetworkDriver.Join", EndpointID=ENDPOINT, SandboxKey="s")
    node.kernel.filter_error = PermanentError("install nftables")
    assert "install nftables" in await node.refused("/NetworkDriver.Join", EndpointID=OTHER, SandboxKey="s")
    assert node.kernel.links.keys() == {link_name(ENDPOINT)}
    assert {each["sandbox"] for each in node.state()["endpoints"]} == {"s", ""}
    assert node.kernel.shared == set()


async def test_a_port_has_one_container(node: Node) -> None:
    """The second is refused by name, and has the port as soon as the first has it no more."""
    pool_id = await create_network(node)
    for endpoint in (ENDPOINT, OTHER):
        await create_endpoint(node, pool_id, endpoint)
    publish = "/NetworkDriver.ProgramExternalConnectivity"
    await node.ask(publish, EndpointID=ENDPOINT, Options=web_port(18080))
    assert "18080" in await node.refused(publish, EndpointID=OTHER, Options=web_port(18080))
    await node.ask(publish, EndpointID=ENDPOINT, Options=web_port(18080))
    await node.ask("/NetworkDriver.RevokeExternalConnectivity", EndpointID=ENDPOINT)
    await node.ask(publish, EndpointID=OTHER, Options=web_port(18080))
    assert node.kernel.ruleset.count("18080") == 2  # from elsewhere, and from the host itself


@pytest.mark.parametrize("host", ["127.0.0.1", "::"])
async def test_a_port_that_would_be_reached_by_nobody_is_refused(node: Node, host: str) -> None:
    """Nothing of the call is published, and what was before still is."""
    pool_id = await create_network(node)
    await create_endpoint(node, pool_id)
    publish = "/NetworkDriver.ProgramExternalConnectivity"
    await node.ask(publish, EndpointID=ENDPOINT, Options=web_port(18084))
    options: dict[str, Any] = web_port(18084)
    options["com.docker.network.portmap"] += [{"Proto": 6, "Port": 81, "HostIP": host, "HostPort": 18085}]
    assert f"cannot be published at {host}" in await node.refused(publish, EndpointID=ENDPOINT, Options=options)
    assert [each["host_port"] for each in node.state()["endpoints"][0]["published"]] == [18084]


async def test_the_filter_is_told_of_ports_of_udp(node: Node) -> None:
    """It has to forget who sent to them before; those of TCP are of no account, and none is left in the end."""
    pool_id = await create_network(node)
    await create_endpoint(node, pool_id)
    asked = [
        {"Proto": protocol, "Port": 53, "HostIP": host, "HostPort": port, "HostPortEnd": port}
        for protocol, host, port in ((17, "", 18053), (17, "0.0.0.0", 18054), (6, "", 18055))
    ]
    options = {"com.docker.network.portmap": asked}
    await node.ask("/NetworkDriver.ProgramExternalConnectivity", EndpointID=ENDPOINT, Options=options)
    assert node.kernel.datagram_ports == {(None, 18053), (None, 18054)}
    await node.ask("/NetworkDriver.RevokeExternalConnectivity", EndpointID=ENDPOINT)
    assert node.kernel.datagram_ports == set()


async def test_of_many_that_ask_for_a_port_at_once_one_has_it(node: Node) -> None:
    """Also while what was decided is being written."""
    pool_id = await create_network(node)
    endpoints = [letter * 64 for letter in "0123456789"]
    for endpoint in endpoints:
        await create_endpoint(node, pool_id, endpoint)
    publish = "/NetworkDriver.ProgramExternalConnectivity"
    calls = [node.call(publish, {"EndpointID": each, "Options": web_port(18086)}) for each in endpoints]
    answers = await asyncio.gather(*calls)
    assert sorted(status for status, _ in answers) == [200, *[500] * 9]
    assert sum(bool(each["published"]) for each in node.state()["endpoints"]) == 1


async def test_a_packet_filter_that_refuses_leaves_nothing_published(node: Node) -> None:
    """The caller is told why, and the port can be had once the filter works."""
    pool_id = await create_network(node)
    await create_endpoint(node, pool_id)
    publish = "/NetworkDriver.ProgramExternalConnectivity"
    node.kernel.filter_error = PermanentError("no room")
    assert "no room" in await node.refused(publish, EndpointID=ENDPOINT, Options=web_port(18081))
    assert node.state()["endpoints"][0]["published"] == []
    node.kernel.filter_error = None
    await node.ask(publish, EndpointID=ENDPOINT, Options=web_port(18081))


async def test_an_internal_network_is_barred_before_its_link_is_made(node: Node) -> None:
    """The drops are there as soon as the endpoint is, and there is no default route but one to the pool."""
    pool_id = await create_network(node, internal=True)
    await create_endpoint(node, pool_id)
    assert "ip daddr != { 10.244.0.0/16 } drop" in node.kernel.ruleset
    answer = await node.ask("/NetworkDriver.Join", NetworkID=NETWORK, EndpointID=ENDPOINT)
    assert "Gateway" not in answer
    assert answer["StaticRoutes"][1]["Destination"] == "10.244.0.0/16"


async def test_what_is_unknown_is_refused_with_a_way_out(node: Node) -> None:
    """Networks and endpoints of nobody, pools that are not there, methods that no plugin need have."""
    interface = {"Address": "10.244.0.1/32"}
    text = await node.refused(
        "/NetworkDriver.CreateEndpoint", NetworkID=NETWORK, EndpointID=ENDPOINT, Interface=interface
    )
    assert "create it again" in text
    assert "restart its container" in await node.refused("/NetworkDriver.Join", EndpointID=ENDPOINT)
    text = await node.refused("/IpamDriver.RequestPool", AddressSpace="tortie-local", Pool="10.9.0.0/16")
    assert "ipv4 (10.244.0.0/16)" in text
    assert (await node.call("/NetworkDriver.AllocateNetwork", {}))[0] == 404
    assert (await node.call("/NetworkDriver.Leave", None))[0] == 500
