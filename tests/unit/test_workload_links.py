"""The owner of the workload links keeps what it knows in the order things happened."""

from __future__ import annotations

import asyncio
import threading

from controller.ports import WorkloadLink
from controller.reconcile.links import WorkloadLinks

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

    def unwire(self, host_name: str) -> None:
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
