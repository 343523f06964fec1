"""Routers of the fabric that are no hosts: BIRD or GoBGP, as route reflectors or as whatever their configuration says.

Without a configuration of its own a router reflects between all hosts of the lab (RFC 4456) and keeps their routes
through restarts of either side (RFC 4724). It waits for the hosts to connect, so that two connections never collide,
and after a restart it tells nobody anything before each host has told it everything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

    from controller.lab.layout import Layout, Router
    from ipam.address import IPAddress

#: The AS number of a lab's hosts and reflectors.
AS_NUMBER: Final = 64512
#: For how long a reflector that comes back waits for its clients at most.
_RECOVERY_SECONDS: Final = 60


def configuration_path(layout: Layout, router: Router) -> Path:
    """Return the file that the router's program reads."""
    return layout.directory(router) / f"{router.program}.conf"


def control_path(layout: Layout, router: Router) -> Path:
    """Return the socket on which BIRD answers `birdc -s`."""
    return layout.directory(router) / "bird.ctl"


def command(layout: Layout, router: Router) -> tuple[str, ...]:
    """Return the command line of the router's program, which takes every start for one after a failure."""
    path = str(configuration_path(layout, router))
    if router.program == "bird":
        return "bird", "-f", "-R", "-c", path, "-s", str(control_path(layout, router))
    return "gobgpd", "-r", "-p", "-f", path, "--api-hosts", "127.0.0.1:50051", "--pprof-disable"


def reflector(layout: Layout, router: Router) -> str:
    """Return the configuration of a reflector for the hosts of the lab as it is now."""
    own, *_ = layout.addresses(router)
    clients = [layout.addresses(host)[0] for host in layout.hosts]
    if router.program == "bird":
        return _bird(own, clients, layout.versions)
    return _gobgp(own, clients, layout.versions)


def _bird(own: IPAddress, clients: list[IPAddress], versions: tuple[int, ...]) -> str:
    channels = " ".join(f"ipv{version} {{ import all; export all; next hop keep; }};" for version in versions)
    return "".join(
        [
            f"log stderr all;\nrouter id {own};\ngraceful restart wait {_RECOVERY_SECONDS};\nprotocol device {{ }}\n",
            *(
                f"protocol bgp client{number} {{\n"
                f"  local {own} as {AS_NUMBER};\n  neighbor {client} as {AS_NUMBER};\n"
                f"  passive on; rr client; graceful restart on;\n  {channels}\n}}\n"
                for number, client in enumerate(clients, start=1)
            ),
        ]
    )


def _gobgp(own: IPAddress, clients: list[IPAddress], versions: tuple[int, ...]) -> str:
    families = "".join(
        f'  [[neighbors.afi-safis]]\n    [neighbors.afi-safis.config]\n      afi-safi-name = "ipv{version}-unicast"\n'
        f"    [neighbors.afi-safis.mp-graceful-restart.config]\n      enabled = true\n"
        for version in versions
    )
    neighbours = "".join(
        f"[[neighbors]]\n"
        f'  [neighbors.config]\n    neighbor-address = "{client}"\n    peer-as = {AS_NUMBER}\n'
        f"  [neighbors.transport.config]\n    passive-mode = true\n"
        f"  [neighbors.route-reflector.config]\n    route-reflector-client = true\n"
        f'    route-reflector-cluster-id = "{own}"\n'
        f"  [neighbors.graceful-restart.config]\n    enabled = true\n"
        f"    restart-time = 120\n    deferral-time = {_RECOVERY_SECONDS}\n{families}"
        for client in clients
    )
    return f'[global.config]\n  as = {AS_NUMBER}\n  router-id = "{own}"\n{neighbours}'
