"""The lab's namespaces and the wires between them: a bridge in the fabric's namespace, one uplink for each host.

One `ip -batch` for each namespace: some ten times faster than a command for each step.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

from controller.errors import KernelRefused
from controller.lab.layout import FABRIC, FABRIC_INDEX, FABRIC_NETWORKS, is_namespace_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from controller.lab.layout import Host, Layout, Router, Workload

NAMESPACES: Final = Path("/run/netns")
_UPLINK: Final = "eth0"
_BRIDGE: Final = "fabric0"
_TIMEOUT_SECONDS: Final = 60


class Network:
    """Makes parts of a lab's network; the commands it runs inherit `lock`, so the lab is held until they have ended."""

    def __init__(self, layout: Layout, lock: int) -> None:
        self._layout = layout
        self._lock = lock

    def make_fabric(self) -> None:
        """Make the fabric's namespace and its bridge."""
        layout = self._layout
        self._make_namespaces([FABRIC])
        addresses = [
            f"address add {network[FABRIC_INDEX]}/{network.prefixlen} dev {_BRIDGE} {_without_detection(version)}"
            for version, network in FABRIC_NETWORKS.items()
            if version in layout.versions
        ]
        # Snooping would hold back the first neighbour solicitations.
        bridge = f"link add {_BRIDGE} type bridge mcast_snooping 0"
        self._batch(FABRIC, ["link set lo up", bridge, *addresses, f"link set {_BRIDGE} up"])

    def make_hosts(self, hosts: Sequence[Host | Router]) -> None:
        """Make the namespaces of hosts or routers, and wire each to the fabric with addresses and a default route."""
        layout = self._layout
        self._make_namespaces([host.name for host in hosts])
        wires = []
        for host in hosts:
            # A router that takes a former one's address has its MAC too, or the hosts would talk to the former for a
            # while.
            mac = f"02:00:00:00:00:{host.index:02x}"
            peer = f"peer name {_UPLINK} address {mac} netns {layout.namespace(host.name)}"
            wires += [f"link add {host.name} type veth {peer}", f"link set {host.name} master {_BRIDGE} up"]
        self._batch(FABRIC, wires)
        for host in hosts:
            self._batch(host.name, self._host_lines(host))

    def make_workloads(self, workloads: Iterable[Workload]) -> None:
        """Make the workloads' namespaces, empty but for the loopback link."""
        names = [workload.name for workload in workloads]
        self._make_namespaces(names)
        for name in names:
            self._batch(name, ["link set lo up"])

    def _host_lines(self, host: Host | Router) -> list[str]:
        lines = ["link set lo up"]
        for address in self._layout.addresses(host):
            length = FABRIC_NETWORKS[address.version].prefixlen
            lines.append(f"address add {address}/{length} dev {_UPLINK} {_without_detection(address.version)}")
        lines.append(f"link set {_UPLINK} up")
        for version in self._layout.versions:
            gateway = FABRIC_NETWORKS[version][FABRIC_INDEX]
            lines.append(f"route add default via {gateway} dev {_UPLINK}")
        return lines

    def _make_namespaces(self, places: Iterable[str]) -> None:
        self._run(["ip", "-batch", "-"], [f"netns add {self._layout.namespace(place)}" for place in places])

    def _batch(self, place: str, lines: Sequence[str]) -> None:
        self._run(["ip", "-n", self._layout.namespace(place), "-batch", "-"], lines)

    def _run(self, command: Sequence[str], lines: Sequence[str]) -> None:
        done = subprocess.run(
            command,
            input="\n".join(lines) + "\n",
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_SECONDS,
            pass_fds=(self._lock,),
            check=False,
        )
        if done.returncode:
            raise KernelRefused(f"{' '.join(command)} of {lines}", done.returncode, done.stderr.strip())


def namespaces_of(lab: str) -> dict[str, tuple[int, int]]:
    """Return the lab's namespaces by name, each with the device and inode number that identify it."""
    found = {}
    for path in NAMESPACES.iterdir() if NAMESPACES.is_dir() else ():
        if is_namespace_of(lab, path.name):
            status = path.stat()
            found[path.name] = (status.st_dev, status.st_ino)
    return found


def remove_namespaces(names: Iterable[str], *, lock: int) -> None:
    """Remove namespaces by name, and with them every link in them; one that is gone is no error.

    Raises `KernelRefused` when one remains.
    """
    present = [name for name in names if (NAMESPACES / name).exists()]
    lines = "".join(f"netns delete {name}\n" for name in present)
    command = ["ip", "-force", "-batch", "-"]
    done = subprocess.run(
        command, input=lines, text=True, capture_output=True, timeout=_TIMEOUT_SECONDS, pass_fds=(lock,), check=False
    )
    if left := [name for name in present if (NAMESPACES / name).exists()]:
        raise KernelRefused(f"removal of the namespaces {', '.join(left)}", done.returncode, done.stderr.strip())


def _without_detection(version: int) -> str:
    """Return the flag that makes an IPv6 address usable at once: nobody else is on the wire to have it too."""
    return "nodad" if version == 6 else ""  # noqa: PLR2004  the IP version
