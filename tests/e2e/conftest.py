"""Labs for the tests of whole clusters: real programs in namespaces of their own, removed whatever happens."""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING

import pytest

from controller.lab.lab import Lab

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def new_lab() -> Iterator[Callable[[], Lab]]:
    """Return a function that gives labs of names nobody else has, not yet up; all of them are removed afterwards."""
    made: list[Lab] = []
    numbers = itertools.count()

    def make() -> Lab:
        made.append(Lab(f"t{os.getpid()}-{next(numbers)}"))
        return made[-1]

    yield make
    for lab in made:
        lab.down()
