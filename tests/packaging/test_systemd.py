"""The systemd units: judged by systemd's own tools, then installed and run by a real systemd."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
from typing import TYPE_CHECKING, Final

import pytest

from tests.packaging.booted import BootedHost
from tests.packaging.dockerfile import parse

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.packaging.conftest import Image
    from tests.packaging.dockerfile import Stage

#: Making the host's tree for the first time fetches packages.
pytestmark = pytest.mark.timeout(900)

_UNITS: Final = ("tortie-agent.service", "tortie-bgp.service")
#: The steps of the README for a bare host, in the words of a Dockerfile.
_STEPS: Final = """
FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev python3 python3-venv
RUN apt-get install -y --no-install-recommends iproute2 iputils-ping nftables systemd
COPY pyproject.toml README.md LICENSE /src/
COPY charts/host /src/charts/host
COPY bgp /src/bgp
COPY controller /src/controller
COPY ipam /src/ipam
RUN /src/charts/host/install host
"""
_POOL: Final = """
apiVersion: tortie/v1
kind: Pool
metadata: {name: default-ipv4}
spec: {cidr: 10.244.0.0/16, blockSize: 26}
"""


@pytest.fixture
def units_tree(repository: Path, tmp_path: Path) -> Path:
    """Give a tree with the units as they are installed, systemd's own units, and programs to start."""
    for unit in _UNITS:
        place = tmp_path / "etc/systemd/system" / unit
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(repository / "charts" / "host" / "systemd" / unit, place)
        program = re.search(r"^ExecStart=(\S+)", place.read_text(), re.MULTILINE)
        assert program is not None
        executable = tmp_path / program[1].lstrip("/")
        executable.parent.mkdir(parents=True, exist_ok=True)
        executable.touch(0o755)
    shutil.copytree("/usr/lib/systemd/system", tmp_path / "usr/lib/systemd/system", symlinks=True)
    return tmp_path


def analyze(tree: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run systemd-analyze on a tree."""
    command = ["systemd-analyze", arguments[0], f"--root={tree}", *arguments[1:]]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def test_systemd_finds_nothing_wrong_with_the_units(units_tree: Path) -> None:
    """`systemd-analyze verify` has nothing to say about ours."""
    verified = analyze(units_tree, "verify", *_UNITS)
    assert verified.returncode == 0
    assert [line for line in verified.stderr.splitlines() if "tortie" in line] == []


def test_verify_would_find_a_mistake(units_tree: Path) -> None:
    """A key misspelt or a program that is not there is told, so silence means something."""
    unit = units_tree / "etc/systemd/system" / _UNITS[0]
    unit.write_text(unit.read_text().replace("ProtectHome=", "ProtectHoem="))
    assert "ProtectHoem" in analyze(units_tree, "verify", _UNITS[0]).stderr
    (units_tree / "opt/tortie/bin/tortie-agent").unlink()
    assert analyze(units_tree, "verify", _UNITS[0]).returncode != 0


@pytest.mark.parametrize(("unit", "most"), [("tortie-agent.service", 3.5), ("tortie-bgp.service", 1.8)])
def test_the_units_are_exposed_no_more_than_they_must_be(unit: str, most: float, units_tree: Path) -> None:
    """In systemd's own count, of which 10 is a service that may do anything."""
    judged = analyze(units_tree, "security", "--offline=yes", f"--threshold={round(most * 10)}", unit)
    assert judged.returncode == 0, judged.stdout


@pytest.fixture(scope="module")
def installed(build: Callable[..., contextlib.AbstractContextManager[Image]]) -> Iterator[Stage]:
    """Install a host as the README says."""
    with build(parse(_STEPS), "host") as made:
        yield made.stage


@pytest.fixture
def booted(
    installed: Stage,
    namespaces: Callable[[str], str],
    wait_until: Callable[..., None],
) -> Iterator[BootedHost]:
    """Boot that host, in a network with one link, and enable both units."""
    namespace = namespaces("s")
    for command in (
        "link add up0 type veth peer name far0",
        "link set up0 up",
        "link set far0 up",
        "address add 192.0.2.1/24 dev up0",
    ):
        subprocess.run(["ip", "-n", namespace, *command.split()], check=True)
    (installed.tree / "etc/tortie/tortie.toml").write_text('ipv4_address = "interface=up0"\nnode_name = "n1"\n')
    host = BootedHost(installed.tree, namespace)
    try:
        wait_until(lambda: host.run("systemctl", "is-system-running"), "systemd has booted")
        host.run("systemctl", "enable", "--now", "tortie-bgp", "tortie-agent")
        yield host
    finally:
        host.end(wait_until)


def test_a_booted_host_wires_and_goes_on(booted: BootedHost, wait_until: Callable[..., None]) -> None:
    """Started, stopped and started again by systemd in their sandboxes, they wire, and a flow never notices."""
    host = booted
    assert host.show("tortie-agent", "ActiveState") == host.show("tortie-bgp", "ActiveState") == "active"
    host.run("tortiectl", "apply", "-f", "-", text=_POOL)
    host.run("tortiectl", "install-cni")
    wait_until(lambda: "n1, tortie 0.1.0: ready" in host.run("tortiectl", "node", "status"), "the node is ready")
    address = wire(host)
    with host.ping(address) as ping:
        try:
            speaker = host.show("tortie-bgp", "MainPID")
            host.run("systemctl", "restart", "tortie-agent")
            assert host.show("tortie-bgp", "MainPID") == speaker
            agent = host.show("tortie-agent", "MainPID")
            host.run("systemctl", "restart", "tortie-bgp")
            assert host.show("tortie-agent", "MainPID") == agent
            host.run("systemctl", "stop", "tortie-agent", "tortie-bgp")
            assert address in host.run("ip", "route", "show", "proto", "116")
            host.run("systemctl", "start", "tortie-bgp", "tortie-agent")
        finally:
            ping.send_signal(signal.SIGINT)
        assert " 0% packet loss" in ping.communicate()[0]


def test_what_systemd_gives_them_is_what_the_units_say(booted: BootedHost) -> None:
    """The speaker has a user of its own and one capability, the agent three; runtimes wait for the agent."""
    agent, speaker = (status_of(booted, unit) for unit in _UNITS)
    assert int(agent["CapEff"], 16) == int(agent["CapBnd"], 16) == 1 << 12 | 1 << 13 | 1 << 21
    assert int(speaker["CapEff"], 16) == int(speaker["CapBnd"], 16) == 1 << 10
    assert speaker["Uid"].split()[0] == booted.run("id", "-u", "tortie-bgp").strip() != "0"
    assert agent["NoNewPrivs"] == speaker["NoNewPrivs"] == "1"
    assert {"docker.service", "containerd.service"} <= set(booted.show("tortie-agent", "Before").split())
    assert "tortie-bgp.service" in booted.show("tortie-agent", "After").split()
    assert booted.run("stat", "-c", "%U %a", "/run/tortie/bgp").split() == ["tortie-bgp", "750"]


def status_of(host: BootedHost, unit: str) -> dict[str, str]:
    """Return what the kernel tells of a unit's first process."""
    lines = host.run("cat", f"/proc/{host.show(unit, 'MainPID')}/status").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def wire(host: BootedHost) -> str:
    """Make a namespace there, and call the host's plugin for it as a runtime does; return the address."""
    host.run("ip", "netns", "add", "workload")
    network = json.loads(host.run("cat", "/etc/cni/net.d/10-tortie.conflist"))
    configuration = {"cniVersion": network["cniVersion"], "name": network["name"], **network["plugins"][0]}
    variables = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "workload",
        "CNI_NETNS": "/run/netns/workload",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": "/opt/cni/bin",
    }
    command = ["env", *(f"{name}={value}" for name, value in variables.items()), "/opt/cni/bin/tortie-cni"]
    answer = host.run(*command, text=json.dumps(configuration))
    return str(json.loads(answer)["ips"][0]["address"]).split("/")[0]
