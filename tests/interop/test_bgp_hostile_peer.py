"""A peer that was taken over says what it should not: nobody is locked out, and nothing of it is believed."""

from __future__ import annotations

import ipaddress
import struct
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from bgp import nlri
from bgp.holding import MOST
from bgp.peer import Peer
from bgp.policy import Rejection
from tests.interop import raw_peer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tests.interop.conftest import Agent, Host, Network

HERE, THERE = ipaddress.ip_address("10.7.0.1"), ipaddress.ip_address("10.7.0.2")
ORIGIN, NO_PATH, NEXT_HOP, PREFERENCE = "40010100", "400200", "4003040a070002", "40050400000064"
#: What a peer of our own AS has to say of a route.
COMMON = ORIGIN + NO_PATH + NEXT_HOP + PREFERENCE


class Speaker:
    """The peer's side of the session."""

    def __init__(self, host: Host) -> None:
        command = host.command(sys.executable, raw_peer.__file__, str(HERE), str(THERE), "64512")
        with (host.directory / "raw.log").open("wb") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log)

    def say(self, *bodies: str) -> None:
        """Send these updates."""
        assert self._process.stdin is not None
        self._process.stdin.write("".join(f"{body}\n" for body in bodies).encode())
        self._process.stdin.flush()

    def end(self) -> None:
        """Go away without a word."""
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def speakers() -> Iterator[list[Speaker]]:
    """Collect the speakers a test starts, and end them with it."""
    started: list[Speaker] = []
    yield started
    for speaker in started:
        speaker.end()


async def heard(network: Network, speakers: list[Speaker]) -> tuple[Agent, Speaker]:
    """Start a host that is called by the peer, and wait until their session stands."""
    ours, theirs = network.host(), network.host()
    ours.start()
    agent = network.agent(ours)
    await agent.want([Peer(THERE, HERE, 64512, 64512, str(HERE), passive=True)])
    speaker = Speaker(theirs)
    speakers.append(speaker)
    await agent.until(agent.established, "a session with the peer")
    return agent, speaker


def update(attributes: str, announced: Iterable[str], *withdrawn: str) -> str:
    """Return the body of an update about IPv4 prefixes, in hexadecimal digits."""
    gone, there = (nlri.row(map(ipaddress.ip_network, prefixes)).hex() for prefixes in (withdrawn, announced))
    return f"{len(gone) // 2:04x}{gone}{len(attributes) // 2:04x}{attributes}{there}"


def communities(count: int) -> str:
    """Return an attribute of so many communities."""
    return f"d008{4 * count:04x}" + b"".join(struct.pack("!HH", 64512, number) for number in range(count)).hex()


def path(first: int) -> str:
    """Return a path through 500 ASes from this one on."""
    segments = [bytes([2, 250]) + struct.pack("!250I", *range(at, at + 250)) for at in (first, first + 250)]
    return f"5002{sum(map(len, segments)):04x}" + b"".join(segments).hex()


def rejected(agent: Agent) -> dict[Rejection, int]:
    """Return how many prefixes of the peer are not passed on, by reason."""
    return {routes.reason: routes.count for routes in agent.rib.rejected()}


async def test_attributes_without_end_lock_no_agent_out(network: Network, speakers: list[Speaker]) -> None:
    """Updates of 64 KiB of communities are counted, their routes are gone, and the next agent is told all the rest."""
    agent, speaker = await heard(network, speakers)
    many = [f"10.60.{number}.0/24" for number in range(200)]
    speaker.say(update(COMMON, ["10.61.0.0/24", *many]))
    await agent.until(lambda: len(agent.learned()) == 201, "aware of all")
    before = len(agent.events)
    speaker.say(*(update(COMMON + communities(16_000), [prefix]) for prefix in many))
    await agent.until(lambda: agent.learned() == {"10.61.0.0/24"}, "rid of what has too long attributes")
    await agent.until(lambda: rejected(agent) == {Rejection.LONG_ATTRIBUTES: 200}, "told of it")
    again = network.agent(agent.host)
    await again.want([Peer(THERE, HERE, 64512, 64512, str(HERE), passive=True)])
    await again.until(lambda: again.learned() == {"10.61.0.0/24"}, "aware of the rest")
    await again.until(lambda: rejected(again) == rejected(agent), "told of it, too")
    speaker.say(update(COMMON, many))
    await again.until(lambda: len(again.learned()) == 201, "aware of all again")
    await again.until(lambda: not rejected(again), "told that nothing is wrong any more")
    assert not {"SessionDown", "SpeakerLost"} & {*agent.kinds()[before:], *again.kinds()}


async def test_the_longest_attributes_there_may_be_reach_every_agent(network: Network, speakers: list[Speaker]) -> None:
    """One connects after another, and is told of all routes in lines that are short enough."""
    agent, speaker = await heard(network, speakers)
    many = {f"10.{60 + number // 256}.{number % 256}.0/24" for number in range(3000)}
    speaker.say(
        *(update(ORIGIN + path(70_000 + at) + NEXT_HOP + PREFERENCE, [prefix]) for at, prefix in enumerate(many))
    )
    await agent.until(lambda: agent.learned() == many, "aware of all")
    again = network.agent(agent.host)
    await again.want([Peer(THERE, HERE, 64512, 64512, str(HERE), passive=True)])
    await again.until(lambda: again.learned() == many, "aware of all")
    assert again.kinds().count("SpeakerSnapshot") == 1
    assert again.kinds().count("RoutesChanged") > 3


async def test_a_route_that_is_bad_takes_no_withdrawal_along(network: Network, speakers: list[Speaker]) -> None:
    """Without a next hop it is not one, whatever else is in its update; and the session stays."""
    agent, speaker = await heard(network, speakers)
    speaker.say(update(COMMON, ["10.60.1.0/24", "10.60.2.0/24", "10.60.3.0/24"]))
    await agent.until(lambda: len(agent.learned()) == 3, "aware of all")
    speaker.say(update(ORIGIN + NO_PATH + PREFERENCE, ["10.60.2.0/24", "10.60.4.0/24"], "10.60.1.0/24"))
    await agent.until(lambda: agent.learned() == {"10.60.3.0/24"}, "rid of them")
    await agent.until(lambda: rejected(agent) == {Rejection.MALFORMED: 2}, "told of it")
    assert "SessionDown" not in agent.kinds()


async def test_of_announcements_without_end_all_but_the_first_are_only_counted(
    network: Network, speakers: list[Speaker]
) -> None:
    """The session stands, what was announced before the flood stays and may change, and can be withdrawn."""
    agent, speaker = await heard(network, speakers)
    good = ["10.60.1.0/24", "10.60.2.0/24"]
    speaker.say(update(COMMON, good))
    await agent.until(lambda: agent.learned() == set(good), "aware of both")
    attributes = f"0000{len(COMMON) // 2:04x}{COMMON}"
    flood = range(int(ipaddress.ip_address("10.64.0.0")), int(ipaddress.ip_address("10.64.0.0")) + MOST + 10_000)
    for at in range(0, len(flood), 10_000):
        speaker.say(attributes + "".join(f"20{number:08x}" for number in flood[at : at + 10_000]))
    announced_count = len(good) + len(flood)
    await agent.until(lambda: agent.rib.route_counts()[THERE] == announced_count, "told of what is too much")
    assert rejected(agent).keys() == {Rejection.SESSION_FULL}
    assert MOST - 10_000 < len(agent.rib.routes()) <= MOST
    kept, changed = map(ipaddress.ip_network, good)
    speaker.say(update(COMMON.replace(PREFERENCE, "40050400000065"), good[1:]))
    await agent.until(lambda: agent.rib.routes()[changed][0].local_preference == 101, "aware of the change")
    assert kept in agent.rib.routes()
    speaker.say(update("", [], good[1]))
    await agent.until(lambda: changed not in agent.rib.routes(), "rid of it")
    assert "SessionDown" not in agent.kinds()
