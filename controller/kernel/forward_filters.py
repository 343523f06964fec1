"""Filters of others that drop what the host forwards: dockerd's is asked to let our links through, others are told of.

What one table drops no other can save: accept ends its own chain only (nft(8), "verdict statement"). So a policy of
drop needs rules inside that very chain. Docker keeps the chain DOCKER-USER for the rules of others and never changes
what is in it. There, and nowhere else, a jump to a chain of ours is put for each IP version, behind every rule of the
operator's: what those drop stays dropped. Our chain lets through what is for our links, and what comes from them unless
it is for a bridge of Docker's own, on which Docker's rules decide. It is written with the `iptables` that dockerd
itself uses. A chain that an operator made drop is the operator's: it is named, with the commands that would open it for
our links, and not touched.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from controller.errors import PermanentError
from controller.kernel.link_names import HOST_LINK_PREFIX
from controller.kernel.programs import run_program

if TYPE_CHECKING:
    from collections.abc import Collection

log = logging.getLogger(__name__)

_USER_CHAIN: Final = "DOCKER-USER"
#: At most 28 characters (XT_EXTENSION_MAXNAMELEN).
_OUR_CHAIN: Final = "TORTIE-FORWARD"
_JUMP: Final = f"-A {_USER_CHAIN} -j {_OUR_CHAIN}"
#: Docker's default bridge and its gateway bridge, and those of networks whose bridges it names itself.
_BRIDGES: Final = ("docker+", "br-+")
#: The rule by which dockerd has its bridges' published ports looked up, whatever the bridge is called.
_OF_BRIDGE: Final = re.compile(r"-A \S+ -o (\S+) -j DOCKER")
_PROGRAM: Final = {4: "iptables", 6: "ip6tables"}
#: The table that iptables filters in, by the IP version, as nftables shows it.
_IPTABLES: Final = {("ip", "filter"): 4, ("ip6", "filter"): 6}
#: Where the kernel lists the tables of the older of iptables' two backends.
_LEGACY: Final = {4: Path("/proc/net/ip_tables_names"), 6: Path("/proc/net/ip6_tables_names")}
_VERSIONS: Final = {"ip": {4}, "ip6": {6}, "inet": {4, 6}}
_DIRECTIONS: Final = ("-i", "-o")
_ERROR_LENGTH: Final = 300


@dataclass(frozen=True, slots=True)
class _Chain:
    """A chain of nftables that drops what no rule of it takes."""

    family: str
    table: str
    name: str


async def open_forwarding(versions: Collection[int]) -> None:
    """Have nothing drop what workloads of these IP versions send and get, as far as it is for us to do.

    Raises `PermanentError`, which names what still drops and the commands that let it through, and `TransientError`.
    """
    dropping = await _dropping_chains()
    blocked: list[str] = []
    filtering = {_IPTABLES.get((chain.family, chain.table)) for chain in dropping}
    for version in sorted(versions):
        if version in filtering:
            blocked += await _open_iptables(_PROGRAM[version])
        if _is_legacy(version):
            blocked += await _open_iptables(_legacy_program(version))
    for chain in dropping:
        if (chain.family, chain.table) not in _IPTABLES and _VERSIONS.get(chain.family, set()).intersection(versions):
            blocked += await _closed(chain)
    if blocked:
        raise PermanentError("; ".join(blocked))


async def _dropping_chains() -> list[_Chain]:
    try:
        status, output, errors = await run_program(["nft", "-j", "list", "chains"])
    except FileNotFoundError:
        return []
    if status:
        raise PermanentError(f"nft cannot list the host's chains: {errors.strip()[:_ERROR_LENGTH]}")
    try:
        chains = [part["chain"] for part in json.loads(output)["nftables"] if "chain" in part]
        return [
            _Chain(chain["family"], chain["table"], chain["name"])
            for chain in chains
            if chain.get("hook") == "forward" and chain.get("policy") == "drop"
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise PermanentError(f"nft lists the host's chains in a way that is not understood: {error!r}") from error


def _is_legacy(version: int) -> bool:
    try:
        return "filter" in _LEGACY[version].read_text().split()
    except OSError:
        return False


def _legacy_program(version: int) -> str:
    """Return the program of the older backend: the plain name is the newer one's where both are installed."""
    name = f"{_PROGRAM[version]}-legacy"
    return _PROGRAM[version] if shutil.which(name) is None else name


async def _open_iptables(program: str) -> list[str]:
    """Let our links through dockerd's chain, or return what to do about a chain FORWARD that drops."""
    try:
        status, output, errors = await run_program([program, "-w", "5", "-S"])
    except FileNotFoundError:
        return [f"a chain FORWARD may drop, and there is no {program} to look at it; install iptables"]
    if status:
        raise PermanentError(f"{program} cannot list its rules: {errors.strip()[:_ERROR_LENGTH]}")
    lines = output.splitlines()
    if "-P FORWARD DROP" not in lines:
        return []
    if f"-A FORWARD -j {_USER_CHAIN}" in lines:
        await _open_users_chain(program, lines)
        return []
    missing = [rule for direction in _DIRECTIONS if f"-A {(rule := _rule(direction))}" not in lines]
    commands = " and ".join(f"`{program} -I {rule}`" for rule in missing)
    return [f"the policy of the chain FORWARD of {program} is DROP; run {commands}"] if missing else []


async def _open_users_chain(program: str, lines: list[str]) -> None:
    """Have our chain as it should be, and one jump to it in its place; all at once, and only if something is wrong."""
    changes = [*_filling(lines), *_jumping(lines)]
    if not changes:
        return
    text = "\n".join(["*filter", *changes, "COMMIT", ""])
    try:
        status, _, errors = await run_program([f"{program}-restore", "-w", "5", "--noflush"], text)
    except FileNotFoundError as error:
        raise PermanentError(
            f"dockerd's filter cannot be opened without {program}-restore; install iptables"
        ) from error
    if status:
        raise PermanentError(f"{program}-restore refuses {changes}: {errors.strip()[:_ERROR_LENGTH]}")
    log.info("links let through dockerd's filter", extra={"program": program, "changes": changes})


def _filling(lines: list[str]) -> list[str]:
    """Return the changes after which our chain lets our links through and does nothing else."""
    named = {found[1] for line in lines if (found := _OF_BRIDGE.fullmatch(line)) and not _is_covered(found[1])}
    links = f"{HOST_LINK_PREFIX}+"
    wanted = [
        f"-A {_OUR_CHAIN} -o {links} -j ACCEPT",
        *(f"-A {_OUR_CHAIN} -i {links} -o {bridge} -j RETURN" for bridge in (*_BRIDGES, *sorted(named))),
        f"-A {_OUR_CHAIN} -i {links} -j ACCEPT",
    ]
    present = [line for line in lines if line.startswith(f"-A {_OUR_CHAIN} ")]
    # A chain that is declared is emptied (iptables-restore(8), "--noflush").
    return [] if present == wanted else [f":{_OUR_CHAIN} - [0:0]", *wanted]


def _is_covered(bridge: str) -> bool:
    return any(bridge.startswith(pattern.rstrip("+")) for pattern in _BRIDGES)


def _jumping(lines: list[str]) -> list[str]:
    """Return the changes after which one jump to our chain stands behind all that is looked at but a last return."""
    present = [line for line in lines if line.startswith(f"-A {_USER_CHAIN} ")]
    others = [line for line in present if line != _JUMP]
    returning = f"-A {_USER_CHAIN} -j RETURN"
    place = others.index(returning) if returning in others else len(others)
    if present == [*others[:place], _JUMP, *others[place:]]:
        return []
    removals = [_JUMP.replace("-A", "-D", 1)] * present.count(_JUMP)
    return [*removals, f"-I {_USER_CHAIN} {place + 1} -j {_OUR_CHAIN}"]


def _rule(direction: str) -> str:
    return f"FORWARD {direction} {HOST_LINK_PREFIX}+ -j ACCEPT"


async def _closed(chain: _Chain) -> list[str]:
    """Return what to do about a chain of nftables itself; nothing if it accepts ours, or is gone."""
    place = f"{chain.family} {chain.table} {chain.name}"
    status, output, _ = await run_program(["nft", "-s", "list", "chain", chain.family, chain.table, chain.name])
    rules = [f'{key} "{HOST_LINK_PREFIX}*" accept' for key in ("iifname", "oifname")]
    missing = [rule for rule in rules if rule not in output]
    if status or not missing:
        return []
    commands = " and ".join(f"`nft insert rule {place} {rule}`" for rule in missing)
    return [f"the policy of the chain {place} is drop; run {commands}"]
