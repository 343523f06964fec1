"""The program ExaBGP runs as its API process: ExaBGP's pipes on one side, clients on the other, the state between.

It outlives the agent, and ExaBGP outlives it: ExaBGP starts it again when it dies, up to five times in about a minute
and after that ends itself. So nothing that comes in may end this process, and a new one asks ExaBGP for everything the
old one knew.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from itertools import chain
from typing import TYPE_CHECKING

from bgp import exabgp_commands, exabgp_events, wire
from bgp.exabgp_config import fingerprint
from bgp.exabgp_events import PeerConnected, PeerDown, PeerUp
from bgp.messages import Desired, Heartbeat, Sessions, Told
from bgp.sidecar.channel import ChannelStuck, close_channel, open_channel
from bgp.sidecar.clients import Clients
from bgp.sidecar.files import (
    ConfigurationRefused,
    configuration_path,
    desired_path,
    load_desired,
    save_desired,
    write_configuration,
)
from bgp.sidecar.portions import portions
from bgp.sidecar.state import SidecarState
from bgp.sidecar.steps import Flush, Reload

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path
    from typing import BinaryIO

    from bgp.address import IPAddress
    from bgp.messages import Outgoing
    from bgp.route import Announcement
    from bgp.sidecar.channel import Channel
    from bgp.sidecar.steps import Step

log = logging.getLogger(__name__)

#: How soon a queue that was not empty is looked at again.
_FLUSH_SECONDS = 0.05
#: How soon a reload that had no effect is tried again, and one that ExaBGP would refuse.
_RELOAD_SECONDS = 1.0
_REFUSED_SECONDS = 30.0
#: How often a reload is sent in a row, and how often, and how far apart, each one's effect is looked for: ExaBGP drops
#: one that meets a session just opening.
_RELOADS = 10
_LOOKS = 3
_LOOK_SECONDS = 0.03
#: How long the loop rests after an error nobody foresaw.
_ERROR_SECONDS = 5.0


class Sidecar:
    """One run of the process; `directory` holds its files."""

    def __init__(self, directory: Path, socket_path: Path) -> None:
        self._directory = directory
        kept = _kept(directory)
        #: Whether anybody ever said what is wanted; until then ExaBGP goes on with what it does.
        self._asked = kept is not None
        self._state = SidecarState(*(kept or (Desired(), ())))
        self._clients = Clients(socket_path, greeting=self._greeting, on_desired=self._want)
        self._wake = asyncio.Event()
        self._deferred: dict[Step | type[Reload], asyncio.TimerHandle] = {}
        #: What was asked for last, until the loop takes it: what was asked for before need not be gone through.
        self._wish: Desired | None = None
        self._told: Sessions | None = None
        self._announced: Told | None = None

    async def run(self, source: BinaryIO, sink: BinaryIO) -> None:
        """Serve until ExaBGP closes its pipe or the process is asked to stop. Raises `ChannelStuck`."""
        channel = await open_channel(source, sink, self._on_event)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, channel.closed.set)
        await self._clients.open()
        try:
            async with asyncio.TaskGroup() as tasks:
                work = [tasks.create_task(self._work(channel)), tasks.create_task(self._beat())]
                await channel.closed.wait()
                for task in work:
                    task.cancel()
        finally:
            for timer in self._deferred.values():
                timer.cancel()
            self._clients.close()
            close_channel(channel)

    async def _work(self, channel: Channel) -> None:
        await self._recover(channel)
        while True:
            self._wake.clear()
            try:
                await self._converge(channel)
            except ChannelStuck:
                raise
            except Exception:
                log.exception("the sidecar failed; it goes on after a rest")
                await asyncio.sleep(_ERROR_SECONDS)
                continue
            await self._wake.wait()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(wire.HEARTBEAT_SECONDS)
            self._clients.broadcast(Heartbeat())
            self._tell_rejections()

    # ------------------------------------------------------------------------------------------------------- input

    async def _recover(self, channel: Channel) -> None:
        """Learn from ExaBGP what it does already; every line is taken in its place among the events."""
        established: list[bool] = []

        def on_neighbours(line: str) -> None:
            sessions = exabgp_events.parse_established([line])
            if sessions is not None:
                self._state.recover(sessions, time.time())
                established.append(True)

        def on_routes(line: str) -> None:
            learned = exabgp_events.parse_routes(line)
            if learned is not None:
                self._state.learn(learned)

        await channel.command(
            exabgp_commands.SHOW_NEIGHBOURS, on_line=on_neighbours, is_complete=lambda: bool(established)
        )
        await channel.command(exabgp_commands.SHOW_ROUTES, on_line=on_routes)
        answer = await channel.command(exabgp_commands.SHOW_CONFIGURATION)
        self._state.reloaded(exabgp_events.parse_loaded(answer.lines))
        self._clients.ready.set()
        log.info("sidecar ready", extra={"peers": len(self._state.loaded)})

    def _on_event(self, line: str) -> None:
        event = exabgp_events.parse_event(line)
        if event is None:
            return
        told = self._state.observe(event)
        if told is not None and self._clients.ready.is_set():
            self._clients.broadcast(told)
        if isinstance(event, PeerUp | PeerDown | PeerConnected):
            self._tell_sessions()
            self._wake.set()

    def _want(self, desired: Desired) -> None:
        self._wish = desired
        self._wake.set()

    # ------------------------------------------------------------------------------------------------------ output

    async def _converge(self, channel: Channel) -> None:
        while (step := self._next_step()) is not None:
            if isinstance(step, Reload):
                await self._reload(channel, step)
            elif isinstance(step, Flush):
                await self._flush(channel, step)
            else:
                self._state.note(step)
                for command in step.commands():
                    answer = await channel.command(command)
                    if not answer.accepted:
                        log.warning("ExaBGP refused a command", extra={"command": command[:200]})
        if self._state.forget_retired():
            self._save()
        if self._asked and self._state.has_told_all():
            self._tell_announced()

    def _next_step(self) -> Step | None:
        wish, self._wish = self._wish, None
        if wish is not None and not (self._asked and wish == self._state.desired):
            self._asked = True
            if wish.peers != self._state.desired.peers and Reload in self._deferred:
                self._deferred.pop(Reload).cancel()  # what was refused may be right now
            self._state.want(wish)
            self._save()
            self._tell_sessions()
        return self._state.next_step(self._deferred.keys()) if self._asked else None

    async def _flush(self, channel: Channel, step: Flush) -> None:
        answer = await channel.command(exabgp_commands.show_queue(step.peer))
        if exabgp_events.parse_queued(answer.lines, step.peer):
            self._defer(step, _FLUSH_SECONDS)
        else:
            self._state.note(step)

    async def _reload(self, channel: Channel, step: Reload) -> None:
        """Load the neighbours, and see that they are loaded: ExaBGP drops a reload at some moments without a word."""
        try:
            await write_configuration(configuration_path(self._directory), step.peers)
        except (ConfigurationRefused, OSError) as error:
            log.error("configuration refused", extra={"reason": str(error)})  # noqa: TRY400 - the reason says it all
            self._state.obstacle = str(error)
            self._tell_sessions()
            self._defer(Reload, _REFUSED_SECONDS)
            return
        self._state.obstacle = ""
        expected = {peer.address: fingerprint(peer) for peer in step.peers}
        for _ in range(_RELOADS):
            await channel.command(exabgp_commands.RELOAD)
            if await self._took_effect(channel, expected):
                log.info("neighbours loaded", extra={"peers": len(step.peers)})
                self._tell_sessions()
                return
        log.warning("reload had no effect; trying again")
        self._defer(Reload, _RELOAD_SECONDS)

    async def _took_effect(self, channel: Channel, expected: Mapping[IPAddress, str]) -> bool:
        """Say whether these neighbours are loaded, by fingerprint; what is desired may have changed meanwhile."""
        for _ in range(_LOOKS):
            answer = await channel.command(exabgp_commands.SHOW_CONFIGURATION)
            for event in self._state.reloaded(exabgp_events.parse_loaded(answer.lines)):
                self._clients.broadcast(event)
            if dict(self._state.loaded) == expected:
                return True
            await asyncio.sleep(_LOOK_SECONDS)
        return False

    def _defer(self, step: Step | type[Reload], seconds: float) -> None:
        self._deferred[step] = asyncio.get_running_loop().call_later(seconds, self._resume, step)

    def _resume(self, step: Step | type[Reload]) -> None:
        del self._deferred[step]
        self._wake.set()

    def _greeting(self) -> Iterable[Outgoing]:
        """Return everything as of now, which the other clients are told first: later changes go by what they know."""
        self._tell_sessions()
        sessions = Sessions(self._state.statuses())
        announced = () if self._announced is None else (self._announced,)
        return chain(portions(self._state.snapshot()), self._state.rejections(), [sessions], announced)

    def _tell_sessions(self) -> None:
        sessions = Sessions(self._state.statuses())
        if self._clients.ready.is_set() and sessions != self._told:
            self._told = sessions
            self._clients.broadcast(sessions)

    def _tell_rejections(self) -> None:
        if self._clients.ready.is_set():
            for rejections in self._state.new_rejections():
                self._clients.broadcast(rejections)

    def _tell_announced(self) -> None:
        announced = Told(frozenset(each.prefix for each in self._state.desired.announcements))
        if announced != self._announced:
            self._announced = announced
            self._clients.broadcast(announced)

    def _save(self) -> None:
        try:
            save_desired(desired_path(self._directory), self._state.desired, self._state.retiring.values())
        except OSError as error:
            log.error("desired state not kept", extra={"reason": str(error)})  # noqa: TRY400 - the reason says it all


def _kept(directory: Path) -> tuple[Desired, Iterable[Announcement]] | None:
    """Return the desired state kept, or None if there is none that can be read: an agent will bring one."""
    try:
        return load_desired(desired_path(directory))
    except (wire.MalformedMessage, OSError) as error:
        log.error("desired state lost", extra={"reason": str(error)})  # noqa: TRY400 - the reason says it all
        return None
