"""Containerd on routed hosts, by its own client: that one asks for the network, and may die before it gives it back."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.runtimes.hosts import fetch, wait_until
from tests.e2e.runtimes.image import IMAGE, image_archive

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    from tests.e2e.runtimes.conftest import Hosts
    from tests.e2e.runtimes.hosts import RuntimeHost


@dataclass
class Containerd:
    """A containerd on a host."""

    host: RuntimeHost
    _daemon: int = 0
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def start(self) -> None:
        """Start it and wait until it answers."""
        started = self.host.launch("containerd", "--config", str(self.host.directory / "containerd.toml"))
        wait_until(lambda: self.host.attempt("ctr", "version").returncode == 0, "containerd answers")
        self._daemon = int(Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text())

    def kill(self) -> None:
        """Kill it alone: what it has started goes on."""
        os.kill(self._daemon, signal.SIGKILL)
        wait_until(lambda: self.host.attempt("ctr", "version").returncode != 0, "containerd is gone")

    def run(self, name: str, *options: str, port: int = 80) -> None:
        """Have it run a container that answers with its own name; nobody waits for its end."""
        self.host.run(*self._command(name, "--detach", *options, port=port))

    def run_beside(self, name: str) -> None:
        """Have it run such a container behind the bridge beside ours: its client takes the first network it finds."""
        found = self.host.directory / "beside"
        found.mkdir(exist_ok=True)
        shutil.copy(self.host.directory / "etc/cni/net.d/20-beside.conflist", found)
        alone = f'mount --bind {found} /etc/cni/net.d && exec "$@"'
        apart = ("unshare", "--mount", "--propagation", "private", "sh", "-c", alone, "sh")
        self.host.run(*apart, *self._command(name, "--detach", "--cni"))

    def attend(self, name: str) -> subprocess.Popen[bytes]:
        """Have it run such a container with a client that stays, and that removes network and container at its end."""
        client = self.host.launch(*self._command(name, "--rm", "--cni"))
        # The client asks for the network after the start.
        wait_until(lambda: self.tasks().get(name) == "RUNNING" and self.inside(name, "ip", "route"), f"{name} is wired")
        return client

    def tasks(self) -> dict[str, str]:
        """Return the state of each container by its name."""
        lines = (line.split() for line in self.host.run("ctr", "task", "ls").splitlines()[1:])
        return {name: state for name, _, state in lines}

    def process(self, name: str) -> str:
        """Return a container's first process, as its host numbers it."""
        [line] = [line for line in self.host.run("ctr", "task", "ls").splitlines() if line.split()[0] == name]
        return line.split()[1]

    def inside(self, name: str, *arguments: str) -> str:
        """Return what a command prints inside a container, empty if it fails."""
        done = self.host.attempt("ctr", "task", "exec", "--exec-id", f"e{next(self._numbers)}", name, *arguments)
        return done.stdout.decode().strip() if done.returncode == 0 else ""

    def urls(self, name: str) -> tuple[str, ...]:
        """Return where a container is reached by its own addresses, IPv4 first."""
        lines = self.inside(name, "ip", "-o", "address", "show", "dev", "eth0", "scope", "global").splitlines()
        addresses = [line.split()[3].partition("/")[0] for line in lines]
        return tuple(f"http://[{address}]/" if ":" in address else f"http://{address}/" for address in addresses)

    def remove(self, name: str) -> None:
        """Kill a container if it runs, and remove it."""
        self.host.attempt("ctr", "task", "kill", "--signal", "KILL", name)
        wait_until(lambda: self.tasks().get(name) != "RUNNING", f"{name} ends")
        self.host.attempt("ctr", "task", "rm", name)
        self.host.run("ctr", "container", "rm", name)

    def _command(self, name: str, *options: str, port: int = 80) -> tuple[str, ...]:
        serve = f"echo {name} > /www/index.html; exec httpd -f -p {port} -h /www"
        place = ("--snapshotter", "native", "--cgroup", f"{self.host.cgroup}/{name}")
        return "ctr", "run", *place, *options, IMAGE, name, "sh", "-c", serve


@pytest.fixture(scope="module")
def daemons(started_hosts: Hosts) -> tuple[Containerd, Containerd]:
    """Give a containerd on each host, which ends with it."""
    both = Containerd(started_hosts.first), Containerd(started_hosts.second)
    for each in both:
        each.start()
        each.host.run("ctr", "image", "import", "--snapshotter", "native", "-", text=image_archive())
    return both


@pytest.fixture
def containerds(hosts: Hosts, daemons: tuple[Containerd, Containerd]) -> Iterator[tuple[Containerd, Containerd]]:
    """Give both; afterwards their containers are removed, and what their clients did not give back is collected."""
    before = hosts.held()
    yield daemons
    for each in daemons:
        for name in each.host.run("ctr", "container", "ls", "--quiet").split():
            each.remove(name)
    hosts.set_grace(1)
    wait_until(lambda: hosts.held() == before, "everything is given back")
    hosts.set_grace(900)


def test_containers_of_two_hosts_reach_each_other(hosts: Hosts, containerds: tuple[Containerd, Containerd]) -> None:
    """By the addresses they have themselves, of both families; and so does a host without any runtime."""
    for each, name in zip(containerds, ("one", "two"), strict=True):
        each.run(name, "--cni")
    for here, name, there, other in (
        (containerds[0], "one", containerds[1], "two"),
        (containerds[1], "two", containerds[0], "one"),
    ):
        found = there.urls(other)
        assert len(found) == 2
        for url in found:
            hosts.reached(url, other)
            assert here.inside(name, "timeout", "2", "wget", "-q", "-O-", url) == other


def test_a_container_whose_client_stays_gives_everything_back(
    hosts: Hosts, containerds: tuple[Containerd, Containerd]
) -> None:
    """When it is killed and when it comes again under its name, each time at once and without a collection."""
    first = containerds[0]
    before = hosts.first.traces(), hosts.held()
    for _ in range(2):
        client = first.attend("web")
        for url in first.urls("web"):
            hosts.reached(url, "web")
        hosts.first.run("kill", "-9", first.process("web"))
        client.wait(timeout=30)
        assert (hosts.first.traces(), hosts.held()) == before


def test_a_container_whose_client_is_gone_leaves_no_link(
    hosts: Hosts, containerds: tuple[Containerd, Containerd]
) -> None:
    """Nobody asks for its removal from the network: its link goes with its namespace, the routes follow.

    Its successor of the same name takes its addresses over; after the last one they are collected.
    """
    first = containerds[0]
    before, held_before = hosts.first.traces(), hosts.held()
    found = set()
    for _ in range(2):
        first.run("web", "--cni")
        found.add(first.urls("web"))
        for url in first.urls("web"):
            hosts.reached(url, "web")
        assert len(hosts.first.links()) == len(before["links"]) + 1
        first.remove("web")
        wait_until(lambda: hosts.first.traces() == before, "no link, route or neighbour is left")
    assert len(found) == 1
    assert hosts.held() != held_before


def test_containers_outlive_a_killed_containerd(hosts: Hosts, containerds: tuple[Containerd, Containerd]) -> None:
    """One goes on all the time; one whose client ended with containerd has lost its network, and comes back with it."""
    first = containerds[0]
    first.run("stays", "--cni")
    before = hosts.first.traces()
    client = first.attend("attended")
    places = first.urls("stays")
    first.kill()
    try:
        client.wait(timeout=30)
        for url in places:
            assert fetch(hosts.lab, "h3", url) == "stays\n"
    finally:
        first.start()
    assert first.tasks() == {"stays": "RUNNING", "attended": "RUNNING"}
    for url in places:
        assert fetch(hosts.lab, "h3", url) == "stays\n"
    assert hosts.first.traces() == before
    first.remove("attended")
    first.run("attended", "--cni")
    for url in first.urls("attended"):
        hosts.reached(url, "attended")
    assert len(hosts.first.links()) == len(before["links"]) + 1


def test_containers_of_a_bridge_and_routed_ones_live_on_one_host(
    hosts: Hosts, containerds: tuple[Containerd, Containerd]
) -> None:
    """They reach each other there, and the bridge's reach ours elsewhere; by its own address only ours is reached."""
    first, second = containerds
    first.run_beside("bridged")
    first.run("routed", "--cni")
    second.run("far", "--cni")
    [bridged] = first.urls("bridged")
    routed, far = first.urls("routed")[0], second.urls("far")[0]
    assert bridged.startswith("http://10.99.0.")
    hosts.reached(routed, "routed")
    assert fetch(hosts.lab, "h3", bridged) is None
    for name, url, text in (
        ("routed", bridged, "bridged"),
        ("bridged", routed, "routed"),
        ("bridged", far, "far"),
        ("routed", far, "far"),
    ):
        assert first.inside(name, "timeout", "2", "wget", "-q", "-O-", url) == text


def test_containers_without_the_network(hosts: Hosts, containerds: tuple[Containerd, Containerd]) -> None:
    """The host's own stack, another container's and an empty one: none of them gets a link or an address of its own."""
    first, second = containerds
    second.run("far", "--cni")
    first.run("owner", "--cni")
    before = hosts.first.traces(), hosts.held()
    first.run("host", "--net-host")
    first.run("joined", "--with-ns", f"network:/proc/{first.process('owner')}/ns/net", port=81)
    first.run("none")
    assert (hosts.first.traces(), hosts.held()) == before
    hosts.reached(f"http://{hosts.first.address}/", "host")
    assert first.urls("joined") == first.urls("owner")
    address = first.urls("owner")[0].rstrip("/")
    hosts.reached(f"{address}:81/", "joined")
    assert fetch(hosts.lab, "h3", f"{address}/") == "owner\n"
    far, _ = second.urls("far")
    for name in ("host", "joined", "owner"):
        assert first.inside(name, "timeout", "2", "wget", "-q", "-O-", far) == "far"
    assert first.inside("none", "ip", "-o", "link").splitlines()[1:] == []
    assert first.inside("none", "ip", "route") == ""
