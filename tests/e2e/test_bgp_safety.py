"""What a network must withstand: a peer, and a node, that announce what is not theirs.

Nothing of it reaches a kernel, the session stays, each route is counted under the rule it breaks and told in the log
once, and what is legitimate flows on: a hundred packets a second in both families, none lost.
"""

from __future__ import annotations

import ipaddress
import itertools
import os
import re
import subprocess
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest

from bgp.configuration import BgpConfiguration
from bgp.filter import Action, CidrMatch, Rule
from bgp.peering import MAX_PREFIXES, Filter, PeerDefinition
from controller.agent_client import agent_status
from controller.datamodel import keys
from controller.datamodel.bgp_records import encode_bgp_configuration, encode_filter, encode_peer
from controller.lab.lab import Lab
from controller.lab.routers import control_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from controller.agent_client import AgentStatus
    from tests.e2e.conftest import Flow

ROUTER = "192.0.2.251"
#: A peer may name a node as next hop; over IPv4 it must for IPv6, where its own address is not known.
NODE6 = "2001:db8::2"
#: Within the pools, where no host of the lab has a block.
GOOD = ("10.244.210.0/26", "fd00:244::aaaa:0:0:0/122")
NO_NODE = ("10.244.211.0/26", "fd00:244::aaaa:0:0:40/122")
LOOPED = "10.244.212.0/26"
SUBNETS = ("192.0.2.0/24", "2001:db8::/64")
OUTSIDE = ("198.51.100.0/24", "fd99::/64")
DEFAULTS = ("0.0.0.0/0", "::/0")
FLOOD_COUNT = 50_000
#: So much of a flood may be believed: what it may announce, before it is more, and again when it is less.
BELIEVED_COUNT = 2 * MAX_PREFIXES
HOSTS = ("h1", "h2", "h3")
#: A reflector of the hosts, and another client of it.
REFLECTOR, CLIENT = "192.0.2.252", "192.0.2.253"


@dataclass(frozen=True)
class Place:
    """A host as an attacker sees it: its workload's addresses and its blocks, IPv4 first."""

    addresses: tuple[str, ...]
    blocks: tuple[str, ...]

    @property
    def halves(self) -> tuple[str, ...]:
        """The half of each block in which no workload is."""
        found = []
        for block, address in zip(self.blocks, self.addresses, strict=True):
            halves = ipaddress.ip_network(block).subnets()
            found += [str(half) for half in halves if ipaddress.ip_address(address) not in half]
        return tuple(found)


def place_of(lab: Lab, host: str) -> Place:
    """Return where the first workload of a host is, and the blocks around it."""
    [addresses] = [each.addresses for each in lab.status().workloads if each.name == f"{host}w1"]
    blocks = tuple(
        str(ipaddress.ip_network(f"{address}/{122 if ':' in address else 26}", strict=False)) for address in addresses
    )
    return Place(tuple(addresses), blocks)


def configuration(first: Place, second: Place, third: Place) -> str:
    """Return what makes BIRD announce everything it must not, one route it may, and on demand far too many."""
    workloads = [str(ipaddress.ip_network(address)) for address in first.addresses]
    told = [*DEFAULTS, *SUBNETS, *OUTSIDE, *first.blocks, *first.halves, *second.halves, *workloads]
    told += [*NO_NODE, LOOPED, *GOOD]
    statics = "".join(
        f"protocol static {{ ipv{version};\n"
        + "".join(f"route {prefix} blackhole;\n" for prefix in told if (":" in prefix) == (version == 6))
        + "}\n"
        for version in (4, 6)
    )
    return f"""
log stderr all;
router id {ROUTER};
protocol device {{ }}
{statics}
{flood(first, second, third)}
filter told4 {{
  bgp_next_hop = {ROUTER};
  if net = {NO_NODE[0]} then bgp_next_hop = 192.0.2.77;
  if net = {LOOPED} then bgp_path.prepend(64512);
  accept;
}}
filter told6 {{
  bgp_next_hop = {NODE6};
  if net = {NO_NODE[1]} then bgp_next_hop = 2001:db8::77;
  accept;
}}
protocol bgp h1 {{
  local {ROUTER} as 64999;
  neighbor 192.0.2.1 as 64512;
  passive on;
  graceful restart on;
  ipv4 {{ import all; export filter told4; next hop keep; }};
  ipv6 {{ import all; export filter told6; next hop keep; }};
}}
"""


def flood(*places: Place) -> str:
    """Return what makes BIRD announce, on demand, addresses of the pool that are in no block of these places.

    Until it has announced too many it is believed, as any node would be that says it borrowed them.
    """
    blocks = {ipaddress.ip_network(block) for place in places for block in place.blocks}
    free = (
        address
        for block in ipaddress.ip_network("10.244.0.0/16").subnets(new_prefix=26)
        if block not in blocks
        for address in block
    )
    routes = (f"route {address}/32 blackhole;\n" for address in itertools.islice(free, FLOOD_COUNT))
    return f"protocol static flood {{ disabled; ipv4;\n{''.join(routes)} }}"


def reflecting() -> str:
    """Return what makes BIRD a reflector of the hosts and of one client more."""
    clients = "".join(
        f"protocol bgp client{number} {{ local {REFLECTOR} as 64512; neighbor {client} as 64512; passive on;\n"
        "  rr client; graceful restart on;\n"
        "  ipv4 { import all; export all; next hop keep; }; ipv6 { import all; export all; next hop keep; }; }\n"
        for number, client in enumerate(["192.0.2.1", "192.0.2.2", "192.0.2.3", CLIENT])
    )
    return f"log stderr all;\nrouter id {REFLECTOR};\nprotocol device {{ }}\n{clients}"


def reflected(*places: Place) -> str:
    """Return what makes BIRD a client of that reflector, one that speaks in the name of the second host."""
    return f"""
log stderr all;
router id {CLIENT};
protocol device {{ }}
{flood(*places)}
filter told {{ bgp_next_hop = 192.0.2.2; accept; }}
protocol bgp reflector {{ local {CLIENT} as 64512; neighbor {REFLECTOR} as 64512; connect delay time 1;
  ipv4 {{ import none; export filter told; next hop keep; }}; }}
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Three dual-stack hosts."""
    lab = Lab(f"bs{os.getpid()}")
    try:
        lab.up(nodes=3, workloads=1, dual_stack=True)
        yield lab
    finally:
        lab.down()


BORDER = PeerDefinition("border", ipaddress.ip_address(ROUTER), 64999, node="h1", filters=("open",))


@pytest.fixture(scope="module")
def peered(lab: Lab, write_records: Callable[..., None], wait_until: Callable[..., None]) -> Lab:
    """Let the first host peer with a router gone bad."""
    lab.add_router("bird", configuration(*(place_of(lab, host) for host in HOSTS)))
    write_records(
        lab, {keys.filter_rules("open"): encode_filter(Filter("open")), keys.peer("border"): encode_peer(BORDER)}
    )
    wait_until(lambda: established(lab, "h1").get(ROUTER), "the session with the router")
    return lab


class Watched:
    """Legitimate flows, and a record of every route that comes into the kernel of the first two hosts."""

    def __init__(self, flows: list[Flow], records: dict[str, Path]) -> None:
        self._flows = flows
        self._records = records

    def seen(self, host: str) -> set[str]:
        """Return each prefix of which the host's kernel has told that it has, or had, a route of ours."""
        lines = [line.split() for line in self._records[host].read_text().splitlines() if "proto 116" in line]
        kinds = {"Deleted", "blackhole"}
        return {_prefix(next(word for word in words if word not in kinds)) for words in lines}

    def check(self) -> None:
        """Assert that no flow lost a packet."""
        assert {flow.name: flow.lost() for flow in self._flows} == {flow.name: [] for flow in self._flows}


@pytest.fixture
def watched(
    lab: Lab, start_flow: Callable[..., Flow], wait_until: Callable[..., None], tmp_path: Path
) -> Iterator[Watched]:
    """Flows both ways between the first two hosts, and their kernels listened to."""
    flows = [
        start_flow(lab, f"{source}w1", address)
        for source, target in (("h1", "h2"), ("h2", "h1"))
        for address in place_of(lab, target).addresses
    ]
    records, processes = {}, []
    for host in ("h1", "h2"):
        records[host] = tmp_path / f"routes-{host}"
        command, environment = lab.command(host, ["ip", "monitor", "route"])
        with records[host].open("wb") as sink:
            processes.append(subprocess.Popen(command, env=environment, stdout=sink, stderr=subprocess.STDOUT))
    try:
        wait_until(lambda: all(len(flow.answers()) > 10 for flow in flows), "answers")
        yield Watched(flows, records)
    finally:
        for process in processes:
            process.kill()
            process.wait()


def status(lab: Lab, host: str) -> AgentStatus:
    """Return what the host's agent says."""
    layout = lab.layout()
    return agent_status(layout.directory(layout.host(host)) / "run" / "agent.sock")


def rejected(lab: Lab, host: str, peer: str) -> dict[str, int]:
    """Return how many routes of a peer the host refuses by each rule."""
    rows = status(lab, host).document["bgp"]["rejected"]
    return {row["reason"]: row["count"] for row in rows if row["peer"] == peer}


def established(lab: Lab, host: str) -> dict[str, float]:
    """Return since when each session of the host is established, by peer."""
    return {session.address: session.since for session in status(lab, host).sessions if session.established}


def routed(lab: Lab, host: str) -> set[str]:
    """Return the prefixes of our routes in the host's kernel."""
    lines = [
        line.removeprefix("blackhole ")
        for version in (4, 6)
        for line in lab.run(host, ["ip", f"-{version}", "route", "show", "proto", "116"]).stdout.splitlines()
    ]
    return {_prefix(line.split()[0]) for line in lines}


def _prefix(word: str) -> str:
    """Return the prefix that `ip` means; its default route may be of either version, and is wrong in both."""
    return word if word == "default" else str(ipaddress.ip_network(word))


def warnings(lab: Lab, host: str, peer: str) -> list[str]:
    """Return the rules that the host's log says a peer broke, as often as it says so."""
    text = lab.log(f"{host}/agent").read_text()
    return re.findall(rf"routes of a peer are refused peer={re.escape(peer)} reason=(\w+)", text)


REFUSED = {
    "default_route": 2,
    "outside_pools": 4,
    "own_prefix": 4,
    "inside_own_block": 2,
    "part_of_block": 2,
    "unknown_next_hop": 2,
    "as_loop": 1,
}


#: Those of them that have another next hop than the router's own.
REFUSED_ELSEWHERE = {
    "default_route": 1,
    "outside_pools": 2,
    "own_prefix": 2,
    "inside_own_block": 1,
    "part_of_block": 1,
    "unknown_next_hop": 2,
}
NEVER = {"default", *SUBNETS, *OUTSIDE, *NO_NODE, LOOPED}


def expected(lab: Lab, host: str, *also: str) -> set[str]:
    """Return what the host is to have routes for: every block, its own workload, and what is named."""
    blocks = {block for other in HOSTS for block in place_of(lab, other).blocks}
    return blocks | {str(ipaddress.ip_network(each)) for each in (*place_of(lab, host).addresses, *also)}


def test_a_peers_forbidden_routes_are_counted_and_never_used(
    peered: Lab, watched: Watched, wait_until: Callable[..., None]
) -> None:
    """The default route, the host's subnet, parts of blocks, other ranges, no node's next hop: only the one good."""
    wait_until(lambda: rejected(peered, "h1", ROUTER) == REFUSED, "all are refused, each by its rule")
    since = established(peered, "h1")
    workload = peered.add_workload("h1")  # everything is decided anew
    peered.remove_workload(workload.name)
    wait_until(lambda: routed(peered, "h1") == expected(peered, "h1", *GOOD), "only the good ones are in the kernel")
    wait_until(lambda: routed(peered, "h2") == expected(peered, "h2"), "what was learned is told to no other node")
    assert sorted(warnings(peered, "h1", ROUTER)) == sorted(REFUSED)
    shown = peered.run("h1", ["tortiectl", "node", "status", "--rejected"]).stdout
    assert ROUTER in shown
    assert all(reason in shown for reason in REFUSED)
    assert established(peered, "h1") == since
    assert not watched.seen("h1") & NEVER
    watched.check()


def control(lab: Lab, router: str, *words: str) -> None:
    """Have BIRD do something."""
    path = str(control_path(lab.layout(), lab.layout().router(router)))
    done = lab.run(router, ["birdc", "-s", path, *words])
    assert done.returncode == 0, done.stdout + done.stderr


def test_of_a_peer_with_a_low_limit_not_one_prefix_of_a_flood_reaches_the_kernel(
    peered: Lab, watched: Watched, wait_until: Callable[..., None], write_records: Callable[..., None]
) -> None:
    """One update of a flood is more than the limit: nothing is believed even for a moment."""
    since = established(peered, "h1")
    write_records(peered, {keys.peer("border"): encode_peer(replace(BORDER, max_prefixes=100))})
    control(peered, "r1", "enable", "flood")
    wait_until(lambda: rejected(peered, "h1", ROUTER).get("too_many_prefixes", 0) >= FLOOD_COUNT, "all are refused")
    wait_until(lambda: routed(peered, "h1") == expected(peered, "h1", GOOD[1]), "the other next hop's alone are used")
    assert watched.seen("h1") <= expected(peered, "h1", *GOOD)
    control(peered, "r1", "disable", "flood")
    wait_until(lambda: rejected(peered, "h1", ROUTER) == REFUSED, "the flood is over")
    wait_until(lambda: routed(peered, "h1") == expected(peered, "h1", *GOOD), "the good ones are used again")
    write_records(peered, {keys.peer("border"): encode_peer(BORDER)})
    assert established(peered, "h1") == since
    watched.check()


def test_of_a_peer_with_too_many_prefixes_nothing_is_used(
    peered: Lab, watched: Watched, wait_until: Callable[..., None]
) -> None:
    """50,000 addresses take nothing with them and are in no kernel; afterwards all is as before.

    What the router announces with another next hop counts by itself: it could be another's.
    """
    since = established(peered, "h1")
    control(peered, "r1", "enable", "flood")
    wait_until(lambda: rejected(peered, "h1", ROUTER).get("too_many_prefixes", 0) >= FLOOD_COUNT, "all are refused")
    others = {reason: count for reason, count in rejected(peered, "h1", ROUTER).items() if reason in REFUSED}
    assert others == REFUSED_ELSEWHERE
    wait_until(lambda: routed(peered, "h1") == expected(peered, "h1", GOOD[1]), "nothing of the flood is in the kernel")
    control(peered, "r1", "disable", "flood")
    wait_until(lambda: rejected(peered, "h1", ROUTER) == REFUSED, "the flood is over")
    wait_until(lambda: routed(peered, "h1") == expected(peered, "h1", *GOOD), "the good ones are used again")
    assert warnings(peered, "h1", ROUTER).count("too_many_prefixes") == 1
    assert established(peered, "h1") == since
    assert len(watched.seen("h1") - expected(peered, "h1", *GOOD)) <= BELIEVED_COUNT
    watched.check()


@pytest.fixture
def behind_reflector(
    peered: Lab, write_records: Callable[..., None], wait_until: Callable[..., None]
) -> Iterator[Callable[..., None]]:
    """Put the hosts behind a reflector in the place of their mesh, and return a function that commands its client."""
    peered.add_router("bird", reflecting())
    peered.add_router("bird", reflected(*(place_of(peered, host) for host in HOSTS)))
    reflector = PeerDefinition("reflector", ipaddress.ip_address(REFLECTOR), 64512, next_hop_self=False)
    write_records(peered, {keys.peer("reflector"): encode_peer(reflector)})
    wait_until(lambda: all(REFLECTOR in established(peered, host) for host in HOSTS), "sessions with the reflector")
    write_records(peered, {keys.BGP_CONFIGURATION: encode_bgp_configuration(BgpConfiguration(mesh=False))})
    good = {"h1": GOOD}
    wait_until(lambda: all("192.0.2.3" not in sessions(peered, host) for host in ("h1", "h2")), "no mesh")
    wait_until(
        lambda: all(routed(peered, host) == expected(peered, host, *good.get(host, ())) for host in HOSTS),
        "all blocks by the reflector",
    )
    yield lambda *words: control(peered, "r3", *words)
    write_records(peered, {keys.BGP_CONFIGURATION: None})
    wait_until(lambda: all(len(established(peered, host)) >= 3 for host in HOSTS), "a mesh again")
    write_records(peered, {keys.peer("reflector"): None})
    wait_until(lambda: all(REFLECTOR not in sessions(peered, host) for host in HOSTS), "no reflector")
    for router in ("r3", "r2"):
        peered.remove_router(router)


def sessions(lab: Lab, host: str) -> set[str]:
    """Return the peers of a host."""
    return {session.address for session in status(lab, host).sessions}


def test_a_client_of_a_reflector_that_announces_too_much_costs_the_others_nothing(
    peered: Lab, behind_reflector: Callable[..., None], watched: Watched, wait_until: Callable[..., None]
) -> None:
    """The reflector passes on 50,000 addresses with a host's next hop: those are refused, and none of the host's."""
    since = {host: established(peered, host) for host in HOSTS}
    before = {host: routed(peered, host) for host in HOSTS}
    refused = {host: rejected(peered, host, REFLECTOR) for host in HOSTS}
    # Nobody is told of routes with itself as next hop (RFC 4271, section 5.1.3).
    flooded = {host: {**refused[host], "too_many_prefixes": FLOOD_COUNT} for host in ("h1", "h3")}
    behind_reflector("enable", "flood")
    wait_until(lambda: all(rejected(peered, host, REFLECTOR) == flooded[host] for host in flooded), "it is refused")
    wait_until(lambda: {host: routed(peered, host) for host in HOSTS} == before, "nothing of it is in the kernel")
    assert {host: established(peered, host) for host in HOSTS} == since
    behind_reflector("disable", "flood")
    wait_until(lambda: {host: rejected(peered, host, REFLECTOR) for host in HOSTS} == refused, "the flood is over")
    wait_until(lambda: {host: routed(peered, host) for host in HOSTS} == before, "all is as before")
    assert len(watched.seen("h1") - before["h1"]) <= BELIEVED_COUNT
    watched.check()


def test_not_even_a_filter_lets_a_peer_draw_in_the_hosts_own_subnet(
    peered: Lab, watched: Watched, wait_until: Callable[..., None], write_records: Callable[..., None]
) -> None:
    """A rule that accepts it opens the pools' border, not the host's."""
    rules = tuple(
        Rule(Action.ACCEPT, ipaddress.ip_network(prefix), CidrMatch.EQUAL) for prefix in (*SUBNETS, OUTSIDE[0])
    )
    since = established(peered, "h1")
    write_records(peered, {keys.filter_rules("open"): encode_filter(Filter("open", imports=rules))})
    try:
        after = {**REFUSED, "outside_pools": 1, "host_subnet": 2}
        wait_until(lambda: rejected(peered, "h1", ROUTER) == after, "refused for the host's sake")
        wait_until(lambda: OUTSIDE[0] in routed(peered, "h1"), "what the rule opened is used")
    finally:
        write_records(peered, {keys.filter_rules("open"): encode_filter(Filter("open"))})
    wait_until(lambda: routed(peered, "h1") == expected(peered, "h1", *GOOD), "all is as before")
    assert established(peered, "h1") == since
    assert not watched.seen("h1") & {"default", *SUBNETS}
    watched.check()


GOBGP = """
[global.config]
  as = 64512
  router-id = "192.0.2.3"
[[neighbors]]
  [neighbors.config]
    neighbor-address = "192.0.2.1"
    peer-as = 64512
  [neighbors.transport.config]
    passive-mode = true
  [[neighbors.afi-safis]]
    [neighbors.afi-safis.config]
      afi-safi-name = "ipv4-unicast"
  [[neighbors.afi-safis]]
    [neighbors.afi-safis.config]
      afi-safi-name = "ipv6-unicast"
"""


@pytest.fixture
def gone_bad(lab: Lab, tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """Put a GoBGP in the place of the third node, and return a function that runs `gobgp` there."""
    lab.stop("h3/agent")
    lab.stop("h3/bgp")
    (tmp_path / "gobgp.conf").write_text(GOBGP)
    command, environment = lab.command("h3", ["gobgpd", "-p", "-f", str(tmp_path / "gobgp.conf"), "--pprof-disable"])
    with (tmp_path / "gobgp.log").open("wb") as sink:
        process = subprocess.Popen(command, env=environment, stdout=sink, stderr=sink, stdin=subprocess.DEVNULL)

    def tell(words: str) -> None:
        done = lab.run("h3", ["gobgp", *words.split()])
        assert done.returncode == 0, done.stdout + done.stderr

    try:
        yield tell
    finally:
        process.kill()
        process.wait()


def test_a_node_gone_bad_draws_in_nothing_of_another(
    lab: Lab, watched: Watched, gone_bad: Callable[[str], None], wait_until: Callable[..., None]
) -> None:
    """Another speaker with a node's address is believed no more than the node; once the node is deleted, not at all."""
    wait_until(lambda: lab.run("h3", ["gobgp", "neighbor"]).returncode == 0, "GoBGP answers")
    first, second = place_of(lab, "h1"), place_of(lab, "h2")
    workloads = [str(ipaddress.ip_network(address)) for address in first.addresses]
    bad = [*DEFAULTS, *SUBNETS, *OUTSIDE, *first.blocks, *first.halves, *second.halves, *workloads]
    for prefix in bad:
        gone_bad(rib(prefix, "2001:db8::3" if ":" in prefix else "192.0.2.3"))
    for prefix, next_hop in zip(NO_NODE, ("192.0.2.77", "2001:db8::77"), strict=True):
        gone_bad(rib(prefix, next_hop))
    refused = {reason: count for reason, count in REFUSED.items() if reason != "as_loop"}
    wait_until(lambda: rejected(lab, "h1", "192.0.2.3") == refused, "all are refused, each by its rule", seconds=60)
    since = established(lab, "h1")["192.0.2.3"]
    gone_bad(rib(GOOD[0], "192.0.2.3"))
    wait_until(lambda: "192.0.2.3" in route_to(lab, "h1", GOOD[0]), "what it may announce is used")
    assert established(lab, "h1")["192.0.2.3"] == since
    assert sorted(warnings(lab, "h1", "192.0.2.3")) == sorted(refused)
    deleted = lab.run("h1", ["tortiectl", "node", "delete", "--force", "h3"])
    assert deleted.returncode == 0, deleted.stderr
    wait_until(lambda: "192.0.2.3" not in {each.address for each in status(lab, "h1").sessions}, "no peer any more")
    wait_until(lambda: "192.0.2.3" not in lab.run("h1", ["ip", "route", "show", "proto", "116"]).stdout, "no route")
    assert not watched.seen("h1") & NEVER
    watched.check()


def rib(prefix: str, next_hop: str) -> str:
    """Return the words that make GoBGP announce a prefix."""
    return f"global rib add -a ipv{6 if ':' in prefix else 4} {prefix} nexthop {next_hop}"


def route_to(lab: Lab, host: str, prefix: str) -> str:
    """Return the host's route for the prefix, as `ip` shows it."""
    return lab.run(host, ["ip", "route", "show", prefix]).stdout
