"""Consul with its access control lists on, all forbidden that no policy allows: each token does its part and no more.

Policies and tokens are made as `tortiectl consul-policy --help` shows it.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import shlex
import subprocess
import sys
import time
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from controller.agent.complaints import Complaints
from controller.agent.publishing import EndpointPublisher
from controller.agent.registration import Registration, register
from controller.assignment.assigner import Assigner
from controller.assignment.knowledge import rules_of
from controller.assignment.node_deletion import delete_node
from controller.datamodel import keys
from controller.datamodel.blocks import decode_block
from controller.datamodel.records import Node, encode_pool
from controller.errors import StoreDenied
from controller.ports import ABSENT, Delete, Put, Snapshot
from controller.store.consul import ConsulStore
from controller.store.consul_access import ConsulAccess
from controller.store.consul_catalog import ConsulCatalog, Health, Instance
from controller.store.loss_guard import LossGuard
from ipam.pool import Pool
from ipam.request import AssignRequest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from ipam.block import Block
    from tests.contract.conftest import Dns

_MASTER = "1f0e2a64-0c3e-4bd0-9a3f-8a2d5f0b7c11"
_POOL = Pool("small", ipaddress.ip_network("10.65.0.0/31"), 31)
_NODES = {name: Node(name, 64512, IPv4Address(f"192.0.2.{name[1:]}"), None) for name in ("n1", "n2")}
#: What tells of n2 alone, and what operators set.
_OF_ANOTHER = (keys.node("n2"), keys.endpoints("n2"), keys.fence("n2"))
_OF_OPERATORS = (
    keys.CLUSTER_ANCHOR,
    keys.pool("small"),
    keys.POOLS_REVISION,
    keys.reservation("any"),
    keys.IPAM_CONFIGURATION,
    keys.BGP_CONFIGURATION,
    keys.peer("any"),
    keys.PEERS_REVISION,
    keys.filter_rules("any"),
    keys.drain("n1"),
    keys.drain("n2"),
    keys.node("n11"),
    keys.endpoints("n11"),
    keys.ROOT + "anything",
    "anything",
)


class Part:
    """What one token opens."""

    def __init__(self, address: str, token: str | None) -> None:
        self.token = token
        access = ConsulAccess(address=address, token=token)
        self.store = ConsulStore(access)
        self.catalog = ConsulCatalog(access)

    async def writes(self, key: str) -> bool:
        """Return whether the token may write and delete a key."""
        allowed = set()
        for operation in (Put(key, b"{}", None), Delete(key, None)):
            try:
                await self.store.commit([operation])
                allowed.add(True)
            except StoreDenied:
                allowed.add(False)
        (one,) = allowed
        return one

    async def reads(self, key: str) -> bool:
        """Return whether the token shows a key that is there, by itself or in the list of all."""
        found: set[str] = set()
        for read in (self.store.get([key]), self.store.list(keys.ROOT)):
            with suppress(StoreDenied):
                found |= (await read).keys()
        return key in found

    async def close(self) -> None:
        """Close all connections."""
        await self.store.close()
        await self.catalog.close()


@pytest.fixture
async def opened(
    make_consul: Callable[[dict[str, Any]], Any], consul_program: str, dns: Dns
) -> AsyncIterator[Callable[[str | None], Part]]:
    """Start a server, make all policies and tokens, and open what a token of that name opens; None is no token."""
    acl = {"enabled": True, "default_policy": "deny", "enable_key_list_policy": True}
    server = make_consul({"acl": {**acl, "tokens": {"master": _MASTER, "agent": _MASTER}}, "ports": {"dns": dns.port}})
    await asyncio.to_thread(server.start)
    tokens: dict[str | None, str | None] = {None: None, "master": _MASTER}
    for name in ("node n1", "node n2", "agents", "operator", "reader", "dns"):
        token = await asyncio.to_thread(_token, server.address, consul_program, name.replace(" ", "-"), f"--{name}")
        tokens[name.removeprefix("node ")] = token
    async with AsyncExitStack() as stack:

        def make(token: str | None) -> Part:
            part = Part(server.address, tokens[token])
            stack.push_async_callback(part.close)
            return part

        yield make


@pytest.mark.parametrize("shared", [None, "agents"])
async def test_nodes_do_all_their_work(shared: str | None, opened: Callable[[str | None], Part]) -> None:
    """Register, claim, borrow, release, take an empty block of another, publish, show up: by own tokens or one."""
    parts = {name: opened(shared or name) for name in _NODES}
    operator = opened("operator")
    await operator.store.commit([Put(keys.pool("small"), encode_pool(_POOL), ABSENT)])
    for name, part in parts.items():
        assert await register(LossGuard(part.store), _NODES[name])
        await EndpointPublisher(
            node=name, store=part.store, read=dict, clock=time.time, complaints=Complaints()
        ).iterate()
        await part.catalog.register(Instance("tortie", name, f"192.0.2.{name[1:]}", 9091), Health.PASSING)
    async with _assigning(parts["n1"], "n1", ahead=0) as one, _assigning(parts["n2"], "n2", ahead=1000) as two:
        await one.assign(_request("first"))
        await two.assign(_request("second"))
        (block,) = await _blocks(operator)
        assert (block.affinity, set(block.holding_nodes())) == ("n1", {"n1", "n2"})
        await two.release("second")
        await one.release("first")
        await two.assign(_request("third"))
        (block,) = await _blocks(operator)
        assert (block.affinity, set(block.holding_nodes())) == ("n2", {"n2"})
    shares = await operator.store.list(keys.SHARES)
    assert set(shares) == {keys.share_anchor("n1"), keys.share_anchor("n2"), keys.owned("n2", block.cidr)}


async def test_a_node_writes_nothing_of_another_node_and_nothing_of_the_operators(
    opened: Callable[[str | None], Part],
) -> None:
    """Each is refused by Consul, one by one; its own it writes."""
    one = opened("n1")
    refused = {key: not await one.writes(key) for key in (*_OF_ANOTHER, *_OF_OPERATORS)}
    assert refused == dict.fromkeys(refused, True)
    for key in (
        keys.node("n1"),
        keys.endpoints("n1"),
        keys.fence("n1"),
        keys.share_anchor("n1"),
        keys.block(_POOL.cidr),
    ):
        assert await one.writes(key), key
    with pytest.raises(StoreDenied, match="fences/n2"):
        await delete_node(one.store, "n2")
    with pytest.raises(StoreDenied):
        await one.store.list(keys.ENDPOINTS)
    with pytest.raises(StoreDenied):
        await one.catalog.register(Instance("other", "n1", "192.0.2.1", 0), Health.PASSING)


async def test_nodes_that_share_a_token_write_nothing_of_the_operators(opened: Callable[[str | None], Part]) -> None:
    """Each node's own they write, whoever it is, and read what operators set."""
    agents = opened("agents")
    own = {key for key in _OF_OPERATORS if key in {keys.node("n11"), keys.endpoints("n11")}}
    writable = {key for key in (*_OF_ANOTHER, *_OF_OPERATORS) if await agents.writes(key)}
    assert writable == {*_OF_ANOTHER, *own}
    await opened("operator").store.commit([Put(keys.pool("small"), encode_pool(_POOL), ABSENT)])
    assert keys.pool("small") in await agents.store.list(keys.CLUSTER)
    with pytest.raises(StoreDenied):
        await agents.store.list(keys.ROOT)


async def test_a_reader_sees_everything_and_changes_nothing(opened: Callable[[str | None], Part]) -> None:
    """Keys of every kind and the catalog."""
    one, reader, operator = opened("n1"), opened("reader"), opened("operator")
    await register(one.store, _NODES["n1"])
    everything = await operator.store.list(keys.ROOT)
    assert await reader.store.list(keys.ROOT) == everything != {}
    writable = [key for key in (*everything, *_OF_ANOTHER, *_OF_OPERATORS) if await reader.writes(key)]
    assert writable == []
    with pytest.raises(StoreDenied):
        await reader.catalog.register(Instance("tortie", "n1", "192.0.2.1", 0), Health.PASSING)


async def test_an_operator_sets_everything_and_deletes_nodes(opened: Callable[[str | None], Part]) -> None:
    """The node's keys are gone, and so is it in the catalog; what is not of this program stays out of reach."""
    one, operator = opened("n1"), opened("operator")
    await operator.store.commit([Put(keys.pool("small"), encode_pool(_POOL), ABSENT)])
    await register(one.store, _NODES["n1"])
    await one.catalog.register(Instance("tortie", "n1", "192.0.2.1", 9091), Health.PASSING)
    async with _assigning(one, "n1", ahead=0) as assigner:
        await assigner.assign(_request("first"))
    assert await delete_node(operator.store, "n1")
    async with asyncio.timeout(30):
        while not await operator.catalog.remove("tortie", "n1"):  # noqa: ASYNC110  the catalog learns of it a bit later
            await asyncio.sleep(0.05)
    assert not await operator.catalog.remove("tortie", "n1")
    assert set(await operator.store.list(keys.ROOT)) == {keys.pool("small")}
    assert not await operator.writes("anything")


async def test_dns_is_answered_by_a_token_that_opens_no_key(opened: Callable[[str | None], Part], dns: Dns) -> None:
    """The Consul agent answers with it whoever has none, so nobody may read a password by it; a reader may."""
    secret = keys.peer("router")
    await opened("operator").store.commit([Put(secret, b"{}", ABSENT)])
    await opened("n1").catalog.register(Instance("tortie", "n1", "192.0.2.1", 9091), Health.PASSING)
    given, anybody, master = opened("dns"), opened(None), opened("master")
    await master.catalog._client.put("/v1/agent/token/default", [], json.dumps({"Token": given.token}))
    async with asyncio.timeout(30):
        # The catalog learns of the instance a bit later, and nothing tells of it.
        while await asyncio.to_thread(dns.resolved, "tortie.service.consul") != {"192.0.2.1"}:  # noqa: ASYNC110  as above
            await asyncio.sleep(0.05)
    assert await opened("reader").reads(secret)
    for part in (given, anybody):
        assert not await part.reads(secret)
        assert not await part.writes(secret)
        with pytest.raises(StoreDenied):
            await part.catalog.register(Instance("tortie", "n1", "192.0.2.1", 0), Health.PASSING)


@pytest.mark.parametrize("token", [None, "n2"])
async def test_a_node_with_another_token_says_what_to_give_it(
    opened: Callable[[str | None], Part], token: str | None
) -> None:
    """Its status names the key or the request, and the command that shows the policy."""
    complaints = Complaints()
    registration = asyncio.create_task(Registration(opened(token).store, _NODES["n1"], complaints).run())
    try:
        async with asyncio.timeout(30):
            while not complaints.sentences:  # noqa: ASYNC110  nothing tells of a complaint
                await asyncio.sleep(0.05)
    finally:
        registration.cancel()
    (sentence,) = complaints.sentences
    assert "Permission denied" in sentence
    assert "`tortiectl consul-policy --help`" in sentence


def _token(address: str, consul: str, name: str, whose: str) -> str:
    """Make a policy and a token with it, and return the token's SecretID."""
    environment = {**os.environ, "CONSUL_HTTP_ADDR": address, "CONSUL_HTTP_TOKEN": _MASTER}
    tortiectl = shlex.quote(str(Path(sys.executable).parent / "tortiectl"))
    policy = f"{tortiectl} consul-policy {whose} | {shlex.quote(consul)} acl policy create -name tortie-{name} -rules -"
    for command in (
        ["bash", "-o", "pipefail", "-c", policy],
        [consul, "acl", "token", "create", "-description", name, "-policy-name", f"tortie-{name}", "-format", "json"],
    ):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
    token: str = json.loads(done.stdout)["SecretID"]
    return token


@asynccontextmanager
async def _assigning(part: Part, node: str, *, ahead: float) -> AsyncIterator[Assigner]:
    """Run an assigner as an agent does, on a clock that is so many seconds ahead."""
    assigner = Assigner(LossGuard(part.store), node, lambda: time.time() + ahead)
    await assigner.start()
    try:
        async with (
            aclosing(part.store.watch(keys.CLUSTER)) as cluster,
            aclosing(part.store.watch(keys.share(node))) as share,
        ):
            rules, news = await anext(cluster), await anext(share)
            assert isinstance(rules, Snapshot)
            assert isinstance(news, Snapshot)
            assigner.set_rules(rules_of(rules.entries))
            assigner.observe_share(news)
        yield assigner
    finally:
        await assigner.close()


def _request(handle: str) -> AssignRequest:
    return AssignRequest(handle, handle, "default", "eth0", (4,))


async def _blocks(part: Part) -> list[Block]:
    return [decode_block(key, entry.value) for key, entry in (await part.store.list(keys.BLOCKS)).items()]
