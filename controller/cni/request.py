"""One call of a container runtime: its environment and standard input become a checked value here, or an error."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from controller.cni.failures import CniFailure, ErrorCode
from controller.cni.network_configuration import IDENTIFIER, NetworkConfig, parse_config, parse_identity
from controller.kernel.link_names import container_mac

if TYPE_CHECKING:
    from collections.abc import Mapping

    from controller.cni.network_configuration import Unchecked

#: IFNAMSIZ less the zero byte (include/uapi/linux/if.h).
MAX_INTERFACE_BYTES = 15
_NO_CHOICE = "the agent chooses addresses itself and cannot be asked for one"


class Command(Enum):
    """What a runtime may ask of the agent; VERSION is answered by the plugin's program itself."""

    ADD = "ADD"
    DEL = "DEL"
    STATUS = "STATUS"


@dataclass(frozen=True, slots=True)
class CniRequest:
    """A checked call.

    `container_id` and `interface` are empty for STATUS, which concerns no container. `namespace_path` is CNI_NETNS as
    given, possibly empty. `args` are the pairs of CNI_ARGS. `previous_result` is the `prevResult` a runtime adds.
    """

    command: Command
    container_id: str
    interface: str
    namespace_path: str
    args: Mapping[str, str]
    config: NetworkConfig
    previous_result: Unchecked | None = None

    @property
    def handle(self) -> str:
        """The name of all addresses of this attachment: one container on one network through one interface.

        None of the three can hold a slash, so no two attachments are named alike.
        """
        return f"cni/{self.config.name}/{self.container_id}/{self.interface}"

    @property
    def workload(self) -> str:
        """The workload's name for people: its pod's, else the container's identifier."""
        return self.args.get("K8S_POD_NAME") or self.container_id

    @property
    def namespace(self) -> str:
        """The workload's namespace for people: its pod's, else empty."""
        return self.args.get("K8S_POD_NAMESPACE", "")


def parse_environment(environment: bytes) -> dict[str, str]:
    """Return the variables of a request's environment; the first counts if a name comes twice, as for getenv(3)."""
    variables: dict[str, str] = {}
    for entry in environment.split(b"\0"):
        name, _, value = entry.partition(b"=")
        if not name:
            continue
        try:
            variables.setdefault(name.decode(), value.decode())
        except UnicodeDecodeError as error:
            raise _invalid(f"{name!r}={value!r} is not UTF-8") from error
    return variables


def parse_request(variables: Mapping[str, str], fields: Unchecked) -> CniRequest:
    """Return the checked request; raises `CniFailure` with the code that the CNI specification has for the fault."""
    command = _command(variables.get("CNI_COMMAND", ""))
    concerns_container = command is not Command.STATUS
    previous_result = fields.get("prevResult")
    request = CniRequest(
        command=command,
        container_id=_container_id(variables.get("CNI_CONTAINERID", "")) if concerns_container else "",
        interface=_interface(variables.get("CNI_IFNAME", "")) if concerns_container else "",
        namespace_path=variables.get("CNI_NETNS", ""),
        args=parse_args(variables.get("CNI_ARGS", "")),
        config=parse_identity(fields) if command is Command.DEL else parse_config(fields),
        previous_result=previous_result if isinstance(previous_result, dict) else None,
    )
    if command is Command.ADD:
        # Only here: a DEL brings the same words again, and must go through.
        _refuse_wishes(request, fields)
    return request


def parse_args(text: str) -> dict[str, str]:
    """Return the pairs of CNI_ARGS, `KEY=VALUE;KEY=VALUE`, in any order; raises `CniFailure` for a part without `=`."""
    pairs = {}
    for part in text.split(";"):
        key, separator, value = part.partition("=")
        if part and not separator:
            raise _invalid(f"CNI_ARGS {text!r} holds {part!r}, which is no KEY=VALUE")
        if part:
            pairs[key] = value
    return pairs


def _refuse_wishes(request: CniRequest, fields: Unchecked) -> None:
    """Raise `CniFailure` for an address or MAC address that the caller wants: another one in silence would be wrong.

    Runtimes repeat the MAC address that a container has when they attach it again; that one is granted.
    """
    granted = container_mac(request.container_id, request.interface)
    if address := request.args.get("IP"):
        raise _invalid(f"CNI_ARGS asks for the address {address}; {_NO_CHOICE}", "start the container without one")
    if (mac := request.args.get("MAC")) and mac.lower() != granted:
        raise _invalid(f"CNI_ARGS asks for the MAC address {mac}; {_NO_CHOICE}", "start the container without one")
    wishes = fields.get("runtimeConfig")
    if not isinstance(wishes, dict):
        return
    for capability in ("ips", "mac"):
        wish = wishes.get(capability)
        if wish and not (capability == "mac" and str(wish).lower() == granted):
            raise CniFailure(
                ErrorCode.INVALID_CONFIG,
                f"runtimeConfig.{capability} asks for {json.dumps(wish)}; {_NO_CHOICE}",
                f"start the container without it, or remove the capability {capability} from the network configuration",
            )


def _command(name: str) -> Command:
    try:
        return Command(name)
    except ValueError:
        known = ", ".join(command.value for command in Command)
        raise _invalid(
            f"CNI_COMMAND {name!r} is not one of {known}, VERSION", "other commands are not supported"
        ) from None


def _container_id(text: str) -> str:
    if IDENTIFIER.fullmatch(text) is None:
        raise _invalid(
            f"CNI_CONTAINERID {text!r} must be a letter or digit, followed by letters, digits, '_', '.' or '-'"
        )
    return text


def _interface(name: str) -> str:
    """Check what the kernel checks (dev_valid_name in net/core/dev.c), to say which rule is broken."""
    if not name or len(name.encode()) > MAX_INTERFACE_BYTES:
        raise _invalid(f"CNI_IFNAME {name!r} must have 1 to {MAX_INTERFACE_BYTES} bytes")
    if name in {".", ".."} or any(character in "/:" or character.isspace() for character in name):
        raise _invalid(f"CNI_IFNAME {name!r} must not be '.' or '..', nor contain '/', ':' or white space")
    return name


def _invalid(message: str, details: str = "the container runtime sets these variables") -> CniFailure:
    return CniFailure(ErrorCode.INVALID_ENVIRONMENT, message, details)
