"""One call of a container runtime: its environment and standard input become a checked value here, or an error."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from controller.cni.failures import CniFailure, ErrorCode
from controller.cni.network_configuration import IDENTIFIER, NetworkConfig, parse_config, parse_identity
from controller.cni.wishes import refuse_other_mac, wanted_addresses
from controller.kernel.link_names import container_mac

if TYPE_CHECKING:
    from collections.abc import Mapping

    from controller.cni.network_configuration import Unchecked
    from ipam.address import IPAddress

#: IFNAMSIZ less the zero byte (include/uapi/linux/if.h).
MAX_INTERFACE_BYTES = 15


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
    `addresses` are those that an ADD asks for.
    """

    command: Command
    container_id: str
    interface: str
    namespace_path: str
    args: Mapping[str, str]
    config: NetworkConfig
    previous_result: Unchecked | None = None
    addresses: tuple[IPAddress, ...] = ()

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
    def named(self) -> bool:
        """Whether the workload has a name that its successor may have; a container's identifier never comes again."""
        return bool(self.args.get("K8S_POD_NAME"))

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
    args = parse_args(variables.get("CNI_ARGS", ""))
    # A DEL brings the wishes of its ADD again and must go through, whatever they are.
    adds = command is Command.ADD
    request = CniRequest(
        command=command,
        container_id=_container_id(variables.get("CNI_CONTAINERID", "")) if concerns_container else "",
        interface=_interface(variables.get("CNI_IFNAME", "")) if concerns_container else "",
        namespace_path=variables.get("CNI_NETNS", ""),
        args=args,
        config=parse_identity(fields) if command is Command.DEL else parse_config(fields),
        previous_result=previous_result if isinstance(previous_result, dict) else None,
        addresses=wanted_addresses(args, fields) if adds else (),
    )
    if adds:
        refuse_other_mac(args, fields, container_mac(request.container_id, request.interface))
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
