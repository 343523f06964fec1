"""What `tortiectl` prints, letter by letter: people and scripts read it.

After an intended change, run with TORTIE_REWRITE_GOLDEN=1 to write the files anew, and read the difference.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from http.server import BaseHTTPRequestHandler
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from socketserver import UnixStreamServer
from typing import TYPE_CHECKING

import pytest

from bgp.filter import Action, CidrMatch, Rule
from bgp.peering import Filter, PeerDefinition
from controller.assignment.transaction import block_operations
from controller.cli.main import run
from controller.datamodel import keys
from controller.datamodel.bgp_records import Drain, encode_drain, encode_filter, encode_peer
from controller.datamodel.endpoints import Endpoints, encode_endpoints
from controller.datamodel.records import (
    Node,
    encode_configuration,
    encode_node,
    encode_pool,
    encode_reservation,
)
from controller.ports import ABSENT, Put
from controller.store.opening import open_store
from ipam.block import Block, Holder, Rest
from ipam.configuration import IpamConfiguration
from ipam.pool import AssignmentMode, Pool
from ipam.reservation import Reservation

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

FILES = Path(__file__).parent / "cli"
POOLS = (
    Pool("default", ip_network("10.65.0.0/16"), 26),
    Pool("reserve", ip_network("10.99.0.0/24"), 28, disabled=True, assignment=AssignmentMode.MANUAL),
    Pool(
        "six",
        ip_network("fd00:65::/48"),
        122,
        nat_outgoing=True,
        disable_bgp_export=True,
        communities=((64512, 100), (64512, 7)),
    ),
)
RESERVATION = Reservation("gateways", (ip_network("10.65.79.60/30"), ip_network("fd00:65::7c/126")))
NODES = (
    Node("h1", 64512, IPv4Address("192.0.2.1"), IPv6Address("2001:db8::1"), {"zone": "a", "rack": "7"}),
    Node("h2", 64513, IPv4Address("192.0.2.2"), None, cluster_id="192.0.2.99"),
    Node("h3", 64512, IPv4Address("192.0.2.3"), None),
)
PEERS = (
    PeerDefinition("reflector", ip_address("192.0.2.250"), 64512),
    PeerDefinition(
        "tor-a",
        ip_address("2001:db8::fe"),
        4200000001,
        node_selector="rack == 'a'",
        password="not for tables",
        hold_time_seconds=9,
        restart_time_seconds=30,
        ttl_security_hops=1,
        local_as=64600,
        source_address=ip_address("2001:db8::1"),
        next_hop_self=False,
        passive=True,
        filters=("from-tor", "nothing"),
        max_prefixes=1000,
    ),
)
FILTERS = (
    Filter(
        "from-tor",
        imports=(
            Rule(Action.ACCEPT, ip_network("10.0.0.0/8"), min_length=20, max_length=28, community=(64512, 7)),
            Rule(Action.ACCEPT, ip_network("0.0.0.0/0"), CidrMatch.EQUAL),
            Rule(Action.REJECT),
        ),
        exports=(Rule(Action.REJECT, version=6),),
    ),
    Filter("nothing"),
)


def _block(cidr: str, owner: str | None, holding_nodes: Sequence[str]) -> Block:
    """Return a block that a node owns; its first addresses are held by workloads of these nodes."""
    block = Block.claimed(ip_network(cidr), node=owner, at=1_700_000_000.0)
    for number, node in enumerate(holding_nodes):
        block, _ = block.assign(
            Holder(f"cni.tortie.{number}.eth0", node, f"web{number}", "shop", "tor0", 1_700_000_060.0)
        )
    return block


#: In the first two h2 and h1 borrow from each other, and the last address rests until 2100; nobody owns the third.
BLOCKS = (
    _block("10.65.79.0/26", "h1", ("h1", "h1", "h2", "h1", "h1", "h1")).release((5,), {5: Rest(4_102_444_800.0)}),
    _block("fd00:65::40/122", "h2", ("h2", "h1", "h2")).release((2,), {2: Rest(4_102_444_800.0, "shop/web2")}),
    _block("10.65.80.0/26", None, ("h2",)),
)
#: Of each IP version: in use, borrowed (of nobody too), resting, reserved, not assigned, without a block or a pool.
ADDRESSES = (
    *("10.65.79.1", "10.65.79.2", "10.65.80.0", "10.65.79.5", "10.65.79.61", "10.65.79.9", "10.65.200.1", "10.1.1.1"),
    *("fd00:65::40", "fd00:65::41", "fd00:65::42", "fd00:65::7d", "fd00:65::50", "fd00:65::200:1", "fd01::1"),
)
STATUS = {
    "node": "h1",
    "version": "1.2.3",
    "ready": True,
    "problems": ["bgppeer tor-b has no session: the node has no IPv6 address"],
    "addresses": ["192.0.2.1"],
    "store": {"kind": "sqlite", "connected": True, "reason": ""},
    "routes": {"in_sync": True, "count": 7, "failures": []},
    "bgp": {
        "connected": True,
        "peers": [
            {
                "address": "192.0.2.2",
                "name": "h2",
                "origin": "node-to-node mesh",
                "state": "established",
                "since": 0,
                "info": "",
            },
            {
                "address": "2001:db8::9",
                "name": "",
                "origin": "global",
                "state": "connecting",
                "since": 0,
                "info": "refused",
            },
            {
                "address": "192.0.2.254",
                "name": "tor-a",
                "origin": "node specific",
                "state": "established",
                "since": 0,
                "info": "",
            },
        ],
        "learned_count": 1,
        "rejected_counts": {"as_loop": 7, "filtered": 2},
        "rejected": [
            {
                "peer": "192.0.2.2",
                "reason": "as_loop",
                "count": 7,
                "examples": ["10.0.0.0/26", "10.0.0.64/26", "10.0.0.128/26", "10.0.0.192/26", "10.0.1.0/26"],
            },
            {"peer": "2001:db8::9", "reason": "filtered", "count": 2, "examples": ["fd00::/122", "fd00::40/122"]},
        ],
        "problems": [{"name": "tor-b", "reason": "the node has no IPv6 address"}],
    },
    "workloads": [],
    "drain": "draining",
}


@pytest.fixture(autouse=True)
def filled_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the commands a store with pools, nodes and blocks of known content."""
    path = tmp_path / "store.db"
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TORTIE_STORE", "sqlite")
    monkeypatch.setenv("TORTIE_SQLITE_PATH", str(path))
    asyncio.run(_fill(path))


async def _fill(path: Path) -> None:
    store = open_store(f"sqlite:{path}")
    await store.commit([Put(keys.pool(pool.name), encode_pool(pool), ABSENT) for pool in POOLS])
    await store.commit([Put(keys.node(node.name), encode_node(node), ABSENT) for node in NODES])
    await store.commit(
        [
            Put(keys.reservation(RESERVATION.name), encode_reservation(RESERVATION), ABSENT),
            Put(keys.IPAM_CONFIGURATION, encode_configuration(IpamConfiguration(cooldown_seconds=30)), ABSENT),
            Put(keys.endpoints("h1"), encode_endpoints(Endpoints("h1", time.time())), ABSENT),
            Put(keys.drain("h2"), encode_drain(Drain("h2", 0.0, 10.0)), ABSENT),
            *(Put(keys.peer(peer.name), encode_peer(peer), ABSENT) for peer in PEERS),
            *(Put(keys.filter_rules(rules.name), encode_filter(rules), ABSENT) for rules in FILTERS),
        ]
    )
    for block in BLOCKS:
        await store.commit(block_operations(None, block, version=ABSENT, writer=None))
    await store.close()


class Answer(BaseHTTPRequestHandler):
    """An agent that says the same to everybody."""

    def do_GET(self) -> None:
        """Answer with the status."""
        body = json.dumps(STATUS).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class's signature
        """Say nothing."""


@pytest.fixture
def agent_socket(tmp_path: Path) -> Iterator[str]:
    """Run an agent of known state and return its socket."""
    path = str(tmp_path / "agent.sock")
    with UnixStreamServer(path, Answer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield path
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    "command",
    [
        "get nodes",
        "get nodes -o yaml",
        "get pools",
        "get pools -o wide",
        "get pools -o yaml",
        "get pools reserve -o json",
        "get blocks",
        "get blocks -o wide",
        "get blocks 10.65.79.0/26 -o yaml",
        "get nodes -o wide",
        "get reservations",
        "get reservations gateways -o yaml",
        "get ipamconfiguration",
        "get ipamconfiguration -o yaml",
        "get bgppeers",
        "get bgppeers -o wide",
        "get bgppeers tor-a -o yaml",
        "get bgpfilters",
        "get bgpfilters -o wide",
        "get bgpfilters from-tor -o yaml",
        "get bgpconfiguration",
        "get bgpconfiguration -o yaml",
        "get all",
        "get all -o name",
        "get all -o yaml",
        "get pool/default bgppeer/reflector node/h1",
        "get blocks -o name",
        "ipam show",
        "ipam show --show-blocks",
        "ipam show -o json",
        "ipam show --show-blocks -o yaml",
        "ipam show --show-borrowed",
        "ipam show --show-borrowed -o json",
        "ipam show --show-configuration",
        "ipam show --show-configuration -o json",
        *(f"ipam show --ip={address}{form}" for address in ADDRESSES for form in ("", " -o json")),
        "ipam show --help",
        "--help",
        "get --help",
        "apply --help",
        "patch --help",
        "edit --help",
        "delete --help",
        "validate --help",
        "schema --help",
        "completion --help",
        "node drain --help",
        "node diags --help",
    ],
)
def test_output_is_as_agreed(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each table and document looks as its golden file says."""
    assert run(command.split()) == 0
    _compare(command, capsys.readouterr().out)


def test_node_status_is_as_agreed(agent_socket: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One table for each IP version; a session that is not established makes the exit code 1."""
    assert run(["--agent-socket", agent_socket, "node", "status"]) == 1
    _compare("node status", capsys.readouterr().out)


def test_a_peer_without_a_session_is_no_success(agent_socket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Although each session that there is may be established."""
    bgp = STATUS["bgp"]
    assert isinstance(bgp, dict)
    monkeypatch.setitem(bgp, "peers", bgp["peers"][:1])
    assert run(["--agent-socket", agent_socket, "node", "status"]) == 1
    monkeypatch.setitem(bgp, "problems", [])
    assert run(["--agent-socket", agent_socket, "node", "status"]) == 0


def test_refused_routes_are_as_agreed(agent_socket: str, capsys: pytest.CaptureFixture[str]) -> None:
    """By peer and rule, with the first prefixes; that there are any is no error."""
    assert run(["--agent-socket", agent_socket, "node", "status", "--rejected"]) == 0
    _compare("node status --rejected", capsys.readouterr().out)
    assert run(["--agent-socket", agent_socket, "node", "status", "--rejected", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)[1]["reason"] == "filtered"


def test_node_status_for_programs_is_what_the_agent_said(agent_socket: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is lost or renamed."""
    run(["--agent-socket", agent_socket, "node", "status", "-o", "json"])
    assert json.loads(capsys.readouterr().out) == STATUS


def test_version_names_both_ends(agent_socket: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An operator sees when the two differ."""
    assert run(["--agent-socket", agent_socket, "version"]) == 0
    assert capsys.readouterr().out.endswith("agent:     1.2.3\n")


def _compare(command: str, printed: str) -> None:
    path = FILES / (command.replace("--", "").replace("/", "_").replace(":", "_").replace(" ", "-") + ".txt")
    if os.environ.get("TORTIE_REWRITE_GOLDEN"):
        path.write_text(printed)
    assert printed == path.read_text()
