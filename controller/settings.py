"""What an operator sets on a host: each with its unit and default, from a file, the environment and flags.

Flags win over the environment (`TORTIE_` and the name in capitals), the environment wins over the file (TOML, the
same names). What concerns the whole cluster is not here: pools and nodes are resources in the store.
"""

from __future__ import annotations

import ipaddress
import os
import platform
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from controller.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic_core import ErrorDetails

DEFAULT_FILE = Path("/etc/tortie/tortie.toml")
FILE_VARIABLE = "TORTIE_CONFIG"
#: What selectors can name and compare.
_LABEL_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]{0,252}")
_LABEL_VALUE: Final = re.compile(r"[A-Za-z0-9_./-]{0,63}")


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """Where a TCP server listens; an empty `host` is every address of this host, IPv4 and IPv6."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> ListenAddress | None:
        """Return the address of a text, None for `none`; raises `ValueError` with the rule."""
        if text == "none":
            return None
        host, colon, port = text.rpartition(":")
        bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
        if not colon or not (port.isascii() and port.isdecimal() and 0 < int(port) < 2**16):
            raise ValueError("write HOST:PORT with a port from 1 to 65535, as :9091 or [2001:db8::1]:9091, or none")
        if bare:
            try:
                version = ipaddress.ip_address(bare).version
            except ValueError as error:
                raise ValueError(f"{error}; write an address of this host, or only :{port} for all") from error
            if version == 6 and bare == host:  # noqa: PLR2004  IPv6
                raise ValueError(f"write an IPv6 address in brackets, as [{bare}]:{port}")
        return cls(bare, int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Settings(BaseSettings):
    """One host's settings, checked; unknown names in the file are refused."""

    model_config = SettingsConfigDict(env_prefix="TORTIE_", extra="forbid", frozen=True, hide_input_in_errors=True)

    node_name: str = Field(
        default_factory=platform.node,
        pattern=r"^[a-zA-Z0-9]([a-zA-Z0-9.\-]{0,251}[a-zA-Z0-9])?$",
        description="this node's name, unique in the cluster; the host name unless set",
    )
    labels: Annotated[dict[str, str], NoDecode] = Field(
        default_factory=dict,
        description="this node's labels, by which pools select nodes: rack=a,zone=b, or a table in the file",
    )
    run_dir: Path = Field(
        default=Path("/run/tortie"), description="directory of the sockets agent.sock, cni.sock and bgp.sock"
    )

    store: Literal["sqlite", "consul"] = Field(
        default="sqlite", description="sqlite for a single machine, consul for a cluster"
    )
    sqlite_path: Path = Field(default=Path("/var/lib/tortie/store.db"), description="file of the sqlite store")
    consul_address: str = Field(
        default="http://127.0.0.1:8500",
        pattern=r"^https?://[^/\s]+$",
        description="Consul's HTTP address, http:// or https://",
    )
    consul_token: SecretStr | None = Field(default=None, description="Consul ACL token; rather set it by file")
    consul_token_file: Path | None = Field(default=None, description="file that holds the Consul ACL token")
    consul_ca_file: Path | None = Field(default=None, description="PEM file of the CA that signed Consul's certificate")
    consul_cert_file: Path | None = Field(default=None, description="PEM file of the client certificate for Consul")
    consul_key_file: Path | None = Field(default=None, description="PEM file of the client certificate's key")
    consul_datacenter: str | None = Field(default=None, description="Consul datacenter; the server's own unless set")
    consul_service: str = Field(
        default="tortie",
        pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
        description="service under which Consul's catalog, DNS and UI show the nodes of this cluster; none tells them "
        "nothing",
    )
    store_timeout_seconds: float = Field(
        default=5.0, gt=0, le=60, description="deadline of one request to the store, in seconds"
    )

    as_number: int = Field(
        default=64512, ge=1, le=4294967294, description="AS number of this node (1 to 4294967294, RFC 6793)"
    )
    cluster_id: str | None = Field(
        default=None,
        description="route reflector cluster id (RFC 4456), as an IPv4 address; a node with one is outside the mesh",
    )
    ipv4_address: str = Field(
        default="auto",
        description="this node's IPv4 address: auto, none, an address, default-route, interface=NAME, cidr=CIDR or "
        "can-reach=ADDRESS; auto is default-route where there is one",
    )
    ipv6_address: str = Field(default="auto", description="this node's IPv6 address; as for ipv4_address")
    hold_time_seconds: int = Field(
        default=90, ge=3, le=65535, description="BGP hold time in seconds (RFC 4271, section 4.2)"
    )
    restart_time_seconds: int = Field(
        default=120,
        ge=1,
        le=4095,
        description="how long routes of a lost BGP session are kept, in seconds (RFC 4724, section 3)",
    )
    mtu_bytes: int = Field(
        default=0, ge=0, le=65535, description="MTU of workload links in bytes; 0 takes the uplink's"
    )
    docker_plugin_socket: Path | None = Field(
        default=None,
        description="socket of the libnetwork drivers, /run/docker/plugins/tortie.sock for dockerd to find them; none "
        "serves no dockerd",
    )
    docker_state_path: Path = Field(
        default=Path("/var/lib/tortie/docker.json"),
        description="file of the networks that this host's dockerd has created",
    )
    http_listen: Annotated[ListenAddress | None, NoDecode] = Field(
        default=ListenAddress("", 9091),
        validate_default=True,
        description="address and port of /metrics, /livez, /readyz and what the other nodes ask this one, as :9091 or "
        "192.0.2.1:9091; none serves nothing",
    )
    status_page_listen: Annotated[ListenAddress | None, NoDecode] = Field(
        default=ListenAddress("127.0.0.1", 9092),
        validate_default=True,
        description="address and port of the status page; who reaches it sees the whole cluster; none serves nothing",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="least severity that is logged: debug, info, warning or error"
    )
    log_format: Literal["text", "json"] = Field(
        default="text",
        description="how a line of the log is written, by tortie-bgp too: text (fields as name=value) or json",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  the library's signature
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003  the library's signature
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read flags, then the environment, then the file; the first that names a setting wins."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, _file())

    @field_validator("cluster_id")
    @classmethod
    def _check_cluster_id(cls, text: str | None) -> str | None:
        """Refuse what is no 32-bit number in the form of an address, and zero."""
        try:
            if text is not None and int(ipaddress.IPv4Address(text)) == 0:
                raise ValueError("0.0.0.0 names no cluster; write another address, the reflector's own, say")
        except ipaddress.AddressValueError as error:
            raise ValueError(f"{error}; write four numbers from 0 to 255, as 192.0.2.1") from error
        return text

    @field_validator("labels", mode="before")
    @classmethod
    def _split_labels(cls, value: object) -> object:
        """Take labels as one text: NAME=VALUE, separated by commas."""
        if not isinstance(value, str):
            return value
        labels: dict[str, str] = {}
        for part in filter(None, (part.strip() for part in value.split(","))):
            name, equals, text = part.partition("=")
            if not equals:
                raise ValueError(f"label {name!r} has no value; write {name}=VALUE")
            if name in labels:
                raise ValueError(f"label {name!r} is there twice; keep one")
            labels[name] = text
        return labels

    @field_validator("http_listen", "status_page_listen", mode="before")
    @classmethod
    def _split_listen(cls, value: object) -> object:
        """Take an address as one text: HOST:PORT, [IPV6]:PORT, :PORT, or none."""
        return ListenAddress.parse(value) if isinstance(value, str) else value

    @field_validator("labels")
    @classmethod
    def _check_labels(cls, labels: dict[str, str]) -> dict[str, str]:
        """Refuse what no selector could name or compare."""
        for name, text in labels.items():
            if not _LABEL_NAME.fullmatch(name):
                raise ValueError(
                    f"label {name!r}: a name is up to 253 letters, digits, '_', '.', '/' and '-', the last three not "
                    f"at its start"
                )
            if not _LABEL_VALUE.fullmatch(text):
                raise ValueError(
                    f"label {name!r} has the value {text!r}; a value is up to 63 letters, digits, '_', '.', '/' and '-'"
                )
        return labels

    @property
    def agent_socket(self) -> Path:
        """Where the agent serves its HTTP API."""
        return self.run_dir / "agent.sock"

    @property
    def cni_socket(self) -> Path:
        """Where the agent serves the CNI shim."""
        return self.run_dir / "cni.sock"

    @property
    def bgp_socket(self) -> Path:
        """Where the BGP sidecar serves the agent."""
        return self.run_dir / "bgp.sock"

    def token(self) -> str | None:
        """Return the Consul token, read anew from its file where one is set; raises `RefusedError`."""
        if self.consul_token_file is None:
            return None if self.consul_token is None else self.consul_token.get_secret_value()
        try:
            return self.consul_token_file.read_text().strip()
        except OSError as error:
            raise RefusedError(
                f"consul_token_file {self.consul_token_file} cannot be read ({error.strerror}): "
                f"give this user read permission or unset it"
            ) from error
        except UnicodeDecodeError:
            # Not chained: the error holds what the file holds.
            raise RefusedError(
                f"consul_token_file {self.consul_token_file} holds no text; write the token to it"
            ) from None


def load(flags: Mapping[str, Any]) -> Settings:
    """Return the settings of this process; `flags` maps the names given on the command line to their values.

    Raises `RefusedError` that names the setting, its value and the rule, or the file that cannot be read.
    """
    path = _file()
    if os.environ.get(FILE_VARIABLE) and not path.is_file():
        raise RefusedError(f"{FILE_VARIABLE}={path}: no such file; create it or unset {FILE_VARIABLE}")
    try:
        return Settings(**flags)
    except ValidationError as error:
        raise RefusedError("settings: " + "; ".join(map(_described, error.errors()))) from error
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RefusedError(f"settings file {path} cannot be read: {error}") from error


def _file() -> Path:
    return Path(os.environ.get(FILE_VARIABLE) or DEFAULT_FILE)


def _described(error: ErrorDetails) -> str:
    """Return setting, value and rule, but never the value of a secret, nor of what may be a secret's name misspelt."""
    name = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        return f"{name}: there is no such setting; `tortie-agent --help` lists them"
    value = "(secret)" if name == "consul_token" else repr(error["input"])
    return f"{name}={value}: {error['msg']}"
