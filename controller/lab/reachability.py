"""Who reaches whom: one ping from every workload to every address of every workload."""

from __future__ import annotations

import ipaddress
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from controller.lab.services import enter

if TYPE_CHECKING:
    from controller.lab.layout import Layout

_REPLY_SECONDS: Final = 1
_PARALLEL: Final = 16


@dataclass(frozen=True, slots=True)
class Cell:
    """Whether `source` reached `target` at this address."""

    source: str
    target: str
    address: str
    reachable: bool

    @property
    def version(self) -> int:
        """The IP version, 4 or 6."""
        return ipaddress.ip_address(self.address).version


@dataclass(frozen=True, slots=True)
class Matrix:
    """Every cell, source by source; `missing` are workloads that lack an address of a version of the lab."""

    cells: tuple[Cell, ...]
    missing: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every workload reaches every other and itself, over every IP version of the lab."""
        return not self.missing and all(cell.reachable for cell in self.cells)

    @property
    def unreachable(self) -> tuple[Cell, ...]:
        """The cells that failed."""
        return tuple(cell for cell in self.cells if not cell.reachable)


def measure(layout: Layout) -> Matrix:
    """Return the whole matrix as it is now, from one ping for each cell."""
    asked = [
        (source.name, target.name, address)
        for source in layout.workloads
        for target in layout.workloads
        for address in target.addresses
    ]
    with ThreadPoolExecutor(_PARALLEL) as threads:
        replies = threads.map(lambda each: _ping(layout, each[0], each[2]), asked)
        cells = tuple(Cell(*each, reachable) for each, reachable in zip(asked, replies, strict=True))
    missing = [each.name for each in layout.workloads if len(each.addresses) < len(layout.versions)]
    return Matrix(cells, tuple(missing))


def _ping(layout: Layout, source: str, address: str) -> bool:
    command = ("ping", "-n", "-q", "-c", "1", "-W", str(_REPLY_SECONDS), address)
    try:
        done = subprocess.run(
            (*enter(layout.namespace(source)), *command), capture_output=True, timeout=_REPLY_SECONDS + 5, check=False
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0
