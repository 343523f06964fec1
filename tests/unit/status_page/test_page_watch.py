"""The watch: what is kept true while somebody looks, and that nothing is done while nobody does."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import replace
from ipaddress import IPv4Address, ip_network
from typing import TYPE_CHECKING, Any, Self

import pytest

from controller.agent import page_watch
from controller.agent.api import BgpStatus, PeerStatus, RoutesStatus, Status, StoreStatus
from controller.agent.cluster import Cluster
from controller.agent.page_picture import Asked
from controller.agent.page_watch import Watch, round_seconds
from controller.datamodel import keys
from controller.datamodel.records import Node
from controller.errors import StoreUnavailable
from controller.ports import ABSENT, Put, Version
from controller.settings import Settings
from controller.store.memory import MemoryStore
from ipam.pool import Pool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection

    from controller.agent.page_watch import View

HERE = Node("n1", 64512, IPv4Address("192.0.2.1"), None)
OTHER = Node("n2", 64512, IPv4Address("192.0.2.2"), None)
POOL = Pool("web", ip_network("10.0.0.0/24"), 26)
STATUS = Status(
    "n1", "1.2.3", True, (), ("192.0.2.1",), StoreStatus("memory", connected=True), RoutesStatus(in_sync=True, count=1),
    BgpStatus(True, (PeerStatus("192.0.2.2", "n2", "node-to-node mesh", "established", 1.0, ""),)), (),
)  # fmt: skip


class FakeAsker:
    """Nodes that answer what a test sets."""

    answers: dict[str, Asked]
    rounds: int
    broken: bool
    go_on: asyncio.Event

    def __init__(self, _here: Node, port: int, learn: Callable[[str, Asked], None]) -> None:
        assert port == 9091
        self._learn = learn

    async def __aenter__(self) -> Self:
        """Do nothing."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Do nothing."""

    async def ask(self, nodes: Collection[Node]) -> None:
        """Tell what is set."""
        type(self).rounds += 1
        if self.broken:
            raise RuntimeError("a fault of ours")
        for node in nodes:
            self._learn(node.name, self.answers[node.name])
        await self.go_on.wait()


class Scene:
    """A watch with everything around it."""

    def __init__(self, asker: type[FakeAsker]) -> None:
        self.asker = asker
        self.status = STATUS
        self.store = MemoryStore()
        self.cluster: Cluster | None = Cluster(
            nodes={"n1": HERE, "n2": OTHER}, pools={"web": (POOL, Version(1))}, peers={}
        )
        self.watch = Watch(Settings(node_name="n1"), HERE, lambda: self.status, lambda: self.cluster, self.store)

    async def until(self, condition: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """Return the first view for which the condition holds."""
        async with asyncio.timeout(30):
            view: View = self.watch.view
            while not view.sections or not condition(sections(view)):
                view = await self.watch.after(view.number)
        return sections(view)

    async def use(self, in_use: int) -> None:
        """Write a block's summary, or write it anew."""
        key = keys.usage(ip_network("10.0.0.0/26"))
        fields = {"affinity": "n1", "claimed_at": 0.0, "in_use": in_use, "resting_count": 0, "rested_at": 0.0}
        known = await self.store.get([key])
        await self.store.commit([Put(key, json.dumps(fields).encode(), known[key].version if known else ABSENT)])


def sections(view: View) -> dict[str, Any]:
    """Return the sections of a view."""
    return {name: json.loads(text) for name, text in view.sections.items()}


def texts(shown: dict[str, Any]) -> list[str]:
    """Return what the log says."""
    return [entry["text"] for entry in shown["log"]]


@pytest.fixture
async def scene(crowd: Callable[[int], Any], monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    """Run a watch at which nobody looks yet, in a hurry."""

    class Asker(FakeAsker):
        answers = {"n2": Asked(crowd(2).summary("n2"))}  # noqa: RUF012  one class for each test
        rounds = 0
        broken = False
        go_on = asyncio.Event()

    Asker.go_on.set()
    monkeypatch.setattr(page_watch, "NodeAsker", Asker)
    for name in ("_ROUND_SECONDS", "_SELF_SECONDS", "_POOLS_SECONDS", "_LINGER_SECONDS", "_RETRY_SECONDS"):
        monkeypatch.setattr(page_watch, name, 0.01)
    monkeypatch.setattr(page_watch, "_RESTS", 0)
    scene = Scene(Asker)
    running = asyncio.create_task(scene.watch.run())
    yield scene
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    await scene.store.close()


async def test_the_view_of_a_small_cluster(scene: Scene) -> None:
    """What this node knows of itself, what the other answers, and what the store says."""
    await scene.use(5)
    with scene.watch.looking():
        shown = await scene.until(lambda shown: shown["pools"]["pictures"] and shown["counts"]["established"])
    assert [node["name"] for node in shown["nodes"]] == ["n1", "n2"]
    assert shown["counts"] == {"established": 1, "broken": 0, "unknown": 0, "untold": 0}
    assert shown["pools"]["pictures"][0]["cells"][0]["in_use"] == 5
    assert shown["about"]["here"] == "n1"
    assert texts(shown) == ["began to look"]


async def test_what_changes_is_shown_and_logged(scene: Scene, crowd: Callable[[int], Any]) -> None:
    """On this node, on the other, and in the store."""
    await scene.use(5)
    with scene.watch.looking():
        await scene.until(lambda shown: shown["pools"]["pictures"] and shown["counts"]["established"])
        scene.asker.answers["n2"] = Asked(crowd(2).summary("n2", {"n1": "idle"}))
        await scene.until(lambda shown: "session n1 – n2 is broken: n2 says idle, why" in texts(shown))  # noqa: RUF001  a dash
        scene.asker.answers["n2"] = Asked(crowd(2).summary("n2"))
        await scene.until(lambda shown: "session n1 – n2 is established" in texts(shown))  # noqa: RUF001  a dash
        scene.status = replace(STATUS, ready=False, problems=("no pool",))
        shown = await scene.until(lambda shown: "node n1: not ready, ready before" in texts(shown))
        assert shown["problems"] == [{"text": "no pool", "nodes": ["n1"], "node_count": 1}]
        await scene.use(9)
        await scene.until(lambda shown: shown["pools"]["pictures"][0]["in_use"] == 9)


async def test_the_log_begins_when_all_have_been_asked(scene: Scene, crowd: Callable[[int], Any]) -> None:
    """First answers are no news; what changes afterwards is, even if nothing did in between."""
    scene.asker.go_on.clear()
    with scene.watch.looking():
        await scene.until(lambda shown: shown["counts"]["established"] and shown["pools"]["read_at"])
        number = scene.watch.view.number
        scene.asker.go_on.set()
        async with asyncio.timeout(30):
            await scene.watch.after(number)
        scene.asker.answers["n2"] = Asked(crowd(2).summary("n2", {"n1": "idle"}))
        shown = await scene.until(lambda shown: shown["counts"]["broken"])
    assert texts(shown) == ["began to look", "session n1 – n2 is broken: n2 says idle, why"]  # noqa: RUF001  a dash


async def test_nobody_is_asked_while_nobody_looks(scene: Scene) -> None:
    """Before the first look and after the last one; the next look begins with an empty view."""
    assert scene.asker.rounds == 0
    with scene.watch.looking():
        await scene.until(lambda shown: shown["counts"]["established"])
    async with asyncio.timeout(30):
        while scene.watch.view.sections:  # noqa: ASYNC110  ends without an event
            await asyncio.sleep(0.01)
    assert not [task for task in asyncio.all_tasks() if "_keep_asking" in str(task.get_coro())]
    with scene.watch.looking():
        await scene.until(lambda shown: shown["counts"]["established"])


async def test_a_store_that_is_away_leaves_what_was_read(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the reason, until it is back."""
    await scene.use(5)
    with scene.watch.looking():
        await scene.until(lambda shown: shown["pools"]["pictures"])

        async def fail(_prefix: str) -> None:
            raise StoreUnavailable("no leader")

        with monkeypatch.context() as patch:
            patch.setattr(scene.store, "list", fail)
            shown = await scene.until(lambda shown: shown["pools"]["reason"])
            assert (shown["pools"]["reason"], shown["pools"]["pictures"][0]["in_use"]) == ("no leader", 5)
        await scene.until(lambda shown: not shown["pools"]["reason"])


async def test_a_record_that_does_not_decode_is_counted(scene: Scene) -> None:
    """The others are shown."""
    await scene.use(5)
    await scene.store.commit([Put(keys.usage(ip_network("10.0.0.64/26")), b"{", ABSENT)])
    with scene.watch.looking():
        shown = await scene.until(lambda shown: shown["pools"]["read_at"])
    assert (shown["pools"]["malformed_count"], shown["pools"]["pictures"][0]["claimed_count"]) == (1, 1)


async def test_a_fault_ends_nothing_else(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, and the watch begins anew."""
    scene.asker.broken = True
    with scene.watch.looking():
        async with asyncio.timeout(30):
            while "beginning anew" not in caplog.text:  # noqa: ASYNC110  a log has no event
                await asyncio.sleep(0.01)
        scene.asker.broken = False
        await scene.until(lambda shown: shown["counts"]["established"])


async def test_before_the_store_was_reached(scene: Scene) -> None:
    """This node stands alone, with what it says of itself."""
    scene.cluster = None
    with scene.watch.looking():
        shown = await scene.until(lambda shown: shown["nodes"])
    assert [node["name"] for node in shown["nodes"] if not node["is_peer"]] == ["n1"]


@pytest.mark.parametrize(("count", "seconds"), [(0, 0.5), (5, 0.5), (50, 0.5), (100, 1.0), (1000, 10.0)])
def test_many_nodes_are_asked_less_often(count: int, seconds: float) -> None:
    """A hundred a second at most."""
    assert round_seconds(count) == seconds
