"""What ExaBGP 5.0.15 does once or more for every route, done in less time and with the same result.

Measured with 10,000 routes of one peer: 160 ms of processor time in ExaBGP without these changes, and that is what a
node waits for that joins. They replace attributes of ExaBGP's classes, as the repairs do.
"""

from __future__ import annotations

from typing import Any

from exabgp.bgp.message.update.nlri.nlri import NLRI
from exabgp.logger import log
from exabgp.logger.option import option
from exabgp.protocol.family import AFI, SAFI, Family


def apply() -> None:
    """Make every change; before ExaBGP starts, and once."""
    make_families_once()
    find_decoders_once()
    pass_over_debug_messages()


def make_families_once() -> None:
    """Keep each family, and make no number that is known already; families are values, and nobody changes one."""
    made: dict[tuple[int, int], Any] = {}

    def family(self: Any) -> Any:  # noqa: ANN401 - ExaBGP's
        key = (self.afi, self.safi)
        found = made.get(key)
        if found is None:
            found = made[key] = Family(*key)
        return found

    def create(cls: Any, value: int) -> Any:  # noqa: ANN401 - ExaBGP's
        found = cls.cache.get(value)
        return unknown[cls](value) if found is None else found

    unknown = {each: type(each.undefined) for each in (AFI, SAFI)}
    Family.family = family
    for each in unknown:
        each.create = classmethod(create)


def find_decoders_once() -> None:
    """Find the class that reads the prefixes of a family by its numbers, instead of writing its name each time."""
    decode = NLRI.unpack_nlri.__func__
    decoders: dict[tuple[int, int], Any] = {}

    def unpack(cls: Any, afi: Any, safi: Any, *rest: Any) -> Any:  # noqa: ANN401 - ExaBGP's
        found = decoders.get((afi, safi))
        if found is None:
            found = cls.registered_nlri.get(f"{AFI.create(afi)}/{SAFI.create(safi)}")
            if found is None:
                return decode(cls, afi, safi, *rest)
            decoders[afi, safi] = found
        return found.unpack_nlri(AFI.create(afi), SAFI.create(safi), *rest)

    NLRI.unpack_nlri = classmethod(unpack)


def pass_over_debug_messages() -> None:
    """Look whether debug messages are wanted before anything else is done for one."""
    debug = log.debug

    def wanted(message: Any, source: str = "", level: str = "DEBUG") -> None:  # noqa: ANN401 - ExaBGP's
        if option.logit.get(level, False):
            debug(message, source, level)

    log.debug = wanted
