"""The one owner of this host's workload links: netlink work in a thread of its own, the outcome known to the loop."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from controller.ports import Links, WorkloadLink

_REMOVALS_AT_ONCE: Final = 64


class WorkloadLinks:
    """Wires and unwires, and knows the index of every workload link.

    Wiring and listing run one after the other in one thread (entering a namespace changes the thread that does it), and
    each outcome is recorded on the event loop in that same order, before the caller sees it: a listing that began
    before a link was wired can never hide it. A removal waits for every CPU, and many at once take no longer than one,
    so each has a thread of its own.
    """

    def __init__(self, links: Links) -> None:
        self._links = links
        self._callbacks: list[Callable[[], None]] = []
        self._wiring = ThreadPoolExecutor(max_workers=1, thread_name_prefix="wiring")
        self._removing = ThreadPoolExecutor(max_workers=_REMOVALS_AT_ONCE, thread_name_prefix="removing")
        self._index_of: dict[str, int] = {}

    @property
    def index_of(self) -> Mapping[str, int]:
        """The index of each workload link, by its name."""
        return self._index_of

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call this whenever `index_of` has changed, before the caller of the method that changed it goes on."""
        self._callbacks.append(callback)

    async def wire(self, namespace_descriptor: int, link: WorkloadLink) -> int:
        """Make the link and return its index; raises as `Links.wire` does."""
        return await self.make(link.host_name, partial(self._links.wire, namespace_descriptor, link))

    async def make(self, host_name: str, make: Callable[[], int]) -> int:
        """Make a link of this name in another way than `wire` does, and return the index that `make` returns."""

        def work() -> int:
            index = make()
            loop.call_soon_threadsafe(self._record, host_name, index)
            return index

        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._wiring, work)

    async def unwire(self, host_name: str) -> None:
        """Remove the link; one that is gone is no error."""

        def work() -> None:
            self._links.unwire(host_name)
            loop.call_soon_threadsafe(self._record, host_name, None)

        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._removing, work)

    async def refresh(self) -> None:
        """Read the links anew from the kernel."""

        def work() -> None:
            found = self._links.list()
            loop.call_soon_threadsafe(self._replace, found)

        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._wiring, work)

    def close(self) -> None:
        """End the threads once what they do is done."""
        self._wiring.shutdown()
        self._removing.shutdown()

    def _record(self, name: str, index: int | None) -> None:
        if index is None:
            self._index_of.pop(name, None)
        else:
            self._index_of[name] = index
        self._tell()

    def _replace(self, found: dict[str, int]) -> None:
        if found != self._index_of:
            self._index_of = found
            self._tell()

    def _tell(self) -> None:
        for callback in self._callbacks:
            callback()
