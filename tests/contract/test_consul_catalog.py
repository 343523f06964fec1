"""A node in the catalog of a real Consul: there with its agent's state, back when forgotten, gone when deleted."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from controller.agent.api import BgpStatus, RoutesStatus, Status, StoreStatus
from controller.agent.complaints import Complaints
from controller.agent.consul_service import ConsulService, health_of
from controller.errors import StoreDenied, StoreUnavailable
from controller.store import consul_catalog
from controller.store.consul_access import ConsulAccess
from controller.store.consul_catalog import ConsulCatalog, Health, Instance

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.contract.conftest import Dns

WELL = Status(
    "n1", "1.2.3", True, (), ("192.0.2.1",), StoreStatus("consul", True), RoutesStatus(True, 0), BgpStatus(True), ()
)


class Host:
    """One node's part of the catalog, and what its agent says of itself."""

    def __init__(self, address: str, instance: Instance, **access: Any) -> None:  # noqa: ANN401  fields of ConsulAccess
        self.address = address
        self.instance = instance
        self.status = WELL
        self.look_count = 0
        self.catalog = ConsulCatalog(ConsulAccess(address=address, **access), timeout_seconds=2.0)
        self.complaints = Complaints()
        self.service = ConsulService(instance, self.catalog, self._look, self.complaints)

    def _look(self) -> Status:
        self.look_count += 1
        return self.status

    async def shown(self) -> dict[str, tuple[str, str]]:
        """Return state and text of each instance's check, by its ID, as the catalog has them."""
        checks = await self._read(f"/v1/health/checks/{self.instance.name}")
        return {check["ServiceID"]: (check["Status"], check["Output"]) for check in checks}

    async def listed(self) -> list[dict[str, Any]]:
        """Return the instances as the catalog has them."""
        return await self._read(f"/v1/catalog/service/{self.instance.name}")

    async def _read(self, path: str) -> list[dict[str, Any]]:
        def read() -> list[dict[str, Any]]:
            with urllib.request.urlopen(self.address + path, timeout=10) as answer:  # noqa: S310  a server of the test's
                found: list[dict[str, Any]] = json.load(answer)
                return found

        return await asyncio.to_thread(read)


@pytest.fixture
async def meet() -> AsyncIterator[Callable[..., Host]]:
    """Make hosts of a cluster with a service name of its own; their connections are closed when the test ends."""
    name = f"tortie-{uuid4()}"
    made: list[Host] = []

    def make(server: Any, node: str = "n1", address: str = "192.0.2.1") -> Host:  # noqa: ANN401  its class lives in a conftest
        instance = Instance(name, node, address, 9091, {"version": "1.2.3", "as_number": "64512"})
        made.append(Host(server.address, instance))
        return made[-1]

    yield make
    for host in made:
        await host.catalog.close()


async def until_shown(host: Host, expected: dict[str, tuple[str, str]]) -> None:
    """Wait until the catalog shows exactly these instances, each in this state: it is told a bit later."""
    seen = {}
    try:
        async with asyncio.timeout(30):
            while (seen := await host.shown()) != expected:  # noqa: ASYNC110  the catalog is another process
                await asyncio.sleep(0.05)
    except TimeoutError:
        assert seen == expected


def as_it(host: Host, state: str, text: str) -> dict[str, tuple[str, str]]:
    """Return what the catalog shows of one host alone."""
    return {host.instance.identity: (state, text)}


async def test_a_node_is_an_instance_with_address_port_and_version(
    consul_server: Any,  # noqa: ANN401  as above
    meet: Callable[..., Host],
) -> None:
    """What DNS answers with, and what the UI shows; its name is its tag, so that DNS finds it alone."""
    host = meet(consul_server)
    await host.service.iterate()
    await until_shown(host, as_it(host, "passing", "ready"))
    (row,) = await host.listed()
    assert (row["ServiceID"], row["ServiceAddress"], row["ServicePort"]) == (
        f"{host.instance.name}-n1",
        "192.0.2.1",
        9091,
    )
    assert row["ServiceTags"] == ["n1"]
    assert row["ServiceMeta"] == {"version": "1.2.3", "as_number": "64512"}
    await until_shown(host, as_it(host, "passing", "ready"))


async def test_the_check_follows_what_the_agent_says_of_itself(consul_server: Any, meet: Callable[..., Host]) -> None:  # noqa: ANN401  as above
    """Problems are a warning, not being ready is critical, and the text is the problems."""
    host = meet(consul_server)
    await host.service.iterate()
    host.status = replace(WELL, problems=("one thing", "another"))
    await host.service.iterate()
    await until_shown(host, as_it(host, "warning", "one thing\nanother"))
    host.status = replace(WELL, ready=False, problems=("there is no pool",))
    await host.service.iterate()
    await until_shown(host, as_it(host, "critical", "there is no pool"))
    host.status = WELL
    await host.service.iterate()
    await until_shown(host, as_it(host, "passing", "ready"))


async def test_an_agent_that_starts_again_changes_nothing_before_it_is_ready(
    consul_server: Any,  # noqa: ANN401  as above
    meet: Callable[..., Host],
) -> None:
    """Its node stays as it was: the state it had holds on, and what it reports first is that it is ready."""
    before, after = meet(consul_server), meet(consul_server)
    before.status = replace(WELL, problems=("a problem",))
    await before.service.iterate()
    await until_shown(before, as_it(before, "warning", "a problem"))
    after.status = replace(WELL, ready=False, problems=("the store is not reached yet",))
    running = asyncio.create_task(after.service.run())
    try:
        async with asyncio.timeout(30):
            while after.look_count < 2:  # noqa: ASYNC110  nothing tells of a look
                await asyncio.sleep(0.05)
        assert await before.shown() == as_it(before, "warning", "a problem")
        after.status = WELL
        await until_shown(after, as_it(after, "passing", "ready"))
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
    await until_shown(before, as_it(before, "passing", "ready"))


async def test_an_agent_that_does_not_become_ready_says_so(
    consul_server: Any,  # noqa: ANN401  as above
    meet: Callable[..., Host],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """When the state it had before would not hold much longer."""
    monkeypatch.setattr("controller.agent.consul_service.TTL_SECONDS", 0.1)
    host = meet(consul_server)
    host.status = replace(WELL, ready=False, problems=("there is no pool",))
    running = asyncio.create_task(host.service.run())
    try:
        await until_shown(host, as_it(host, "critical", "there is no pool"))
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


async def test_a_node_of_which_nobody_reports_turns_critical(
    consul_server: Any,  # noqa: ANN401  as above
    meet: Callable[..., Host],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its time to live has ended."""
    monkeypatch.setattr(consul_catalog, "TTL_SECONDS", 1)
    host = meet(consul_server)
    await host.service.iterate()
    await until_shown(host, as_it(host, "critical", "TTL expired (last output before timeout follows): ready"))


async def test_a_consul_that_was_wiped_is_told_again(own_consul: Any, meet: Callable[..., Host]) -> None:  # noqa: ANN401  as above
    """While it is away that is one complaint and nothing more; afterwards the node is there without a restart."""
    host = meet(own_consul)
    await host.service.iterate()
    own_consul.kill()
    own_consul.wipe()
    await host.service.iterate()
    (complaint,) = host.complaints.sentences
    assert "Consul" in complaint
    await asyncio.to_thread(own_consul.start)
    assert await host.listed() == []
    await host.service.iterate()
    await until_shown(host, as_it(host, "passing", "ready"))
    assert host.complaints.sentences == ()


async def test_a_deleted_node_is_gone_and_the_others_stay(consul_server: Any, meet: Callable[..., Host]) -> None:  # noqa: ANN401  as above
    """A second deletion finds nothing, which is no error; an agent that still runs comes back."""
    gone, stays = meet(consul_server), meet(consul_server, "n11")
    await gone.service.iterate()
    await stays.service.iterate()
    await until_shown(gone, as_it(gone, "passing", "ready") | as_it(stays, "passing", "ready"))
    assert await gone.catalog.remove(gone.instance.name, "n1")
    await until_shown(gone, as_it(stays, "passing", "ready"))
    assert not await gone.catalog.remove(gone.instance.name, "n1")
    await gone.service.iterate()
    await until_shown(gone, as_it(gone, "passing", "ready") | as_it(stays, "passing", "ready"))


async def test_an_instance_that_another_consul_agent_left_behind_is_removed(
    consul_server: Any,  # noqa: ANN401  as above
    meet: Callable[..., Host],
) -> None:
    """The host is gone with its Consul agent, so only the catalog knows of it."""
    host = meet(consul_server)
    left = {
        "Node": f"gone-{uuid4()}",
        "Address": "192.0.2.9",
        "Service": {"ID": host.instance.identity, "Service": host.instance.name, "Address": "192.0.2.9"},
    }
    await host.catalog._client.put("/v1/catalog/register", [], json.dumps(left))
    assert len(await host.listed()) == 1
    assert await host.catalog.remove(host.instance.name, "n1")
    assert await host.listed() == []
    await host.catalog._client.put("/v1/catalog/deregister", [], json.dumps({"Node": left["Node"]}))


async def test_without_the_permission_the_complaint_names_the_way_out(
    make_consul: Callable[[dict[str, Any]], Any], meet: Callable[..., Host]
) -> None:
    """The agent goes on, and its status says what the token lacks."""
    server = make_consul({"acl": {"enabled": True, "default_policy": "deny"}})
    await asyncio.to_thread(server.start)
    host = meet(server)
    await host.service.iterate()
    (complaint,) = host.complaints.sentences
    assert "403" in complaint
    assert "consul-policy" in complaint
    assert health_of(replace(WELL, problems=host.complaints.sentences))[0] is Health.PASSING
    with pytest.raises(StoreDenied):
        await host.catalog.register(host.instance, Health.PASSING)


async def test_dns_finds_the_nodes_that_are_not_critical(
    make_consul: Callable[[dict[str, Any]], Any], meet: Callable[..., Host], dns: Dns
) -> None:
    """All under the service's name, one under its own name before that."""
    server = make_consul({"ports": {"dns": dns.port}})
    await asyncio.to_thread(server.start)
    well, ill = meet(server, "n1", "192.0.2.1"), meet(server, "n2", "192.0.2.2")
    ill.status = replace(WELL, ready=False, problems=("there is no pool",))
    await well.service.iterate()
    await ill.service.iterate()
    await until_shown(well, as_it(well, "passing", "ready") | as_it(ill, "critical", "there is no pool"))
    service = well.instance.name
    assert await asyncio.to_thread(dns.resolved, f"{service}.service.consul") == {"192.0.2.1"}
    assert await asyncio.to_thread(dns.resolved, f"n1.{service}.service.consul") == {"192.0.2.1"}
    assert await asyncio.to_thread(dns.resolved, f"n2.{service}.service.consul") == set()


async def test_a_stranger_in_consuls_place_is_no_catalog(meet: Callable[..., Host]) -> None:
    """What answers a deletion with anything else than a list is reported."""

    class Nobody:
        address = "http://127.0.0.1:1"

    with pytest.raises(StoreUnavailable):
        await meet(Nobody).catalog.remove("tortie", "n1")
