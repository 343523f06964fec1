"""The page that Prometheus reads: what was counted while it happened, and what the agent knows now.

The agent is read in one go on the event loop, which takes a time that grows with its peers and blocks, not with
routes; putting that into text takes longer and is done in a thread.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector as MetricsCollector

from bgp.events import RoutesChanged, SessionDown
from controller.agent.cluster import Cluster
from controller.agent.metrics_families import families
from controller.agent.metrics_reading import Given, Heard, Reading

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client.core import Metric

    from bgp.events import SpeakerEvent
    from controller.agent.collecting import Collector
    from controller.agent.metrics_instruments import Instruments
    from controller.agent.metrics_reach import Reach
    from controller.agent.routing import Routing
    from controller.agent.status import Observed
    from controller.assignment.assigner import Assigner
    from controller.reconcile.programmer import RouteProgrammer
    from controller.speaker.client import SidecarSpeaker
    from ipam.address import IPAddress


#: Where Prometheus looks.
PATH: Final = "/metrics"
#: How long a text is given out again; Prometheus asks every 10 s or more.
_FRESH_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Tally:
    """How often peers told something, by peer, of all peers that ever were."""

    update_counts: Counter[IPAddress] = field(default_factory=Counter)
    loss_counts: Counter[IPAddress] = field(default_factory=Counter)

    def count(self, event: SpeakerEvent) -> None:
        """Count one event of the speaker."""
        if isinstance(event, RoutesChanged):
            self.update_counts[event.peer] += 1
        elif isinstance(event, SessionDown):
            self.loss_counts[event.peer] += 1


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of the agent that metrics are read off."""

    observed: Callable[[], Observed]
    assigner: Assigner
    collector: Collector
    programmer: RouteProgrammer
    routing: Routing
    speaker: SidecarSpeaker
    reach: Reach
    tally: Tally
    instruments: Instruments

    def read(self) -> Reading:
        """Return the agent as of now."""
        observed = self.observed()
        return Reading(
            observed=observed,
            cluster=self.routing.cluster or Cluster(),
            blocks=self.assigner.blocks(),
            transactions=self.assigner.counters,
            given=Given(
                self.collector.leak_candidate_count, self.collector.collected_count, self.collector.returned_count
            ),
            table=self.programmer.table,
            failed_pass_count=self.programmer.error_count,
            heard=Heard(
                self.routing.learned_counts(),
                self.routing.stale_count(),
                self.tally.update_counts,
                self.tally.loss_counts,
            ),
            announced_count=len(self.speaker.announced),
            waiting_count=self.reach.waiting_count(observed.holders.keys()),
            watch_lag_seconds=self.instruments.watch_lag_seconds,
        )


class MetricsPage:
    """Answers scrapes; those that come within a second of one another are given the same text.

    Whoever reaches the page may ask as often as he likes, and the event loop is not his.
    """

    def __init__(self, parts: Parts, clock: Callable[[], float] = time.monotonic) -> None:
        self._parts = parts
        self._clock = clock
        self._making = asyncio.Lock()
        self._text = b""
        self._fresh_until = -math.inf

    async def answer(self, _request: web.Request) -> web.Response:
        """Answer with everything, in Prometheus' text format."""
        async with self._making:
            if self._clock() >= self._fresh_until:
                found = list(families(self._parts.read()))
                self._text = await asyncio.to_thread(exposition, found, self._parts.instruments)
                self._fresh_until = self._clock() + _FRESH_SECONDS
        return web.Response(body=self._text, headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})


def exposition(found: list[Metric], instruments: Instruments) -> bytes:
    """Return what was found and what the instruments have, as Prometheus reads it."""
    return generate_latest(_Together(found, instruments))


class _Together(MetricsCollector):
    def __init__(self, found: list[Metric], instruments: Instruments) -> None:
        self._found = found
        self._instruments = instruments

    def collect(self) -> Iterator[Metric]:
        """Yield all, without the time each counter was made, which is the agent's own start nearly always."""
        yield from self._found
        for family in self._instruments.registry.collect():
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
            yield family
