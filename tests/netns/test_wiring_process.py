"""Wiring in another process against the real kernel: the test's namespace is the host, another the container."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from controller.kernel.links import KernelLinks
from controller.kernel.wiring_process import WiringProcess
from controller.kernel.wiring_worker import ANSWER, decode_link, encode_link
from controller.ports import WorkloadLink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Protocol

    from ipam.address import IPAddress

    class Namespace(Protocol):
        """What the fixtures make."""

        descriptor: int

        def run(self, *command: str) -> str:
            """Run a command inside."""
            ...


DEADLINE_SECONDS = 20
LINK = WorkloadLink(
    "tor000000000001", "eth0", "02:00:00:00:00:01", (ip_address("10.9.0.1"), ip_address("fd09::1")), 1400
)


@pytest.fixture
def container(host: Namespace, make_namespace: Callable[[], Namespace]) -> Namespace:
    """Return a container's namespace, beside the host's, which the test is in."""
    assert host
    return make_namespace()


@contextmanager
def closing(wiring: WiringProcess) -> Iterator[WiringProcess]:
    """Close it, after which there is no process; needs the loop."""
    try:
        yield wiring
    finally:
        pid = wiring.pid
        wiring.close()
        assert wiring.pid is None
        assert pid is None or not Path(f"/proc/{pid}").exists()


async def until(holds: Callable[[], object]) -> None:
    """Wait until it holds."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not holds():  # noqa: ASYNC110  what happens in another process has no event here
            await asyncio.sleep(0.005)


async def answered(wiring: WiringProcess, container: Namespace, link: WorkloadLink = LINK) -> int | None:
    """Return the answer of a process that may have to come up first."""
    wiring.start()
    async with asyncio.timeout(DEADLINE_SECONDS):
        while (begun := wiring.wire(container.descriptor, link)) is None:  # noqa: ASYNC110  it has no event
            await asyncio.sleep(0.005)
        return await begun


def pid_of(wiring: WiringProcess) -> int:
    """Return the number of its process, which must run."""
    assert wiring.pid is not None
    return wiring.pid


def link_names() -> set[str]:
    """Return the links of the host."""
    return {name for _, name in socket.if_nameindex()}


def namespaces_held(pid: int) -> list[str]:
    """Return the descriptors of namespaces that a process has."""
    names = [os.readlink(each) for each in Path(f"/proc/{pid}/fd").iterdir()]  # noqa: PTH115  it is no path
    return [name for name in names if name.startswith("net:")]


def descriptor_count() -> int:
    """Return how many descriptors this process has."""
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208  the same without another object


async def test_it_wires_as_the_agent_does(container: Namespace) -> None:
    """The link is there with all its addresses, known by its index, and the descriptor is nobody's but the caller's."""
    with closing(WiringProcess()) as wiring:
        assert wiring.wire(container.descriptor, LINK) is None
        assert await answered(wiring, container) == socket.if_nametoindex(LINK.host_name)
        shown = container.run("ip", "address", "show", "dev", "eth0")
        assert all(f"{address}/{address.max_prefixlen}" in shown for address in LINK.addresses)
        assert await answered(wiring, container) == socket.if_nametoindex(LINK.host_name)
        assert namespaces_held(pid_of(wiring)) == []


async def test_many_are_answered_each_with_its_own(
    container: Namespace, make_namespace: Callable[[], Namespace]
) -> None:
    """Answers come in the order of the messages, also that of one which cannot be wired."""
    with closing(WiringProcess()) as wiring:
        await answered(wiring, container)
        links = [
            WorkloadLink(f"tor00000000001{number}", f"eth{number}", "02:00:00:00:00:01", (), 1500)
            for number in range(1, 10)
        ]
        clash = replace(LINK, host_name="tor000000000002", container_name=links[0].container_name)
        namespaces = [make_namespace() for _ in links]
        begun = [wiring.wire(each.descriptor, link) for each, link in zip(namespaces, links, strict=True)]
        begun.insert(5, wiring.wire(namespaces[0].descriptor, clash))
        answers = [await answer for answer in begun if answer is not None]
        indexes = [socket.if_nametoindex(link.host_name) for link in links]
        assert answers == [*indexes[:5], None, *indexes[5:]]


async def test_what_is_refused_is_left_to_the_agent(container: Namespace) -> None:
    """It answers that nothing was done, nothing is left, and the next link is wired."""
    container.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "far0")
    with closing(WiringProcess()) as wiring:
        assert await answered(wiring, container) is None
        assert LINK.host_name not in link_names()
        container.run("ip", "link", "delete", "eth0")
        assert await answered(wiring, container) is not None


async def test_what_a_killed_process_was_asked_for_is_left_to_the_agent(container: Namespace) -> None:
    """Each that waits is told, nothing is leaked, no other process is started at once, and the agent can go on."""
    before = descriptor_count()
    with closing(WiringProcess()) as wiring:
        await answered(wiring, container)
        os.kill(pid_of(wiring), signal.SIGSTOP)
        begun = [wiring.wire(container.descriptor, LINK) for _ in range(50)]
        os.kill(pid_of(wiring), signal.SIGKILL)
        async with asyncio.timeout(DEADLINE_SECONDS):
            assert [await answer for answer in begun if answer is not None] == [None] * 50
        assert wiring.pid is None
        assert descriptor_count() == before
        wiring.start()
        assert wiring.pid is None
    links = KernelLinks()
    assert links.wire(container.descriptor, LINK) == socket.if_nametoindex(LINK.host_name)
    links.close()


async def test_a_process_that_does_not_answer_is_killed(container: Namespace) -> None:
    """Nobody waits for ever."""
    with closing(WiringProcess(silence_seconds=0.5)) as wiring:
        await answered(wiring, container)
        os.kill(pid_of(wiring), signal.SIGSTOP)
        assert await answered(wiring, container) is None
        assert wiring.pid is None


async def test_a_process_with_nothing_to_do_ends(container: Namespace) -> None:
    """It costs memory only while many containers come, and is started again for the next."""
    with closing(WiringProcess(rest_seconds=0.01)) as wiring:
        await answered(wiring, container)
        await until(lambda: wiring.pid is None)
        assert await answered(wiring, container) is not None


async def test_a_process_that_cannot_start_is_no_harm(container: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Links are wired in the agent."""
    before = descriptor_count()
    monkeypatch.setattr(sys, "executable", "/nonexistent")
    with closing(WiringProcess()) as wiring:
        wiring.start()
        assert wiring.pid is None
        assert wiring.wire(container.descriptor, LINK) is None
        assert descriptor_count() == before


def test_without_the_agent_nothing_more_is_wired(container: Namespace) -> None:
    """The process ends with its socket, and leaves what it was asked for before: the next agent must know each link."""
    agent, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    program = f"from controller.kernel.wiring_worker import main; main({other.fileno()})"
    with other:
        process = subprocess.Popen([sys.executable, "-c", program], pass_fds=[other.fileno()])
    try:
        with agent:
            agent.settimeout(DEADLINE_SECONDS)
            assert agent.recv(ANSWER.size)
            process.send_signal(signal.SIGSTOP)
            socket.send_fds(agent, [encode_link(LINK)], [container.descriptor])
        process.send_signal(signal.SIGCONT)
        assert process.wait(DEADLINE_SECONDS) == 0
    finally:
        process.kill()
        process.wait()
    assert LINK.host_name not in link_names()


@pytest.mark.parametrize("addresses", [(), LINK.addresses])
def test_a_link_is_read_as_it_was_written(addresses: tuple[IPAddress, ...]) -> None:
    """Also one without addresses, or with a strange name."""
    link = WorkloadLink("tor000000000002", "e=,;\\th", "02:00:00:00:00:02", addresses, 9000)
    assert decode_link(encode_link(link)) == link
