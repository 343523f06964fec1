"""What ExaBGP 5.0.15 does once or more for every route, done in less time and with the same result.

Measured without these changes: of telling 1,000 prefixes to 50 peers, a third of the time is to sort them. The changes
replace attributes of ExaBGP's classes, as the repairs do; learned prefixes are the concern of `bgp.sidecar.rows`.
"""

from __future__ import annotations

from typing import Any

from exabgp.bgp.message.update.nlri.inet import INET
from exabgp.logger import log
from exabgp.logger.option import option
from exabgp.protocol.family import AFI, SAFI, Family


def apply() -> None:
    """Make every change; before ExaBGP starts, and once."""
    make_families_once()
    index_prefixes_once()
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


def index_prefixes_once() -> None:
    """Keep the index of a prefix with it: to sort the prefixes of one update, ExaBGP compares it ten times for each."""
    index = INET.index

    def kept_index(self: Any) -> bytes:  # noqa: ANN401 - ExaBGP's
        kept = self.__dict__.get("kept_index")
        if kept is None or kept[0] is not self.cidr or kept[1] is not self.path_info:
            kept = self.kept_index = (self.cidr, self.path_info, index(self))
        found: bytes = kept[2]
        return found

    INET.index = kept_index


def pass_over_debug_messages() -> None:
    """Look whether debug messages are wanted before anything else is done for one."""
    debug = log.debug

    def wanted(message: Any, source: str = "", level: str = "DEBUG") -> None:  # noqa: ANN401 - ExaBGP's
        if option.logit.get(level, False):
            debug(message, source, level)

    log.debug = wanted
