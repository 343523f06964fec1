"""`tortiectl doctor` and `explain` on three hosts: silent while all is well, and each planted fault by its name.

Every fault is real. Routes that the agent would put right within milliseconds are broken beneath an agent that leaves
the kernel alone, so that what it reports is what is there.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from controller.lab.lab import Lab

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FAULTS = Path(__file__).parent / "doctor_faults.py"
LEAKED_ORDINAL = 50


class Finding(NamedTuple):
    """What identifies a finding."""

    kind: str
    node: str | None
    subject: str


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Three dual-stack hosts on Consul, from which a single one can be cut off."""
    lab = Lab(f"dr{os.getpid()}")
    try:
        lab.up(nodes=3, workloads=1, store="consul", dual_stack=True)
        yield lab
    finally:
        lab.down()


class Doctor:
    """Runs the commands on the second host."""

    def __init__(self, lab: Lab, wait_until: Callable[..., None]) -> None:
        self.lab = lab
        self._wait_until = wait_until

    def run(self, *words: str, host: str = "h2", code: int = 0) -> str:
        """Return what a command printed that ends with this code."""
        done = self.lab.run(host, words)
        assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def apply(self, *documents: dict[str, Any]) -> None:
        """Apply resources."""
        command, environment = self.lab.command("h2", ["tortiectl", "apply", "-f", "-"])
        text = "\n---\n".join(map(json.dumps, documents))
        done = subprocess.run(command, env=environment, input=text, text=True, check=False, capture_output=True)
        assert done.returncode == 0, done.stdout + done.stderr

    def fault(self, *words: str) -> None:
        """Have the program of faults do something."""
        self.run(sys.executable, str(FAULTS), *words)

    def findings(self) -> tuple[int, set[Finding]]:
        """Return the exit code and what is found."""
        done = self.lab.run("h2", ["tortiectl", "doctor", "--settle-seconds", "0.2", "-o", "json"])
        assert done.returncode in (0, 1), done.stderr
        document = json.loads(done.stdout)
        for each in document["findings"]:
            assert each["problem"], each
        return done.returncode, {Finding(each["kind"], each["node"], each["subject"]) for each in document["findings"]}

    def finds(self, *expected: Finding) -> None:
        """Wait until exactly these are found, exit code 1; without any, until all is well, exit code 0."""
        seen: list[tuple[int, set[Finding]]] = []

        def found() -> bool:
            seen.append(self.findings())
            return seen[-1] == (1 if expected else 0, set(expected))

        try:
            self._wait_until(found, "the findings", seconds=60.0)
        except pytest.fail.Exception:
            pytest.fail(f"expected {expected}, found {seen[-1]}")

    def explains(self, what: str, kind: str, node: str | None) -> None:
        """Assert that the first broken link of a chain is this one, exit code 1."""
        text = self.run("tortiectl", "explain", what, "--settle-seconds", "0.2", "-o", "json", code=1)
        first = json.loads(text)["findings"][0]
        assert (first["kind"], first["node"]) == (kind, node), text


@pytest.fixture
def doctor(lab: Lab, wait_until: Callable[..., None]) -> Iterator[Doctor]:
    """Run on a lab that is well again afterwards."""
    doctor = Doctor(lab, wait_until)
    yield doctor
    doctor.finds()


def address_of(lab: Lab, host: str) -> str:
    """Return the IPv4 address of a host's workload."""
    [found] = [each.addresses[0] for each in lab.status().workloads if each.name == f"{host}w1"]
    return found


def block_of(lab: Lab, host: str) -> str:
    """Return the IPv4 block that a host owns."""
    return str(ipaddress.ip_network(f"{address_of(lab, host)}/26", strict=False))


@contextlib.contextmanager
def handless_agent(doctor: Doctor, host: str) -> Iterator[None]:
    """Have an agent on a host that does everything but write routes; afterwards the real one is back."""
    doctor.lab.stop(f"{host}/agent")
    command, environment = doctor.lab.command(host, [sys.executable, str(FAULTS), "handless-agent"])
    environment |= {"TORTIE_BGP_SOCKET": str(doctor.lab.layout().state / host / "run" / "bgp.sock")}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(timeout=20)
        doctor.lab.start(f"{host}/agent")


def test_a_healthy_lab_has_no_findings(lab: Lab, doctor: Doctor) -> None:
    """People are told so, and an address, a block, a pool and a node are explained without a broken link."""
    doctor.finds()
    assert doctor.run("tortiectl", "doctor") == "no problems found on 3 nodes\n"
    for what in (address_of(lab, "h1"), block_of(lab, "h1"), "10.244.0.0/16", "h1"):
        assert "No link is broken." in doctor.run("tortiectl", "explain", what)
    text = doctor.run("tortiectl", "explain", address_of(lab, "h1"))
    for part in ("h1w1 on h1", f"{block_of(lab, 'h1')} by h1: it owns the block", "via 192.0.2.1 dev eth0"):
        assert part in text


#: Prints the HTTP status of an address, without a proxy that this machine may have for its own.
STATUS = """
import sys, urllib.error, urllib.request
try:
    print(urllib.request.build_opener(urllib.request.ProxyHandler({})).open(sys.argv[1], timeout=5).status)
except urllib.error.HTTPError as error:
    print(error.code)
"""


def test_workloads_are_told_nothing(doctor: Doctor) -> None:
    """What a node reports is for nodes alone."""
    for place, status in (("h1", "200"), ("h2", "200"), ("h1w1", "403"), ("h2w1", "403")):
        url = "http://192.0.2.1:9091/v1/report"
        assert doctor.run(sys.executable, "-I", "-S", "-c", STATUS, url, host=place).strip() == status, place


def test_routes_that_differ_in_the_kernel(lab: Lab, doctor: Doctor) -> None:
    """A route removed, a wrong next hop, and a blackhole missing, on a node whose agent leaves them so."""
    address, block, own = address_of(lab, "h1"), block_of(lab, "h1"), block_of(lab, "h3")
    ours = ("proto", "116", "metric", "1024")
    with handless_agent(doctor, "h3"):
        doctor.finds()
        doctor.run("ip", "route", "del", block, *ours, host="h3")
        doctor.finds(Finding("route-missing", "h3", block))
        doctor.explains(address, "route-missing", "h3")
        doctor.run("ip", "route", "add", block, "via", "192.0.2.2", *ours, host="h3")
        doctor.finds(Finding("wrong-next-hop", "h3", block))
        doctor.explains(address, "wrong-next-hop", "h3")
        doctor.run("ip", "route", "replace", block, "via", "192.0.2.1", *ours, host="h3")
        doctor.run("ip", "route", "del", "blackhole", own, *ours, host="h3")
        doctor.finds(Finding("blackhole-missing", "h3", own))
        doctor.explains(own, "blackhole-missing", "h3")


def test_a_link_that_is_down(lab: Lab, doctor: Doctor) -> None:
    """Both addresses of the workload behind it; a row of missing routes is not told beside it."""
    workload = lab.add_workload("h1")
    address = workload.addresses[0]
    doctor.finds()
    [route] = doctor.run("ip", "route", "show", address, host="h1").splitlines()
    doctor.run("ip", "link", "set", route.split()[2], "down", host="h1")
    try:
        doctor.finds(*(Finding("link-down", "h1", each) for each in workload.addresses))
        doctor.explains(address, "link-down", "h1")
    finally:
        lab.remove_workload(workload.name)


def peer(**fields: object) -> dict[str, Any]:
    """Return the second host as a peer that the first one has by definition, not by the mesh."""
    spec = {"node": "h1", "peerAddress": "192.0.2.2", "peerAS": 64512, **fields}
    return {"apiVersion": "tortie/v1", "kind": "BGPPeer", "metadata": {"name": "planted"}, "spec": spec}


def test_a_session_that_is_down(lab: Lab, doctor: Doctor) -> None:
    """One end has a password: both ends tell the same, and the routes between them are not told beside it."""
    doctor.apply(peer(password="wrong"))
    try:
        doctor.finds(Finding("session-down", "h1", "h1 - h2"))
        doctor.explains(address_of(lab, "h2"), "session-down", "h1")
    finally:
        doctor.run("tortiectl", "delete", "bgppeer", "planted")


def test_diagnostics_of_a_host(lab: Lab, doctor: Doctor, tmp_path: Path) -> None:
    """All that a real host says of itself is in one archive, and not the password of a peer that is not there."""
    doctor.apply(peer(peerAddress="192.0.2.99", password="of-nobody-else"))
    path = tmp_path / "h1.tar.gz"
    try:
        doctor.finds(Finding("session-down", "h1", "192.0.2.99"))
        doctor.run("tortiectl", "node", "diags", "--output", str(path), host="h1")
    finally:
        doctor.run("tortiectl", "delete", "bgppeer", "planted")
    with tarfile.open(path) as archive:
        archive.extractall(tmp_path, filter="data")
    found = {each.name: each.read_text() for each in tmp_path.glob("*/*")}
    assert not [name for name, text in found.items() if "of-nobody-else" in text]
    assert "192.0.2.99" in found["agent-status.json"]
    assert block_of(lab, "h2") in json.dumps(json.loads(found["agent-report.json"])["kernel"])
    assert f"{block_of(lab, 'h2')} via 192.0.2.2" in found["routes-ipv4.txt"].replace("unicast ", "")
    assert "tortie_" in found["agent-metrics.txt"]
    assert "consul answered" in found["store.txt"]
    assert "net/ipv4/ip_forward = 1\n" in found["sysctls.txt"]


def test_a_filter_that_rejects(lab: Lab, doctor: Doctor) -> None:
    """Each prefix of the peer, by the rule."""
    reject = {"action": "Reject", "cidr": block_of(lab, "h2")}
    rules = {"apiVersion": "tortie/v1", "kind": "BGPFilter", "metadata": {"name": "no"}, "spec": {"imports": [reject]}}
    doctor.apply(rules)
    doctor.apply(peer(filters=["no"]))
    try:
        doctor.finds(Finding("route-rejected", "h1", block_of(lab, "h2")))
        doctor.explains(address_of(lab, "h2"), "route-rejected", "h1")
    finally:
        doctor.run("tortiectl", "delete", "bgppeer", "planted")
        doctor.run("tortiectl", "delete", "bgpfilter", "no")


def test_a_block_without_affinity(lab: Lab, doctor: Doctor) -> None:
    """It is told, also of each address in it, and what these need instead is all there."""
    block, address = block_of(lab, "h2"), address_of(lab, "h2")
    doctor.fault("disown", block)
    try:
        doctor.finds(Finding("block-without-affinity", None, block))
        for what in (block, address):
            doctor.explains(what, "block-without-affinity", None)
        text = doctor.run("tortiectl", "explain", address, code=1)
        assert "it holds the address out of a block that no node owns" in text
    finally:
        doctor.fault("own", block, "h2")


def test_a_leaked_address(lab: Lab, doctor: Doctor) -> None:
    """Assigned long ago to a workload whose link is not there."""
    block = block_of(lab, "h1")
    doctor.fault("leak", block, "h1", "torgone")
    address = str(ipaddress.ip_network(block)[LEAKED_ORDINAL])
    try:
        doctor.finds(Finding("leaked-address", "h1", address))
        doctor.explains(address, "leaked-address", "h1")
    finally:
        doctor.fault("release", block)


def test_an_agent_cut_off_from_the_store(lab: Lab, doctor: Doctor) -> None:
    """It answers, and goes by what it knew; that is told of all that is on its host."""
    chain = "chain out { type filter hook output priority 0; tcp dport 8500 reject with tcp reset; };"
    doctor.run("nft", f"table inet planted {{ {chain} }}", host="h1")
    # Where the kernel can end connections, the agent need not wait until one of its own accord is used again.
    doctor.run("ss", "-K", "-tn", "dport = :8500", host="h1")
    try:
        doctor.finds(Finding("store-stale", "h1", "consul"))
        for what in ("h1", address_of(lab, "h1"), block_of(lab, "h1")):
            doctor.explains(what, "store-stale", "h1")
    finally:
        doctor.run("nft", "delete table inet planted", host="h1")


@pytest.mark.parametrize("metric", ["50", "1024"])
def test_a_foreign_route_in_the_way(lab: Lab, doctor: Doctor, metric: str) -> None:
    """It comes before ours, or takes the very place of ours."""
    block = block_of(lab, "h2")
    foreign = (block, "via", "192.0.2.1", "metric", metric)
    if metric == "1024":
        doctor.run("ip", "route", "replace", *foreign, host="h3")
    else:
        doctor.run("ip", "route", "add", *foreign, host="h3")
    try:
        doctor.finds(Finding("foreign-route", "h3", block))
        doctor.explains(address_of(lab, "h2"), "foreign-route", "h3")
    finally:
        doctor.run("ip", "route", "del", *foreign, host="h3")


def test_a_node_that_does_not_answer(lab: Lab, doctor: Doctor) -> None:
    """It is a finding of its own, and holds up nothing."""
    lab.stop("h3/agent")
    try:
        doctor.finds(Finding("node-silent", "h3", "h3"))
        doctor.explains("h3", "node-silent", "h3")
    finally:
        lab.start("h3/agent")
