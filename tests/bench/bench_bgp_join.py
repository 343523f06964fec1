"""A node that joins: from the start of its daemons to every block of the cluster in its kernel.

One reflector (BIRD, which waits to be called) holds the blocks. Beside ours, BIRD is started in a namespace of the same
kind, with a kernel protocol. Then once more with sessions that are up already: the reflector gets all blocks at once.
"""

from __future__ import annotations

import ipaddress
import shutil
import tempfile
import time
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bgp.peering import PeerDefinition
from ipam.pool import Pool
from tests.bench.bgp_places import AS_NUMBER, Bird, Node, Place, RouteCount, address, place, write_cluster
from tests.bench.harness import Benchmark, Better, Comparison

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.bench.harness import Sample

_COUNT: Final = 10_000
_POOL: Final = Pool(name="ipv4", cidr=ipaddress.ip_network("10.64.0.0/10"), block_prefix_length=26)
_REFLECTOR: Final = 254
_JOINING: Final = 1
#: BIRD waits for up to this long before it calls a peer, unless told otherwise (user's guide, "connect delay time").
_DEFAULT_DELAY_SECONDS: Final = 5
#: The least it can be told.
_LEAST_DELAY_SECONDS: Final = 1


@contextmanager
def _sides() -> Iterator[Mapping[str, Sample]]:
    with ExitStack() as stack:
        store = Path(stack.enter_context(tempfile.TemporaryDirectory()), "store.db")
        reflector = PeerDefinition(
            "reflector", ipaddress.ip_address(address(_REFLECTOR)), AS_NUMBER, next_hop_self=False
        )
        write_cluster(store, _POOL, peer=reflector)
        ours, theirs = (stack.enter_context(_standing(each)) for each in (store, None))
        yield {
            "tortie": partial(_join, store, 0),
            "bird": partial(_join, None, _DEFAULT_DELAY_SECONDS),
            "bird in haste": partial(_join, None, _LEAST_DELAY_SECONDS),
            "tortie up": ours.flood,
            "bird up": theirs.flood,
        }


class _Joining:
    """A reflector and a node that joins it: ours if there is a store, BIRD otherwise."""

    def __init__(self, where: Place, store: Path | None, *, delay_seconds: int, announcing: bool) -> None:
        self._place = where
        self._bird = Bird(where, where.host(_REFLECTOR), _reflector(announcing=announcing))
        self._bird.start()
        self.node: Node | Bird
        if store is None:
            namespace = where.host(_JOINING)
            self.node = Bird(where, namespace, _joining(delay_seconds))
        else:
            own = where.directory / "store.db"
            shutil.copy(store, own)
            self.node = Node(where, _JOINING, store=own)
            namespace = self.node.namespace
        self._routes = RouteCount(namespace)
        where.until(self._is_loaded, "loaded")
        self._before = self._routes.read()

    def close(self) -> None:
        """Close what it counts with; the rest belongs to the place."""
        self._routes.close()

    def join(self) -> float:
        """Return the seconds from the start of the daemons until every block is in the kernel."""
        start = time.perf_counter()
        self.node.start()
        self._wait(_COUNT)
        return time.perf_counter() - start

    def stand(self) -> None:
        """Start the daemons and wait for the session."""
        self.node.start()
        self._place.until(self._bird.established, "established")

    def flood(self) -> float:
        """Return the seconds from the reflector's getting every block until every block is in the kernel."""
        start = time.perf_counter()
        self._bird.ask("enable blocks")
        self._wait(_COUNT)
        seconds = time.perf_counter() - start
        self._bird.ask("disable blocks")
        self._wait(0)
        return seconds

    def _wait(self, count: int) -> None:
        self._place.until(lambda: self._routes.read() == self._before + count, f"at {count} routes")

    def _is_loaded(self) -> bool:
        try:
            return "blocks" in self._bird.ask("show protocols")
        except OSError:
            return False


def _join(store: Path | None, delay_seconds: int) -> float:
    """Return how long it takes in a place of its own, so that no turn finds anything of the one before."""
    with place() as where, closing(_Joining(where, store, delay_seconds=delay_seconds, announcing=True)) as joining:
        return joining.join()


@contextmanager
def _standing(store: Path | None) -> Iterator[_Joining]:
    with (
        place() as where,
        closing(_Joining(where, store, delay_seconds=_LEAST_DELAY_SECONDS, announcing=False)) as joining,
    ):
        joining.stand()
        yield joining


def _reflector(*, announcing: bool) -> str:
    first = int(_POOL.cidr.network_address)
    blocks = "".join(
        f"  route {ipaddress.IPv4Network((first + 64 * number, 26))} blackhole;\n" for number in range(_COUNT)
    )
    return f"""
router id {address(_REFLECTOR)};
protocol device {{ }}
protocol static blocks {{
  disabled {"no" if announcing else "yes"};
  ipv4;
{blocks}}}
protocol bgp joining {{
  local {address(_REFLECTOR)} as {AS_NUMBER};
  neighbor {address(_JOINING)} as {AS_NUMBER};
  passive on;
  rr client;
  ipv4 {{ import all; export all; next hop self; }};
}}
"""


def _joining(delay_seconds: int) -> str:
    return f"""
router id {address(_JOINING)};
protocol device {{ }}
protocol kernel {{ ipv4 {{ import none; export all; }}; }}
protocol bgp reflector {{
  local {address(_JOINING)} as {AS_NUMBER};
  neighbor {address(_REFLECTOR)} as {AS_NUMBER};
  direct;
  connect delay time {delay_seconds};
  ipv4 {{ import all; export none; }};
}}
"""


BENCHMARK = Benchmark(
    title=(
        f"{_COUNT:,} blocks of a reflector in the kernel: from the daemons' start, where BIRD waits its default "
        f"{_DEFAULT_DELAY_SECONDS} s of connect delay (in haste: {_LEAST_DELAY_SECONDS} s, the least it takes), "
        "and announced at once to sessions that are up"
    ),
    rows={
        "start": Comparison("tortie", "bird", "s", Better.LOWER),
        "start-in-haste": Comparison("tortie", "bird in haste", "s", Better.LOWER),
        "established": Comparison("tortie up", "bird up", "s", Better.LOWER),
    },
    sides=_sides,
)
