"""A node with many blocks tells many peers: from asking the speaker until every peer has every prefix.

The peers only listen, in one thread. Beside ExaBGP with its sidecar, BIRD is asked to announce the same to the same.
"""

from __future__ import annotations

import ipaddress
import socket
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final

from bgp import wire
from bgp.messages import Desired
from bgp.peer import Peer
from bgp.route import Announcement
from tests.bench.bgp_listeners import Listeners
from tests.bench.bgp_places import AS_NUMBER, PROGRAMS, Bird, address, ip, place
from tests.bench.harness import Benchmark, Better, Comparison, Figure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tests.bench.bgp_places import Place, Program
    from tests.bench.harness import Sample

_PEERS: Final = 50
_PREFIXES: Final = 1000
_FIRST_PREFIX: Final = int(ipaddress.ip_address("10.64.0.0"))
_NODE: Final = 1
#: The peers have the addresses of these hosts, but are on one.
_FIRST_PEER: Final = 256


@contextmanager
def _sides() -> Iterator[Mapping[str, Sample]]:
    with ExitStack() as stack:
        ours, theirs = stack.enter_context(_ours()), stack.enter_context(_theirs())
        yield {
            "tortie": ours.announce,
            "tortie cpu": lambda: ours.speaker_seconds + ours.sidecar_seconds,
            "exabgp cpu": lambda: ours.speaker_seconds,
            "sidecar cpu": lambda: ours.sidecar_seconds,
            "bird": theirs.announce,
            "bird cpu": lambda: theirs.speaker_seconds,
        }


class _Speaker:
    """A speaker with a session with every listener; `announce` and `withdraw` ask it to tell all prefixes or none."""

    def __init__(
        self, listeners: Listeners, program: Program, announce: Callable[[], object], withdraw: Callable[[], object]
    ) -> None:
        self._listeners = listeners
        self._program = program
        self._announce = announce
        self._withdraw = withdraw
        #: The processor time of the last announcement; BIRD has no sidecar.
        self.speaker_seconds = self.sidecar_seconds = 0.0

    def announce(self) -> float:
        """Return the seconds until every peer has every prefix; afterwards they have none again."""
        speaker, sidecar = self._program.cpu_seconds(), self._program.cpu_seconds_of_children()
        start = time.perf_counter()
        self._announce()
        seconds = self._listeners.wait(peers=_PEERS, prefixes=_PREFIXES) - start
        self.speaker_seconds = self._program.cpu_seconds() - speaker
        self.sidecar_seconds = self._program.cpu_seconds_of_children() - sidecar
        self._withdraw()
        self._listeners.wait(peers=_PEERS, prefixes=0)
        return seconds


@contextmanager
def _ours() -> Iterator[_Speaker]:
    with place() as where, _listeners(where) as listeners, socket.socket(socket.AF_UNIX) as client:
        host, path = where.host(_NODE), where.directory / "bgp.sock"
        state = where.directory / "bgp"
        program = where.start(host, str(PROGRAMS / "tortie-bgp"), "--socket", str(path), "--state-dir", str(state))
        where.until(path.exists, "serving")
        client.connect(str(path))
        peers = tuple(_peer(number) for number in range(_PEERS))
        own = ipaddress.ip_address(address(_NODE))
        everything = tuple(Announcement(prefix, own) for prefix in _prefixes())

        def want(announcements: tuple[Announcement, ...]) -> None:
            client.sendall(wire.encode(Desired(peers, announcements)))

        want(())
        listeners.wait(peers=_PEERS, prefixes=0)
        yield _Speaker(listeners, program, lambda: want(everything), lambda: want(()))


@contextmanager
def _theirs() -> Iterator[_Speaker]:
    with place() as where, _listeners(where) as listeners:
        bird = Bird(where, where.host(_NODE), _configuration())
        program = bird.start()
        where.until(lambda: bird.established() == _PEERS, "established")
        listeners.wait(peers=_PEERS, prefixes=0)
        yield _Speaker(listeners, program, lambda: bird.ask("enable blocks"), lambda: bird.ask("disable blocks"))


@contextmanager
def _listeners(where: Place) -> Iterator[Listeners]:
    host = where.host(_FIRST_PEER)
    for number in range(1, _PEERS):
        ip("-n", host, "address", "add", f"{address(_FIRST_PEER + number)}/16", "dev", "up0")
    with Listeners(host) as listeners:
        yield listeners


def _peer(number: int) -> Peer:
    return Peer(
        address=ipaddress.ip_address(address(_FIRST_PEER + number)),
        local_address=ipaddress.ip_address(address(_NODE)),
        local_as=AS_NUMBER,
        peer_as=AS_NUMBER,
        router_id=address(_NODE),
    )


def _prefixes() -> Iterator[ipaddress.IPv4Network]:
    return (ipaddress.IPv4Network((_FIRST_PREFIX + 64 * number, 26)) for number in range(_PREFIXES))


def _configuration() -> str:
    blocks = "".join(f"  route {prefix} blackhole;\n" for prefix in _prefixes())
    sessions = "".join(
        f"""protocol bgp peer{number} {{
  local {address(_NODE)} as {AS_NUMBER};
  neighbor {address(_FIRST_PEER + number)} as {AS_NUMBER};
  direct;
  connect delay time 1;
  ipv4 {{ import all; export all; next hop self; }};
}}
"""
        for number in range(_PEERS)
    )
    return f"""
router id {address(_NODE)};
protocol device {{ }}
protocol static blocks {{
  disabled yes;
  ipv4;
{blocks}}}
{sessions}"""


BENCHMARK = Benchmark(
    title=f"{_PREFIXES:,} prefixes announced to {_PEERS} peers with sessions: until all have all, and processor time",
    rows={
        "": Comparison("tortie", "bird", "s", Better.LOWER),
        "cpu": Comparison("tortie cpu", "bird cpu", "s", Better.LOWER),
        "cpu-exabgp": Figure("exabgp cpu", "s"),
        "cpu-sidecar": Figure("sidecar cpu", "s"),
    },
    sides=_sides,
)
