"""The owner of the workload links keeps what it knows in the order things happened."""

from __future__ import annotations

import asyncio
import os
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from controller.errors import KernelUnavailable
from controller.ports import WorkloadLink
from controller.reconcile.links import WorkloadLinks

if TYPE_CHECKING:
    from collections.abc import Iterator

LINK = WorkloadLink("tor000000000001", "eth0", "02:00:00:00:00:01", (), 1500)


class SlowLinks:
    """Links of which the first listing takes until it is let go."""

    def __init__(self) -> None:
        self.present: dict[str, int] = {}
        self.listing = threading.Event()
        self.go = threading.Event()

    def wire(self, _namespace_descriptor: int, link: WorkloadLink) -> int:
        """Record the link."""
        self.present[link.host_name] = 5
        return 5

    def unwire(self, host_name: str, _namespace_descriptor: int | None = None) -> None:
        """Forget the link."""
        self.present.pop(host_name, None)

    def list(self) -> dict[str, int]:
        """Return what was there when the listing began."""
        found = dict(self.present)
        self.listing.set()
        self.go.wait(10)
        return found


async def test_a_listing_that_began_before_the_wiring_does_not_hide_the_link() -> None:
    """Otherwise the route of a container that was just wired would be taken away again."""
    kernel = SlowLinks()
    changes: list[dict[str, int]] = []
    links = WorkloadLinks(kernel)
    links.on_change(lambda: changes.append(dict(links.index_of)))
    refreshing = asyncio.create_task(links.refresh())
    await asyncio.to_thread(kernel.listing.wait, 10)
    wiring = asyncio.create_task(links.wire(0, LINK))
    kernel.go.set()
    await asyncio.gather(refreshing, wiring)
    assert dict(links.index_of) == {LINK.host_name: 5}
    await links.unwire(LINK.host_name)
    assert dict(links.index_of) == {}
    assert changes == [{LINK.host_name: 5}, {}]
    links.close()


class UnansweredLinks:
    """Links whose removal is done at once and answered when it is let go."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.error: Exception | None = None
        self.removed: list[str] = []
        self.inodes: list[int] = []
        self.begun = threading.Event()
        self._index = 4

    def wire(self, _namespace_descriptor: int, _link: WorkloadLink) -> int:
        """Make nothing; it is another link each time."""
        self._index += 1
        return self._index

    def unwire(self, host_name: str, namespace_descriptor: int | None = None) -> None:
        """Take note, wait, look at the namespace, then fail if told so."""
        self.removed.append(host_name)
        self.begun.set()
        self.go.wait(10)
        if namespace_descriptor is not None:
            self.inodes.append(os.fstat(namespace_descriptor).st_ino)
        if self.error is not None:
            raise self.error

    def list(self) -> dict[str, int]:
        """Return nothing."""
        return {}


@pytest.fixture
def kernel() -> Iterator[UnansweredLinks]:
    """Return such links; what waits there at the end goes on."""
    made = UnansweredLinks()
    yield made
    made.go.set()


@pytest.mark.parametrize("error", [None, KernelUnavailable("no answer")])
async def test_a_link_is_gone_when_the_kernel_tells_so(kernel: UnansweredLinks, error: Exception | None) -> None:
    """The answer, good or bad, comes later, and says nothing of the link that has the name by then."""
    kernel.error = error
    links = WorkloadLinks(kernel)
    assert await links.wire(0, LINK) == 5
    removal = asyncio.create_task(links.unwire(LINK.host_name))
    await asyncio.sleep(0)
    links.learn_gone([4, 99])
    await asyncio.sleep(0)
    assert not removal.done()
    links.learn_gone([4, 5, 99])
    await removal
    assert dict(links.index_of) == {}
    assert await links.wire(0, LINK) == 6
    kernel.go.set()
    await asyncio.to_thread(links.close)
    await asyncio.sleep(0)
    assert dict(links.index_of) == {LINK.host_name: 6}


async def test_a_link_that_others_took_away_is_forgotten(kernel: UnansweredLinks) -> None:
    """So a container of that name that comes back is not taken for attached; all that went at once are told as one."""
    links = WorkloadLinks(kernel)
    for number in range(3):
        await links.wire(0, replace(LINK, host_name=f"tor{number}"))
    changes: list[dict[str, int]] = []
    links.on_change(lambda: changes.append(dict(links.index_of)))
    links.learn_gone([5, 7, 99])
    assert changes == [{"tor1": 6}]
    links.learn_gone([5, 99])
    assert changes == [{"tor1": 6}]
    assert await links.wire(0, replace(LINK, host_name="tor0")) == 8
    links.learn_gone([5])
    assert dict(links.index_of) == {"tor0": 8, "tor1": 6}
    links.close()


async def test_a_link_that_went_while_it_was_made_is_not_recorded(kernel: UnansweredLinks) -> None:
    """The kernel may tell of its end before the thread that made it is heard."""
    links = WorkloadLinks(kernel)
    made, go = threading.Event(), threading.Event()

    def make() -> int:
        made.set()
        go.wait(10)
        return 7

    making = asyncio.create_task(links.make(LINK.host_name, make))
    await asyncio.to_thread(made.wait, 10)
    links.learn_gone([7])
    await links.refresh()
    go.set()
    assert await making == 7
    assert dict(links.index_of) == {}
    links.close()


async def test_a_link_that_went_while_it_was_listed_is_not_recorded() -> None:
    """The listing shows it, and began before."""
    kernel = SlowLinks()
    kernel.present[LINK.host_name] = 5
    links = WorkloadLinks(kernel)
    refreshing = asyncio.create_task(links.refresh())
    await asyncio.to_thread(kernel.listing.wait, 10)
    links.learn_gone([5])
    kernel.go.set()
    await refreshing
    assert dict(links.index_of) == {}
    links.close()


async def test_a_removal_that_waited_leaves_the_next_link_of_the_name(kernel: UnansweredLinks) -> None:
    """Removals wait for a thread when there are many; a link that went by itself meanwhile may have a successor."""
    links = WorkloadLinks(kernel)
    others = [asyncio.create_task(links.unwire(f"tor1{number:011}")) for number in range(100)]
    assert await links.wire(0, LINK) == 5
    removal = asyncio.create_task(links.unwire(LINK.host_name))
    await asyncio.sleep(0)
    links.learn_gone([5])
    await removal
    assert await links.wire(0, LINK) == 6
    kernel.go.set()
    await asyncio.gather(*others)
    await asyncio.to_thread(links.close)
    assert len(kernel.removed) == len(others)
    assert LINK.host_name not in kernel.removed


async def test_without_being_told_the_answer_counts(kernel: UnansweredLinks) -> None:
    """Events may be lost; then the removal takes as long as the kernel does, and fails if that does."""
    links = WorkloadLinks(kernel)
    await links.wire(0, LINK)
    kernel.go.set()
    kernel.error = KernelUnavailable("no answer")
    with pytest.raises(KernelUnavailable):
        await links.unwire(LINK.host_name)
    assert dict(links.index_of) == {LINK.host_name: 5}
    kernel.error = None
    await links.unwire(LINK.host_name)
    await links.unwire("tor00000000000x")
    assert dict(links.index_of) == {}
    links.close()


async def test_a_namespace_stays_open_until_the_link_is_removed(kernel: UnansweredLinks) -> None:
    """Whoever asked goes on when the kernel tells of the end, and closes his own descriptor."""
    links = WorkloadLinks(kernel)
    await links.wire(0, LINK)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208  nothing but a count
    namespace = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    removal = asyncio.create_task(links.unwire(LINK.host_name, namespace))
    await asyncio.to_thread(kernel.begun.wait, 10)
    links.learn_gone([5])
    await removal
    inode = os.fstat(namespace).st_ino
    os.close(namespace)
    kernel.go.set()
    await asyncio.to_thread(links.close)
    assert kernel.inodes == [inode]
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208  nothing but a count


async def test_a_removed_link_does_not_come_back_with_an_older_listing() -> None:
    """The listing shows it, and began before."""
    kernel = SlowLinks()
    kernel.present[LINK.host_name] = 5
    links = WorkloadLinks(kernel)
    kernel.go.set()
    await links.refresh()
    assert dict(links.index_of) == {LINK.host_name: 5}
    kernel.go.clear()
    kernel.listing.clear()
    refreshing = asyncio.create_task(links.refresh())
    await asyncio.to_thread(kernel.listing.wait, 10)
    await links.unwire(LINK.host_name)
    kernel.go.set()
    await refreshing
    assert dict(links.index_of) == {}
    links.close()


async def test_a_link_whose_caller_is_gone_is_known_all_the_same() -> None:
    """Wiring that has begun is carried out; what it made is there."""
    kernel = SlowLinks()
    links = WorkloadLinks(kernel)
    wiring = asyncio.create_task(links.wire(0, LINK))
    await asyncio.sleep(0)
    wiring.cancel()
    await asyncio.to_thread(links.close)
    async with asyncio.timeout(10):
        while not links.index_of:  # noqa: ASYNC110  what it waits for has no event
            await asyncio.sleep(0)
    assert dict(links.index_of) == {LINK.host_name: 5}


class Beside:
    """Another way to wire, that does what the test says."""

    def __init__(self) -> None:
        self.start_count = 0
        self.begun: asyncio.Future[int | None] | None = None

    def start(self) -> None:
        """Count."""
        self.start_count += 1

    def wire(self, _namespace_descriptor: int, _link: WorkloadLink) -> asyncio.Future[int | None] | None:
        """Return what the test has put here."""
        return self.begun


async def test_a_link_that_another_wired_is_known_before_its_caller_goes_on() -> None:
    """As one that was wired here; a caller that is gone changes nothing."""
    kernel, beside = SlowLinks(), Beside()
    links = WorkloadLinks(kernel, beside)
    beside.begun = asyncio.get_running_loop().create_future()
    wiring, cancelled = asyncio.create_task(links.wire(0, LINK)), asyncio.create_task(links.wire(0, LINK))
    await asyncio.sleep(0)
    cancelled.cancel()
    beside.begun.set_result(7)
    assert await wiring == 7
    assert dict(links.index_of) == {LINK.host_name: 7}
    assert kernel.present == {}
    links.close()


async def test_a_link_that_another_did_not_wire_is_wired_here() -> None:
    """Whatever the reason was."""
    kernel, beside = SlowLinks(), Beside()
    links = WorkloadLinks(kernel, beside)
    beside.begun = asyncio.get_running_loop().create_future()
    beside.begun.set_result(None)
    assert await links.wire(0, LINK) == 5
    assert dict(links.index_of) == {LINK.host_name: 5}
    links.close()


@pytest.mark.parametrize(("link_count", "started"), [(1, False), (2, False), (3, True)])
async def test_links_are_wired_beside_once_more_wait_than_threads(link_count: int, started: bool) -> None:  # noqa: FBT001  a parameter
    """A host where containers come one by one has no process for it."""
    beside = Beside()
    links = WorkloadLinks(SlowLinks(), beside)
    await asyncio.gather(*(links.wire(0, LINK) for _ in range(link_count)))
    await links.wire(0, LINK)
    assert bool(beside.start_count) is started
    links.close()
