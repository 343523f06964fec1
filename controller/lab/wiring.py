"""Workloads come and go through the CNI plugin, called exactly as a container runtime calls it."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any, Final

from controller.errors import RefusedError
from controller.lab.layout import FABRIC_NETWORKS
from controller.lab.network import NAMESPACES
from controller.lab.services import REPOSITORY, enter, program

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from controller.lab.layout import Host, Layout, Workload

_INTERFACE: Final = "eth0"
_CALL_SECONDS: Final = 90
_COMPILE_SECONDS: Final = 120


def install_plugin(layout: Layout) -> None:
    """Put the plugin into the lab's state: the one that was built, else compiled now, else the Python one."""
    target = layout.state / "tortie-cni"
    target.unlink(missing_ok=True)
    built, source = REPOSITORY / "build" / "tortie-cni", REPOSITORY / "controller" / "cni" / "tortie-cni.c"
    if built.exists() and built.stat().st_mtime >= source.stat().st_mtime:
        target.symlink_to(built)
        return
    command = ["gcc", "-O2", "-static", "-o", str(target), str(source)]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=_COMPILE_SECONDS)
    except (OSError, subprocess.SubprocessError):
        target.symlink_to(program("tortie-cni-py"))


def configure(layout: Layout, host: Host) -> None:
    """Write what a runtime on this host would find: a network configuration, and the directory of plugins."""
    directory = layout.directory(host) / "cni"
    for part in ("net.d", "bin"):
        (directory / part).mkdir(parents=True, exist_ok=True)
    plugin = directory / "bin" / "tortie-cni"
    if not plugin.exists():
        plugin.symlink_to(layout.state / "tortie-cni")
    agent_socket = str(layout.directory(host) / "run" / "cni.sock")
    network = {
        "cniVersion": "1.0.0",
        "name": "tortie",
        "type": "tortie-cni",
        "agent_socket": agent_socket,
        "ipam": {"type": "tortie", **{f"ipv{version}": version in layout.versions for version in FABRIC_NETWORKS}},
    }
    _configuration(layout, host).write_text(json.dumps(network, indent=2))


def add(layout: Layout, host: Host, workload: Workload, wanted: Iterable[str] = ()) -> tuple[str, ...]:
    """Wire the workload and return its addresses, IPv4 first, the wanted ones among them.

    Raises `RefusedError` with what the plugin said.
    """
    result = json.loads(_call(layout, host, workload, "ADD", wanted))
    addresses = [each["address"].partition("/")[0] for each in result["ips"]]
    return tuple(sorted(addresses, key=lambda address: ":" in address))


def remove(layout: Layout, host: Host, workload: Workload) -> None:
    """Release the workload's addresses and remove its link; raises `RefusedError` with what the plugin said."""
    _call(layout, host, workload, "DEL")


def _call(layout: Layout, host: Host, workload: Workload, command: str, wanted: Iterable[str] = ()) -> str:
    addresses = ",".join(wanted)
    asked = f";IP={addresses}" if addresses else ""
    binaries = layout.directory(host) / "cni" / "bin"
    variables = {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": f"{layout.name}-{workload.name}",
        "CNI_NETNS": str(NAMESPACES / layout.namespace(workload.name)),
        "CNI_IFNAME": _INTERFACE,
        "CNI_PATH": str(binaries),
        "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE={layout.name};K8S_POD_NAME={workload.name}{asked}",
    }
    done = subprocess.run(
        (*enter(layout.namespace(host.name)), str(binaries / "tortie-cni")),
        env=variables,
        input=_configuration(layout, host).read_text(),
        capture_output=True,
        text=True,
        timeout=_CALL_SECONDS,
        check=False,
    )
    if done.returncode:
        raise RefusedError(
            f"CNI {command} of {workload.name} on {host.name}: {_said(done.stdout) or done.stderr.strip()}"
        )
    return done.stdout


def _said(output: str) -> str:
    """Return the text of a CNI error result, empty if there is none."""
    try:
        error: dict[str, Any] = json.loads(output)
        return f"{error['msg']} (code {error['code']}: {error.get('details', '')})"
    except (ValueError, KeyError, TypeError):
        return output.strip()


def _configuration(layout: Layout, host: Host) -> Path:
    return layout.directory(host) / "cni" / "net.d" / "10-tortie.conf"
