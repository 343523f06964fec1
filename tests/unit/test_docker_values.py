"""Gateways, ports and rules of Docker's networks, and what is kept of them."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import re
import socket
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from controller.docker.ports import check_reachable, occupied, publish
from controller.docker.ruleset import ruleset
from controller.docker.state import DriverState
from controller.docker.values import (
    MAX_NETWORKS,
    Binding,
    Endpoint,
    Network,
    Protocol,
    Published,
    endpoint_of_handle,
    given_up,
)
from controller.errors import PermanentError, RefusedError

if TYPE_CHECKING:
    from pathlib import Path

NETWORK = Network("n1", (ipaddress.ip_network("10.0.0.0/16"),), internal=False, mtu_bytes=0, number=0)
ADDRESSES = (ipaddress.ip_address("10.0.0.7"), ipaddress.ip_address("fd00::7"))
WEB = Published(Protocol.TCP, 80, None, 8080)
ENDPOINT = Endpoint("n1", "e1", ADDRESSES, "02:00:00:00:00:01", (WEB,), sandbox="/var/run/docker/netns/1f2e")


def free(_wanted: Published) -> None:
    """Say that no process has a port."""


def test_every_network_has_gateways_of_its_own() -> None:
    """Link-local ones that no standard and no cloud has another use for."""
    networks = [Network(str(number), (), internal=False, mtu_bytes=0, number=number) for number in range(MAX_NETWORKS)]
    gateways = {network.ipv4_gateway for network in networks}
    assert len(gateways) == len({network.ipv6_gateway for network in networks}) == MAX_NETWORKS
    assert {gateway.is_link_local for gateway in gateways} == {True}
    assert not {gateway.packed[2] for gateway in gateways} & {0, 1, 169, 170, 255}
    assert all(network.ipv6_gateway.is_link_local for network in networks[:10])


def test_handles_tell_their_endpoint() -> None:
    """And those of others tell none."""
    assert endpoint_of_handle(ENDPOINT.handle) == "e1"
    assert endpoint_of_handle("docker-request/10.0.0.7") is None
    assert endpoint_of_handle("cni/net/pod/eth0") is None


@pytest.mark.parametrize(
    ("address", "other", "excluded"),
    [
        (None, "192.0.2.1", True),
        ("0.0.0.0", "192.0.2.1", True),
        ("0.0.0.0", "::", False),
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
    ],
)
def test_ports_exclude_each_other_where_a_connection_could_be_for_both(
    address: str | None, other: str, *, excluded: bool
) -> None:
    """At one address of the host or at all of them."""
    one = Published(Protocol.TCP, 80, None if address is None else ipaddress.ip_address(address), 8080)
    two = Published(Protocol.TCP, 81, ipaddress.ip_address(other), 8080)
    assert one.excludes(two) is two.excludes(one) is excluded
    assert not one.excludes(Published(Protocol.UDP, 81, None, 8080))


def test_a_range_gives_its_first_port_that_is_free() -> None:
    """Free of other endpoints, of processes, and of what the same call publishes."""
    bindings = [Binding(Protocol.TCP, port, None, 8080, 8083) for port in (80, 81)]
    busy = {8081: "a process has it"}
    chosen = publish(bindings, {"e1": [WEB]}, lambda wanted: busy.get(wanted.host_port))
    assert [each.host_port for each in chosen] == [8082, 8083]
    assert publish([Binding(Protocol.UDP, 53, None, 0, 0)], {}, free)[0].host_port == 49152


def test_a_port_that_somebody_has_is_refused_by_name() -> None:
    """The message names port and holder."""
    with pytest.raises(RefusedError, match=r"8080/tcp.*endpoint e1 has it"):
        publish([Binding(Protocol.TCP, 80, None, 8080, 8080)], {"e1": [WEB]}, free)


@pytest.mark.parametrize("host", [None, "0.0.0.0", "192.0.2.1"])
def test_a_port_can_be_published_where_the_container_is_reached(host: str | None) -> None:
    """At all of the host's addresses or at one."""
    check_reachable(
        [Binding(Protocol.TCP, 80, None if host is None else ipaddress.ip_address(host), 80, 80)], ADDRESSES
    )


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("127.0.0.1", "80/tcp cannot be published at 127.0.0.1, a loopback address"),
        ("::1", "::1, a loopback address"),
        ("::", "the container has no IPv6 address"),
        ("2001:db8::1", "a network with a pool of IPv6"),
    ],
)
def test_a_port_that_would_be_reached_by_nobody_is_refused(host: str, words: str) -> None:
    """The message names the address and the way out."""
    with pytest.raises(RefusedError, match=words):
        check_reachable([Binding(Protocol.TCP, 80, ipaddress.ip_address(host), 8080, 8080)], ADDRESSES[:1])


def test_a_port_of_a_process_is_occupied() -> None:
    """And no longer once it has ended."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        wanted = Published(Protocol.TCP, 80, ipaddress.ip_address("127.0.0.1"), server.getsockname()[1])
        assert "in use" in (occupied(wanted) or "")
    assert occupied(wanted) is None


def test_rules_translate_each_family_and_nothing_else() -> None:
    """From elsewhere and from the host, but not what the host sends to its loopback address."""
    text = ruleset([ENDPOINT], {"n1": NETWORK})
    assert text.count("fib daddr type local meta nfproto ipv4 tcp dport 8080 dnat ip to 10.0.0.7:80") == 2
    assert text.count("dnat ip6 to [fd00::7]:80") == 2
    one = Endpoint("n1", "e1", ADDRESSES, "02:00:00:00:00:01", (Published(Protocol.UDP, 53, ADDRESSES[0], 53),))
    assert "ip daddr 10.0.0.7 udp dport 53 dnat ip to 10.0.0.7:53" in ruleset([one], {"n1": NETWORK})
    assert "ip6 to" not in ruleset([one], {"n1": NETWORK})


def test_without_anything_to_do_there_is_no_table() -> None:
    """Endpoints of IPv4 that publish nothing need none; those with IPv6 have their sources checked."""
    assert ruleset([Endpoint("n1", "e1", ADDRESSES[:1], "02:00:00:00:00:01")], {"n1": NETWORK}) == ""
    text = ruleset([Endpoint("n1", "e1", ADDRESSES, "02:00:00:00:00:01")], {"n1": NETWORK})
    assert 'iifname "tor*" iifgroup != 116 meta nfproto ipv6 fib saddr . iif oif missing drop' in text
    assert "nat hook" not in text


def test_a_container_of_several_networks_sends_from_its_addresses_by_each_link() -> None:
    """Those of one network only have the kernel's own check, and no rule."""
    endpoints = [
        Endpoint("n1", f"e{number}", (ipaddress.ip_address(f"10.0.0.{number}"),), "02:00:00:00:00:01", sandbox=sandbox)
        for number, sandbox in enumerate(("", "", "one", "two", "two"))
    ]
    text = ruleset(endpoints, {"n1": NETWORK})
    listed = {f'"{link.host_name}" . 10.0.0.{number}' for link in endpoints[3:] for number in (3, 4)}
    assert set(re.findall(r'"tor\w+" \. [\d.]+', text)) == listed
    assert "iifgroup 116 iifname . ip saddr != @sources4 drop" in text
    assert "iifgroup 116 ip6 saddr != fe80::/10 iifname . ip6 saddr != @sources6 drop" in text
    assert "nat hook" not in text


def test_an_internal_network_publishes_nothing_and_is_barred_in_both_families() -> None:
    """A family of which it has no pool is barred altogether."""
    internal = Network("n1", NETWORK.cidrs, internal=True, mtu_bytes=0, number=0)
    text = ruleset([ENDPOINT], {"n1": internal})
    assert "dnat" not in text
    assert f'iifname "{ENDPOINT.host_name}" ip daddr != {{ 10.0.0.0/16 }} drop' in text
    assert f'oifname "{ENDPOINT.host_name}" meta nfproto ipv6 drop' in text


async def keep(state: DriverState, network_id: str) -> Network:
    """Have a network of this id."""
    return await state.keep_network(network_id, lambda number: replace(NETWORK, network_id=network_id, number=number))


async def test_state_is_the_same_after_a_restart(tmp_path: Path) -> None:
    """Networks with their numbers, endpoints with their ports."""
    state = DriverState(tmp_path / "below" / "docker.json")
    state.load()
    network = await keep(state, "n1")
    await state.keep_endpoint(ENDPOINT)
    again = DriverState(tmp_path / "below" / "docker.json")
    again.load()
    assert (again.networks, again.endpoints) == ({"n1": network}, {"e1": ENDPOINT})
    assert await again.forget_endpoint("e1") == ENDPOINT
    assert await again.forget_endpoint("e1") is None
    await again.forget_network("n1")
    state.load()
    assert (state.networks, state.endpoints) == ({}, {})


async def test_a_state_of_before_there_were_sandboxes_is_read(tmp_path: Path) -> None:
    """An agent that is upgraded knows its endpoints, and of none that it shares a container with another."""
    path = tmp_path / "docker.json"
    state = DriverState(path)
    await state.keep_endpoint(ENDPOINT)
    fields = json.loads(path.read_text())
    del fields["endpoints"][0]["sandbox"]
    path.write_text(json.dumps(fields))
    state.load()
    assert state.endpoints == {"e1": replace(ENDPOINT, sandbox="")}


async def test_numbers_are_not_given_twice(tmp_path: Path) -> None:
    """The same network keeps its own, also if many are created at once."""
    state = DriverState(tmp_path / "docker.json")
    first = (await keep(state, "x")).number
    await state.forget_network("x")
    made = await asyncio.gather(*(keep(state, "x" * length) for length in (1, 1, 2, 3)))
    assert [each.number for each in made[:2]] == [first, first]
    assert len({each.number for each in made}) == 3


async def test_changes_at_once_are_all_kept(tmp_path: Path) -> None:
    """Each is made of what those before it left, and what is not there is not changed into being."""
    path = tmp_path / "docker.json"
    state = DriverState(path)
    await asyncio.gather(*(state.keep_endpoint(replace(ENDPOINT, endpoint_id=f"e{number}")) for number in range(9)))
    assert await state.change_endpoint("gone", given_up) is None
    await asyncio.gather(
        state.change_endpoint("e3", given_up),
        state.change_endpoint("e3", lambda each: replace(each, published=())),
        state.forget_endpoint("e4"),
    )
    again = DriverState(path)
    again.load()
    assert again.endpoints == state.endpoints
    assert again.endpoints.keys() == {f"e{number}" for number in range(9) if number != 4}
    assert again.endpoints["e3"] == replace(ENDPOINT, endpoint_id="e3", given_up=True, published=())


async def test_the_disk_holds_up_nobody_but_the_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The event loop goes on while the file is written, and the change is known only when it is on the disk."""
    state = DriverState(tmp_path / "docker.json")
    disk, slow = threading.Event(), os.fsync

    def synced(descriptor: int) -> None:
        assert disk.wait(timeout=10)
        slow(descriptor)

    monkeypatch.setattr(os, "fsync", synced)
    change = asyncio.create_task(state.keep_endpoint(ENDPOINT))
    while not (tmp_path / "docker.json.new").exists():  # noqa: ASYNC110  a file tells nobody that it came
        await asyncio.sleep(0)
    assert state.endpoints == {}
    disk.set()
    await change
    assert state.endpoints == {"e1": ENDPOINT}


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"version": 2}', '{"version": 1, "networks": [7]}', "\x00"])
def test_a_state_that_makes_no_sense_is_told_and_kept(tmp_path: Path, text: str) -> None:
    """Nobody starts from nothing in its place."""
    path = tmp_path / "docker.json"
    path.write_text(text)
    with pytest.raises(PermanentError, match="docker_state_path"):
        DriverState(path).load()
    assert path.read_text() == text


async def test_a_state_that_cannot_be_written_changes_nothing(tmp_path: Path) -> None:
    """The caller is told, and what was kept before still is."""
    (tmp_path / "file").touch()
    state = DriverState(tmp_path / "file" / "docker.json")
    with pytest.raises(PermanentError, match="docker_state_path"):
        await keep(state, "n1")
    assert state.networks == {}
