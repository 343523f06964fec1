"""What `tortiectl` prints, letter by letter: people and scripts read it.

After an intended change, run with TORTIE_REWRITE_GOLDEN=1 to write the files anew, and read the difference.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
from http.server import BaseHTTPRequestHandler
from ipaddress import IPv4Address, IPv6Address, ip_network
from pathlib import Path
from socketserver import UnixStreamServer
from typing import TYPE_CHECKING

import pytest

from controller.cli.main import run
from controller.datamodel import keys
from controller.datamodel.blocks import encode_block
from controller.datamodel.records import Node, encode_node, encode_pool
from controller.ports import ABSENT, Put
from controller.store.opening import open_store
from ipam.block import Block, Holder
from ipam.pool import AssignmentMode, Pool

if TYPE_CHECKING:
    from collections.abc import Iterator

FILES = Path(__file__).parent / "cli"
POOLS = (
    Pool("default", ip_network("10.65.0.0/16"), 26),
    Pool("reserve", ip_network("10.99.0.0/24"), 28, disabled=True, assignment=AssignmentMode.MANUAL),
    Pool("six", ip_network("fd00:65::/48"), 122, nat_outgoing=True, disable_bgp_export=True),
)
NODES = (
    Node("h1", 64512, IPv4Address("192.0.2.1"), IPv6Address("2001:db8::1")),
    Node("h2", 64513, IPv4Address("192.0.2.2"), None),
)
STATUS = {
    "node": "h1",
    "version": "1.2.3",
    "ready": True,
    "problems": [],
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
        ],
        "learned_count": 1,
        "rejected_counts": {},
    },
    "workloads": [],
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
    full = Block.claimed(ip_network("10.65.79.0/26"), node="h1", at=1_700_000_000.0)
    for number, node in enumerate(("h1", "h1", "h2", "h1", "h1")):
        full, _ = full.assign(
            Holder(f"cni.tortie.{number}.eth0", node, f"web{number}", "shop", "tor0", 1_700_000_060.0)
        )
    six = Block.claimed(ip_network("fd00:65::40/122"), node="h2", at=1_700_000_000.0)
    await store.commit([Put(keys.pool(pool.name), encode_pool(pool), ABSENT) for pool in POOLS])
    await store.commit([Put(keys.node(node.name), encode_node(node), ABSENT) for node in NODES])
    await store.commit([Put(keys.block(block.cidr), encode_block(block), ABSENT) for block in (full, six)])
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
        "ipam show",
        "ipam show --show-blocks",
        "ipam show -o json",
        "--help",
        "apply --help",
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


def test_node_status_for_programs_is_what_the_agent_said(agent_socket: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is lost or renamed."""
    run(["--agent-socket", agent_socket, "node", "status", "-o", "json"])
    assert json.loads(capsys.readouterr().out) == STATUS


def test_version_names_both_ends(agent_socket: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An operator sees when the two differ."""
    assert run(["--agent-socket", agent_socket, "version"]) == 0
    assert capsys.readouterr().out.endswith("agent:     1.2.3\n")


def _compare(command: str, printed: str) -> None:
    path = FILES / (command.replace("--", "").replace("/", "_").replace(" ", "-") + ".txt")
    if os.environ.get("TORTIE_REWRITE_GOLDEN"):
        path.write_text(printed)
    assert printed == path.read_text()
