"""What `tortiectl ipam check` prints, letter by letter, for IPv4 and for IPv6.

After an intended change, run with TORTIE_REWRITE_GOLDEN=1 to write the files anew, and read the difference.
"""

from __future__ import annotations

import asyncio
import os
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from controller.assignment.transaction import block_operations
from controller.cli.main import run
from controller.datamodel import keys
from controller.datamodel.endpoints import Endpoints, encode_endpoints
from controller.datamodel.records import Node, encode_node, encode_pool
from controller.ports import ABSENT, Delete, Put
from controller.store.opening import open_store
from ipam.block import Block, Holder
from ipam.pool import Pool

if TYPE_CHECKING:
    from collections.abc import Sequence

    from controller.ports import Operation
    from ipam.address import IPNetwork

FILES = Path(__file__).parent / "cli"
CLAIMED_AT, CREATED_AT, SEEN_AT = 1_700_000_000.0, 1_700_000_060.0, 1_700_100_000.0
#: By IP version: the pool, the blocks of h1 and h2, and one that nobody owns or uses.
RANGES = {
    4: (Pool("four", ip_network("10.65.0.0/16"), 26), "10.65.79.0/26", "10.65.80.0/26", "10.65.81.0/26"),
    6: (Pool("six", ip_network("fd00:65::/48"), 122), "fd00:65::40/122", "fd00:65::80/122", "fd00:65::c0/122"),
}


@pytest.fixture(params=[4, 6], ids=["ipv4", "ipv6"])
def version(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Give the commands a store of addresses of one IP version; return the version."""
    path = tmp_path / "store.db"
    monkeypatch.setenv("TORTIE_STORE", "sqlite")
    monkeypatch.setenv("TORTIE_SQLITE_PATH", str(path))
    found: int = request.param
    asyncio.run(_write(path, _cluster(found)))
    return found


def test_a_healthy_cluster(version: int, capsys: pytest.CaptureFixture[str]) -> None:
    """A count for each step, and the sentence that ends it."""
    assert run(["ipam", "check"]) == 0
    _compare(f"ipam-check-ipv{version}", capsys.readouterr().out)


def test_every_address(version: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Who holds each address, and where each is wired."""
    assert run(["ipam", "check", "--show-all-ips"]) == 0
    _compare(f"ipam-check-all-ipv{version}", capsys.readouterr().out)


def test_problems_and_their_repair(version: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is wrong, what is repaired, what is left; and the same for programs."""
    asyncio.run(_write(tmp_path / "store.db", _faults(version)))
    report = tmp_path / "report.json"
    assert run(["ipam", "check", "--show-problem-ips"]) == 1
    _compare(f"ipam-check-problems-ipv{version}", capsys.readouterr().out)
    assert run(["ipam", "check", "-o", str(report), "--fix", "--yes"]) == 1
    _compare(f"ipam-check-fix-ipv{version}", capsys.readouterr().out.replace(str(report), "report.json"))
    # The time of the check is the only thing that differs from run to run.
    told = [line for line in report.read_text().splitlines() if '"checkedAt"' not in line]
    _compare(f"ipam-check-report-ipv{version}", "\n".join(told) + "\n")


async def _write(path: Path, transactions: Sequence[Sequence[Operation]]) -> None:
    store = open_store(f"sqlite:{path}")
    for operations in transactions:
        await store.commit(operations)
    await store.close()


def _cluster(version: int) -> list[Sequence[Operation]]:
    pool, first, second, _ = RANGES[version]
    own, other = (
        Block.claimed(ip_network(cidr), node=node, at=CLAIMED_AT) for cidr, node in ((first, "h1"), (second, "h2"))
    )
    for number in range(3):
        own, _ = own.assign(_holder(number, "h1"))
    other, _ = other.assign(_holder(3, "h2"))
    nodes = (
        Node("h1", 64512, IPv4Address("192.0.2.1"), None),
        Node("h2", 64512, None, IPv6Address("2001:db8::2")),
    )
    return [
        [Put(keys.pool(pool.name), encode_pool(pool), ABSENT)],
        [Put(keys.node(node.name), encode_node(node), ABSENT) for node in nodes],
        block_operations(None, own, version=ABSENT, writer=None),
        block_operations(None, other, version=ABSENT, writer=None),
        [_endpoints(own, wired_count=3)],
    ]


def _faults(version: int) -> list[Sequence[Operation]]:
    """Return a leak, an address at another workload's link, a block of nobody, a ghost's block, a lost summary."""
    _, first, second, unused = RANGES[version]
    own = Block.claimed(ip_network(first), node="h1", at=CLAIMED_AT)
    ghosts = Block.claimed(_next(unused), node="ghost", at=CLAIMED_AT)
    nobodys = Block.claimed(ip_network(unused), node=None, at=CLAIMED_AT)
    return [
        [_endpoints(own, wired_count=2, more={"tor0000000000ff": str(ip_network(second)[0])})],
        block_operations(None, nobodys, version=ABSENT, writer=None),
        block_operations(None, ghosts, version=ABSENT, writer=None),
        [Delete(keys.usage(ip_network(second)), None)],
    ]


def _next(cidr: str) -> IPNetwork:
    network = ip_network(cidr)
    return type(network)((int(network.broadcast_address) + 1, network.prefixlen))


def _holder(number: int, node: str) -> Holder:
    return Holder(f"cni.tortie.{number}.eth0", node, f"web{number}", "shop", f"tor{number:012x}", CREATED_AT)


def _endpoints(own: Block, *, wired_count: int, more: dict[str, str] | None = None) -> Put:
    """Return what h1 tells: the first addresses of its block, each at its link, and others."""
    links = {f"tor{number:012x}": (own.cidr[number],) for number in range(wired_count)}
    extra = {link: (ip_address(text),) for link, text in (more or {}).items()}
    return Put(keys.endpoints("h1"), encode_endpoints(Endpoints("h1", SEEN_AT, {**links, **extra})), None)


def _compare(name: str, printed: str) -> None:
    path = FILES / f"{name}.txt"
    if os.environ.get("TORTIE_REWRITE_GOLDEN"):
        path.write_text(printed)
    assert printed == path.read_text()
