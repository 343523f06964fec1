"""What cannot be had is refused in plain words, by the real programs, and nothing is left half-done."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from controller.lab.lab import Lab
from controller.lab.network import NAMESPACES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_POOL = "apiVersion: tortie/v1\nkind: Pool\nmetadata: {{name: {name}}}\nspec: {{cidr: {cidr}, blockSize: {size}}}\n"


@dataclass
class Answer:
    """What the plugin answered: its exit code and the JSON on its standard output."""

    code: int
    document: dict[str, Any] = field(default_factory=dict)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """One host with one workload."""
    lab = Lab(f"b{os.getpid()}")
    try:
        lab.up(nodes=1, workloads=1)
        yield lab
    finally:
        lab.down()


@pytest.fixture
def untouched(lab: Lab) -> Iterator[None]:
    """Whatever the test does, addresses, blocks, pools, links and routes are afterwards what they were before."""
    before = everything(lab)
    yield
    assert everything(lab) == before


def everything(lab: Lab) -> dict[str, str]:
    """Return what a host and the store hold, as text."""
    commands = {
        "blocks": ["tortiectl", "get", "blocks", "-o", "json"],
        "pools": ["tortiectl", "get", "pools", "-o", "json"],
        "usage": ["tortiectl", "ipam", "show", "--show-blocks"],
        "links": ["ip", "-o", "-br", "link"],
        "routes": ["ip", "route", "show", "table", "all", "proto", "116"],
    }
    return {name: lab.run("h1", command).stdout for name, command in commands.items()}


def apply(lab: Lab, directory: Path, *documents: str) -> subprocess.CompletedProcess[str]:
    """Apply documents with tortiectl."""
    file = directory / "pools.yaml"
    file.write_text("---\n".join(documents))
    return lab.run("h1", ["tortiectl", "apply", "-f", str(file)])


def configuration(lab: Lab, **ipam: object) -> dict[str, Any]:
    """Return the host's network configuration, with its `ipam` part changed by what is given."""
    found: dict[str, Any] = json.loads((lab.layout().state / "h1/cni/net.d/10-tortie.conf").read_text())
    return {**found, "ipam": {**found["ipam"], **ipam}}


def call(lab: Lab, command: str, *, namespace: str, text: str, container_id: str = "bad-input") -> Answer:
    """Call the plugin as a runtime does, with this text as its network configuration."""
    directory = lab.layout().state / "h1" / "cni"
    prefix, environment = lab.command("h1", [str(directory / "bin" / "tortie-cni")])
    done = subprocess.run(
        prefix,
        env={
            **environment,
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container_id,
            "CNI_NETNS": str(NAMESPACES / namespace),
            "CNI_IFNAME": "eth0",
            "CNI_PATH": str(directory / "bin"),
        },
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return Answer(done.returncode, json.loads(done.stdout) if done.stdout else {})


@contextlib.contextmanager
def bare_namespace(lab: Lab) -> Iterator[str]:
    """Give a namespace nobody has wired."""
    name = f"tortie-{lab.name}-x"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        yield name
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


@pytest.fixture
def container(lab: Lab) -> Iterator[str]:
    """Give a namespace nobody has wired."""
    with bare_namespace(lab) as name:
        yield name


@pytest.mark.usefixtures("untouched")
def test_overlapping_pools_are_refused_by_name(lab: Lab, tmp_path: Path) -> None:
    """The error names both pools; the other document of the file is not written either."""
    good = _POOL.format(name="apart", cidr="10.99.0.0/16", size=26)
    done = apply(lab, tmp_path, good, _POOL.format(name="second", cidr="10.244.128.0/17", size=26))
    assert done.returncode == 1
    assert "second" in done.stderr
    assert "10.244.128.0/17" in done.stderr
    assert "10.244.0.0/16" in done.stderr
    assert done.stdout == ""


@pytest.mark.usefixtures("untouched")
def test_host_bits_in_a_cidr_are_refused_with_the_right_cidr(lab: Lab, tmp_path: Path) -> None:
    """The error points at the file, the field and the value, and says what was probably meant."""
    done = apply(lab, tmp_path, _POOL.format(name="odd", cidr="10.99.0.1/16", size=26))
    assert done.returncode == 1
    assert "pools.yaml" in done.stderr
    assert "10.99.0.1/16" in done.stderr
    assert "10.99.0.0/16" in done.stderr


def test_a_full_pool_is_refused_and_says_so(lab: Lab, tmp_path: Path, container: str) -> None:
    """A pool of one address serves one container; the next is told which pool is full."""
    assert apply(lab, tmp_path, _POOL.format(name="single", cidr="10.99.0.0/32", size=32)).returncode == 0
    text = json.dumps(configuration(lab, ipv4_pools=["single"]))
    first = call(lab, "ADD", namespace=container, text=text)
    assert (first.code, first.document["ips"][0]["address"]) == (0, "10.99.0.0/32")
    before = everything(lab)
    second = call(lab, "ADD", namespace=container, text=text, container_id="another")
    assert second.code == 1
    assert second.document["code"] == 104
    assert "single" in second.document["msg"] + second.document.get("details", "")
    assert everything(lab) == before
    assert call(lab, "DEL", namespace=container, text=text).code == 0
    assert lab.run("h1", ["tortiectl", "delete", "pool", "single"]).returncode == 0


@pytest.mark.usefixtures("untouched")
def test_an_unknown_pool_is_refused_by_name(lab: Lab, container: str) -> None:
    """The runtime is told the name that does not exist."""
    answer = call(lab, "ADD", namespace=container, text=json.dumps(configuration(lab, ipv4_pools=["nowhere"])))
    assert (answer.code, answer.document["code"]) == (1, 101)
    assert "nowhere" in answer.document["msg"]


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda text: text + "}", 6),
        (lambda text: text.replace('"ipv4": true', '"ipv4": tru'), 6),
        (lambda text: text.replace('"name": "tortie"', '"name": 7'), 7),
        (lambda text: text.replace('"ipv4": true', '"ipv4": "yes"'), 7),
        (lambda text: text.replace('"1.0.0"', '"9.9.9"'), 1),
    ],
)
def test_a_malformed_configuration_is_refused_in_cni_s_own_json(
    lab: Lab, container: str, change: Callable[[str], str], code: int
) -> None:
    """The codes are the specification's: cannot be decoded, invalid, incompatible version."""
    answer = call(lab, "ADD", namespace=container, text=change(json.dumps(configuration(lab))))
    assert (answer.code, answer.document["code"]) == (1, code)
    assert answer.document["msg"]


@pytest.mark.usefixtures("untouched")
def test_a_namespace_that_is_gone_is_refused_for_add_and_fine_for_del(lab: Lab) -> None:
    """ADD names the path; DEL has nothing left to do."""
    text = json.dumps(configuration(lab))
    answer = call(lab, "ADD", namespace="tortie-never-was", text=text)
    assert answer.code == 1
    assert "tortie-never-was" in answer.document["msg"] + answer.document.get("details", "")
    assert call(lab, "DEL", namespace="tortie-never-was", text=text).code == 0


def test_a_store_that_is_down_means_try_again_later(new_lab: Callable[[], Lab], tmp_path: Path) -> None:
    """ADD and tortiectl say which store and why; nothing is wired; afterwards the same call works."""
    lab = new_lab()
    lab.up(nodes=1, workloads=1, store="consul")
    text = json.dumps(configuration(lab))
    links = lab.run("h1", ["ip", "-o", "-br", "link"]).stdout
    with bare_namespace(lab) as namespace:
        lab.stop("consul")
        answer = call(lab, "ADD", namespace=namespace, text=text)
        assert (answer.code, answer.document["code"]) == (1, 11)
        assert "consul" in (answer.document["msg"] + answer.document.get("details", "")).lower()
        assert lab.run("h1", ["ip", "-o", "-br", "link"]).stdout == links
        done = apply(lab, tmp_path, _POOL.format(name="late", cidr="10.99.0.0/16", size=26))
        assert done.returncode == 3
        assert "consul" in done.stderr.lower()
        lab.start("consul")
        deadline = time.monotonic() + 60
        while (answer := call(lab, "ADD", namespace=namespace, text=text)).code and time.monotonic() < deadline:
            time.sleep(0.2)
        assert answer.code == 0, answer.document


def test_a_node_is_not_given_up_while_its_store_is_down(
    new_lab: Callable[[], Lab], wait_until: Callable[..., None]
) -> None:
    """STATUS succeeds, since what exists goes on; an agent that begins without its store knows nothing, and says so."""
    lab = new_lab()
    lab.up(nodes=1, workloads=1, store="consul")
    text = json.dumps({**configuration(lab), "cniVersion": "1.1.0"})

    def status() -> Answer:
        return call(lab, "STATUS", namespace="none", text=text)

    assert status().code == 0
    lab.stop("consul")
    wait_until(lambda: not any(host.ready for host in lab.status().hosts), "the agent notices")
    assert status().code == 0
    lab.stop("h1/agent")
    lab.start("h1/agent")
    wait_until(lambda: "store is not reachable" in status().document["msg"], "the agent answers")
    assert status().document["code"] == 50
    lab.start("consul")
    wait_until(lambda: status().code == 0, "the agent has read the store")
