"""The sidecar's two files, both readable by its user alone: they hold passwords.

`desired.jsonl` keeps the last desired state, so that ExaBGP restarts with its sessions and announcements when no agent
is there to tell; `exabgp.conf` is what ExaBGP loads. Both are replaced atomically.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING

from bgp import wire
from bgp.exabgp_config import refusal, render
from bgp.messages import Desired

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from bgp.peer import Peer
    from bgp.route import Announcement

#: ExaBGP ends for good when its first configuration is wrong, and loads no other once it has met a wrong one.
_VALIDATION_SECONDS = 30.0


class ConfigurationRefused(Exception):
    """ExaBGP would not load the configuration; the text is what it says, without passwords."""


def desired_path(directory: Path) -> Path:
    """Return where the desired state is kept."""
    return directory / "desired.jsonl"


def configuration_path(directory: Path) -> Path:
    """Return where ExaBGP's configuration is."""
    return directory / "exabgp.conf"


def api_command() -> str:
    """Return the command ExaBGP runs as its API process: this Python, with the settings in its environment."""
    return f"{sys.executable} -m bgp.sidecar"


def load_desired(path: Path) -> tuple[Desired, tuple[Announcement, ...]] | None:
    """Return the desired state and what was retiring, or None if the file does not exist.

    Raises `wire.MalformedMessage` if it cannot be read as either.
    """
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return None
    messages = [wire.decode(line) for line in lines]
    match messages:
        case [Desired() as desired, Desired() as retiring]:
            return desired, retiring.announcements
    raise wire.MalformedMessage(f"{path} does not hold a desired state; remove it to start without one")


def save_desired(path: Path, desired: Desired, retiring: Iterable[Announcement]) -> None:
    """Keep the desired state and what is retiring."""
    replace_file(path, wire.encode(desired) + wire.encode(Desired(announcements=tuple(retiring))))


def replace_file(path: Path, content: bytes) -> None:
    """Make the file hold exactly this, with mode 0600; a reader sees the old or the new content."""
    temporary = path.with_name(path.name + ".new")
    write_private(temporary, content)
    temporary.replace(path)


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


async def write_configuration(path: Path, peers: Iterable[Peer]) -> None:
    """Make the file describe these peers, if ExaBGP accepts it; otherwise leave it and raise `ConfigurationRefused`."""
    peers = tuple(peers)
    candidate = path.with_name(path.name + ".candidate")
    write_private(candidate, render(api_command(), peers).encode())
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "exabgp",
        "validate",
        str(candidate),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(_VALIDATION_SECONDS):
            output, _ = await process.communicate()
    except TimeoutError as error:
        process.kill()
        await process.wait()
        reason = f"ExaBGP did not check {candidate} within {_VALIDATION_SECONDS} s"
        raise ConfigurationRefused(reason) from error
    if process.returncode != 0:
        raise ConfigurationRefused(_without_passwords(output.decode("utf-8", "replace")))
    candidate.replace(path)


def write_initial_configuration(directory: Path) -> tuple[Peer, ...]:
    """Write the configuration ExaBGP starts with, from the desired state kept; return the peers in it.

    Raises `wire.MalformedMessage` or `ConfigurationRefused`, and then leaves a configuration without peers.
    """
    path = configuration_path(directory)
    replace_file(path, render(api_command(), ()).encode())
    kept = load_desired(desired_path(directory))
    peers = () if kept is None else tuple(peer for peer in kept[0].peers if not refusal(peer))
    if peers:
        asyncio.run(write_configuration(path, peers))
    return peers


def _without_passwords(text: str) -> str:
    """Return only the lines that cannot quote a password."""
    return " / ".join(line.strip() for line in text.splitlines() if "md5" not in line)[-500:]
