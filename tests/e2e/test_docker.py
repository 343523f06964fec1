"""Docker on routed hosts: real dockerds, real agents, containers reached across hosts by their own addresses."""

from __future__ import annotations

import json
import os
import signal
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
        host.docker("network", "create", "-d", "tortie", "--ipam-driver", "tortie", "--subnet", POOL, "routed")
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
    """A container of two networks is reached by every address of both, and keeps the first when the second goes."""
    lab, one, _ = docker
    create = ("network", "create", "-d", "tortie", "--ipam-driver", "tortie")
    one.docker(*create, "--ipv6", "--subnet", POOL, "--subnet", POOL6, "both")
    one.docker("run", "-d", "--name", "double", "--net", "both", "busybox", *SERVE)
    one.docker("network", "connect", "routed", "double")
    first, second = address_of(one, "double", "both"), address_of(one, "double")
    sixth = address_of(one, "double", "both", "GlobalIPv6Address")
    for url in (f"http://{first}/", f"http://[{sixth}]/"):
        wait_until(lambda url=url: fetched(lab, "h3", url), f"h3 reaches {url}")
    assert first != second
    one.docker("network", "disconnect", "routed", "double")
    assert fetched(lab, "h3", f"http://{first}/")
    assert not fetched(lab, "h3", f"http://{second}/")


def test_an_internal_network_reaches_its_pool_alone(
    docker: tuple[Lab, DockerHost, DockerHost], wait_until: Callable[..., None]
) -> None:
    """Workloads of the pool reach it and are reached; a host elsewhere is not, and does not reach it."""
    lab, one, two = docker
    create = ("network", "create", "-d", "tortie", "--ipam-driver", "tortie", "--internal")
    assert "--subnet" in one.refused(*create, "anywhere")
    one.docker(*create, "--subnet", POOL, "inside")
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
