"""Hosts whose own filter drops what is forwarded: dockerd's is opened for our links, an operator's is named."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from typing import TYPE_CHECKING, Protocol

import pytest

from controller.errors import PermanentError
from controller.kernel.forward_filters import open_forwarding

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

VERSIONS = pytest.mark.parametrize(
    ("version", "program"),
    [(4, "iptables"), (6, "ip6tables"), (4, "iptables-legacy"), (6, "ip6tables-legacy")],
)
ADDRESS = {("w1", 4): "10.0.0.1", ("w1", 6): "fd00:1::1", ("w2", 4): "10.0.0.2", ("w2", 6): "fd00:1::2"}


class Namespace(Protocol):
    """What the fixtures of namespaces give."""

    @property
    def name(self) -> str:
        """The name."""
        ...

    def run(self, *command: str) -> str:
        """Run a command inside."""
        ...


def run(command: str) -> str:
    """Run a command where the test runs, which must succeed."""
    return subprocess.run(shlex.split(command), check=True, capture_output=True, text=True).stdout


@pytest.fixture
def reaches(host: Namespace, make_namespace: Callable[[], Namespace]) -> Callable[[int], bool]:
    """Return a function that tells whether one workload of the host reaches the other by this IP version."""
    namespaces = {name: make_namespace() for name in ("w1", "w2")}
    host.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
    for name, namespace in namespaces.items():
        run(f"ip link add tor{name} type veth peer name eth0 netns {namespace.name}")
        run(f"ip address add 169.254.1.1/32 dev tor{name}")
        run(f"ip address add fe80::1/64 dev tor{name} nodad")
        run(f"ip link set tor{name} up")
        namespace.run("ip", "link", "set", "eth0", "up")
        for version, gateway in ((4, "169.254.1.1"), (6, "fe80::1")):
            address = ADDRESS[name, version]
            run(f"ip route add {address} dev tor{name}")
            nodad = ["nodad"] if version == 6 else []
            namespace.run("ip", "address", "add", address, "dev", "eth0", *nodad)
            namespace.run("ip", f"-{version}", "route", "add", "default", "via", gateway, "dev", "eth0", "onlink")

    def tell(version: int) -> bool:
        ping = ["ip", "netns", "exec", namespaces["w1"].name, "ping", "-n", "-c", "3", "-i", "0.2", "-W", "1"]
        return subprocess.run([*ping, ADDRESS["w2", version]], check=False, capture_output=True).returncode == 0

    return tell


@VERSIONS
async def test_dockerds_filter_lets_our_links_through(
    reaches: Callable[[int], bool], version: int, program: str
) -> None:
    """By a jump in the chain that Docker keeps for others, once; the policy stays drop for everybody else."""
    barred = {4: "192.0.2.7", 6: "2001:db8::7"}[version]
    run(f"{program} -P FORWARD DROP")
    run(f"{program} -N DOCKER-USER")
    run(f"{program} -I FORWARD -j DOCKER-USER")
    run(f"{program} -A DOCKER-USER -s {barred} -j DROP")
    assert not reaches(version)
    await open_forwarding({version})
    after = run(f"{program} -S")
    assert reaches(version)
    assert "-P FORWARD DROP" in after
    assert after.count("-A DOCKER-USER -j TORTIE-FORWARD") == 1
    await open_forwarding({version})
    assert run(f"{program} -S") == after


def dockerds_chains(program: str, *rules: str) -> None:
    """Make the chains as dockerd does, and have these rules in the one for others."""
    for rule in ("-P FORWARD DROP", "-N DOCKER-USER", "-I FORWARD -j DOCKER-USER", "-N DOCKER"):
        run(f"{program} {rule}")
    for bridge in ("docker0", "lan0"):
        run(f"{program} -A FORWARD -o {bridge} -j DOCKER")
    for each in rules:
        run(f"{program} -A DOCKER-USER {each}")


def users_rules(program: str) -> list[str]:
    """Return what is in the chain for others, in its order."""
    return [line.removeprefix("-A DOCKER-USER ") for line in run(f"{program} -S DOCKER-USER").splitlines()[1:]]


@VERSIONS
async def test_what_an_operator_drops_stays_dropped(reaches: Callable[[int], bool], version: int, program: str) -> None:
    """Whether the rule was there before ours or came later; without it traffic flows."""
    drop = f"-d {ADDRESS['w2', version]}/{32 if version == 4 else 128} -j DROP"
    dockerds_chains(program, drop)
    await open_forwarding({version})
    assert not reaches(version)
    run(f"{program} -D DOCKER-USER {drop}")
    assert reaches(version)
    run(f"{program} -A DOCKER-USER {drop}")
    await open_forwarding({version})
    assert users_rules(program) == [drop, "-j TORTIE-FORWARD"]


@pytest.mark.parametrize("ending", [(), ("-j RETURN",), ("-j RETURN", "-i never0 -j DROP")])
async def test_ours_come_last_of_all_that_is_looked_at(host: Namespace, ending: tuple[str, ...]) -> None:
    """Before the return that dockerd puts at the end, and what is behind it nobody sees."""
    assert host
    dockerds_chains("iptables", "-i out0 -j DROP", *ending)
    await open_forwarding({4})
    assert users_rules("iptables") == ["-i out0 -j DROP", "-j TORTIE-FORWARD", *ending]


async def test_ours_come_before_a_return_that_others_put_in_front(host: Namespace) -> None:
    """Behind it nobody would see them."""
    assert host
    dockerds_chains("iptables")
    await open_forwarding({4})
    run("iptables -I DOCKER-USER -j RETURN")
    await open_forwarding({4})
    assert users_rules("iptables") == ["-j TORTIE-FORWARD", "-j RETURN"]


@VERSIONS
async def test_dockers_own_bridges_are_not_opened_by_ours(host: Namespace, version: int, program: str) -> None:
    """Those of any name that dockerd has rules for: what is for them is up to those rules."""
    assert host
    dockerds_chains(program, "-j RETURN")
    await open_forwarding({version})
    assert run(f"{program} -S TORTIE-FORWARD").splitlines()[1:] == [
        "-A TORTIE-FORWARD -o tor+ -j ACCEPT",
        "-A TORTIE-FORWARD -i tor+ -o docker+ -j RETURN",
        "-A TORTIE-FORWARD -i tor+ -o br-+ -j RETURN",
        "-A TORTIE-FORWARD -i tor+ -o lan0 -j RETURN",
        "-A TORTIE-FORWARD -i tor+ -j ACCEPT",
    ]


@pytest.mark.parametrize(
    "tampering",
    [
        "iptables -F TORTIE-FORWARD",
        "iptables -A TORTIE-FORWARD -j DROP",
        "iptables -F DOCKER-USER",
        "iptables -I DOCKER-USER -j TORTIE-FORWARD",
    ],
)
async def test_what_others_do_to_our_rules_is_repaired(host: Namespace, tampering: str) -> None:
    """Taken, added to, or jumped to once more."""
    assert host
    dockerds_chains("iptables")
    await open_forwarding({4})
    before = run("iptables -S")
    run(tampering)
    assert run("iptables -S") != before
    await open_forwarding({4})
    assert run("iptables -S") == before


@VERSIONS
async def test_an_operators_filter_is_named_with_the_commands_that_open_it(
    reaches: Callable[[int], bool], version: int, program: str
) -> None:
    """Nothing in it is changed; once the operator has run the commands, the complaint is over and traffic flows."""
    run(f"{program} -P FORWARD DROP")
    before = run(f"{program} -S")
    with pytest.raises(PermanentError, match=f"the chain FORWARD of {program} is DROP") as told:
        await open_forwarding({version})
    assert run(f"{program} -S") == before
    assert not reaches(version)
    follow(told.value)
    await open_forwarding({version})
    assert reaches(version)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("family", ["inet", "own"])
async def test_so_is_a_chain_of_nftables(reaches: Callable[[int], bool], version: int, family: str) -> None:
    """A host that filters with nftables itself is told the same, in its language."""
    family = family if family == "inet" else {4: "ip", 6: "ip6"}[version]
    run(f"nft add table {family} mine")
    run(f"nft 'add chain {family} mine through {{ type filter hook forward priority 0; policy drop; }}'")
    with pytest.raises(PermanentError, match=f"the chain {family} mine through is drop") as told:
        await open_forwarding({version})
    assert not reaches(version)
    follow(told.value)
    await open_forwarding({version})
    assert reaches(version)


def follow(told: PermanentError) -> None:
    """Run the commands that a message names."""
    commands = re.findall(r"`([^`]+)`", str(told))
    assert len(commands) == 2
    for command in commands:
        subprocess.run(command, check=True, shell=True)  # noqa: S602  as an operator would


async def test_only_what_concerns_our_pools_is_told(host: Namespace) -> None:
    """A filter of the other IP version, and one that drops nothing by itself, are nobody's problem."""
    assert host
    run("ip6tables -P FORWARD DROP")
    run("iptables -N DOCKER-USER")
    before = run("nft list ruleset")
    await open_forwarding({4})
    await open_forwarding(set())
    assert run("nft list ruleset") == before


async def test_a_host_with_no_filter_at_all_is_open(
    host: Namespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neither nft nor iptables need be installed, and asking makes no table."""
    assert host
    await open_forwarding({4, 6})
    assert run("nft list ruleset") == ""
    monkeypatch.setenv("PATH", str(tmp_path))
    await open_forwarding({4, 6})


@pytest.mark.parametrize("output", ["", "nonsense", '{"nftables": [{"chain": {"hook": "forward", "policy": "drop"}}]}'])
async def test_an_nft_that_talks_nonsense_is_reported(
    host: Namespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, output: str
) -> None:
    """Another version may list chains in another way; that ends no agent."""
    assert host
    program = tmp_path / "nft"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{output}\nEND\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(PermanentError, match="not understood"):
        await open_forwarding({4})
