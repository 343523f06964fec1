"""The one owner of this host's workload links: netlink work in threads of its own, the outcome known to the loop."""

from __future__ import annotations

import asyncio
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from controller.ports import Links, Wiring, WorkloadLink

log = logging.getLogger(__name__)

_Index = TypeVar("_Index", int, "int | None")

#: Most of wiring is the kernel's work, a part of it under one lock. When more wait, links are wired beside as well.
_WIRED_AT_ONCE: Final = 2
_REMOVALS_AT_ONCE: Final = 64


class WorkloadLinks:
    """Wires and unwires, and knows the index of every workload link.

    Each outcome is recorded on the event loop before the caller sees it. What was recorded since a listing began
    outweighs that listing, which may show it or not: it can never hide a link that was wired meanwhile.

    A link is gone when the kernel tells so (`learn_gone`), with its routes and its name. The answer to the removal
    comes only some 25 ms later, when every CPU has let go of what the link was in memory; nobody needs to wait for
    that but the thread that asked, so there are many of those. The kernel gives no index twice, so what was told gone
    while a link was made or listed is not recorded afterwards.
    """

    def __init__(self, links: Links, beside: Wiring | None = None) -> None:
        self._links = links
        self._beside = beside
        self._wired_here_count = 0
        self._callbacks: list[Callable[[], None]] = []
        self._wiring = ThreadPoolExecutor(max_workers=_WIRED_AT_ONCE, thread_name_prefix="wiring")
        self._removing = ThreadPoolExecutor(max_workers=_REMOVALS_AT_ONCE, thread_name_prefix="removing")
        self._index_of: dict[str, int] = {}
        self._name_of: dict[int, str] = {}
        self._listing = asyncio.Lock()
        # What was recorded since the latest listing began.
        self._recorded: dict[str, int | None] = {}
        # What was told gone since the latest listing began, or since a link was begun that is not recorded yet.
        self._gone: set[int] = set()
        self._making_count = 0
        # Links that are being removed, by index: who waits is told through the future.
        self._leaving: dict[int, asyncio.Future[None]] = {}

    @property
    def index_of(self) -> Mapping[str, int]:
        """The index of each workload link, by its name."""
        return self._index_of

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call this whenever `index_of` has changed, before the caller of the method that changed it goes on."""
        self._callbacks.append(callback)

    async def wire(self, namespace_descriptor: int, link: WorkloadLink) -> int:
        """Make the link and return its index; raises as `Links.wire` does."""
        beside = None if self._beside is None else self._beside.wire(namespace_descriptor, link)
        index = None if beside is None else await self._made(link.host_name, beside)
        return await self._wire_here(namespace_descriptor, link) if index is None else index

    async def make(self, host_name: str, make: Callable[[], int]) -> int:
        """Make a link of this name in another way than `wire` does, and return the index that `make` returns."""
        return await self._made(host_name, asyncio.get_running_loop().run_in_executor(self._wiring, make))

    async def unwire(self, host_name: str, namespace_descriptor: int | None = None) -> None:
        """Remove the link, and with the workload's namespace what the link leaves there; one that is gone is no error.

        The descriptor may be closed as soon as this returns.
        """
        loop = asyncio.get_running_loop()
        namespace = None if namespace_descriptor is None else _kept(namespace_descriptor)
        gone: asyncio.Future[None] = loop.create_future()
        index = self._index_of.get(host_name)
        if index is not None:
            self._leaving[index] = gone
        removal = loop.run_in_executor(self._removing, self._remove, host_name, namespace, gone)
        removal.add_done_callback(partial(self._removed, host_name, index, gone))
        await gone

    def learn_gone(self, indexes: Iterable[int]) -> None:
        """Take in that the kernel has no links of these indexes any more, whoever removed them."""
        known_count = len(self._name_of)
        for index in indexes:
            self._gone.add(index)
            if index in self._name_of:
                self._set(self._name_of[index], None)
            if index in self._leaving:
                _settle(self._leaving.pop(index), None)
        if len(self._name_of) != known_count:
            self._tell()

    async def refresh(self) -> None:
        """Read the links anew from the kernel."""
        async with self._listing:
            self._recorded = {}
            if not self._making_count:
                self._gone.clear()
            found = await asyncio.get_running_loop().run_in_executor(self._wiring, self._links.list)
            merged = {**found, **self._recorded}
        known = {name: index for name, index in merged.items() if index is not None and index not in self._gone}
        if known != self._index_of:
            self._index_of = known
            self._name_of = {index: name for name, index in known.items()}
            self._tell()

    def close(self) -> None:
        """End the threads once what they do is done."""
        self._wiring.shutdown()
        self._removing.shutdown()

    def _remove(self, name: str, namespace: int | None, gone: asyncio.Future[None]) -> None:
        """Remove the link, unless it went while this waited for a thread: the name may be another link's by now."""
        try:
            if not gone.done() or gone.cancelled():
                self._links.unwire(name, namespace)
        finally:
            if namespace is not None:
                os.close(namespace)

    async def _wire_here(self, namespace_descriptor: int, link: WorkloadLink) -> int:
        self._wired_here_count += 1
        try:
            if self._beside is not None and self._wired_here_count > _WIRED_AT_ONCE:
                self._beside.start()
            return await self.make(link.host_name, partial(self._links.wire, namespace_descriptor, link))
        finally:
            self._wired_here_count -= 1

    async def _made(self, host_name: str, work: asyncio.Future[_Index]) -> _Index:
        self._making_count += 1
        work.add_done_callback(partial(self._record_made, host_name))
        return await asyncio.shield(work)  # a caller that is gone leaves a link that is known

    def _record_made(self, name: str, work: asyncio.Future[_Index]) -> None:
        self._making_count -= 1
        if work.exception() is None and (index := work.result()) is not None and index not in self._gone:
            self._record(name, index)

    def _removed(self, name: str, index: int | None, gone: asyncio.Future[None], removal: asyncio.Future[None]) -> None:
        """Take in the answer to a removal; if the kernel told before, the name may be another link's by now."""
        if index is not None:
            self._leaving.pop(index, None)
        error = removal.exception()
        if error is None:
            self._forget(name, index)
        _settle(gone, error)

    def _forget(self, name: str, index: int | None) -> None:
        if self._index_of.get(name) == index:
            self._record(name, None)

    def _record(self, name: str, index: int | None) -> None:
        self._set(name, index)
        self._tell()

    def _set(self, name: str, index: int | None) -> None:
        self._recorded[name] = index
        before = self._index_of.pop(name, 0)
        if self._name_of.get(before) == name:
            del self._name_of[before]
        if index is not None:
            self._index_of[name] = index
            self._name_of[index] = name

    def _tell(self) -> None:
        for callback in self._callbacks:
            callback()


def _settle(waiting: asyncio.Future[None], error: BaseException | None) -> None:
    if waiting.done():
        return
    if error is None:
        waiting.set_result(None)
    else:
        waiting.set_exception(error)


def _kept(descriptor: int) -> int | None:
    """Return a descriptor of one's own, or None if there is none to be had: what a link leaves behind may stay."""
    try:
        return os.dup(descriptor)
    except OSError as error:
        log.warning("what a link leaves in its namespace may stay", extra={"reason": str(error)})
        return None
