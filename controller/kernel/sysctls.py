"""The host's and the links' settings under /proc/sys/net, of the namespace the calling thread is in.

In a container /proc/sys is read-only. There the environment names another mount of the host's /proc/sys/net, which
shows the settings of whichever network namespace looks at it, as the original does (net/sysctl_net.c).
"""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from controller.errors import KernelRefused
from controller.kernel.link_names import HOST_LINK_PREFIX

if TYPE_CHECKING:
    from collections.abc import Mapping

log = logging.getLogger(__name__)

#: The variable that names where /proc/sys/net can be written, if not there.
DIRECTORY_VARIABLE: Final = "TORTIE_SYSCTL_DIR"
_IPV6_LINKS: Final = "ipv6/conf"
_ALL_LINKS: Final = ("all", "default", "lo")


def enable_forwarding() -> None:
    """Make the host a router for both families, and keep its own IPv6 autoconfiguration working.

    A router ignores router advertisements on links with accept_ra=1 (Documentation/networking/ip-sysctl.rst), and the
    host's own default route would run out; links that listened get accept_ra=2 before forwarding is turned on.
    """
    root = _root()
    if _read(root / "ipv4/ip_forward") != "1":  # writing it resets other settings of every link
        _write(root / "ipv4/ip_forward", "1")
    if _read(root / "ipv4/conf/all/rp_filter") == "2":
        log.warning(
            "workloads can send from addresses that are not theirs: net.ipv4.conf.all.rp_filter is 2 and overrides "
            "the strict check of each link; set it to 0 or 1"
        )
    links = root / "ipv6/conf"
    if not links.is_dir() or _read(links / "all/forwarding") == "1":
        return
    for link in links.iterdir():
        if link.name in _ALL_LINKS or link.name.startswith(HOST_LINK_PREFIX) or _read(link / "accept_ra") != "1":
            continue
        _write(link / "accept_ra", "2")
        log.info("router advertisements stay accepted on a forwarding host", extra={"link": link.name})
    _write(links / "all/forwarding", "1")


def guard_ipv6(name: str, *, ipv6: bool = True) -> None:
    """Let the host forward IPv6 for this link, and let the workload behind it not configure the host.

    A link without IPv6 gives nobody a way in, and is gone in half the time: none of its neighbours has to be let go of.
    For IPv4 netlink does it, `link_messages.ipv4_guard`.
    """
    _apply(f"{_IPV6_LINKS}/{name}", _guards(ipv6=ipv6)[_IPV6_LINKS])


def unguarded(name: str, *, ipv6: bool = True) -> dict[str, tuple[str, str]]:
    """Return the settings of this host link that are not as they have to be: what is, what should be."""
    found = {}
    for directory, value_by_name in _guards(ipv6=ipv6).items():
        for setting, expected in value_by_name.items():
            value = _read_if_there(f"{directory}/{name}/{setting}")
            if value not in {None, expected}:
                found[f"net/{directory}/{name}/{setting}"] = (str(value), expected)
    return found


def containers_check_strictly() -> bool:
    """Tell whether namespaces made from now on take IPv4 only by the link of the route back (devinet_init_net).

    They have the settings of the machine's first namespace, which is the one that agents run in.
    """
    return any(_read_if_there(f"ipv4/conf/{links}/rp_filter") == "1" for links in ("all", "default"))


def ipv6_is_off(name: str) -> bool:
    """Tell whether this link has no IPv6; a kernel without IPv6 has none on any."""
    return _read_if_there(f"ipv6/conf/{name}/disable_ipv6") != "0"


def switch_ipv6(name: str, *, on: bool) -> None:
    """Have IPv6 on this link, or not; a kernel without IPv6 has none anyway."""
    _apply(f"{_IPV6_LINKS}/{name}", {"disable_ipv6": "0" if on else "1"})


def _guards(*, ipv6: bool) -> dict[str, dict[str, str]]:
    """Return what the host's end of a workload's link must have, by directory."""
    on = {"accept_ra": "0", "accept_dad": "0", "disable_ipv6": "0", "forwarding": "1"}
    return {
        "ipv4/conf": {"forwarding": "1", "rp_filter": "1"},
        _IPV6_LINKS: on if ipv6 else {"disable_ipv6": "1"},
    }


def _apply(directory: str, value_by_name: Mapping[str, str]) -> None:
    path = _root() / directory
    for name, value in value_by_name.items():
        try:
            _write(path / name, value)
        except KernelRefused as refusal:
            if refusal.error_number != errno.ENOENT:  # a kernel without IPv6
                raise


def _root() -> Path:
    return Path(os.environ.get(DIRECTORY_VARIABLE) or "/proc/sys/net")


def _read_if_there(name: str) -> str | None:
    path = _root() / name
    return _read(path) if path.exists() else None


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError as error:
        raise KernelRefused(f"reading {path}", error.errno or 0, error.strerror or str(error)) from error


def _write(path: Path, value: str) -> None:
    try:
        # Not Path.write_text: a sysctl takes one write, and this is on the way of every new workload.
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, value.encode())
        finally:
            os.close(descriptor)
    except OSError as error:
        raise KernelRefused(f"writing {value} to {path}", error.errno or 0, error.strerror or str(error)) from error
