"""The ways to connect a container beside ours: a bridge, the host's stack, another container's, and none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.e2e.runtimes.hosts import fetch, wait_until

if TYPE_CHECKING:
    from tests.e2e.runtimes.conftest import Hosts


def test_containers_of_a_bridge_and_routed_ones_live_on_one_host(hosts: Hosts) -> None:
    """They reach each other there; elsewhere the bridge's is known by a port of its host alone, ours by its address."""
    hosts.first.serve("bridged", "--network", "beside", "--publish", "8082:80")
    hosts.first.serve("routed")
    hosts.second.serve("far")
    bridged, _ = hosts.first.podman_addresses("bridged", "beside")
    routed, _ = hosts.first.podman_addresses("routed")
    far, _ = hosts.second.podman_addresses("far")
    hosts.reached(f"http://{hosts.first.address}:8082/", "bridged")
    hosts.reached(f"http://{routed}/", "routed")
    assert fetch(hosts.lab, "h3", f"http://{bridged}/") is None
    assert hosts.first.got("routed", f"http://{bridged}/") == "bridged\n"
    assert hosts.first.got("bridged", f"http://{routed}/") == "routed\n"
    assert hosts.first.got("bridged", f"http://{far}/") == "far\n"
    assert hosts.second.got("far", f"http://{hosts.first.address}:8082/") == "bridged\n"


def test_a_container_is_in_a_bridge_and_routed_at_once(hosts: Hosts) -> None:
    """It answers on both addresses, keeps ours when it leaves the bridge, and takes it along when it comes back."""
    hosts.first.serve("both")
    hosts.first.podman_run("near", "--network", "beside")
    hosts.first.podman("network", "connect", "beside", "both")
    routed, _ = hosts.first.podman_addresses("both")
    bridged, _ = hosts.first.podman_addresses("both", "beside")
    hosts.reached(f"http://{routed}/", "both")
    assert hosts.first.got("near", f"http://{bridged}/") == "both\n"
    hosts.first.podman("network", "disconnect", "beside", "both")
    hosts.reached(f"http://{routed}/", "both")
    assert hosts.first.got("near", f"http://{bridged}/") is None
    hosts.first.podman("network", "disconnect", "tortie", "both")
    assert fetch(hosts.lab, "h3", f"http://{routed}/") is None


def test_a_port_that_podman_chooses_leads_to_the_container(hosts: Hosts) -> None:
    """Two containers publish the same port of theirs; each has one of the host's to itself."""
    for name in ("one", "two"):
        hosts.first.serve(name, "--publish", "80")
    ports = {name: hosts.first.podman("port", name, "80").rpartition(":")[2] for name in ("one", "two")}
    assert ports["one"] != ports["two"]
    for name, port in ports.items():
        hosts.reached(f"http://{hosts.first.address}:{port}/", name)


def test_a_container_on_the_host_s_stack_reaches_all_and_is_reached(hosts: Hosts) -> None:
    """By the host's own addresses; it gets no link and no address of its own."""
    hosts.second.serve("far")
    before = hosts.first.traces(), hosts.held()
    hosts.first.serve("host", "--network", "host", port=82)
    assert (hosts.first.traces(), hosts.held()) == before
    for address in (hosts.first.address, f"[{hosts.first.address6}]"):
        hosts.reached(f"http://{address}:82/", "host")
        assert hosts.second.got("far", f"http://{address}:82/") == "host\n"
    far, far6 = hosts.second.podman_addresses("far")
    for address in (far, f"[{far6}]"):
        assert hosts.first.got("host", f"http://{address}/") == "far\n"


def test_a_container_that_joins_another_shares_its_address(hosts: Hosts) -> None:
    """Both are reached at one address by their own ports, and each other on loopback; when it ends nothing changes."""
    hosts.first.serve("owner")
    before = hosts.first.traces(), hosts.held()
    hosts.first.serve("joined", "--network", "container:owner", port=81)
    assert (hosts.first.traces(), hosts.held()) == before
    for address in hosts.first.podman_addresses("owner"):
        host = f"[{address}]" if ":" in address else address
        hosts.reached(f"http://{host}:81/", "joined")
        hosts.reached(f"http://{host}/", "owner")
    assert hosts.first.got("joined", "http://127.0.0.1/") == "owner\n"
    hosts.first.podman("rm", "--force", "--time", "0", "joined")
    assert (hosts.first.traces(), hosts.held()) == before
    hosts.reached(f"http://{hosts.first.podman_addresses('owner')[0]}/", "owner")


def test_a_container_without_a_network_is_never_touched(hosts: Hosts) -> None:
    """It has its loopback link and nothing else, also after the agent has started anew."""
    before = hosts.first.traces(), hosts.held()
    hosts.first.podman_run("none", "--network", "none")
    hosts.lab.stop("h1/agent")
    hosts.lab.start("h1/agent")
    wait_until(lambda: hosts.lab.run("h1", ["tortiectl", "node", "status"]).returncode == 0, "the agent is back")
    assert (hosts.first.traces(), hosts.held()) == before
    links = hosts.first.podman("exec", "none", "ip", "-o", "link").splitlines()
    assert len(links) == 1
    assert " lo: " in links[0]
    assert hosts.first.podman("exec", "none", "ip", "route") == ""
