"""Sixteen agents on three Consul servers, under load while servers die and are cut off."""

from __future__ import annotations

import asyncio
import ipaddress
import random
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from controller.datamodel import keys
from controller.datamodel.records import encode_configuration, encode_pool
from controller.ports import ABSENT, Put
from controller.store.consul import ConsulStore
from controller.store.consul_access import ConsulAccess
from ipam.configuration import IpamConfiguration
from ipam.pool import Pool
from tests.cluster.audit import audit, held_in
from tests.cluster.checker import Fault, check
from tests.cluster.history import CommitOutcome, History, Kind, Outcome, read_history
from tests.cluster.servers import ADDRESSES, Cluster, Cut
from tests.cluster.worker import Orders

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ipam.address import IPAddress

LOAD_SECONDS: Final = 60.0
SHORT_CUT_SECONDS: Final = 2.6
WORKER_COUNT: Final = 4
AGENTS_PER_WORKER: Final = 4
#: The agents' clock runs faster, so that what takes it a minute happens during the load.
CLOCK_SPEED: Final = 20.0
#: Two small blocks for each agent, of which some need more and some none.
POOLS: Final = (
    Pool("four", ipaddress.ip_network("10.64.0.0/25"), 30),
    Pool("six", ipaddress.ip_network("fd64::/121"), 126),
)
CONFIGURATION: Final = IpamConfiguration(max_blocks_per_node=3, cooldown_seconds=5)
_DEADLINE_SECONDS: Final = 60.0
#: What the load must have met to have shown anything; the counts of operations, and of what transactions did.
_MUST_HAPPEN: Final = (
    *("assign done", "assign refused", "assign unknown", "release done", "release unknown", "return done"),
    *("both versions", "specific", "commit done", "commit conflict", "commit unknown"),
    *("claims", "reclaims", "borrows", "returns"),
)


def _orders(directory: Path, worker: int, seed: int, started: float) -> Orders:
    numbers = range(worker * AGENTS_PER_WORKER, (worker + 1) * AGENTS_PER_WORKER)
    return Orders(
        servers={f"node-{number}": Cluster.url(ADDRESSES[number % len(ADDRESSES)]) for number in numbers},
        pools=tuple(str(pool.cidr) for pool in POOLS),
        seed=seed,
        epoch=1_700_000_000.0,
        started=started,
        speed=CLOCK_SPEED,
        history=str(directory / f"worker-{worker}.history"),
    )


@contextmanager
def _worker(orders: Orders) -> Iterator[subprocess.Popen[str]]:
    with Path(f"{orders.history}.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.cluster.worker"],
            stdin=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=Path(__file__).parent.parent.parent,
        )
    try:
        assert process.stdin is not None
        process.stdin.write(orders.text())
        process.stdin.flush()
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def _run(cluster: Cluster, directory: Path, seed: int) -> tuple[History, list[tuple[str, str]]]:
    """Let the agents work for LOAD_SECONDS; return their history, and the leaders before and after each loss of one."""
    started = time.monotonic()

    def load_until(seconds: float) -> None:
        while time.monotonic() < started + seconds:
            assert all(worker.poll() is None for worker in workers), _logs(directory)
            time.sleep(0.1)

    with ExitStack() as stack:
        every = [_orders(directory, number, seed, started) for number in range(WORKER_COUNT)]
        workers = [stack.enter_context(_worker(orders)) for orders in every]
        leaders = _break_and_heal(cluster, load_until)
        load_until(LOAD_SECONDS)
        cluster.wait_for_leader()
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.close()
        for worker in workers:
            assert worker.wait(_DEADLINE_SECONDS) == 0, _logs(directory)
    with ExitStack() as stack:
        return read_history(stack.enter_context(Path(orders.history).open()) for orders in every), leaders


def _break_and_heal(cluster: Cluster, load_until: Callable[[float], None]) -> list[tuple[str, str]]:
    """Break everything once and more; return the leaders before and after each loss of one.

    The short cuts last a little longer than an agent waits for an answer.
    """

    def cut_shortly(seconds: float, address: str, kind: Cut) -> None:
        load_until(seconds)
        cluster.cut(address, kind)
        load_until(seconds + SHORT_CUT_SECONDS)
        cluster.heal()

    first, second, third = ADDRESSES
    cut_shortly(4, first, Cut.MUTE)
    cut_shortly(8, second, Cut.DEAF)
    load_until(12)
    killed = cluster.wait_for_leader()
    cluster.kill(killed)
    after_kill = cluster.wait_for_leader(other_than=killed)
    load_until(22)
    cluster.start(killed)
    cut_shortly(26, third, Cut.MUTE)
    load_until(30)
    severed = cluster.wait_for_leader()
    cluster.cut(severed, Cut.OFF)
    after_cut = cluster.wait_for_leader(other_than=severed)
    load_until(42)
    cluster.heal()
    cut_shortly(46, third, Cut.DEAF)
    cut_shortly(50, second, Cut.MUTE)
    cut_shortly(54, first, Cut.DEAF)
    return [(killed, after_kill), (severed, after_cut)]


def _logs(directory: Path) -> str:
    return "\n".join(path.read_text()[-3000:] for path in sorted(directory.glob("*.log")))


def _counts(history: History) -> Counter[str]:
    """Return how often each kind of operation had each outcome, and each kind of transaction."""
    counts = Counter(f"{operation.kind.value} {operation.outcome.value}" for operation in history.operations)
    answered = [operation for operation in history.operations if operation.outcome is Outcome.DONE]
    counts["specific"] = sum(bool(operation.asked) for operation in answered)
    counts["both versions"] = sum(len(operation.versions) > 1 for operation in answered)
    for commit in history.commits:
        counts[f"commit {commit.outcome.value}"] += 1
        if commit.outcome is CommitOutcome.DONE:
            for what in ("claims", "reclaims", "borrows", "returns"):
                counts[what] += getattr(commit, what)
    return counts


async def _prepare(address: str) -> None:
    """Write the pools and the rules."""
    store = ConsulStore(ConsulAccess(address=address))
    operations = [Put(keys.CLUSTER_ANCHOR, b"{}", ABSENT)]
    operations += [Put(keys.pool(pool.name), encode_pool(pool), ABSENT) for pool in POOLS]
    await store.commit([*operations, Put(keys.IPAM_CONFIGURATION, encode_configuration(CONFIGURATION), ABSENT)])
    await store.close()


async def _records(address: str) -> dict[str, bytes]:
    store = ConsulStore(ConsulAccess(address=address))
    found = await store.list(keys.ROOT)
    await store.close()
    return {key: entry.value for key, entry in found.items()}


def test_no_address_is_held_twice_lost_or_left_over(cluster: Cluster, tmp_path: Path) -> None:
    """While the leader is killed and the next one is cut off, no address goes to two, none is lost, none stays."""
    asyncio.run(_prepare(Cluster.url(cluster.wait_for_leader())))

    history, leaders = _run(cluster, tmp_path, random.randrange(1_000_000))  # noqa: S311  a load, not a secret

    records = [asyncio.run(_records(Cluster.url(address))) for address in ADDRESSES]
    assert records[0] == records[1] == records[2]
    held = held_in(records[0])
    findings = [*check(history, held), *audit(records[0])]
    assert findings == [], "\n".join(map(str, findings)) + _logs(tmp_path)
    assert all(before != after for before, after in leaders)
    counts = _counts(history)
    print(counts, leaders)  # noqa: T201  shown when something fails
    assert [what for what in _MUST_HAPPEN if not counts[what]] == [], counts
    _find_what_is_planted(history, held)


def _find_what_is_planted(history: History, held: dict[IPAddress, str]) -> None:
    """Change what was seen, once for each promise, and see the checker tell."""
    assigned = [each for each in history.operations if each.kind is Kind.ASSIGN and each.addresses]
    last = max(assigned, key=lambda each: each.invoked)
    again = replace(last, handle="planted", invoked=last.completed, completed=last.completed)
    twice = replace(history, operations=(*history.operations, again))
    assert {finding.fault for finding in check(twice, held)} >= {Fault.DUPLICATE, Fault.LOST}

    address, handle = next(iter(held.items()))
    left = {other: whose for other, whose in held.items() if other != address}
    assert [finding.fault for finding in check(history, left)] == [Fault.LOST], handle

    free = next(address for pool in POOLS for address in pool.cidr if address not in held)
    released = next(each.handle for each in history.operations if each.kind is Kind.RELEASE)
    for holder in ("nobody", released, handle):
        assert Fault.LEAK in {finding.fault for finding in check(history, {**held, free: holder})}, holder
