"""`tortiectl install-cni`: the plugin and a network configuration, where this host's container runtimes look."""

from __future__ import annotations

import json
import os
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from controller.cli.connection import Connection, pass_connection
from controller.cli.examples import examples
from controller.cni.network_configuration import IPAM_TYPE, parse_config
from controller.cni.protocol import CNI_VERSIONS, DEFAULT_SOCKET
from controller.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator

_PLUGIN: Final = "tortie-cni"
#: Where `make setup` puts it; `charts/host/install` puts it beside the programs.
_BUILT: Final = Path(__file__).parents[2] / "build" / _PLUGIN
#: The standard plugins that go after ours where they are installed, in this order; each asks for what it can do.
_CHAINED: Final = {"portmap": "portMappings", "bandwidth": "bandwidth"}
_EXECUTABLE: Final = 0o755
_READABLE: Final = 0o644
#: Which files runtimes read, in the order of their names.
_CONFIGURATION_SUFFIXES: Final = {".conf", ".conflist", ".json"}


def _present_plugin() -> Path:
    """Return where an installation has the plugin, or else where a checkout has it."""
    installed = Path(sys.prefix) / "lib" / _PLUGIN
    return installed if installed.is_file() else _BUILT


def _names(_context: click.Context, _parameter: click.Parameter, texts: tuple[str, ...]) -> list[str]:
    """Return names that were given with commas between them, or one at a time."""
    return [name.strip() for text in texts for name in text.split(",")]


@click.command()
@click.option("--bin-dir", type=click.Path(path_type=Path), default=Path("/opt/cni/bin"), show_default=True)
@click.option("--conf-dir", type=click.Path(path_type=Path), default=Path("/etc/cni/net.d"), show_default=True)
@click.option("--network", default="tortie", show_default=True, help="Name of the network.")
@click.option("--ipv4/--no-ipv4", default=True, show_default=True, help="Give containers an IPv4 address.")
@click.option("--ipv6/--no-ipv6", default=False, show_default=True, help="Give containers an IPv6 address.")
@click.option(
    "--ipv4-pools",
    metavar="NAME,...",
    multiple=True,
    callback=_names,
    help="Pools to take IPv4 addresses from, the preferred one first [any that fits the node].",
)
@click.option("--ipv6-pools", metavar="NAME,...", multiple=True, callback=_names, help="The same for IPv6.")
@click.option("--mtu", type=int, default=0, help="MTU of the containers' links in bytes [the agent's].")
@click.option(
    "--cni-version",
    type=click.Choice(CNI_VERSIONS),
    default="1.0.0",
    show_default=True,
    help="Version of CNI; runtimes that know 1.1.0 ask for STATUS and GC with it.",
)
@click.option(
    "--plugin",
    type=click.Path(path_type=Path),
    default=_present_plugin,
    help="The plugin to install [the one that came with this program].",
)
@click.option("--uninstall", is_flag=True, help="Remove the network, and the plugin unless another network names it.")
@pass_connection
@examples(
    "tortiectl install-cni",
    "tortiectl install-cni --network pods --ipv6 --bin-dir /host/opt/cni/bin --conf-dir /host/etc/cni/net.d",
    "tortiectl install-cni --network lab --ipv4-pools lab,spare",
    "tortiectl install-cni --uninstall",
)
def install_cni(
    connection: Connection,
    /,
    *,
    bin_dir: Path,
    conf_dir: Path,
    network: str,
    plugin: Path,
    uninstall: bool,
    **choices: object,
) -> None:
    """Install the CNI plugin and a network configuration for this host's container runtimes.

    Running it again changes only what is different. The plugins portmap and bandwidth go after ours if BIN_DIR has
    them: without portmap a container's published ports are not served.
    """
    settings = {"name": network, **choices}
    configuration = conf_dir / f"10-{network}.conflist"
    ours = _entry(settings, connection.settings().cni_socket)
    try:
        if uninstall:
            _uninstall(bin_dir / _PLUGIN, configuration)
            return
        _install(bin_dir / _PLUGIN, _content_of(plugin), _EXECUTABLE)
        chained = [
            {"type": name, "capabilities": {can: True}} for name, can in _CHAINED.items() if _is_in(bin_dir, name)
        ]
        text = json.dumps(
            {"cniVersion": choices["cni_version"], "name": network, "plugins": [ours, *chained]}, indent=2
        )
        # The plugin is there first: with a configuration the runtime counts on it.
        _install(configuration, text.encode() + b"\n", _READABLE)
    except OSError as error:
        raise RefusedError(
            f"{error.filename}: {error.strerror}; run this as root, or name other directories"
        ) from error
    for name, can in _CHAINED.items():
        if not _is_in(bin_dir, name):
            click.echo(f"note: no {name} in {bin_dir}: {can} of containers are ignored; install it and run this again")
    for first in _configurations(conf_dir):
        if first.name < configuration.name:
            click.echo(f"note: {first.name} comes before {configuration.name}: runtimes that take one network take it")


def _entry(settings: dict[str, object], agent_socket: Path) -> dict[str, object]:
    """Return our part of the configuration; raises `CniFailure` for one that the agent would refuse."""
    pools = {key: settings[key] for key in ("ipv4_pools", "ipv6_pools") if settings[key]}
    entry: dict[str, object] = {
        "type": _PLUGIN,
        "capabilities": {"ips": True, "mac": True},
        "ipam": {"type": IPAM_TYPE, "ipv4": settings["ipv4"], "ipv6": settings["ipv6"], **pools},
    }
    if settings["mtu"]:
        entry["mtu"] = settings["mtu"]
    if str(agent_socket) != DEFAULT_SOCKET:
        entry["agent_socket"] = str(agent_socket)
    parse_config({"cniVersion": settings["cni_version"], "name": settings["name"], **entry})
    return entry


def _content_of(plugin: Path) -> bytes:
    if not plugin.is_file():
        raise RefusedError(f"{plugin}: no such file; build the plugin with `make setup`, or name one with --plugin")
    return plugin.read_bytes()


def _install(path: Path, content: bytes, mode: int) -> None:
    """Have the file with this content and mode; whoever reads or runs it meanwhile has the old one or the new one."""
    if (
        path.is_file()
        and not path.is_symlink()
        and path.read_bytes() == content
        and path.stat().st_mode & 0o777 == mode
    ):
        click.echo(f"{path}: unchanged")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    # Runtimes read neither hidden files nor this suffix.
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
    try:
        with new.open("xb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
    click.echo(f"{path}: installed")


def _uninstall(plugin: Path, configuration: Path) -> None:
    """Remove the configuration, then the plugin unless another configuration names it."""
    _remove(configuration)
    named = [
        path.name
        for path in _configurations(configuration.parent)
        if f'"{_PLUGIN}"' in path.read_text("utf-8", "replace")
    ]
    if named:
        click.echo(f"{plugin}: kept for {', '.join(named)}")
    else:
        _remove(plugin)


def _remove(path: Path) -> None:
    there = path.exists() or path.is_symlink()
    path.unlink(missing_ok=True)
    click.echo(f"{path}: {'removed' if there else 'not there'}")


def _configurations(directory: Path) -> Iterator[Path]:
    if directory.is_dir():
        yield from sorted(
            path for path in directory.iterdir() if path.suffix in _CONFIGURATION_SUFFIXES and path.is_file()
        )


def _is_in(directory: Path, name: str) -> bool:
    return os.access(directory / name, os.X_OK)
