"""Services in containers tell a registry their own address and port, and clients on other hosts connect to just that.

The registry is a real Consul on the third host. It checks what it is told by connecting, and answers by HTTP and DNS.
"""

from __future__ import annotations

import json
import subprocess
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.e2e.runtimes.hosts import fetch, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from controller.lab.lab import Lab
    from tests.e2e.runtimes.conftest import Hosts
    from tests.e2e.runtimes.hosts import RuntimeHost

_PORT = 7001
#: Runs inside a container: nobody but the service itself knows its address.
_REGISTER = """
set -- $(ip -4 -o address show dev eth0)
address=${{4%/*}}
body='{{"Name": "web", "ID": "{identifier}", "Address": "'$address'", "Port": {port},'
body=$body' "Check": {{"TCP": "'$address':{port}", "Interval": "1s", "Timeout": "1s"}}}}'
printf 'PUT /v1/agent/service/register HTTP/1.0\\r\\nContent-Length: %d\\r\\n\\r\\n%s' ${{#body}} "$body" |
    nc {registry} 8500 > /tmp/answer
"""


class Registry:
    """A Consul on a host, that every container reaches as it reaches the host."""

    def __init__(self, lab: Lab, host: str) -> None:
        self._lab = lab
        self._host = host
        self.address = str(lab.layout().addresses(lab.layout().host(host))[0])

    def known(self) -> set[tuple[str, int]]:
        """Return address and port of each instance of the service that answers, by the registry's checks."""
        answer = fetch(self._lab, self._host, f"http://{self.address}:8500/v1/health/service/web?passing=1")
        return {(each["Service"]["Address"], each["Service"]["Port"]) for each in json.loads(answer or "[]")}

    def is_ready(self) -> bool:
        """Return whether it takes registrations."""
        return bool(json.loads(fetch(self._lab, self._host, f"http://{self.address}:8500/v1/status/leader") or '""'))


@pytest.fixture
def registry(hosts: Hosts, consul_program: str, tmp_path: Path) -> Iterator[Registry]:
    """Run a Consul on the third host; it ends with the test."""
    registry = Registry(hosts.lab, "h3")
    configuration = {
        "server": True,
        "bootstrap": True,
        "node_name": "registry",
        "bind_addr": registry.address,
        "client_addr": registry.address,
        "data_dir": str(tmp_path / "data"),
        "ports": {"dns": 53, "serf_wan": -1},
        "performance": {"raft_multiplier": 1},
        "disable_update_check": True,
    }
    (tmp_path / "consul.json").write_text(json.dumps(configuration))
    command, settings = hosts.lab.command(
        "h3", [consul_program, "agent", "-config-file", str(tmp_path / "consul.json")]
    )
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, env=settings, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        wait_until(registry.is_ready, "the registry has a leader")
        yield registry
    finally:
        process.kill()
        process.wait(timeout=30)


def run_service(host: RuntimeHost, name: str, registry: Registry, identifier: str = "web") -> tuple[str, int]:
    """Have a container run that answers with its name and registers itself; return its address and port."""
    host.serve(name, port=_PORT)
    script = _REGISTER.format(identifier=identifier, port=_PORT, registry=registry.address)
    host.podman("exec", name, "sh", "-c", script)
    assert "200 OK" in host.podman("exec", name, "cat", "/tmp/answer")  # noqa: S108  a file in the container
    return host.podman_addresses(name)[0], _PORT


def looked_up(host: RuntimeHost, client: str, registry: Registry, addresses: set[str]) -> None:
    """Wait until a container gets just these addresses for the service's name by DNS."""

    def found() -> set[str]:
        answer = host.attempt("podman", "exec", client, "nslookup", "web.service.consul", registry.address)
        lines = answer.stdout.decode().partition("Name:")[2].splitlines()
        return {line.split()[-1] for line in lines if line.startswith("Address")}

    # A check of the place before may end after the first one of the present place, and count for a second.
    wait_until(lambda: found() == addresses, f"{client} on {host.name} gets {addresses}")


def _answers(host: RuntimeHost, url: str, name: str) -> bool:
    return host.got("client", url) == f"{name}\n"


def test_clients_connect_to_where_a_service_is_now(hosts: Hosts, registry: Registry) -> None:
    """The address a service has inside is what others use; after its move to another host they get the new one."""
    for host in hosts.both:
        host.podman_run("client", "--dns", registry.address)
    address, port = run_service(hosts.first, "before", registry)
    wait_until(lambda: registry.known() == {(address, port)}, "the registry has reached the service")
    looked_up(hosts.second, "client", registry, {address})
    assert hosts.second.got("client", f"http://{address}:{port}/") == "before\n"
    url = f"http://web.service.consul:{port}/"
    wait_until(partial(_answers, hosts.second, url, "before"), "the client is served by name")
    hosts.first.podman("rm", "--force", "--time", "0", "before")
    wait_until(lambda: registry.known() == set(), "a service that is gone is given to nobody")
    moved, port = run_service(hosts.second, "after", registry)
    assert moved != address
    wait_until(lambda: registry.known() == {(moved, port)}, "the registry has reached it at its new place")
    for host in hosts.both:
        looked_up(host, "client", registry, {moved})
        wait_until(partial(_answers, host, url, "after"), f"the client of {host.name} is served at the new place")


def test_services_on_one_host_need_not_share_its_ports(hosts: Hosts, registry: Registry) -> None:
    """Two on the same host and one elsewhere all have the same port, each at its own address."""
    places = {
        run_service(host, name, registry, identifier=name): name
        for host, name in ((hosts.first, "one"), (hosts.first, "two"), (hosts.second, "three"))
    }
    wait_until(lambda: registry.known() == places.keys(), "the registry has reached all three")
    hosts.second.podman_run("client", "--dns", registry.address)
    looked_up(hosts.second, "client", registry, {address for address, _ in places})
    for (address, port), name in places.items():
        assert hosts.second.got("client", f"http://{address}:{port}/") == f"{name}\n"
