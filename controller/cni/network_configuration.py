"""The network configuration a runtime puts on the plugin's standard input: the keys that are ours, checked.

    {"cniVersion": "1.0.0", "name": "NAME", "type": "tortie-cni",
     "ipam": {"type": "tortie", "ipv4": true, "ipv6": false, "ipv4_pools": ["NAME"], "ipv6_pools": ["NAME"]},
     "mtu": 1400, "agent_socket": "/run/tortie/cni.sock"}

Only `cniVersion`, `name` and `type` are needed. A container gets an IPv4 address unless `ipv4` is false, an IPv6
address only if `ipv6` is true: a family is never added because a pool for it appears. Pools are named for both families
asked for or for none. Without `mtu` the agent's own setting holds. Other keys are left alone: runtimes add theirs.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, TypeAlias

from controller.cni.failures import CniFailure, ErrorCode, shown
from controller.cni.protocol import CNI_VERSIONS

if TYPE_CHECKING:
    from collections.abc import Mapping

#: A JSON object whose members nobody has checked yet.
Unchecked: TypeAlias = "Mapping[str, object]"

IPAM_TYPE = "tortie"
#: Names of networks and container identifiers (CNI specification, "Section 1" and "Section 2: Parameters").
IDENTIFIER = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]*")
#: The least MTU of each IP version (RFC 791, section 3.2; RFC 8200, section 5).
MIN_MTU_BYTES = {4: 68, 6: 1280}
MAX_MTU_BYTES = 65535
#: How deep JSON may be nested; the specification needs four levels.
_MAX_DEPTH = 64


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """One network, as its configuration asks for it.

    `ipv4` and `ipv6` say which addresses a container gets, at least one; the pools are names in order of preference,
    empty for the automatic choice; `mtu_bytes` is 0 for the agent's own setting.
    """

    name: str
    cni_version: str
    ipv4: bool
    ipv6: bool
    ipv4_pools: tuple[str, ...]
    ipv6_pools: tuple[str, ...]
    mtu_bytes: int

    @property
    def ip_versions(self) -> tuple[int, ...]:
        """The IP versions asked for, IPv4 first."""
        return tuple(version for version, wanted in ((4, self.ipv4), (6, self.ipv6)) if wanted)


def decode_object(standard_input: bytes) -> Unchecked:
    """Return the JSON object on standard input; raises `CniFailure`.

    Whatever is taken can be written as JSON again: a previous result is part of the answer.
    """
    try:
        decoded = _DECODER.decode(standard_input.decode())
        _check_depth(decoded, standard_input)
    except (ValueError, RecursionError) as error:
        raise CniFailure(
            ErrorCode.DECODE_FAILURE,
            f"the network configuration is no valid JSON: {error}",
            "correct the file of the network configuration",
        ) from error
    if not isinstance(decoded, dict):
        raise CniFailure(
            ErrorCode.DECODE_FAILURE, "the network configuration is no JSON object", "see the CNI specification"
        )
    return decoded


def _number(text: str) -> float:
    """Return a number, which is no constant that JSON does not know, and none that is too large to be written again."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is no number of JSON, or too large a one")
    return number


def _check_depth(decoded: object, standard_input: bytes) -> None:
    """Raise ValueError for values that are nested too deeply to be gone through."""
    if standard_input.count(b"[") + standard_input.count(b"{") <= _MAX_DEPTH:
        return
    level = [decoded]
    for _ in range(_MAX_DEPTH):
        inner = (each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list))
        level = list(chain.from_iterable(inner))
        if not level:
            return
    raise ValueError(f"it is nested more than {_MAX_DEPTH} levels deep")


_DECODER = json.JSONDecoder(parse_float=_number, parse_constant=_number)


def parse_config(fields: Unchecked) -> NetworkConfig:
    """Return the checked configuration; raises `CniFailure` naming the key, its value and the rule."""
    cni_version = parse_version(fields)
    ipam = _section(fields, "ipam")
    if ipam.get("type", IPAM_TYPE) != IPAM_TYPE:
        raise _invalid(
            "ipam.type", ipam["type"], f"must be {IPAM_TYPE}: addresses come from the agent and nothing else"
        )
    config = NetworkConfig(
        name=_name(fields),
        cni_version=cni_version,
        ipv4=_flag(ipam, "ipv4", default=True),
        ipv6=_flag(ipam, "ipv6", default=False),
        ipv4_pools=_names(ipam, "ipv4_pools"),
        ipv6_pools=_names(ipam, "ipv6_pools"),
        mtu_bytes=_mtu(fields),
    )
    _check_families(config)
    if not isinstance(fields.get("agent_socket", ""), str):
        raise _invalid("agent_socket", fields["agent_socket"], "must be the path of the agent's socket")
    return config


def parse_identity(fields: Unchecked) -> NetworkConfig:
    """Return the configuration as far as a DEL needs it: the network's name and the version of the specification.

    What else it says may have been broken since the ADD, and a container has to be removable all the same.
    """
    return NetworkConfig(
        name=_name(fields),
        cni_version=parse_version(fields),
        ipv4=True,
        ipv6=True,
        ipv4_pools=(),
        ipv6_pools=(),
        mtu_bytes=0,
    )


def parse_version(fields: Unchecked) -> str:
    """Return the version of the CNI specification the caller speaks; raises `CniFailure` unless we speak it too."""
    version = fields.get("cniVersion")
    if not isinstance(version, str) or version not in CNI_VERSIONS:
        raise CniFailure(
            ErrorCode.INCOMPATIBLE_VERSION,
            f"cniVersion {shown(version)} of the network configuration is not spoken here",
            f"set it to one of {', '.join(CNI_VERSIONS)}",
        )
    return version


def _check_families(config: NetworkConfig) -> None:
    if not config.ip_versions:
        raise _invalid("ipam.ipv4", False, "is off and so is ipam.ipv6: a container needs an address; set one to true")
    for version, pools in ((4, config.ipv4_pools), (6, config.ipv6_pools)):
        if pools and version not in config.ip_versions:
            raise _invalid(f"ipam.ipv{version}_pools", pools, f"names pools, but ipam.ipv{version} is not true; set it")
    if len(config.ip_versions) > 1 and bool(config.ipv4_pools) != bool(config.ipv6_pools):
        named = {"ipv4_pools": config.ipv4_pools, "ipv6_pools": config.ipv6_pools}
        raise _invalid("ipam", named, "names pools for one family only; name some for both, or for none")
    least = max(MIN_MTU_BYTES[version] for version in config.ip_versions)
    if config.mtu_bytes and not least <= config.mtu_bytes <= MAX_MTU_BYTES:
        raise _invalid(
            "mtu", config.mtu_bytes, f"must be {least} to {MAX_MTU_BYTES} bytes for this network, or 0 for the agent's"
        )


def _name(fields: Unchecked) -> str:
    name = fields.get("name")
    if not isinstance(name, str) or IDENTIFIER.fullmatch(name) is None:
        raise _invalid("name", name, "must be a letter or digit, followed by letters, digits, '_', '.' or '-'")
    return name


def _section(fields: Unchecked, key: str) -> dict[str, object]:
    section = fields.get(key, {})
    if not isinstance(section, dict):
        raise _invalid(key, section, "must be an object")
    return section


def _flag(ipam: Unchecked, key: str, *, default: bool) -> bool:
    flag = ipam.get(key, default)
    if not isinstance(flag, bool):
        raise _invalid(f"ipam.{key}", flag, "must be true or false")
    return flag


def _names(ipam: Unchecked, key: str) -> tuple[str, ...]:
    names = ipam.get(key, [])
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise _invalid(f"ipam.{key}", names, "must be a list of pool names")
    return tuple(names)


def _mtu(fields: Unchecked) -> int:
    mtu = fields.get("mtu", 0)
    if not isinstance(mtu, int) or isinstance(mtu, bool):
        raise _invalid("mtu", mtu, "must be a whole number of bytes")
    return mtu


def _invalid(key: str, value: object, rule: str) -> CniFailure:
    return CniFailure(
        ErrorCode.INVALID_CONFIG,
        f"{key} {shown(value)} of the network configuration {rule}",
        "correct the file of the network configuration",
    )
