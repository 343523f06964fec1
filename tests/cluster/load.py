"""One agent's share of the load: random requests of every kind, each on a handle that no other request is about."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from controller.errors import TortieError
from ipam.errors import Refused
from ipam.request import AssignRequest
from tests.cluster.history import Kind, Operation, Outcome

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Sequence

    from controller.assignment.assigner import Assigner
    from ipam.address import IPAddress, IPNetwork
    from tests.cluster.history import Recorder

#: How many handles an agent wants, by turns: none, so that its blocks are given up or taken away, to more than fit into
#: its own blocks, so that it borrows.
_WANTED: Final = (0, 0, 0, 2, 5, 10, 18)
#: How many requests an agent makes until it wants another number, at most.
_LONGEST_TURN: Final = 60
_LONGEST_PAUSE_SECONDS: Final = 0.15
_PAUSE_AFTER_FAILURE_SECONDS: Final = 0.3
#: How long a caller waits that does not wait long, in seconds, and how many callers are so: what became of their
#: request they do not know.
_IMPATIENCE_SECONDS: Final = 0.004
_IMPATIENT_SHARE: Final = 0.03
#: How many assignments ask for an address by itself.
_SPECIFIC_SHARE: Final = 0.2
_IP_VERSIONS: Final = ((4,), (6,), (4, 6), (4, 6), (4, 6))
_BOTH: Final = (4, 6)


@dataclass(slots=True)
class Load:
    """What the requests of one agent know: the IP versions of which each handle holds, or may hold, an address."""

    agent: str
    assigner: Assigner
    recorder: Recorder
    chance: random.Random
    pools: Sequence[IPNetwork]
    held: dict[str, tuple[int, ...]] = field(default_factory=dict)
    doubtful: dict[str, tuple[int, ...]] = field(default_factory=dict)
    _handle_count: int = 0
    _wanted: int = 3
    _turn: int = _LONGEST_TURN

    async def run(self, stopping: asyncio.Event) -> None:
        """Make one request after the other until told to stop; several of these may run at once."""
        while not stopping.is_set():
            next_one = self.chance.choices([self._fill, self._repeat, self._insist, self._return], (60, 10, 25, 5))[0]
            outcome = await next_one()
            longest = _PAUSE_AFTER_FAILURE_SECONDS if outcome is Outcome.UNKNOWN else _LONGEST_PAUSE_SECONDS
            with suppress(TimeoutError):
                async with asyncio.timeout(self.chance.uniform(0, longest)):
                    await stopping.wait()

    async def settle(self) -> None:
        """Release every handle of which it is not known what it holds, until each release is answered."""
        while self.doubtful:
            if await self._release(*self._taken(self.doubtful)) is Outcome.UNKNOWN:
                await asyncio.sleep(_PAUSE_AFTER_FAILURE_SECONDS)

    async def _fill(self) -> Outcome:
        """Come nearer to the number of handles that is wanted."""
        self._turn -= 1
        if self._turn <= 0:
            self._turn = self.chance.randint(5, _LONGEST_TURN)
            self._wanted = self.chance.choice(_WANTED)
        if len(self.held) >= self._wanted:
            return await (self._release(*self._taken(self.held)) if self.held else self._return())
        self._handle_count += 1
        versions = self.chance.choice(_IP_VERSIONS)
        specific = self.chance.random() < _SPECIFIC_SHARE
        return await self._assign(f"{self.agent}-{self._handle_count}", versions, self._asked() if specific else ())

    async def _repeat(self) -> Outcome:
        """Ask again for what is held, or for the other IP version too."""
        if not self.held:
            return await self._fill()
        handle, versions = self._taken(self.held)
        outcome = await self._assign(handle, self.chance.choice((versions, _BOTH)))
        if outcome is Outcome.REFUSED:
            self.held[handle] = versions
        return outcome

    async def _insist(self) -> Outcome:
        """Ask again for what was left open, or give it up."""
        if not self.doubtful:
            return await self._fill()
        handle, versions = self._taken(self.doubtful)
        if self.chance.random() < 0.5:
            return await self._release(handle, versions)
        outcome = await self._assign(handle, versions)
        if outcome is Outcome.REFUSED:
            self.doubtful[handle] = versions
        return outcome

    async def _return(self) -> Outcome:
        """Return the blocks that are empty."""
        cidrs = [block.cidr for block in self.assigner.own_blocks()]

        async def returned() -> tuple[IPAddress, ...]:
            await self.assigner.return_blocks(cidrs)
            return ()

        outcome, _ = await self._told(Operation(self.agent, Kind.RETURN, "", time.monotonic()), returned())
        return outcome

    async def _assign(self, handle: str, versions: tuple[int, ...], asked: tuple[IPAddress, ...] = ()) -> Outcome:
        versions = tuple(sorted({*versions, *(address.version for address in asked)}))
        request = AssignRequest(handle, handle, "load", f"i-{handle}", versions, addresses=asked)

        async def assigned() -> tuple[IPAddress, ...]:
            return (await self.assigner.assign(request)).addresses

        operation = Operation(self.agent, Kind.ASSIGN, handle, time.monotonic(), versions=versions, asked=asked)
        outcome, addresses = await self._told(operation, assigned())
        if outcome is Outcome.DONE:
            self.held[handle] = tuple(address.version for address in addresses)
        elif outcome is Outcome.UNKNOWN:
            self.doubtful[handle] = _BOTH
        return outcome

    async def _release(self, handle: str, versions: tuple[int, ...]) -> Outcome:
        operation = Operation(self.agent, Kind.RELEASE, handle, time.monotonic())
        outcome, _ = await self._told(operation, self.assigner.release(handle))
        if outcome is not Outcome.DONE:
            self.doubtful[handle] = versions
        return outcome

    async def _told(
        self, operation: Operation, answering: Awaitable[tuple[IPAddress, ...]]
    ) -> tuple[Outcome, tuple[IPAddress, ...]]:
        """Make a request, write both its ends into the history, and return what was answered."""
        number = self.recorder.invoke(operation)
        outcome = Outcome.UNKNOWN
        addresses: tuple[IPAddress, ...] = ()
        impatient = self.chance.random() < _IMPATIENT_SHARE
        try:
            async with asyncio.timeout(_IMPATIENCE_SECONDS if impatient else None):
                addresses = await answering
            outcome = Outcome.DONE
        except Refused:
            outcome = Outcome.REFUSED
        except (TortieError, TimeoutError):
            pass
        self.recorder.complete(number, outcome, addresses)
        return outcome, addresses

    def _taken(self, handles: dict[str, tuple[int, ...]]) -> tuple[str, tuple[int, ...]]:
        handle = self.chance.choice(list(handles))
        return handle, handles.pop(handle)

    def _asked(self) -> tuple[IPAddress, ...]:
        """Return an address of one pool, or one of each."""
        pools = self.chance.sample(self.pools, self.chance.randint(1, len(self.pools)))
        return tuple(pool[self.chance.randrange(pool.num_addresses)] for pool in pools)
