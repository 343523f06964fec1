"""What the drivers must know after a restart and nobody tells them again: networks, and endpoints until they end.

dockerd creates a network once in its life and an endpoint once in a container's, so both are in a file that outlives
the host's start. Links, addresses and routes are not in it: they are read from the kernel and from address management.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
from threading import Lock
from typing import TYPE_CHECKING, Any

from controller.docker.values import MAX_NETWORKS, Endpoint, Network, Protocol, Published
from controller.errors import PermanentError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

_VERSION = 1


class DriverState:
    """Networks and endpoints of this host by their ids.

    Every change is on the disk before its method returns, and known only then; changes take turns, each of what those
    before it made. Raises `PermanentError` when the file cannot be written, and nothing has changed then.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._networks: dict[str, Network] = {}
        self._endpoints: dict[str, Endpoint] = {}
        self._turn = asyncio.Lock()
        # The turn of a change that was cancelled ends before its thread does.
        self._writing = Lock()

    @property
    def networks(self) -> Mapping[str, Network]:
        """The networks there are."""
        return self._networks

    @property
    def endpoints(self) -> Mapping[str, Endpoint]:
        """The endpoints there are."""
        return self._endpoints

    def load(self) -> None:
        """Read the file, if there is one; raises `PermanentError` for one that cannot be read."""
        try:
            text = self._path.read_text()
        except FileNotFoundError:
            return
        except (OSError, UnicodeDecodeError) as error:
            raise PermanentError(f"docker_state_path {self._path} cannot be read: {error}") from error
        try:
            fields = json.loads(text)
            networks = [_network(each) for each in _checked(fields)["networks"]]
            endpoints = [_endpoint(each) for each in fields["endpoints"]]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise PermanentError(
                f"docker_state_path {self._path} makes no sense ({error!r}); restore it, or remove it with every "
                f"network of this driver"
            ) from error
        self._networks = {network.network_id: network for network in networks}
        self._endpoints = {endpoint.endpoint_id: endpoint for endpoint in endpoints}

    def network(self, network_id: str) -> Network:
        """Return a network; raises `RefusedError` for one that is not known."""
        try:
            return self._networks[network_id]
        except KeyError:
            raise RefusedError(
                f"network {network_id[:12]} is not known to this host's agent: it was not created here, or "
                f"{self._path} was lost; remove the network and create it again"
            ) from None

    def endpoint(self, endpoint_id: str) -> Endpoint:
        """Return an endpoint; raises `RefusedError` for one that is not known."""
        try:
            return self._endpoints[endpoint_id]
        except KeyError:
            raise RefusedError(
                f"endpoint {endpoint_id[:12]} is not known to this host's agent; restart its container"
            ) from None

    async def keep_network(self, network_id: str, made: Callable[[int], Network]) -> Network:
        """Have the network that is made with a number of its own, and return it.

        That is the number it has, or one that no network has; the same network tends to get the same.
        """
        async with self._turn:
            network = made(self._free_number(network_id))
            await self._change({**self._networks, network.network_id: network}, self._endpoints)
            return network

    async def keep_endpoint(self, endpoint: Endpoint) -> None:
        """Have the endpoint as it is."""
        async with self._turn:
            await self._change(self._networks, {**self._endpoints, endpoint.endpoint_id: endpoint})

    async def change_endpoint(self, endpoint_id: str, change: Callable[[Endpoint], Endpoint]) -> Endpoint | None:
        """Have the endpoint as the change makes it, and return it; None if there is none."""
        async with self._turn:
            present = self._endpoints.get(endpoint_id)
            if present is None:
                return None
            endpoint = change(present)
            await self._change(self._networks, {**self._endpoints, endpoint_id: endpoint})
            return endpoint

    async def forget_network(self, network_id: str) -> None:
        """Have no network of this id."""
        async with self._turn:
            left = {name: each for name, each in self._networks.items() if name != network_id}
            await self._change(left, self._endpoints)

    async def forget_endpoint(self, endpoint_id: str) -> Endpoint | None:
        """Have no endpoint of this id, and return how it was; None if there was none."""
        async with self._turn:
            present = self._endpoints.get(endpoint_id)
            left = {name: each for name, each in self._endpoints.items() if name != endpoint_id}
            await self._change(self._networks, left)
            return present

    def _free_number(self, network_id: str) -> int:
        if network_id in self._networks:
            return self._networks[network_id].number
        taken = {network.number for network in self._networks.values()}
        start = int.from_bytes(network_id.encode(), "big") % MAX_NETWORKS
        for offset in range(MAX_NETWORKS):
            number = (start + offset) % MAX_NETWORKS
            if number not in taken:
                return number
        raise RefusedError(f"this host has {MAX_NETWORKS} networks, which is the most; remove some")

    async def _change(self, networks: dict[str, Network], endpoints: dict[str, Endpoint]) -> None:
        if (networks, endpoints) == (self._networks, self._endpoints):
            return
        try:
            # Not on the event loop, which other callers wait for: a disk may take its time.
            await asyncio.to_thread(self._write, networks, endpoints)
        except OSError as error:
            raise PermanentError(f"docker_state_path {self._path} cannot be written: {error}") from error
        self._networks, self._endpoints = networks, endpoints

    def _write(self, networks: dict[str, Network], endpoints: dict[str, Endpoint]) -> None:
        """Replace the file in one step; it and its name are on the disk afterwards."""
        fields = {
            "version": _VERSION,
            "networks": [_network_fields(network) for network in networks.values()],
            "endpoints": [_endpoint_fields(endpoint) for endpoint in endpoints.values()],
        }
        with self._writing:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            new = self._path.with_name(self._path.name + ".new")
            with new.open("w") as file:
                file.write(json.dumps(fields, indent=1))
                file.flush()
                os.fsync(file.fileno())
            new.replace(self._path)
            directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)


def _checked(fields: dict[str, Any]) -> dict[str, Any]:
    if fields["version"] != _VERSION:
        raise ValueError(f"its version is {fields['version']}, and this agent knows {_VERSION}")
    return fields


def _network_fields(network: Network) -> dict[str, object]:
    return {
        "id": network.network_id,
        "cidrs": list(map(str, network.cidrs)),
        "internal": network.internal,
        "mtu_bytes": network.mtu_bytes,
        "number": network.number,
    }


def _network(fields: dict[str, Any]) -> Network:
    return Network(
        network_id=str(fields["id"]),
        cidrs=tuple(map(ipaddress.ip_network, fields["cidrs"])),
        internal=bool(fields["internal"]),
        mtu_bytes=int(fields["mtu_bytes"]),
        number=int(fields["number"]) % MAX_NETWORKS,
    )


def _endpoint_fields(endpoint: Endpoint) -> dict[str, object]:
    return {
        "id": endpoint.endpoint_id,
        "network": endpoint.network_id,
        "addresses": list(map(str, endpoint.addresses)),
        "mac": endpoint.mac,
        "published": [
            {
                "protocol": int(each.protocol),
                "port": each.port,
                "host_address": None if each.host_address is None else str(each.host_address),
                "host_port": each.host_port,
            }
            for each in endpoint.published
        ],
        "given_up": endpoint.given_up,
        "sandbox": endpoint.sandbox,
    }


def _endpoint(fields: dict[str, Any]) -> Endpoint:
    return Endpoint(
        network_id=str(fields["network"]),
        endpoint_id=str(fields["id"]),
        addresses=tuple(map(ipaddress.ip_address, fields["addresses"])),
        mac=str(fields["mac"]),
        published=tuple(
            Published(
                protocol=Protocol(each["protocol"]),
                port=int(each["port"]),
                host_address=None if each["host_address"] is None else ipaddress.ip_address(each["host_address"]),
                host_port=int(each["host_port"]),
            )
            for each in fields["published"]
        ),
        given_up=bool(fields["given_up"]),
        sandbox=str(fields.get("sandbox", "")),
    )
