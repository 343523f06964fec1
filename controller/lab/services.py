"""The programs of a lab and how each is started; run in a host's namespace, they are the programs of a real host."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import controller
from controller.errors import RefusedError
from controller.lab import routers
from controller.lab.layout import CONSUL, FABRIC, FABRIC_INDEX, FABRIC_NETWORKS
from controller.lab.network import NAMESPACES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from controller.lab.layout import Host, Layout, Router

REPOSITORY: Final = Path(controller.__file__).parent.parent


@dataclass(frozen=True, slots=True)
class Service:
    """A program that runs for as long as the lab does, named `HOST/PROGRAM`, `ROUTER/PROGRAM` or `consul`."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    log: Path


def services_of(layout: Layout) -> dict[str, Service]:
    """Return every service of the lab by its name."""
    services = [service for host in layout.hosts for service in _host_services(layout, host)]
    services += [_router_service(layout, router) for router in layout.routers]
    if layout.store == "consul":
        services.insert(0, _consul(layout))
    return {service.name: service for service in services}


def enter(namespace: str) -> tuple[str, ...]:
    """Return the start of a command line that runs the rest in a namespace, in the same process."""
    # `ip netns exec` would also mount /sys anew.
    return "nsenter", f"--net={NAMESPACES / namespace}", "--"


def program(name: str) -> str:
    """Return the path of a program installed beside this Python."""
    return str(Path(sys.executable).parent / name)


def environment(layout: Layout, host: Host | None) -> dict[str, str]:
    """Return the environment of a process of the lab: this one's, with the settings of that host and no others."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TORTIE_")}
    path = f"{Path(sys.executable).parent}:{kept.get('PATH', os.defpath)}"
    return {**kept, **layout.environment(host), "PATH": path, "PYTHONUNBUFFERED": "1"}


def _consul_program() -> str:
    beside = REPOSITORY / ".tools" / "bin" / "consul"
    found = os.environ.get("TORTIE_CONSUL") or (str(beside) if beside.exists() else shutil.which("consul"))
    if found is None:
        raise RefusedError("no Consul server: set TORTIE_CONSUL to its path, or put `consul` on PATH")
    return found


def prepare_consul(layout: Layout) -> None:
    """Write the configuration of the lab's Consul server and fix which program it is; raises `RefusedError`.

    The supervisor that starts it does not see the caller's TORTIE_CONSUL.
    """
    link = _consul_link(layout)
    link.unlink(missing_ok=True)
    link.symlink_to(Path(_consul_program()).absolute())
    address = str(FABRIC_NETWORKS[4][FABRIC_INDEX])
    configuration = {
        "server": True,
        "bootstrap_expect": 1,
        "node_name": FABRIC,
        "bind_addr": address,
        "client_addr": address,
        "data_dir": str(layout.state / CONSUL),
        "ports": {"dns": -1, "serf_wan": -1},
        "performance": {"raft_multiplier": 1},
        "disable_update_check": True,
        "leave_on_terminate": False,
    }
    _consul_file(layout).write_text(json.dumps(configuration, indent=2))


def _consul(layout: Layout) -> Service:
    command = (str(_consul_link(layout)), "agent", "-config-file", str(_consul_file(layout)))
    settings = {**environment(layout, None), "GOMAXPROCS": "2"}
    return Service(CONSUL, (*enter(layout.namespace(FABRIC)), *command), settings, layout.log(CONSUL))


def _consul_link(layout: Layout) -> Path:
    return layout.state / "consul-program"


def _consul_file(layout: Layout) -> Path:
    return layout.state / "consul.json"


def _router_service(layout: Layout, router: Router) -> Service:
    name = f"{router.name}/{router.program}"
    command = (*enter(layout.namespace(router.name)), *routers.command(layout, router))
    return Service(name, command, environment(layout, None), layout.log(name))


def _host_services(layout: Layout, host: Host) -> list[Service]:
    run = layout.directory(host) / "run"
    settings = {
        **environment(layout, host),
        "TORTIE_BGP_SOCKET": str(run / "bgp.sock"),
        "TORTIE_BGP_STATE": str(layout.directory(host) / "bgp"),
    }
    return [
        Service(
            f"{host.name}/{short}",
            (*enter(layout.namespace(host.name)), program(name)),
            settings,
            layout.log(f"{host.name}/{short}"),
        )
        for short, name in (("bgp", "tortie-bgp"), ("agent", "tortie-agent"))
    ]
