"""What is needed to analyse a host, part by part: none depends on another one, and each has a deadline.

What ExaBGP and its sidecar are at is in the agent's status and report; their own files hold passwords.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import sys
import time
from collections import Counter
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final

import aiohttp

from controller.cli.diags_secrets import Secrets, shown_settings
from controller.datamodel import keys
from controller.errors import RefusedError, TortieError
from controller.kernel.programs import run_program
from controller.store.opening import StoreKind, StoreSettings, open_store

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from controller.settings import Settings

#: A program has ten seconds of its own (`run_program`).
_DEADLINE_SECONDS: Final = 15.0
_OK: Final = 200
_LOG_LINES: Final = 20_000
_SYSCTLS: Final = Path("/proc/sys/net")
#: Where the sockets are unless the settings, which may be what is broken, say something else.
USUAL_RUN_DIR: Final = Path("/run/tortie")
_NETWORKS: Final = Path("/etc/cni/net.d")
#: Each file of the archive, and the page of the agent's socket that it is.
_PAGES: Final = {
    "agent-status.json": "/v1/status",
    "agent-report.json": "/v1/report",
    "agent-metrics.txt": "/metrics",
}
#: Each file of the archive, and the program whose output it is.
_COMMANDS: Final = {
    "links.txt": ("ip", "-d", "-s", "link"),
    "addresses.txt": ("ip", "-d", "address"),
    "routes-ipv4.txt": ("ip", "-4", "-d", "route", "show", "table", "all"),
    "routes-ipv6.txt": ("ip", "-6", "-d", "route", "show", "table", "all"),
    "rules-ipv4.txt": ("ip", "-4", "rule"),
    "rules-ipv6.txt": ("ip", "-6", "rule"),
    "neighbours.txt": ("ip", "-s", "neighbour"),
    "packet-filter.txt": ("nft", "list", "ruleset"),
    "log-agent.txt": ("journalctl", "--no-pager", f"--lines={_LOG_LINES}", "--unit=tortie-agent"),
    "log-bgp.txt": ("journalctl", "--no-pager", f"--lines={_LOG_LINES}", "--unit=tortie-bgp"),
}
#: Programs that a host may do without, and what there is instead.
_OPTIONAL: Final = {
    "nft": "so tortie has no rules here",
    "journalctl": "so the logs are where the services' own manager keeps them (on Kubernetes: `kubectl logs`)",
}
#: Below /proc/sys/net: what decides on packets that are forwarded, and how many neighbours and connections may be.
_PATTERNS: Final = (
    "ipv4/ip_forward",
    "ipv4/conf/*/forwarding",
    "ipv4/conf/*/rp_filter",
    "ipv4/conf/*/proxy_arp",
    "ipv4/neigh/default/gc_thresh*",
    "ipv6/conf/*/forwarding",
    "ipv6/conf/*/accept_ra",
    "ipv6/conf/*/accept_dad",
    "ipv6/conf/*/disable_ipv6",
    "ipv6/neigh/default/gc_thresh*",
    "ipv6/route/max_size",
    "netfilter/nf_conntrack_count",
    "netfilter/nf_conntrack_max",
    "bridge/bridge-nf-call-*",
    "core/*mem_max",
)
_PACKAGES: Final = ("tortie", "exabgp", "pyroute2", "aiohttp", "py-consul")


class _NotCollected(Exception):
    """A part could not be had; the text says why, and is all there is of it."""


@dataclass(frozen=True, slots=True)
class Part:
    """One file of the archive, and how its content is had."""

    name: str
    read: Callable[[], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class Collected:
    """What became of a part; `missing` is why its content could not be had, None if it could."""

    name: str
    content: bytes
    missing: str | None = None

    @property
    def line(self) -> str:
        """The outcome on one line: what failed may have printed much before."""
        if self.missing is None:
            return f"{self.name}: {len(self.content)} bytes"
        return f"{self.name}: missing: {self.missing.partition(chr(10))[0]}"

    @property
    def file(self) -> tuple[str, bytes]:
        """The file of the archive, by another name where it only says why its content is missing."""
        if self.missing is None:
            return self.name, self.content
        return f"{self.name}.missing", f"{self.missing}\n".encode()

    def without(self, secrets: Secrets) -> Collected:
        """Return the same with every secret hidden."""
        missing = None if self.missing is None else secrets.without(self.missing.encode()).decode(errors="replace")
        return Collected(self.name, secrets.without(self.content), missing)


async def collect(settings: Settings | RefusedError, agent_socket: Path) -> list[Collected]:
    """Return what became of each part, without secrets; `settings` may be the reason why there are none.

    All are read at the same time.
    """
    secrets = Secrets()
    if not isinstance(settings, RefusedError):
        secrets.know_settings(settings)
    async with asyncio.TaskGroup() as tasks:
        reading = [tasks.create_task(_collected(part)) for part in _parts(settings, agent_socket, secrets)]
    return [task.result().without(secrets) for task in reading]


def _parts(settings: Settings | RefusedError, agent_socket: Path, secrets: Secrets) -> Iterator[Part]:
    """Yield all parts; the passwords in the store become secrets."""
    yield Part("versions.txt", _versions)
    yield Part("settings.json", partial(_settings, settings))
    for name, path in _PAGES.items():
        yield Part(name, partial(_page, agent_socket, path))
    for name, command in _COMMANDS.items():
        yield Part(name, partial(_output, command))
    yield Part("sysctls.txt", partial(asyncio.to_thread, _sysctls, _SYSCTLS))
    yield Part("cni-networks.txt", partial(_listing, _NETWORKS))
    yield Part(
        "sockets.txt", partial(_listing, USUAL_RUN_DIR if isinstance(settings, RefusedError) else settings.run_dir)
    )
    yield Part("store.txt", partial(_store, settings, secrets))


async def _collected(part: Part) -> Collected:
    try:
        async with asyncio.timeout(_DEADLINE_SECONDS):
            return Collected(part.name, await part.read())
    except TimeoutError:
        reason = f"nothing within {_DEADLINE_SECONDS:g} s"
    except (TortieError, _NotCollected) as error:
        reason = str(error)
    except Exception as error:  # noqa: BLE001  whatever is broken on this host, the other parts are told
        reason = f"{type(error).__name__}: {error}"
    return Collected(part.name, b"", reason)


async def _versions() -> bytes:
    found = {name: metadata.version(name) for name in _PACKAGES}
    try:
        system = platform.freedesktop_os_release().get("PRETTY_NAME", "unknown")
    except OSError:
        system = "unknown"
    found |= {"python": sys.version, "kernel": " ".join(platform.uname()), "system": system}
    return "".join(f"{name}: {text}\n" for name, text in found.items()).encode()


async def _settings(settings: Settings | RefusedError) -> bytes:
    if isinstance(settings, RefusedError):
        raise settings
    return json.dumps(shown_settings(settings), indent=2).encode()


async def _page(agent_socket: Path, path: str) -> bytes:
    """Return a page of the agent's; raises `_NotCollected`."""
    connector = aiohttp.UnixConnector(str(agent_socket))
    try:
        async with aiohttp.ClientSession(connector=connector) as client, client.get(f"http://agent{path}") as answer:
            body = await answer.read()
    except aiohttp.ClientConnectorError as error:
        raise _NotCollected(f"no agent answers on {agent_socket}: {os.strerror(error.errno or 0)}") from error
    except aiohttp.ClientError as error:
        raise _NotCollected(f"the agent behind {agent_socket} ends its answer to {path}: {error}") from error
    if answer.status != _OK:
        text = body[:1000].decode(errors="replace")
        raise _NotCollected(f"the agent behind {agent_socket} answers {path} with HTTP status {answer.status}: {text}")
    return body


async def _output(command: Sequence[str]) -> bytes:
    """Return what a program prints; raises `_NotCollected` with that, too, if it fails."""
    line = " ".join(command)
    try:
        status, output, errors = await run_program(command)
    except FileNotFoundError as error:
        if command[0] in _OPTIONAL:
            return f"{command[0]} is not installed, {_OPTIONAL[command[0]]}\n".encode()
        raise _NotCollected(f"`{line}`: {command[0]} is not installed") from error
    if status:
        raise _NotCollected(f"`{line}` ended with {status}: {errors.strip() or 'without a word'}\n{output}".strip())
    return f"# {line}\n{output}{errors}".encode()


async def _listing(directory: Path) -> bytes:
    """Return the names of all that is in a directory."""
    if not await asyncio.to_thread(directory.is_dir):
        return f"{directory} does not exist\n".encode()
    return await _output(("ls", "-lAR", str(directory)))


def _sysctls(root: Path) -> bytes:
    found = sorted({path for pattern in _PATTERNS for path in root.glob(pattern)})
    return "".join(f"net/{path.relative_to(root)} = {_value(path)}\n" for path in found).encode()


def _value(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError as error:
        return f"(cannot be read: {error.strerror})"


async def _store(settings: Settings | RefusedError, secrets: Secrets) -> bytes:
    """Return whether and how fast the store answers, and how many records of which sort the cluster has."""
    if isinstance(settings, RefusedError):
        raise settings
    named = StoreSettings.of(settings)
    if named.kind is StoreKind.SQLITE and not named.sqlite_path.exists():
        raise _NotCollected(f"{named.sqlite_path} does not exist; the agent makes it when it first starts")
    store = open_store(named)
    started = time.monotonic()
    try:
        entries = await store.list(keys.CLUSTER)
        took_seconds = time.monotonic() - started
    finally:
        await store.close()
    secrets.know_records(entries)
    counts = Counter(key.removeprefix(keys.CLUSTER).partition("/")[0] for key in entries)
    lines = [f"{named.kind.value} answered within {took_seconds * 1000:.0f} ms", *_counted(counts), ""]
    return "\n".join(lines).encode()


def _counted(counts: Counter[str]) -> Iterator[str]:
    return (f"{sort}: {count}" for sort, count in sorted(counts.items()))
