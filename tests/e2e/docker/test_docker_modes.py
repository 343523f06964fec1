"""The ways Docker connects a container beside ours: its bridge, the host's stack, another container's, and none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.e2e.docker.containers import CREATE, POOL, POOL6, address_of, addresses_of_host, fetched_text, traces, url_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from controller.lab.lab import Lab
    from tests.e2e.docker.hosts import DockerHost

    Hosts = tuple[Lab, DockerHost, DockerHost]


def serve_name(host: DockerHost, name: str, *options: str, port: int = 80) -> None:
    """Run a container that answers with its own name."""
    command = f"echo {name} > /www/index.html; exec httpd -f -p {port} -h /www"
    host.docker("run", "-d", "--name", name, *options, "busybox", "sh", "-c", command)


def got(host: DockerHost, container: str, url: str) -> str | None:
    """Return what a container gets from an address, None if nothing within two seconds."""
    return host.attempt("exec", container, "timeout", "2", "wget", "-q", "-O-", url)


def reaching(lab: Lab, wait_until: Callable[..., None]) -> Callable[[str, str], None]:
    """Return a function that waits until the third host gets a text from an address."""

    def reached(url: str, text: str) -> None:
        wait_until(lambda: fetched_text(lab, "h3", url) == text, f"h3 gets {text} from {url}")

    return reached


def test_containers_of_dockers_bridge_and_routed_ones_live_on_one_host(
    docker: Hosts, wait_until: Callable[..., None]
) -> None:
    """Bridged ones reach ours anywhere, ours reach their published ports alone; elsewhere only those ports are seen.

    What the operator drops in dockerd's chain for that stays dropped.
    """
    lab, one, two = docker
    reached = reaching(lab, wait_until)
    serve_name(one, "bridged", "-p", "8082:80")
    serve_name(one, "closed")
    serve_name(one, "routed", "--net", "routed")
    serve_name(two, "far", "--net", "routed")
    bridged, closed = (address_of(one, name, "bridge") for name in ("bridged", "closed"))
    routed, far = address_of(one, "routed"), address_of(two, "far")
    published = f"http://{addresses_of_host(lab, 'h1')[0]}:8082/"
    for url, name in ((published, "bridged"), (url_of(routed), "routed"), (url_of(far), "far")):
        reached(url, name)
        assert got(one, "bridged", url) == name
    for host, container in ((one, "routed"), (two, "far")):
        assert got(host, container, published) == "bridged"
    assert got(one, "closed", url_of(bridged)) == "bridged"
    assert got(one, "routed", url_of(closed)) is None
    assert fetched_text(lab, "h3", url_of(bridged)) is None
    drop = ("DOCKER-USER", "-d", routed, "-j", "DROP")
    lab.run("h1", ["iptables", "-I", *drop])
    assert fetched_text(lab, "h3", url_of(routed)) is None
    lab.run("h1", ["iptables", "-D", *drop])
    reached(url_of(routed), "routed")


def test_a_container_is_on_dockers_bridge_and_routed_at_once(docker: Hosts, wait_until: Callable[..., None]) -> None:
    """It answers on all its addresses, although its default route is the bridge's, and keeps ours when it leaves."""
    lab, one, _ = docker
    reached = reaching(lab, wait_until)
    one.docker(*CREATE, "--ipv6", "--subnet", POOL, "--subnet", POOL6, "dual")
    serve_name(one, "both")
    serve_name(one, "near")
    one.docker("network", "connect", "dual", "both")
    bridged = address_of(one, "both", "bridge")
    assert got(one, "near", url_of(bridged)) == "both"
    for member in ("IPAddress", "GlobalIPv6Address"):
        reached(url_of(address_of(one, "both", "dual", member)), "both")
    one.docker("network", "disconnect", "bridge", "both")
    for member in ("IPAddress", "GlobalIPv6Address"):
        reached(url_of(address_of(one, "both", "dual", member)), "both")
    assert got(one, "near", url_of(bridged)) is None


def test_a_container_on_the_hosts_stack_reaches_all_and_is_reached(
    docker: Hosts, wait_until: Callable[..., None]
) -> None:
    """By the host's own addresses; it gets no link and no address of its own."""
    lab, one, two = docker
    reached = reaching(lab, wait_until)
    serve_name(two, "far", "--net", "routed")
    before = traces(lab, one)
    serve_name(one, "host", "--net", "host", port=82)
    assert traces(lab, one) == before
    address, address6 = addresses_of_host(lab, "h1")
    for each in (address, f"[{address6}]"):
        reached(f"http://{each}:82/", "host")
    assert got(two, "far", f"http://{address}:82/") == "host"
    assert got(one, "host", url_of(address_of(two, "far"))) == "far"


def test_a_container_that_joins_another_shares_its_address(docker: Hosts, wait_until: Callable[..., None]) -> None:
    """Both are reached at one address by their own ports, and each other on loopback; when it ends nothing changes."""
    lab, one, _ = docker
    reached = reaching(lab, wait_until)
    serve_name(one, "owner", "--net", "routed")
    before = traces(lab, one)
    serve_name(one, "joined", "--net", "container:owner", port=81)
    assert traces(lab, one) == before
    address = address_of(one, "owner")
    reached(f"http://{address}:81/", "joined")
    reached(url_of(address), "owner")
    assert got(one, "joined", "http://127.0.0.1/") == "owner"
    one.docker("rm", "-f", "joined")
    assert traces(lab, one) == before
    reached(url_of(address), "owner")


def test_a_container_without_a_network_is_never_touched(docker: Hosts) -> None:
    """It has its loopback link and nothing else, also after the agent has started anew."""
    lab, one, _ = docker
    before = traces(lab, one)
    serve_name(one, "none", "--net", "none")
    one.stop_agent()
    one.start_agent()
    assert traces(lab, one) == before
    links = one.docker("exec", "none", "ip", "-o", "link").splitlines()
    assert [" lo: " in link for link in links] == [True]
    assert one.docker("exec", "none", "ip", "route") == ""
