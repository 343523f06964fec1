"""Workloads reach what lies outside of all pools, by their host's address, and each other by their own."""

from __future__ import annotations

import json
import os
import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from controller.lab.layout import FABRIC, POOLS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from controller.lab.lab import Lab

#: The network behind the fabric: the fabric's own address in it, the far end's, and the prefix length.
OUTSIDE = {4: ("198.51.100.1", "198.51.100.2", 24), 6: ("2001:db8:1::1", "2001:db8:1::2", 64)}
#: Tells everybody who calls the address that the call came from.
SERVER = """
import socket
with socket.create_server(("::", 8080), family=socket.AF_INET6, dualstack_ipv6=True) as server:
    print("serving", flush=True)
    while True:
        connection, source = server.accept()
        with connection:
            connection.sendall(source[0].removeprefix("::ffff:").encode())
"""
CLIENT = """
import socket, sys
with socket.create_connection((sys.argv[1], 8080), timeout=2) as connection:
    print(connection.recv(100).decode())
"""


class Servers:
    """The servers that a test has started, and the namespace outside."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.outside = f"tt-{os.getpid()}-outside"
        self._processes: list[subprocess.Popen[str]] = []

    def make_outside(self) -> None:
        """Make a place that the fabric has a route to, and that has no route to any pool; nor has the fabric."""
        fabric = self.lab.layout().namespace(FABRIC)
        _ip("netns", "add", self.outside)
        _ip("-n", fabric, "link", "add", "outside0", "type", "veth", "peer", "name", "eth0", "netns", self.outside)
        _ip("-n", fabric, "link", "set", "outside0", "up")
        _ip("-n", self.outside, "link", "set", "eth0", "up")
        for version, (near, far, length) in OUTSIDE.items():
            nodad = ["nodad"] if version == 6 else []
            _ip("-n", fabric, "address", "add", f"{near}/{length}", "dev", "outside0", *nodad)
            _ip("-n", self.outside, "address", "add", f"{far}/{length}", "dev", "eth0", *nodad)
            _ip("-n", self.outside, f"-{version}", "route", "add", "default", "via", near)
        forwarding = ["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"]
        assert self.lab.run(FABRIC, ["sysctl", "-qw", *forwarding]).returncode == 0
        self.serve(["ip", "netns", "exec", self.outside])

    def serve(self, where: list[str]) -> None:
        """Start a server and wait until it serves."""
        command = [*where, "python3", "-c", SERVER]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
        self._processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "serving\n"

    def seen(self, workload: str, address: str) -> str:
        """Return the address that a server at this one sees when the workload calls; empty if it is not reached."""
        return self.lab.run(workload, ["python3", "-c", CLIENT, address]).stdout.strip()

    def end(self) -> None:
        """End the servers and remove the outside."""
        for process in self._processes:
            process.kill()
            process.communicate(timeout=10)
        subprocess.run(["ip", "netns", "delete", self.outside], check=False, capture_output=True)


@pytest.fixture
def servers(new_lab: Callable[[], Lab]) -> Iterator[Servers]:
    """Return the servers of a new lab with two hosts of one workload each, and a far end outside of it."""
    lab = new_lab()
    lab.up(nodes=2, workloads=1, dual_stack=True)
    started = Servers(lab)
    try:
        started.make_outside()
        for workload in lab.layout().workloads:
            started.serve(["ip", "netns", "exec", lab.layout().namespace(workload.name)])
        yield started
    finally:
        started.end()


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def set_way_out(lab: Lab, path: Path, *, on: bool) -> None:
    """Have both of the lab's pools masquerade or not."""
    for name, cidr in POOLS.items():
        spec = {"cidr": cidr, "natOutgoing": on, "encapsulation": "Never"}
        path.write_text(
            json.dumps({"apiVersion": "tortie/v1", "kind": "Pool", "metadata": {"name": name}, "spec": spec})
        )
        done = lab.run("h1", ["tortiectl", "apply", "-f", str(path)])
        assert done.returncode == 0, done.stderr


def problems(lab: Lab, host: str) -> str:
    """Return what the host's agent says of itself."""
    return lab.run(host, ["tortiectl", "node", "status"]).stdout


def test_workloads_go_out_by_their_hosts_address_and_see_each_others_own(
    servers: Servers, wait_until: Callable[..., None], tmp_path: Path
) -> None:
    """Both versions; the table comes with the pools' word, outlives the agent, and is made anew when it was deleted."""
    lab = servers.lab
    here, there = lab.layout().workloads
    host = lab.layout().addresses(lab.layout().hosts[0])
    outside = [far for _, far, _ in OUTSIDE.values()]
    assert "masquerade" not in lab.run("h1", ["nft", "list", "ruleset"]).stdout
    assert [servers.seen(here.name, far) for far in outside] == ["", ""]

    set_way_out(lab, tmp_path / "pool.json", on=True)
    for far, address in zip(outside, host, strict=True):
        wait_until(lambda far=far, address=address: servers.seen(here.name, far) == str(address), f"out to {far}")
    assert tuple(servers.seen(here.name, address) for address in there.addresses) == here.addresses
    assert tuple(servers.seen(there.name, address) for address in here.addresses) == there.addresses
    assert lab.ping().complete

    lab.stop("h1/agent")
    assert servers.seen(here.name, outside[0]) == str(host[0])
    assert lab.run("h1", ["nft", "delete", "table", "inet", "tortie"]).returncode == 0
    lab.start("h1/agent")
    wait_until(lambda: servers.seen(here.name, outside[0]) == str(host[0]), "the table is made anew")

    set_way_out(lab, tmp_path / "pool.json", on=False)
    wait_until(lambda: servers.seen(here.name, outside[0]) == "", "no longer")


def test_a_filter_that_drops_is_named_until_it_is_opened(
    servers: Servers, wait_until: Callable[..., None], tmp_path: Path
) -> None:
    """The status of the host says which commands let its workloads through, and no more once they have been run."""
    lab = servers.lab
    (here, there) = lab.layout().workloads
    assert lab.run("h1", ["iptables", "-P", "FORWARD", "DROP"]).returncode == 0
    assert servers.seen(here.name, there.addresses[0]) == ""
    set_way_out(lab, tmp_path / "pool.json", on=True)
    wait_until(lambda: "chain FORWARD of iptables is DROP" in problems(lab, "h1"), "the filter is named")
    assert "FORWARD" not in problems(lab, "h2")
    for command in re.findall(r"`([^`]+)`", " ".join(problems(lab, "h1").split())):
        assert lab.run("h1", command.split()).returncode == 0
    assert servers.seen(here.name, there.addresses[0]) == here.addresses[0]
    wait_until(lambda: "FORWARD" not in problems(lab, "h1"), "the complaint is over")
