"""A cluster whose Consul forbids what no policy allows: real programs, a token for each host, one for operators.

A lab is built on an open Consul; then its access control lists are switched on, as an operator would, and every agent
is started again with the token of its host.
"""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from controller.lab.lab import Lab

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_MASTER = "7d5b1f5e-54f2-4a57-8b0c-2f4d3c9a6e21"
_HOSTS = ("h1", "h2", "h3", "h4")
_POOL = """
apiVersion: tortie/v1
kind: Pool
metadata: {name: small}
spec: {cidr: 10.99.0.0/30, blockSize: 30, assignment: Manual}
"""


def consul(lab: Lab, *arguments: str, text: str | None = None) -> str:
    """Run Consul's own command in the fabric as the one who may do anything, and return what it printed."""
    layout = lab.layout()
    command, settings = lab.command("fabric", [str(layout.state / "consul-program"), *arguments])
    settings |= {"CONSUL_HTTP_ADDR": layout.consul_address, "CONSUL_HTTP_TOKEN": _MASTER}
    done = subprocess.run(command, env=settings, input=text, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def tortiectl(lab: Lab, place: str, *arguments: str) -> str:
    """Run `tortiectl` on a host, or as the operator in the fabric, and return what it printed."""
    done = lab.run(place, ["tortiectl", *arguments])
    assert done.returncode == 0, done.stderr
    return done.stdout


def health(lab: Lab) -> dict[str, str]:
    """Return the state of every node as Consul's catalog shows it to a reader, by instance."""
    checks: list[dict[str, Any]] = json.loads(
        lab.run(
            "fabric",
            [
                "curl",
                "-sS",
                "-H",
                f"X-Consul-Token: {_MASTER}",
                f"{lab.layout().consul_address}/v1/health/checks/tortie",
            ],
        ).stdout
    )
    return {check["ServiceID"]: check["Status"] for check in checks}


@pytest.fixture(scope="module")
def lab(wait_until: Callable[..., None]) -> Iterator[Lab]:
    """Three hosts and a token for each, one that a host to come could share, one for the operator in the fabric."""
    lab = Lab(f"acl{os.getpid()}")
    try:
        lab.up(nodes=3, workloads=1, store="consul")
        state = lab.layout().state
        configuration = json.loads((state / "consul.json").read_text())
        configuration["acl"] = {
            "enabled": True,
            "default_policy": "deny",
            "tokens": {"master": _MASTER, "agent": _MASTER},
        }
        (state / "consul.json").write_text(json.dumps(configuration))
        lab.stop("consul")
        lab.start("consul")
        address = lab.layout().consul_address
        ask = ["curl", "-sS", "-o", os.devnull, "-w", "%{http_code}", "-H", f"X-Consul-Token: {_MASTER}"]
        ready = [*ask, f"{address}/v1/acl/policies"]
        wait_until(lambda: lab.run("fabric", ready).stdout == "200", "Consul has a leader and its lists are on")
        for name, whose, directory in (
            *((host, ("--node", host), state / host) for host in _HOSTS[:3]),
            ("h4", ("--agents",), state / "h4"),
            ("operator", ("--operator",), state),
            ("reader", ("--reader",), state / "reader"),
        ):
            rules = tortiectl(lab, "fabric", "consul-policy", *whose)
            consul(lab, "acl", "policy", "create", "-name", name, "-rules", "-", text=rules)
            made = json.loads(consul(lab, "acl", "token", "create", "-policy-name", name, "-format", "json"))
            directory.mkdir(exist_ok=True)
            (directory / "tortie.toml").write_text(f'consul_token = "{made["SecretID"]}"\n')
        for host in _HOSTS[:3]:
            lab.stop(f"{host}/agent")
            lab.start(f"{host}/agent")
        wait_until(lambda: all(_well(lab, host) for host in _HOSTS[:3]), "every agent is ready and has no problem")
        yield lab
    finally:
        lab.down()


def test_everything_works_and_consul_shows_it(lab: Lab, wait_until: Callable[..., None]) -> None:
    """Pools, workloads, a borrowed address, a drain and a check, each by whose part it is; all nodes are passing."""
    wait_until(lambda: health(lab) == {f"tortie-{host}": "passing" for host in _HOSTS[:3]}, "all nodes are passing")
    pool = lab.layout().state / "pool.yaml"
    pool.write_text(_POOL)
    tortiectl(lab, "fabric", "apply", "-f", str(pool))
    lab.add_workload("h1", ["10.99.0.1"])
    lab.add_workload("h2", ["10.99.0.2"])
    assert "10.99.0.2" in tortiectl(lab, "fabric", "ipam", "show", "--show-borrowed")
    wait_until(lambda: lab.ping().complete, "everybody reaches everybody")
    lab.remove_workload("h2w2")
    tortiectl(lab, "fabric", "node", "drain", "h3", "--grace-seconds=0", "--wait")
    assert not lab.ping().complete
    tortiectl(lab, "fabric", "node", "undrain", "h3")
    wait_until(lambda: lab.ping().complete, "everybody reaches everybody again")
    assert all(_well(lab, host) for host in _HOSTS[:3])


def test_a_reader_checks_and_changes_nothing(lab: Lab) -> None:
    """`ipam check` and `doctor` read every key there is; a change is refused with the way out."""
    settings = f"TORTIE_CONFIG={lab.layout().state / 'reader' / 'tortie.toml'}"
    for looking in (["ipam", "check"], ["doctor"], ["explain", "10.99.0.1"]):
        looked = lab.run("h1", ["env", settings, "tortiectl", *looking])
        assert looked.returncode == 0, looked.stdout + looked.stderr
    refused = lab.run("fabric", ["env", settings, "tortiectl", "node", "drain", "h1"])
    assert refused.returncode == 3
    assert "tortie/v1/cluster/drains/h1: Permission denied" in refused.stderr
    assert "tortiectl consul-policy" in refused.stderr


@pytest.mark.parametrize(
    "arguments",
    [("node", "drain", "h2"), ("node", "delete", "--force", "h2"), ("ipam", "configure", "--strict-affinity=true")],
    ids=" ".join,
)
def test_a_host_changes_nothing_of_the_cluster(lab: Lab, arguments: tuple[str, ...]) -> None:
    """With the token of a host, what is an operator's is refused."""
    refused = lab.run("h1", ["tortiectl", *arguments])
    assert refused.returncode == 3
    assert "Permission denied" in refused.stderr
    assert lab.ping().complete


def test_hosts_come_and_go(lab: Lab, wait_until: Callable[..., None]) -> None:
    """One begins with nothing but its token; another one is deleted by the operator, also from the catalog."""
    assert lab.add_node(workloads=1) == "h4"
    wait_until(lambda: health(lab).get("tortie-h4") == "passing", "the new node is passing")
    lab.remove_node("h3")
    wait_until(lambda: "tortie-h3" not in health(lab), "the node is gone from the catalog")
    wait_until(lambda: lab.ping().complete, "everybody reaches everybody")


def _well(lab: Lab, host: str) -> bool:
    done = lab.run(host, ["tortiectl", "node", "status", "-o", "json"])
    return done.returncode == 0 and json.loads(done.stdout)["problems"] == []
