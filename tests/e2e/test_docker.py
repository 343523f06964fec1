"""Docker on routed hosts: real dockerds, real agents, containers reached across hosts by their own addresses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from controller.lab.lab import Lab
from tests.e2e.docker_hosts import DockerHost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

POOL, POOL6 = "10.244.0.0/16", "fd00:244::/64"
#: Without a proxy that this machine may have for its own.
FETCH = """
import sys, urllib.request
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
print(opener.open(sys.argv[1], timeout=2).read().decode(), end="")
"""
SERVE = ("httpd", "-f", "-p", "80", "-h", "/www")
CREATE = ("network", "create", "-d", "tortie", "--ipam-driver", "tortie")
#: Addresses, by IP version, that no container has: in the pools, and elsewhere.
POOLED, ELSEWHERE = ("10.244.99.99", "fd00:244::9999"), ("203.0.113.9", "2001:db8:9::9")
#: Sends a datagram to an address from each of others, whoever has those (IP_TRANSPARENT, IPV6_TRANSPARENT).
SEND = """
import socket, sys
target, *sources = sys.argv[1:]
family, option = (socket.AF_INET6, (41, 75)) if ":" in target else (socket.AF_INET, (0, 19))
for source in sources:
    with socket.socket(family, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(*option, 1)
        sender.bind((source, 0))
        sender.sendto(b"hello", (target, 5999))
"""
#: Prints the source of the first datagram that comes.
HEAR = """
import socket, sys
with socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM) as receiver:
    receiver.settimeout(30)
    receiver.bind((sys.argv[1], 5999))
    print("ready", flush=True)
    print(receiver.recvfrom(100)[1][0])
"""


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[Lab, DockerHost, DockerHost]]:
    """Three hosts with a workload each; two of them with Docker, which has dropped what it forwards since its start."""
    lab = Lab(f"d{os.getpid()}")
    made: list[DockerHost] = []
    try:
        lab.up(nodes=3, workloads=1, dual_stack=True)
        for name in ("h1", "h2"):
            made.append(DockerHost(lab, name))
            made[-1].start_dockerd()
            made[-1].start_agent()
        yield lab, made[0], made[1]
    finally:
        for host in made:
            host.remove()
        lab.down()


@pytest.fixture
def docker(
    hosts: tuple[Lab, DockerHost, DockerHost], wait_until: Callable[..., None]
) -> Iterator[tuple[Lab, DockerHost, DockerHost]]:
    """Give the hosts with a network `routed` on both; afterwards everything is removed, and nothing must be left."""
    lab, *both = hosts
    before = {host.name: traces(lab, host) for host in both}
    for host in both:
        host.docker(*CREATE, "--subnet", POOL, "routed")
    yield hosts
    for host in both:
        host.docker("rm", "-f", *ids) if (ids := host.docker("ps", "-aq").split()) else None
        host.docker("network", "prune", "-f")
    for host in both:
        wait_until(lambda host=host: traces(lab, host) == before[host.name], f"{host.name} is as before")
    checked = lab.run("h3", ["tortiectl", "ipam", "check"])
    assert (checked.returncode, checked.stdout.splitlines()[-1]) == (0, "Check complete; found 0 problems.")


def traces(lab: Lab, host: DockerHost) -> list[str]:
    """Return what a container would leave: links, routes of workloads, published ports, holders, state."""
    links = lab.run(host.name, ["ip", "-br", "link", "show", "type", "veth"]).stdout.split()
    routes = [
        line
        for version in ("-4", "-6")
        for line in lab.run(host.name, ["ip", version, "route", "show", "proto", "116"]).stdout.splitlines()
        if " dev tor" in line
    ]
    tables = lab.run(host.name, ["nft", "list", "tables"]).stdout.splitlines()
    holders = lab.run(host.name, ["tortiectl", "node", "status", "-o", "json"]).stdout.count("docker")
    state = (
        json.loads((host.directory / "docker.json").read_text()) if (host.directory / "docker.json").exists() else {}
    )
    return [
        *sorted(name for name in links if name.startswith(("tor", "tdk"))),
        *sorted(routes),
        *(table for table in tables if "tortie" in table),
        f"{holders} holders",
        f"{state.get('networks', [])} {state.get('endpoints', [])}",
    ]


def address_of(host: DockerHost, container: str, network: str = "routed", member: str = "IPAddress") -> str:
    """Return the address that dockerd knows of a container."""
    found = json.loads(host.docker("inspect", container))[0]["NetworkSettings"]["Networks"][network]
    return str(found[member])


def serve(host: DockerHost, name: str, *options: str) -> str:
    """Run a container that serves a page, and return its address."""
    host.docker("run", "-d", "--name", name, *options, "busybox", *SERVE)
    return address_of(host, name)


def fetched(lab: Lab, place: str, url: str) -> bool:
    """Tell whether the page is had from somewhere in the lab."""
    return lab.run(place, [sys.executable, "-I", "-S", "-c", FETCH, url]).stdout == "here\n"


def url_of(address: str) -> str:
    """Return where the page of an address is."""
    return f"http://[{address}]/" if ":" in address else f"http://{address}/"


def heard(lab: Lab, host: DockerHost, container: str, sources: tuple[str, ...]) -> str:
    """Have a container send a datagram to h3 from each of these addresses, and return whose came first."""
    version = ":" in sources[0]
    target = str(lab.layout().addresses(lab.layout().host("h3"))[version])
    command, settings = lab.command("h3", [sys.executable, "-I", "-S", "-c", HEAR, target])
    with subprocess.Popen(command, env=settings, stdout=subprocess.PIPE, text=True) as hearing:
        assert hearing.stdout is not None
        assert hearing.stdout.readline() == "ready\n"
        process = host.docker("inspect", "-f", "{{.State.Pid}}", container)
        enter = ["nsenter", "--target", process, "--net", sys.executable, "-I", "-S", "-c", SEND, target]
        subprocess.run([*enter, *sources], check=True)
        return hearing.stdout.readline().strip()


def fetched_inside(host: DockerHost, container: str, url: str) -> bool:
    """Tell whether the page is had from inside a container."""
    # Not `wget -T`, with which a static busybox of Debian 12 crashes.
    return host.docker("exec", container, "timeout", "5", "wget", "-q", "-O", "-", url) == "here"


def test_containers_reach_each_other_across_hosts(
    docker: tuple[Lab, DockerHost, DockerHost], wait_until: Callable[..., None]
) -> None:
    """By their own addresses, between hosts, from a CNI workload and from a host, although dockerd's policy is drop."""
    lab, one, two = docker
    assert "-P FORWARD DROP" in lab.run("h1", ["iptables", "-S", "FORWARD"]).stdout
    first = serve(one, "first", "--net", "routed")
    serve(two, "second", "--net", "routed")
    wait_until(lambda: fetched(lab, "h3", f"http://{first}/"), "h3 reaches the container")
    assert fetched(lab, "h3w1", f"http://{first}/")
    assert fetched_inside(two, "second", f"http://{first}/")
    assert first in one.docker("exec", "first", "ip", "address", "show", "eth0")


def test_an_address_asked_for_is_had_before_and_after_a_restart(
    docker: tuple[Lab, DockerHost, DockerHost], wait_until: Callable[..., None]
) -> None:
    """`--ip` gives it; stop frees it, start has it again; two containers cannot have it at once."""
    lab, one, two = docker
    assert serve(one, "static", "--net", "routed", "--ip", "10.244.77.7") == "10.244.77.7"
    assert "10.244.77.7" in two.refused("run", "-d", "--net", "routed", "--ip", "10.244.77.7", "busybox", *SERVE)
    for verb in ("restart", "stop", "start"):
        one.docker(verb, *(() if verb == "start" else ("-t", "0")), "static")
    assert address_of(one, "static") == "10.244.77.7"
    wait_until(lambda: fetched(lab, "h3", "http://10.244.77.7/"), "h3 reaches it after the restart")


def test_a_published_port_is_reached_from_a_third_host(
    docker: tuple[Lab, DockerHost, DockerHost], wait_until: Callable[..., None]
) -> None:
    """At the host's address, also from the host and from the container itself; with the container it ends."""
    lab, one, _ = docker
    host_address = str(lab.layout().addresses(lab.layout().host("h1"))[0])
    url = f"http://{host_address}:8080/"
    serve(one, "web", "--net", "routed", "-p", "8080:80")
    wait_until(lambda: fetched(lab, "h3", url), "h3 reaches the port")
    assert fetched(lab, "h1", url)
    assert fetched(lab, "h2w1", url)
    assert fetched_inside(one, "web", url)
    assert "8080" in one.refused("run", "-d", "--net", "routed", "-p", "8080:80", "busybox", *SERVE)
    one.docker("stop", "-t", "0", "web")
    assert not fetched(lab, "h3", url)
    one.docker("start", "web")
    wait_until(lambda: fetched(lab, "h3", url), "h3 reaches the port after the start")


def test_ipv6_and_a_second_network(docker: tuple[Lab, DockerHost, DockerHost], wait_until: Callable[..., None]) -> None:
    """A container of two networks is reached by every address of both, whichever of them has its default route.

    It keeps the one when the other goes, and sends from no address that is not its own.
    """
    lab, one, _ = docker
    networks = ("both", "another")
    for network in networks:
        one.docker(*CREATE, "--ipv6", "--subnet", POOL, "--subnet", POOL6, network)
    one.docker("run", "-d", "--name", "double", "--net", "both", "busybox", *SERVE)

    def addresses(network: str) -> list[str]:
        return [address_of(one, "double", network, member) for member in ("IPAddress", "GlobalIPv6Address")]

    def reached(*joined: str) -> None:
        for address in [each for network in joined for each in addresses(network)]:
            wait_until(lambda address=address: fetched(lab, "h3", url_of(address)), f"h3 reaches {address}")

    one.docker("network", "connect", "another", "double")
    reached(*networks)
    one.docker("restart", "-t", "0", "double")
    reached(*networks)
    for version, (first, second) in enumerate(zip(*map(addresses, networks), strict=True)):
        assert first != second
        assert heard(lab, one, "double", (POOLED[version], ELSEWHERE[version], second)) == second
    one.stop_agent(signal.SIGKILL)
    one.start_agent()
    reached(*networks)
    for left, kept in (networks, networks[::-1]):
        gone = addresses(left)
        one.docker("network", "disconnect", left, "double")
        reached(kept)
        for version, address in enumerate(gone):
            assert not fetched(lab, "h3", url_of(address))
            assert heard(lab, one, "double", (address, addresses(kept)[version])) == addresses(kept)[version]
        one.docker("network", "connect", left, "double")
        reached(*networks)


def test_an_internal_network_reaches_its_pool_alone(
    docker: tuple[Lab, DockerHost, DockerHost], wait_until: Callable[..., None]
) -> None:
    """Workloads of the pool reach it and are reached; a host elsewhere is not, and does not reach it."""
    lab, one, two = docker
    assert "--subnet" in one.refused(*CREATE, "--internal", "anywhere")
    one.docker(*CREATE, "--internal", "--subnet", POOL, "inside")
    one.docker("run", "-d", "--name", "hidden", "--net", "inside", "busybox", *SERVE)
    address = address_of(one, "hidden", "inside")
    wait_until(lambda: fetched(lab, "h3w1", f"http://{address}/"), "a workload of the pool reaches it")
    serve(two, "peer", "--net", "routed")
    assert fetched_inside(one, "hidden", f"http://{address_of(two, 'peer')}/")
    assert not fetched(lab, "h3", f"http://{address}/")


def test_a_killed_dockerd_and_a_restarted_agent_lose_nothing(
    docker: tuple[Lab, DockerHost, DockerHost], wait_until: Callable[..., None]
) -> None:
    """Traffic flows on without either; afterwards containers start, stop and publish as before."""
    lab, one, _ = docker
    address = serve(one, "stays", "--net", "routed", "--restart", "always", "-p", "8081:80")
    wait_until(lambda: fetched(lab, "h3", f"http://{address}/"), "h3 reaches it")
    one.kill_dockerd()
    one.stop_agent(signal.SIGKILL)
    assert fetched(lab, "h3", f"http://{address}/")
    host_address = lab.layout().addresses(lab.layout().host("h1"))[0]
    assert fetched(lab, "h3", f"http://{host_address}:8081/")
    one.start_agent()
    one.start_dockerd()
    wait_until(lambda: one.docker("ps", "-q"), "dockerd has the container again")
    wait_until(lambda: fetched(lab, "h3", f"http://{address_of(one, 'stays')}/"), "h3 reaches it again")
    wait_until(lambda: fetched(lab, "h3", f"http://{host_address}:8081/"), "h3 reaches the port again")
    one.stop_agent()
    one.start_agent()
    second = serve(one, "later", "--net", "routed")
    wait_until(lambda: fetched(lab, "h3", f"http://{second}/"), "h3 reaches a container of after the restart")
