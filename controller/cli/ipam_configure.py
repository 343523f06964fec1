"""The rules of assignment and release: shown, and changed setting by setting."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from controller.cli.guarding import with_retries
from controller.cli.reading import configuration_in
from controller.datamodel import keys
from controller.datamodel.records import encode_configuration
from controller.errors import RefusedError
from controller.ports import ABSENT, Put
from controller.resources.addressing import settings_of
from ipam.configuration import IpamConfiguration
from ipam.errors import InvalidConfiguration

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from controller.ports import Store


async def configure(
    store: Store, changes: Mapping[str, bool | int], *, dry_run: bool
) -> tuple[IpamConfiguration, IpamConfiguration]:
    """Set these settings, by their field's name, and return the configuration before and after.

    Nothing is written when `dry_run`, or when nothing changes. Raises `RefusedError` for settings that contradict each
    other or those that stay, and `ConflictError` when others kept writing.
    """

    async def attempt() -> tuple[IpamConfiguration, IpamConfiguration]:
        entry = (await store.get([keys.IPAM_CONFIGURATION])).get(keys.IPAM_CONFIGURATION)
        before = IpamConfiguration() if entry is None else configuration_in(entry)
        after = _changed(before, changes)
        if after != before and not dry_run:
            version = ABSENT if entry is None else entry.version
            await store.commit([Put(keys.IPAM_CONFIGURATION, encode_configuration(after), version)])
        return before, after

    return await with_retries(attempt)


def setting_rows(configuration: IpamConfiguration) -> list[tuple[str, str]]:
    """Return each setting's name and value, as they stand in documents."""
    return [(setting, json.dumps(value)) for setting, value in settings_of(configuration).items()]


def change_lines(before: IpamConfiguration, after: IpamConfiguration) -> Iterator[str]:
    """Yield, for each setting that differs, what it was and what it is."""
    for (setting, was), (_, is_now) in zip(setting_rows(before), setting_rows(after), strict=True):
        if is_now != was:
            yield f"{setting}: {was} -> {is_now}"


def _changed(before: IpamConfiguration, changes: Mapping[str, bool | int]) -> IpamConfiguration:
    try:
        return IpamConfiguration(**{**asdict(before), **changes})
    except InvalidConfiguration as error:
        options = " ".join(f"--{name.replace('_', '-')}={json.dumps(value)}" for name, value in changes.items())
        raise RefusedError(f"{options}: {error}") from error
