"""By the row, ExaBGP tells what it told one prefix at a time; each try is a process, for its classes are changed."""

from __future__ import annotations

import ipaddress
import json
import random
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from bgp import exabgp_events, wire
from bgp.events import EndOfRib, RoutesChanged
from bgp.policy import Rejection
from bgp.updates import Update

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bgp.route import LearnedRoute

PEER = ipaddress.ip_address("10.0.0.2")

#: Reads one update in hexadecimal digits a line; writes what the API process would be told, or the notification.
PROGRAM = """
import json, sys
from collections import defaultdict
from types import SimpleNamespace
from exabgp.bgp.message.notification import Notify
from exabgp.bgp.neighbor import Neighbor
from exabgp.logger import log
from exabgp.protocol.family import AFI, SAFI
from exabgp.protocol.ip import IP
from exabgp.reactor.api.response import Response
from exabgp.reactor.protocol import Protocol
from exabgp.rib.change import Change
from exabgp.rib.incoming import IncomingRIB

log.silence()
from bgp.sidecar import bounds, haste, repairs, rows
repairs.keep_global_next_hops()
bounds.apply()
haste.apply()
if sys.argv[1] == "rows":
    rows.apply()

families = [(AFI.ipv4, SAFI.unicast), (AFI.ipv6, SAFI.unicast)]
neighbor = Neighbor()
neighbor["local-address"], neighbor["peer-address"] = IP.create("10.0.0.1"), IP.create("10.0.0.2")
neighbor["local-as"] = neighbor["peer-as"] = 64512
neighbor["adj-rib-in"] = True
neighbor.api = defaultdict(bool, {"receive-parsed": True, "receive-update": True})
encoder = Response.JSON("5.0.0")

class Processes:
    def message(self, number, neighbor, direction, message, *rest):
        print(encoder.update(neighbor, direction, message, None, b"", b""))

class Connection:
    def session(self):
        return "session"
    def reader(self):
        yield len(self.body) + 19, 2, b"", self.body, None

stats = defaultdict(int)
protocol = Protocol(SimpleNamespace(neighbor=neighbor, stats=stats, reactor=SimpleNamespace(processes=Processes())))
protocol.connection = Connection()
protocol.negotiated.families = families
protocol.negotiated.asn4 = True
learned = IncomingRIB(True, families)
for line in sys.stdin:
    protocol.connection.body = bytes.fromhex(line)
    try:
        for message in protocol.read_message():
            for nlri in getattr(message, "nlris", ()):
                if not getattr(message, "EOR", False) and hasattr(nlri, "action"):
                    learned.update_cache(Change(nlri, message.attributes))
    except Notify as refusal:
        print(f"refused {refusal.code} {refusal.subcode}")
    print("-")
print("=")
for change in learned.cached_changes():
    print(json.dumps({"peer": {"address": "10.0.0.2"}, "route": change.as_dict()}))
"""

ORIGIN, NO_ORIGIN = "40010100", "40010200"
AS_PATH = "40020a0202" + "0000fbf0" + "0000fbf1"
NEXT_HOP, MED, PREFERENCE = "4003040a000002", "80040400000007", "40050400000096"
COMMUNITIES = "c00808fbf00001ffffff01"
REFLECTED = "800904010203048" + "00a0405060708"
COMMON = ORIGIN + AS_PATH + NEXT_HOP + MED + PREFERENCE + COMMUNITIES + REFLECTED
GLOBAL, LINK_LOCAL = "fd00" + "00" * 13 + "02", "fe80" + "00" * 13 + "02"
SIX, OTHER_SIX = "30fd2000000001", "40fd20000000020003"


def update(attributes: str = "", announced: str = "", withdrawn: str = "") -> str:
    """Return the body of an update, in hexadecimal digits."""
    return f"{len(withdrawn) // 2:04x}{withdrawn}{len(attributes) // 2:04x}{attributes}{announced}"


def reach(next_hop: str, row: str) -> str:
    """Return MP_REACH_NLRI of IPv6 unicast (RFC 4760, section 3)."""
    value = f"000201{len(next_hop) // 2:02x}{next_hop}00{row}"
    return f"800e{len(value) // 2:02x}{value}"


def unreach(row: str) -> str:
    """Return MP_UNREACH_NLRI of IPv6 unicast (RFC 4760, section 4)."""
    value = f"000201{row}"
    return f"800f{len(value) // 2:02x}{value}"


def many(code: int, octets: int, count: int) -> str:
    """Return an optional transitive attribute with so many members, each of so many octets."""
    value = "".join(f"{number:0{2 * octets}x}" for number in range(count))
    return f"d0{code:02x}{octets * count:04x}{value}"


UPDATES = {
    "announced": update(COMMON, "1a0a4000001a0a400040200a400081"),
    "withdrawn": update(withdrawn="1a0a400040080b"),
    "both": update(COMMON, "180a4100", "180a4100180a4200"),
    "again with other attributes": update(ORIGIN + AS_PATH + NEXT_HOP, "1a0a400000"),
    "bits beyond the length": update(COMMON, "190a4300ff", "090bff"),
    "IPv6": update(ORIGIN + AS_PATH + PREFERENCE + reach(GLOBAL, SIX + OTHER_SIX)),
    "IPv6 with a link-local next hop": update(ORIGIN + AS_PATH + reach(GLOBAL + LINK_LOCAL, "10fd30")),
    "IPv6 withdrawn": update(unreach(SIX)),
    "end of IPv4": update(),
    "end of IPv6": update(unreach("")),
    "malformed origin": update(NO_ORIGIN + "0000" + AS_PATH + NEXT_HOP, "180a4200"),
    "length too long": update(COMMON, "210a40000000"),
    "IPv6 length too long": update(ORIGIN + AS_PATH + reach(GLOBAL, "81fd20")),
    "cut short": update(COMMON, "1a0a4000"),
    "withdrawn cut short": update(withdrawn="1a0a40"),
    "without a next hop": update(ORIGIN + AS_PATH, "184a4200", "180a4100"),
    "many communities": update(COMMON.replace(COMMUNITIES, many(0x08, 4, 600)), "180a4300", "180a4100"),
    "many communities of IPv6": update(ORIGIN + AS_PATH + many(0x20, 12, 200) + reach(GLOBAL, SIX)),
    "an unknown attribute": update(COMMON + many(0x7F, 1, 2048), "180a4400"),
    "long, and the last cut short": update(reach(GLOBAL, SIX) + many(0x08, 4, 600)[:-8]),
    "as many communities as may be": update(COMMON.replace(COMMUNITIES, many(0x08, 4, 485)), "180a4500"),
}


def told(how: str, updates: Iterable[str]) -> tuple[list[list[str]], list[str]]:
    """Return what ExaBGP writes for each update, and its answer about the Adj-RIB-In after them."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how],
        input="".join(f"{each}\n" for each in updates),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    events, _, answer = done.stdout.partition("=\n")
    return [each.splitlines() for each in events.split("-\n")[:-1]], answer.splitlines()


def by_the_row(document: dict[str, Any]) -> dict[str, Any]:
    """Return what is told of single prefixes as it is told of rows."""
    update = document["neighbor"]["message"].get("update", {})
    for name, by_next_hop in update.get("announce", {}).items():
        update["announce"][name] = {hop: [as_row(each["nlri"]) for each in rows] for hop, rows in by_next_hop.items()}
    for name, rows in update.get("withdraw", {}).items():
        update["withdraw"][name] = [as_row(each["nlri"]) for each in rows]
    return document


def as_row(prefix: str) -> str:
    """Return a prefix as its octets; ExaBGP tells bits beyond the length, which mean nothing."""
    network = ipaddress.ip_network(prefix, strict=False)
    octets = (network.prefixlen + 7) // 8
    return bytes([network.prefixlen, *network.network_address.packed[:octets]]).hex()


def understood(lines: list[str]) -> list[object]:
    """Return what is understood of the lines for one update."""
    return [line if line.startswith("refused") else read(exabgp_events.parse_event(line)) for line in lines]


def read(event: object) -> object:
    """Return what an agent reads of an event: learned routes one by one."""
    return wire.decode(wire.encode(event)) if isinstance(event, Update) else event


def routes_of(line: str) -> tuple[LearnedRoute, ...]:
    """Return the routes in a line of an answer."""
    group = exabgp_events.parse_routes(line)
    changed = read(Update(PEER, (), (group,))) if group is not None else None
    return tuple(route for row in changed.announced for route in row) if isinstance(changed, RoutesChanged) else ()


def plainly_understood(lines: list[str]) -> list[object]:
    """Return what would be understood of lines about single prefixes."""
    events = [line for line in lines if not line.startswith("refused")]
    rows = [json.dumps(by_the_row(json.loads(line))) for line in events]
    return understood([*rows, *(line for line in lines if line.startswith("refused"))])


@pytest.fixture(scope="module")
def seen() -> tuple[dict[str, list[object]], list[str], list[str]]:
    """Offer what is understood of each update, and both answers."""
    plain, plain_answer = told("plain", UPDATES.values())
    rows, rows_answer = told("rows", UPDATES.values())
    assert [understood(lines) for lines in rows] == [plainly_understood(lines) for lines in plain]
    return dict(zip(UPDATES, map(understood, rows), strict=True)), plain_answer, rows_answer


def test_updates_are_told_as_they_were(seen: tuple[dict[str, list[object]], list[str], list[str]]) -> None:
    """Every attribute, both IP versions, both directions, ends, and what is to be treated as a withdrawal."""
    events = seen[0]
    (announced,) = events["announced"]
    assert isinstance(announced, RoutesChanged)
    (routes,) = announced.announced
    prefixes = [str(route.prefix) for route in routes]
    assert prefixes == ["10.64.0.0/26", "10.64.0.64/26", "10.64.0.129/32"]
    (first, *_) = routes
    assert (first.as_path, first.med, first.local_preference) == ((64496, 64497), 7, 150)
    assert (first.communities, first.originator_id) == (((64496, 1), (65535, 65281)), "1.2.3.4")
    (linked,) = events["IPv6 with a link-local next hop"]
    assert isinstance(linked, RoutesChanged)
    assert [route.next_hop for row in linked.announced for route in row] == [ipaddress.ip_address("fd00::2")]
    (malformed,) = events["malformed origin"]
    assert isinstance(malformed, RoutesChanged)
    assert [str(prefix) for prefix in malformed.withdrawn] == ["10.66.0.0/24"]
    assert not malformed.announced
    assert events["end of IPv6"] == [EndOfRib(PEER, 6)]
    assert events["cut short"] == ["refused 3 10"]


REFUSED = {
    "malformed origin": (Rejection.MALFORMED, "180a4200"),
    "without a next hop": (Rejection.MALFORMED, "184a4200"),
    "many communities": (Rejection.LONG_ATTRIBUTES, "180a4300"),
    "many communities of IPv6": (Rejection.LONG_ATTRIBUTES, SIX),
    "an unknown attribute": (Rejection.LONG_ATTRIBUTES, "180a4400"),
    "long, and the last cut short": (Rejection.LONG_ATTRIBUTES, SIX),
}


def test_what_is_refused_is_withdrawn_and_told_apart_from_what_the_peer_withdrew() -> None:
    """A bad attribute, a missing next hop, more attributes than may be: neither ends the session (RFC 7606)."""
    lines, answer = told("rows", [UPDATES["announced"], *(UPDATES[name] for name in REFUSED)])
    updates = [exabgp_events.parse_event(line) for (line,) in lines[1:]]
    refused, withdrawn = {}, {}
    for name, found in zip(REFUSED, updates, strict=True):
        assert isinstance(found, Update)
        (only,) = found.refused
        refused[name] = (only.reason, b"".join(only.prefixes.parts).hex())
        withdrawn[name] = b"".join(part for row in found.withdrawn for part in row.parts).hex()
        assert not found.announced
    assert refused == REFUSED
    also_withdrawn = dict.fromkeys(["without a next hop", "many communities"], "180a4100")
    assert withdrawn == {name: also_withdrawn.get(name, "") + prefixes for name, (_, prefixes) in REFUSED.items()}
    assert [len(group.prefixes.parts) for line in answer if (group := exabgp_events.parse_routes(line))] == [3]


def test_what_was_learned_is_shown_as_it_was(seen: tuple[dict[str, list[object]], list[str], list[str]]) -> None:
    """A sidecar that starts anew learns every route there still is, with the attributes it came with last."""
    _, plain, rows = seen
    shown = {route.prefix: route for line in rows for route in routes_of(line)}
    expected = {}
    for line in plain:
        document = json.loads(line)
        document["route"]["nlri"]["prefixes"] = as_row(document["route"]["nlri"]["prefix"])
        expected.update({route.prefix: route for route in routes_of(json.dumps(document))})
    assert shown == expected
    assert len(shown) > 4


def test_damaged_updates_are_told_or_refused_as_they_were() -> None:
    """Whatever octets are changed, missing or added, the session ends or goes on as before, with the same routes."""
    chance = random.Random(4271)  # noqa: S311 - the same damage every time
    whole = [bytes.fromhex(each) for each in UPDATES.values()]
    damaged = []
    for _ in range(600):
        body = bytearray(chance.choice(whole))
        for _ in range(chance.randint(1, 3)):
            at = chance.randrange(len(body))
            body[at : at + chance.randint(0, 1)] = chance.randbytes(chance.randint(0, 2))
        damaged.append(bytes(body[: 4096 - 19]).hex())
    plain, _ = told("plain", damaged)
    rows, _ = told("rows", damaged)
    for octets, before, now in zip(damaged, plain, rows, strict=True):
        assert understood(now) == plainly_understood(before), octets
