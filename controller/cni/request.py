"""One call of a container runtime: its environment and standard input become a checked value here, or an error."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from controller.cni.failures import CniFailure, ErrorCode, shortened
from controller.cni.network_configuration import IDENTIFIER, NetworkConfig, parse_config, parse_identity
from controller.cni.previous_result import PreviousResult, parse_previous_result
from controller.cni.protocol import CNI_VERSIONS
from controller.cni.valid_attachments import Attachment, parse_valid_attachments
from controller.cni.wishes import wanted_addresses, wanted_mac
from controller.kernel.link_names import container_mac, host_link_name

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
    CHECK = "CHECK"
    GC = "GC"
    STATUS = "STATUS"


_ARGS = b"CNI_ARGS"
#: The commands that concern one container, through one interface.
_OF_A_CONTAINER = frozenset({Command.ADD, Command.DEL, Command.CHECK})
#: Since which version of the CNI specification a command exists.
_SINCE = {Command.CHECK: "0.4.0", Command.GC: "1.1.0", Command.STATUS: "1.1.0"}


@dataclass(frozen=True, slots=True)
class CniRequest:
    """A checked call.

    `container_id` and `interface` are empty for STATUS and GC, which concern no container. `namespace_path` is
    CNI_NETNS as given, possibly empty. `args` are the pairs of CNI_ARGS. `previous` is the `prevResult` that an ADD or
    a CHECK brings. `addresses` and `mac` are what an ADD asks for (a CHECK repeats it). `valid` are the attachments
    that a GC has to leave, None if it does not say.
    """

    command: Command
    container_id: str
    interface: str
    namespace_path: str
    args: Mapping[str, str]
    config: NetworkConfig
    previous: PreviousResult | None = None
    addresses: tuple[IPAddress, ...] = ()
    mac: str | None = None
    valid: frozenset[Attachment] | None = None

    @property
    def handle(self) -> str:
        """The name of all addresses of this attachment: one container on one network through one interface.

        None of the three can hold a slash, so no two attachments are named alike.
        """
        return f"{self.network_prefix}{self.container_id}/{self.interface}"

    @property
    def network_prefix(self) -> str:
        """What the handles of all attachments to this network begin with, and no others."""
        return f"cni/{self.config.name}/"

    @property
    def host_name(self) -> str:
        """The name of the link's end on the host."""
        return host_link_name(self.container_id, self.interface)

    @property
    def container_mac(self) -> str:
        """The MAC address of the link's end in the container: the one asked for, else always the same."""
        return self.mac or container_mac(self.container_id, self.interface)

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
    """Return the variables of a request's environment; the first counts if a name comes twice, as for getenv(3).

    CNI_ARGS is judged later, since not every call needs it: what is no UTF-8 there is kept (PEP 383).
    """
    variables: dict[str, str] = {}
    for entry in environment.split(b"\0"):
        name, _, value = entry.partition(b"=")
        if not name:
            continue
        try:
            errors = "surrogateescape" if name == _ARGS else "strict"
            variables.setdefault(name.decode(), value.decode(errors=errors))
        except UnicodeDecodeError as error:
            raise _invalid(f"{shortened(repr(entry))} is not UTF-8") from error
    return variables


def parse_request(variables: Mapping[str, str], fields: Unchecked) -> CniRequest:
    """Return the checked request; raises `CniFailure` with the code that the CNI specification has for the fault."""
    command = _command(variables.get("CNI_COMMAND", ""))
    of_container = command in _OF_A_CONTAINER
    # A DEL brings the wishes of its ADD again, and must go through whatever they are.
    removal = command in {Command.DEL, Command.GC}
    args = parse_args(variables.get("CNI_ARGS", ""), lenient=removal)
    wishes = command in {Command.ADD, Command.CHECK}
    request = CniRequest(
        command=command,
        container_id=_container_id(variables.get("CNI_CONTAINERID", "")) if of_container else "",
        interface=_interface(variables.get("CNI_IFNAME", "")) if of_container else "",
        namespace_path=variables.get("CNI_NETNS", ""),
        args=args,
        config=parse_identity(fields) if removal else parse_config(fields),
        previous=parse_previous_result(fields) if wishes else None,
        addresses=wanted_addresses(args, fields) if wishes else (),
        mac=wanted_mac(args, fields) if wishes else None,
        valid=parse_valid_attachments(fields) if command is Command.GC else None,
    )
    _check_version(request)
    _check_place(request)
    return request


def _check_version(request: CniRequest) -> None:
    version, since = request.config.cni_version, _SINCE.get(request.command, CNI_VERSIONS[0])
    if CNI_VERSIONS.index(version) < CNI_VERSIONS.index(since):
        raise CniFailure(
            ErrorCode.INCOMPATIBLE_VERSION,
            f"{request.command.value} does not exist in CNI {version}",
            f"set cniVersion of the network configuration to {since} or later",
        )


def _check_place(request: CniRequest) -> None:
    """Refuse to be the second plugin that makes the container's interface; others may stand before us."""
    if request.command is Command.ADD and request.previous and request.previous.inside(request.interface):
        raise CniFailure(
            ErrorCode.INVALID_CONFIG,
            f"prevResult has interface {request.interface} already: another plugin of the list made it",
            "let tortie-cni be the only plugin of the list that makes interfaces, and the first",
        )


def parse_args(text: str, *, lenient: bool = False) -> dict[str, str]:
    """Return the pairs of CNI_ARGS, `KEY=VALUE;KEY=VALUE`, in any order.

    Raises `CniFailure` for a part without `=` and for what is no UTF-8, unless it is lenient and leaves that out.
    """
    written = text.encode(errors="surrogateescape")
    text = written.decode(errors="replace")
    if not lenient and text.encode() != written:
        raise _invalid(f"CNI_ARGS={shortened(repr(written))} is not UTF-8")
    pairs = {}
    for part in text.split(";"):
        key, separator, value = part.partition("=")
        if part and not separator:
            if lenient:
                continue
            raise _invalid(f"CNI_ARGS {shortened(repr(text))} holds {shortened(repr(part))}, which is no KEY=VALUE")
        if part:
            pairs[key] = value
    return pairs


def _command(name: str) -> Command:
    try:
        return Command(name)
    except ValueError:
        known = ", ".join(command.value for command in Command)
        raise _invalid(
            f"CNI_COMMAND {shortened(repr(name))} is not one of {known}, VERSION", "other commands are not supported"
        ) from None


def _container_id(text: str) -> str:
    if IDENTIFIER.fullmatch(text) is None:
        rule = "must be a letter or digit, followed by letters, digits, '_', '.' or '-'"
        raise _invalid(f"CNI_CONTAINERID {shortened(repr(text))} {rule}")
    return text


def _interface(name: str) -> str:
    """Check what the kernel checks (dev_valid_name in net/core/dev.c), to say which rule is broken."""
    if not name or len(name.encode()) > MAX_INTERFACE_BYTES:
        raise _invalid(f"CNI_IFNAME {shortened(repr(name))} must have 1 to {MAX_INTERFACE_BYTES} bytes")
    if name in {".", ".."} or any(character in "/:" or character.isspace() for character in name):
        raise _invalid(
            f"CNI_IFNAME {shortened(repr(name))} must not be '.' or '..', nor contain '/', ':' or white space"
        )
    return name


def _invalid(message: str, details: str = "the container runtime sets these variables") -> CniFailure:
    return CniFailure(ErrorCode.INVALID_ENVIRONMENT, message, details)
