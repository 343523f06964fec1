"""Podman on routed hosts: the same addresses inside, from other hosts and in the store, and nothing left behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e.runtimes.hosts import fetch, wait_until

if TYPE_CHECKING:
    from tests.e2e.runtimes.conftest import Hosts
    from tests.e2e.runtimes.hosts import RuntimeHost


def urls(host: RuntimeHost, name: str) -> tuple[str, str]:
    """Return where a container is reached by its own addresses."""
    address, address6 = host.podman_addresses(name)
    return f"http://{address}/", f"http://[{address6}]/"


def logged(host: RuntimeHost, name: str) -> str:
    """Return what a container has written so far."""
    done = host.attempt("podman", "logs", name)
    return (done.stdout + done.stderr).decode()


def kill(host: RuntimeHost, name: str, who: str) -> None:
    """Kill the process of a container (`Pid`) or its watcher (`ConmonPid`)."""
    host.run("kill", "-9", host.podman("inspect", "--format", f"{{{{.State.{who}}}}}", name))


def test_a_container_is_reached_by_its_own_addresses(hosts: Hosts) -> None:
    """From its own host, from another container there and elsewhere, and from a host without any container runtime."""
    hosts.first.serve("web")
    hosts.first.podman_run("near")
    hosts.second.podman_run("far")
    for url in urls(hosts.first, "web"):
        hosts.reached(url, "web")
        assert fetch(hosts.lab, "h1", url) == "web\n"
        assert hosts.first.got("near", url) == "web\n"
        assert hosts.second.got("far", url) == "web\n"
    addresses = hosts.second.podman_addresses("far")
    wait_until(lambda: all(address in logged(hosts.first, "web") for address in addresses), "it saw who asked")


def test_a_published_port_is_open_while_its_container_runs(hosts: Hosts) -> None:
    """On every address of the host, for a third host and for a container elsewhere; a stopped one holds no port."""
    before = hosts.first.traces()
    hosts.first.serve("web", "--publish", "8081:80")
    hosts.second.podman_run("far")
    places = (f"http://{hosts.first.address}:8081/", f"http://[{hosts.first.address6}]:8081/")
    for url in places:
        hosts.reached(url, "web")
        assert hosts.second.got("far", url) == "web\n"
    hosts.first.podman("stop", "web")
    assert hosts.first.traces() == before
    for url in places:
        assert fetch(hosts.lab, "h3", url) is None
    hosts.first.podman("start", "web")
    for url in (*places, *urls(hosts.first, "web")):
        hosts.reached(url, "web")


def test_a_container_comes_back_with_one_link_and_one_address(hosts: Hosts) -> None:
    """Stopped, started, started anew, wired anew: reached where podman says it is, and holding nothing else."""
    before = hosts.first.traces()
    hosts.first.serve("web")
    for again in (("restart", "web"), ("network", "reload", "web"), ("stop", "web"), ("start", "web")):
        hosts.first.podman(*again)
        if again[0] == "stop":
            assert hosts.first.traces() == before
            continue
        for url in urls(hosts.first, "web"):
            hosts.reached(url, "web")
        assert len(hosts.first.links()) == len(before["links"]) + 1
        assert len([line for line in hosts.held() if line.endswith(" h1 web")]) == 2


def test_a_killed_container_leaves_nothing_and_comes_back(hosts: Hosts) -> None:
    """Its watcher has the network removed at once; started again, it has one link."""
    before = hosts.first.traces()
    hosts.first.serve("web", "--publish", "8081:80")
    kill(hosts.first, "web", "Pid")
    wait_until(lambda: hosts.first.traces() == before, "its watcher has it removed")
    hosts.first.podman("start", "web")
    for url in (*urls(hosts.first, "web"), f"http://{hosts.first.address}:8081/"):
        hosts.reached(url, "web")
    assert len(hosts.first.links()) == len(before["links"]) + 1


@pytest.mark.parametrize("killed", [("ConmonPid",), ("ConmonPid", "Pid")], ids=["alone", "with-its-container"])
def test_a_container_without_its_watcher_is_removed_whole(hosts: Hosts, killed: tuple[str, ...]) -> None:
    """The watcher's end changes nothing for who goes on; podman cannot restart such a container, but removes all of it.

    Its successor of the same name is there at once.
    """
    before = hosts.first.traces()
    hosts.first.serve("web", "--publish", "8081:80")
    places = (*urls(hosts.first, "web"), f"http://{hosts.first.address}:8081/")
    for url in places:
        hosts.reached(url, "web")
    for who in killed:
        kill(hosts.first, "web", who)
    for url in places:
        assert fetch(hosts.lab, "h3", url) == (None if "Pid" in killed else "web\n")
    hosts.first.podman("rm", "--force", "--time", "0", "web")
    assert hosts.first.traces() == before
    hosts.first.serve("web", "--publish", "8081:80")
    for url in (*urls(hosts.first, "web"), places[-1]):
        hosts.reached(url, "web")


@pytest.mark.usefixtures("no_grace")
def test_a_container_removed_while_the_agent_is_away_is_collected(hosts: Hosts) -> None:
    """Podman removes it all the same; what it held comes back when the agent does, and the others never notice."""
    hosts.first.serve("stays")
    hosts.first.serve("goes")
    kept, _ = urls(hosts.first, "stays")
    gone = hosts.first.podman_addresses("goes")
    hosts.lab.stop("h1/agent")
    try:
        hosts.first.attempt("podman", "rm", "--force", "--time", "0", "goes")
        assert fetch(hosts.lab, "h3", kept) == "stays\n"
    finally:
        hosts.lab.start("h1/agent")
    wait_until(
        lambda: not any(address in str(hosts.first.traces()) for address in gone), "nothing of it is left on the host"
    )
    wait_until(lambda: not any(line.endswith(" h1 goes") for line in hosts.held()), "nothing of it is held")
    assert fetch(hosts.lab, "h3", kept) == "stays\n"
