"""Records read one by one, so that one that cannot be read hides none of the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import click

from bgp.configuration import BgpConfiguration
from controller.datamodel import keys
from controller.datamodel.bgp_records import decode_bgp_configuration
from controller.datamodel.records import decode_configuration
from controller.errors import MalformedRecord, RefusedError
from ipam.configuration import IpamConfiguration

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from controller.ports import Entry, Store

T = TypeVar("T")


def decoded_each(
    entries: Mapping[str, Entry], decode: Callable[[str, bytes], T]
) -> tuple[list[T], list[MalformedRecord]]:
    """Return what these records describe, in their order, and what is wrong with those that cannot be read."""
    found: list[T] = []
    malformed: list[MalformedRecord] = []
    for key, entry in entries.items():
        try:
            found.append(decode(key, entry.value))
        except MalformedRecord as error:
            malformed.append(error)
    return found, malformed


async def read_configuration(store: Store) -> IpamConfiguration:
    """Return the configuration in force; raises `RefusedError`, with the way out, when it cannot be read."""
    entry = (await store.get([keys.IPAM_CONFIGURATION])).get(keys.IPAM_CONFIGURATION)
    return IpamConfiguration() if entry is None else configuration_in(entry)


def configuration_in(entry: Entry) -> IpamConfiguration:
    """Return the configuration in this record; raises `RefusedError`, with the way out, when it cannot be read."""
    try:
        return decode_configuration(keys.IPAM_CONFIGURATION, entry.value)
    except MalformedRecord as error:
        raise RefusedError(way_out(error)) from error


async def read_bgp_configuration(store: Store) -> BgpConfiguration:
    """Return the BGP configuration in force; raises `RefusedError`, with the way out, when it cannot be read."""
    entry = (await store.get([keys.BGP_CONFIGURATION])).get(keys.BGP_CONFIGURATION)
    if entry is None:
        return BgpConfiguration()
    try:
        return decode_bgp_configuration(keys.BGP_CONFIGURATION, entry.value)
    except MalformedRecord as error:
        raise RefusedError(way_out(error)) from error


def end_with(malformed: Sequence[MalformedRecord]) -> None:
    """End the command: if records could not be read, with what is wrong with them on stderr and exit code 1."""
    for error in malformed:
        click.echo(f"tortiectl: error: {way_out(error)}", err=True)
    if malformed:
        click.get_current_context().exit(1)


def way_out(error: MalformedRecord) -> str:
    """Return what is wrong with a record and what the operator can do about it."""
    key = error.key
    name = key.rpartition("/")[2]
    if key.startswith(keys.POOLS):
        remedy = f"apply pool {name} anew, or remove the record with `tortiectl delete pool {name} --force`"
    elif key.startswith(keys.RESERVATIONS):
        remedy = f"apply reservation {name} anew, or remove it with `tortiectl delete reservation {name}`"
    elif key.startswith(keys.PEERS):
        remedy = f"apply bgppeer {name} anew, or remove it with `tortiectl delete bgppeer {name}`"
    elif key.startswith(keys.FILTERS):
        remedy = f"apply bgpfilter {name} anew, or remove it with `tortiectl delete bgpfilter {name}`"
    elif key == keys.BGP_CONFIGURATION:
        remedy = "write it anew with `tortiectl apply`, as kind BGPConfiguration"
    elif key.startswith(keys.DRAINS):
        remedy = f"write it anew with `tortiectl node drain {name}`, or remove it with `tortiectl node undrain {name}`"
    elif key == keys.IPAM_CONFIGURATION:
        remedy = "write it anew with `tortiectl apply`, as kind IPAMConfiguration"
    elif key.startswith(keys.NODES):
        remedy = f"the node's agent writes it anew when it starts; of one that is gone, `tortiectl delete record {key}`"
    else:
        remedy = "see `tortiectl ipam check`"
    return f"{error}; {remedy}"
