"""Docker on routed hosts: real dockerds, real agents, containers reached across hosts by their own addresses."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from tests.e2e.docker.containers import (
    CREATE,
    ELSEWHERE,
    POOL,
    POOL6,
    POOLED,
    SERVE,
    address_of,
    addresses_of_host,
    fetched,
    fetched_inside,
    heard,
    serve,
    traces,
    url_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from controller.lab.lab import Lab
    from tests.e2e.conftest import Flow
    from tests.e2e.docker.hosts import DockerHost


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
    """At the host's addresses, also from the host and from the container itself; with the container it ends."""
    lab, one, _ = docker
    address, address6 = addresses_of_host(lab, "h1")
    urls = (f"http://{address}:8080/", f"http://[{address6}]:8080/")
    one.docker(*CREATE, "--ipv6", "--subnet", POOL, "--subnet", POOL6, "dual")
    one.docker("run", "-d", "--name", "web", "--net", "dual", "-p", "8080:80", "busybox", *SERVE)
    for url in urls:
        wait_until(lambda url=url: fetched(lab, "h3", url), f"h3 reaches {url}")
        assert fetched(lab, "h1", url)
        assert fetched(lab, "h2w1", url)
        assert fetched_inside(one, "web", url)
    run = ("run", "-d", "--net", "routed", "-p")
    assert "8080" in one.refused(*run, "8080:80", "busybox", *SERVE)
    for host in ("127.0.0.1", "[::]"):
        assert "cannot be published at" in one.refused(*run, f"{host}:8084:80", "busybox", *SERVE)
    one.docker("stop", "-t", "0", "web")
    assert not any(fetched(lab, "h3", url) for url in urls)
    one.docker("start", "web")
    for url in urls:
        wait_until(lambda url=url: fetched(lab, "h3", url), f"h3 reaches {url} after the start")


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
    assert "Reservation" in one.refused(*CREATE, "--subnet", POOL, "--aux-address", "router=10.244.88.1", "spared")
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
    host_address, _ = addresses_of_host(lab, "h1")
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


def test_a_damaged_file_keeps_nobody_but_docker_waiting(
    docker: tuple[Lab, DockerHost, DockerHost], wait_until: Callable[..., None]
) -> None:
    """Routes and other runtimes go on, and the node says what is wrong; once it is mended Docker is served."""
    lab, one, _ = docker
    address = serve(one, "stays", "--net", "routed")

    def told() -> bool:
        return "dockerd is not served: docker_state_path" in lab.run("h1", ["tortiectl", "node", "status"]).stdout

    file = one.directory / "docker.json"
    whole = file.read_text()
    one.stop_agent()
    file.write_text(whole[:-20])
    one.start_agent(until=told)
    workload = lab.add_workload("h1")
    for each in (address, workload.addresses[0]):
        ping = ["ping", "-n", "-c", "1", "-W", "1", each]
        wait_until(lambda ping=ping: lab.run("h3", ping).returncode == 0, f"{each} answers h3")
    lab.remove_workload(workload.name)
    file.write_text(whole)
    wait_until(lambda: one.plugin_socket.exists() and not told(), "Docker is served")
    later = serve(one, "later", "--net", "routed")
    wait_until(lambda: fetched(lab, "h3", url_of(later)), "h3 reaches a later one")


def test_a_removal_by_force_leaves_nothing(
    docker: tuple[Lab, DockerHost, DockerHost], wait_until: Callable[..., None]
) -> None:
    """Of a running container, link, route, address and port are gone at once, and its successor has them."""
    lab, one, _ = docker
    before = traces(lab, one)
    host_address, _ = addresses_of_host(lab, "h1")
    for _ in range(2):
        serve(one, "web", "--net", "routed", "--ip", "10.244.77.8", "-p", "8083:80")
        for url in ("http://10.244.77.8/", f"http://{host_address}:8083/"):
            wait_until(lambda url=url: fetched(lab, "h3", url), f"h3 reaches {url}")
        one.docker("rm", "-f", "web")
        assert traces(lab, one) == before
        assert not fetched(lab, "h3", "http://10.244.77.8/")


def test_dockerds_that_are_killed_take_nothing_along(
    docker: tuple[Lab, DockerHost, DockerHost],
    wait_until: Callable[..., None],
    start_flow: Callable[[Lab, str, str], Flow],
) -> None:
    """Flows go on without both dockerds, and on with one that restores its containers; the other ends them for good.

    Afterwards everything that can be done to a container leaves nothing behind; the agents never restart.
    """
    lab, one, two = docker
    before = [traces(lab, host) for host in (one, two)]
    flows = [start_flow(lab, "h3", serve(host, "web", "--net", "routed")) for host in (one, two)]
    for flow in flows:
        wait_until(flow.answers, f"{flow.name} flows")
    for host in (one, two):
        host.kill_dockerd()
    assert flows[1].lost() == []
    one.start_dockerd("--live-restore")
    two.start_dockerd()
    assert flows[0].lost() == []
    assert [host.docker("ps", "--format", "{{.Names}}") for host in (one, two)] == ["web", ""]
    for host in (one, two):
        for verb in ("start", "restart", "stop", "start"):
            host.docker(verb, *(() if verb == "start" else ("-t", "0")), "web")
        address = address_of(host, "web")
        wait_until(lambda address=address: fetched(lab, "h3", url_of(address)), f"h3 reaches {address}")
        host.docker("rm", "-f", "web")
        host.docker("network", "rm", "routed")
    created = [traces(lab, host) for host in (one, two)]
    assert [each[:-1] for each in created] == [each[:-1] for each in before]
