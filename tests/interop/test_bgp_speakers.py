"""Real speakers in network namespaces: what one announces the other learns, through every kind of restart."""

from __future__ import annotations

import asyncio
import dataclasses
import ipaddress
import json
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from bgp.advertisement import announcements
from bgp.events import RoutesChanged, SessionDown, SessionState, SpeakerSnapshot
from bgp.sidecar.files import desired_path

if TYPE_CHECKING:
    import pytest

    from bgp.route import Announcement
    from tests.interop.conftest import Agent, Host, Network


def blocks(host: Host, *prefixes: str) -> tuple[Announcement, ...]:
    """Return what a host announces that owns these blocks."""
    return announcements(host.router, blocks=[ipaddress.ip_network(prefix) for prefix in prefixes])


def exists(process: int) -> bool:
    """Say whether the process is there, be it as a zombie."""
    return Path(f"/proc/{process}").exists()


async def pair(network: Network) -> tuple[Agent, Agent]:
    """Start two speakers that peer, the first announcing two blocks, and wait until the second knows them."""
    first, second = network.host(), network.host()
    first.start()
    second.start()
    one, two = network.agent(first), network.agent(second)
    await one.want(network.peers(first, second), blocks(first, "10.20.0.0/26", "fd20::/122"))
    await two.want(network.peers(second, first), blocks(second, "10.20.1.0/26"))
    await two.until(lambda: two.learned() == {"10.20.0.0/26", "fd20::/122"}, "aware of both blocks")
    await one.until(lambda: one.learned() == {"10.20.1.0/26"}, "aware of the block")
    await one.until(lambda: one.rib.settled(0) and two.rib.settled(0), "told that nothing is missing")
    return one, two


async def test_blocks_announced_are_learned_with_their_next_hops(network: Network) -> None:
    """What one node announces, of both IP versions, the other learns; a change reaches it; a withdrawal removes it."""
    one, two = await pair(network)
    learned = {str(prefix): str(routes[0].next_hop) for prefix, routes in two.rib.routes().items()}
    assert learned == {"10.20.0.0/26": "10.7.0.1", "fd20::/122": "fd07::1"}
    await one.want(network.peers(one.host, two.host), blocks(one.host, "10.20.5.0/26"))
    await two.until(lambda: two.learned() == {"10.20.5.0/26"}, "aware of the change")


async def test_with_json_every_line_of_the_log_is_an_object(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """Launcher, sidecar and ExaBGP, from a start with a state that cannot be read to the end."""
    host = network.host()
    settings = host.directory / "tortie.toml"
    settings.write_text('log_format = "json"\n')
    monkeypatch.setenv("TORTIE_CONFIG", str(settings))
    monkeypatch.setenv("exabgp_log_level", "INFO")
    host.state.mkdir()
    desired_path(host.state).write_text("what no agent wrote")
    host.start()
    agent = network.agent(host)
    await agent.until(lambda: "SpeakerSnapshot" in agent.kinds(), "connected")
    assert host.stop() == 0
    entries = [json.loads(line) for line in host.log().splitlines()]
    loggers = {entry["logger"] for entry in entries}
    assert {"bgp.sidecar.launcher", "bgp.sidecar.process", "exabgp.reactor"} <= loggers
    assert all({"time", "severity", "message"} <= set(entry) for entry in entries)


async def test_a_killed_sidecar_costs_no_session_and_no_route(network: Network) -> None:
    """The API process dies: sessions stay, the next one knows every route, and says so in a complete snapshot."""
    one, two = await pair(network)
    before = len(two.events)
    (pid,) = two.host.sidecar_pids()
    os.kill(pid, signal.SIGKILL)
    await two.until(lambda: "SpeakerSnapshot" in two.kinds()[before:], "given a new snapshot")
    snapshot = next(event for _, event in two.events[before:] if isinstance(event, SpeakerSnapshot))
    assert {str(route.prefix) for row in snapshot.rows for route in row} == {"10.20.0.0/26", "fd20::/122"}
    assert snapshot.established == {one.host.router.ipv4}
    assert "SessionDown" not in two.kinds() + one.kinds()
    await one.want(network.peers(one.host, two.host), blocks(one.host, "10.20.0.0/26", "10.20.9.0/26"))
    await two.until(lambda: two.learned() == {"10.20.0.0/26", "10.20.9.0/26"}, "following again")
    assert len(two.host.sidecar_pids()) == 1


async def test_a_sidecar_killed_while_exabgp_writes_to_it_loses_no_route(network: Network) -> None:
    """The API process dies with its pipe full, ExaBGP in the middle of a write: no session ends, no route is lost."""
    one, two = await pair(network)
    many = [str(prefix) for prefix in ipaddress.ip_network("10.32.0.0/13").subnets(new_prefix=26)]
    (pid,) = two.host.sidecar_pids()
    os.kill(pid, signal.SIGSTOP)
    await one.want(network.peers(one.host, two.host), blocks(one.host, *many))
    await two.until(lambda: "pipe_write" in two.host.waits_in(), "held up by the full pipe")
    os.kill(pid, signal.SIGKILL)
    await two.until(lambda: two.learned() >= set(many), "aware of all of them")
    assert "SessionDown" not in one.kinds()


async def test_what_was_withdrawn_while_the_sidecar_was_dead_is_gone(network: Network) -> None:
    """A change wanted just before the sidecar dies is carried out by the next one, withdrawals included."""
    one, two = await pair(network)
    (pid,) = one.host.sidecar_pids()
    os.kill(pid, signal.SIGSTOP)
    await one.want(network.peers(one.host, two.host), blocks(one.host, "10.20.7.0/26"))
    os.kill(pid, signal.SIGKILL)
    await two.until(lambda: two.learned() == {"10.20.7.0/26"}, "aware of the change")


async def test_a_sidecar_that_finds_no_desired_state_leaves_sessions_alone(network: Network) -> None:
    """Not knowing what is wanted is not wanting nothing: everything stays until an agent says what it wants."""
    one, two = await pair(network)
    await one.disconnect()
    (one.host.state / "desired.jsonl").unlink()
    (pid,) = one.host.sidecar_pids()
    os.kill(pid, signal.SIGKILL)
    again = network.agent(one.host)
    await again.until(lambda: again.events, "given a snapshot")
    await again.want(network.peers(one.host, two.host), blocks(one.host, "10.20.0.0/26", "10.20.6.0/26"))
    await two.until(lambda: "10.20.6.0/26" in two.learned(), "aware of the new block")
    assert "SessionDown" not in two.kinds()


async def test_a_killed_speaker_comes_back_by_itself_and_its_peer_keeps_the_routes(network: Network) -> None:
    """ExaBGP is killed and started again without an agent: the peer never loses a route, and hears no withdrawal."""
    one, two = await pair(network)
    await one.disconnect()
    (sidecar,) = one.host.sidecar_pids()
    one.host.stop(signal.SIGKILL)
    await two.until(lambda: "SessionDown" in two.kinds(), "aware of the loss")
    await one.until(lambda: not exists(sidecar), "rid of its sidecar")
    assert two.learned() == {"10.20.0.0/26", "fd20::/122"}
    assert two.rib.stale_count() == 2
    mark = len(two.events)
    one.host.start()
    await two.until(lambda: two.kinds()[mark:].count("EndOfRib") == 2, "told that the RIB is complete")
    assert two.learned() == {"10.20.0.0/26", "fd20::/122"}
    assert two.rib.stale_count() == 0
    changes = [event for _, event in two.events[mark:] if isinstance(event, RoutesChanged)]
    assert not [event for event in changes if event.withdrawn]


async def test_an_agent_that_returns_is_told_everything(network: Network) -> None:
    """An agent goes and another comes: sessions stay up and the snapshot holds what was known before."""
    one, two = await pair(network)
    await two.disconnect()
    again = network.agent(two.host)
    again.rib.configure(network.peers(two.host, one.host), 0.0)
    await again.until(lambda: again.events, "given a snapshot")
    snapshot = again.events[0][1]
    assert isinstance(snapshot, SpeakerSnapshot)
    assert {route.prefix for row in snapshot.rows for route in row} == set(two.rib.routes())
    assert snapshot.ended == {(one.host.router.ipv4, 4), (one.host.router.ipv4, 6)}
    assert "SessionDown" not in one.kinds()


async def test_an_agent_is_told_what_every_session_was_given(network: Network) -> None:
    """After a change, and when it comes back: an announcement that it waits for is one the speaker has taken."""
    one, two = await pair(network)
    await one.until(lambda: set(map(str, one.speaker.announced)) == {"10.20.0.0/26", "fd20::/122"}, "told of both")
    await one.want(network.peers(one.host, two.host), blocks(one.host, "10.20.5.0/26"))
    await one.until(lambda: set(map(str, one.speaker.announced)) == {"10.20.5.0/26"}, "told of the change")
    await two.until(lambda: two.learned() == {"10.20.5.0/26"}, "aware of the change")
    await one.disconnect()
    again = network.agent(one.host)
    await again.until(lambda: set(map(str, again.speaker.announced)) == {"10.20.5.0/26"}, "told of it anew")


async def test_other_sessions_do_not_notice_a_peer_that_comes_and_goes(network: Network) -> None:
    """A third node joins and leaves: it learns everything, its own routes go with it, and the first session stays."""
    one, two = await pair(network)
    third = network.host()
    third.start()
    three = network.agent(third)
    await three.want(network.peers(third, one.host), blocks(third, "10.20.3.0/26"))
    both = network.peers(one.host, two.host, third)
    mine = blocks(one.host, "10.20.0.0/26", "fd20::/122")
    await one.want(both, mine)
    await three.until(lambda: three.learned() == {"10.20.0.0/26", "fd20::/122"}, "aware of the blocks")
    await one.until(lambda: "10.20.3.0/26" in one.learned(), "aware of the third node's block")
    await one.want(network.peers(one.host, two.host), mine)
    assert one.learned() == {"10.20.1.0/26"}
    await three.until(lambda: not three.learned(), "told to forget the blocks of a node that left it")
    await three.until(lambda: not three.established(), "without a session")
    assert one.established() == {str(two.host.router.ipv4)}
    downs = [event for _, event in one.events if isinstance(event, SessionDown)]
    assert {event.peer for event in downs} <= {third.router.ipv4}
    assert "SessionDown" not in two.kinds()


async def test_a_peer_that_leaves_is_told_to_forget_every_prefix(network: Network) -> None:
    """Also where each takes a message of its own: with graceful restart it would keep what it is not told to forget."""
    one, two = await pair(network)
    many = [f"fd21::{number:x}:0/122" for number in range(1, 2001)]
    await one.want(network.peers(one.host, two.host), blocks(one.host, *many))
    await two.until(lambda: two.learned() == set(many), "aware of all")
    await one.want((), blocks(one.host, *many))
    await two.until(lambda: not two.learned(), "told to forget all")
    await two.until(lambda: "SessionDown" in two.kinds(), "left")
    assert two.rib.stale_count() == 0


async def test_a_dead_peer_does_not_hold_up_changes(network: Network) -> None:
    """A peer whose packets vanish is configured: another peer still joins, and learns, as if it were not there."""
    one, two = await pair(network)
    hole = network.host()
    nobody = ("lladdr", "02:00:00:00:00:99", "dev", "up0", "nud", "permanent")
    one.host.run("ip", "neighbour", "add", str(hole.router.ipv4), *nobody)
    mine = blocks(one.host, "10.20.0.0/26", "10.20.8.0/26")
    await one.want(network.peers(one.host, two.host, hole), mine)
    await two.until(lambda: "10.20.8.0/26" in two.learned(), "aware of a new block")
    third = network.host()
    third.start()
    three = network.agent(third)
    await three.want(network.peers(third, one.host))
    await one.want(network.peers(one.host, two.host, hole, third), mine)
    await three.until(lambda: three.learned() == {"10.20.0.0/26", "10.20.8.0/26"}, "aware of the blocks")
    assert "SessionDown" not in two.kinds()


async def test_a_host_that_lost_its_power_is_back_before_its_hold_time_is_over(network: Network) -> None:
    """Its peer takes its new connection for the old one, which nothing is heard of, and has its routes all the time."""
    first, second = network.host(), network.host()
    first.start()
    second.start()
    one, two = network.agent(first), network.agent(second)
    (ours,), (theirs,) = network.peers(first, second), network.peers(second, first)
    mine = blocks(first, "10.20.0.0/26", "fd20::/122")
    await one.want([dataclasses.replace(ours, hold_time_seconds=3600)], mine)
    await two.want([dataclasses.replace(theirs, hold_time_seconds=3600)], blocks(second, "10.20.1.0/26"))
    await two.until(lambda: two.rib.settled(0) and one.rib.settled(0), "told that nothing is missing")
    mark = len(two.events)
    await one.disconnect()
    first.power_off()
    first.power_on()
    first.start()

    def is_back() -> bool:
        assert two.learned() == {"10.20.0.0/26", "fd20::/122"}
        return two.kinds()[mark:].count("EndOfRib") == 2

    await two.until(is_back, "told that the RIB is complete")
    assert two.rib.stale_count() == 0
    kinds = [kind for kind in two.kinds()[mark:] if kind.startswith("Session")]
    assert kinds == ["SessionDown", "SessionUp"]
    again = network.agent(first)
    await again.until(lambda: again.established() == {str(second.router.ipv4)}, "in a session")


async def test_a_stopped_speaker_leaves_its_routes_and_nothing_else(network: Network) -> None:
    """SIGTERM ends with status 0, no process and no socket is left, and the peer keeps the routes as stale."""
    one, two = await pair(network)
    (sidecar,) = one.host.sidecar_pids()
    assert one.host.stop() == 0
    assert not exists(sidecar)
    assert not one.host.socket.exists()
    await two.until(lambda: "SessionDown" in two.kinds(), "aware of the loss")
    assert two.learned() == {"10.20.0.0/26", "fd20::/122"}
    assert two.rib.stale_count() == 2


async def test_attributes_flapping_faster_than_they_are_sent_end_as_wanted(network: Network) -> None:
    """A node drained and undrained in one breath ends with exactly the last attributes at its peer."""
    one, two = await pair(network)
    peers = network.peers(one.host, two.host)
    prefixes = [ipaddress.ip_network(f"10.21.{number}.0/26") for number in range(200)]
    for communities in (((65535, 0),), (), ((65535, 0),), (), ((64512, 7),)):
        marked = [(ipaddress.ip_network("10.21.0.0/16"), communities)]
        await one.want(peers, announcements(one.host.router, blocks=prefixes, communities_of=marked))
        await asyncio.sleep(0)
    await two.until(
        lambda: [routes[0].communities for routes in two.rib.routes().values()] == [((64512, 7),)] * 200, "settled"
    )


async def test_sessions_with_passwords_over_ipv6(network: Network) -> None:
    """Nodes with IPv6 only peer over it, with a TCP MD5 key of any characters, and neither file shows it to others."""
    first, second = network.host(), network.host()
    for host in (first, second):
        host.router = dataclasses.replace(host.router, ipv4=None)
        host.start()
    one, two = network.agent(first), network.agent(second)
    secret = "a b;{\"}\\#'$ü"
    with_password = [dataclasses.replace(peer, password=secret) for peer in network.peers(first, second)]
    await one.want(with_password, blocks(first, "fd21::/122"))
    await two.want([dataclasses.replace(peer, password="other") for peer in network.peers(second, first)])
    await two.until(lambda: two.speaker.sessions, "connected")
    await two.want([dataclasses.replace(peer, password=secret) for peer in network.peers(second, first)])
    await two.until(lambda: two.learned() == {"fd21::/122"}, "aware of the block")
    assert {path.stat().st_mode & 0o077 for path in first.state.iterdir() if path.name != "exabgp.env"} == {0}
    assert secret not in first.log()


async def test_speakers_that_check_each_others_hops(network: Network) -> None:
    """Both check on IPv4, the one that calls and the one that is called: its first answer has come from near enough."""
    first, second = network.host(), network.host()
    first.start()
    second.start()
    one, two = network.agent(first), network.agent(second)
    checked = [dataclasses.replace(peer, ttl_security_hops=1) for peer in network.peers(first, second)]
    await one.want(checked, blocks(first, "10.20.0.0/26"))
    checked = [dataclasses.replace(peer, ttl_security_hops=1) for peer in network.peers(second, first)]
    await two.want(checked)
    await two.until(lambda: two.learned() == {"10.20.0.0/26"}, "aware of the block")


async def test_a_peer_that_waits_to_be_called_learns_to_call(network: Network) -> None:
    """Two that both wait never meet; one is told to call while there is no connection that could be reset."""
    first, second = network.host(), network.host()
    first.start()
    second.start()
    one, two = network.agent(first), network.agent(second)
    (ours,), (theirs,) = network.peers(first, second), network.peers(second, first)
    await one.want([dataclasses.replace(ours, passive=True)], blocks(first, "10.20.0.0/26"))
    await two.want([dataclasses.replace(theirs, passive=True)])
    await one.until(lambda: one.speaker.sessions, "told of the peer")
    await one.until(lambda: "passive true" in (first.state / "exabgp.conf").read_text(), "loaded")
    await two.until(lambda: "passive true" in (second.state / "exabgp.conf").read_text(), "loaded")
    await one.want([dataclasses.replace(ours, passive=False)], blocks(first, "10.20.0.0/26"))
    await two.until(lambda: two.learned() == {"10.20.0.0/26"}, "called")


async def test_a_configuration_that_was_refused_holds_up_no_corrected_one(network: Network) -> None:
    """Its reason is shown with each session it concerns, and what is wanted next is tried at once."""
    one, two = await pair(network)
    good = network.peers(one.host, two.host)
    other = dataclasses.replace(good[0], address=ipaddress.ip_address("10.7.0.99"))
    in_the_way = one.host.state / "exabgp.conf.candidate"
    in_the_way.unlink(missing_ok=True)
    in_the_way.mkdir()
    await one.want([dataclasses.replace(good[0], hold_time_seconds=30), other])
    await one.until(lambda: len(one.speaker.sessions) == 2, "told of both")
    await one.until(lambda: all("Is a directory" in each.info for each in one.speaker.sessions), "told why")
    states = {str(each.peer): each.state for each in one.speaker.sessions}
    assert states == {str(two.host.router.ipv4): SessionState.ESTABLISHED, "10.7.0.99": SessionState.REFUSED}
    in_the_way.rmdir()
    await one.want([dataclasses.replace(good[0], hold_time_seconds=60), other])
    # Without a new wish it would be tried again after half a minute.
    await one.until(lambda: "10.7.0.99" in (one.host.state / "exabgp.conf").read_text(), "loaded", seconds=20)
    await one.until(lambda: not any("directory" in each.info for each in one.speaker.sessions), "told that it is")


async def test_a_peer_that_cannot_be_is_reported_and_harms_nobody(network: Network) -> None:
    """One wrong peer among the desired is refused with the reason; the others are configured."""
    one, two = await pair(network)
    good = network.peers(one.host, two.host)
    wrong = dataclasses.replace(good[0], address=ipaddress.ip_address("10.7.0.99"), hold_time_seconds=1)
    await one.want([*good, wrong], blocks(one.host, "10.20.4.0/26"))
    await two.until(lambda: two.learned() == {"10.20.4.0/26"}, "aware of the block")
    status = {str(session.peer): session for session in one.speaker.sessions}
    assert status["10.7.0.99"].state is SessionState.REFUSED
    assert "hold time 1" in status["10.7.0.99"].info
