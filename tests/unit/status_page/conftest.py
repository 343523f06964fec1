"""Nodes and what they say, for the tests of the status page."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

import pytest

from controller.agent.page_picture import Asked, Picture, picture_of
from controller.agent.summary import NodeSummary, OpenSession
from controller.datamodel.records import Node

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass
class Crowd:
    """A full mesh of nodes n1, n2 and so on at 192.0.2.1 and up; `broken` maps a node to the peers it has not."""

    count: int

    @property
    def nodes(self) -> list[Node]:
        """Its nodes."""
        first = int(IPv4Address("192.0.2.0"))
        return [Node(f"n{index}", 64512, IPv4Address(first + index), None) for index in range(1, self.count + 1)]

    def asked(self, broken: Mapping[str, Mapping[str, str]] | None = None, **changes: object) -> dict[str, Asked]:
        """Return what all answer; `broken` maps a node to the states of those of its peers that are not established."""
        return {
            node.name: Asked(self.summary(node.name, (broken or {}).get(node.name), **changes)) for node in self.nodes
        }

    def summary(self, name: str, others: Mapping[str, str] | None = None, **changes: object) -> NodeSummary:
        """Return what one of them says of itself."""
        states = others or {}
        peers = {node.name: str(node.ipv4) for node in self.nodes if node.name != name}
        fields: dict[str, object] = {
            "node": name,
            "version": "1.2.3",
            "ready": True,
            "drain": "",
            "problems": (),
            "problem_count": 0,
            "routes": 7,
            "workloads": 3,
            "established": frozenset(address for peer, address in peers.items() if peer not in states),
            "others": tuple(
                OpenSession(peers.get(peer, peer), peer, state, 1.0, "why") for peer, state in states.items()
            ),
        }
        return NodeSummary(**{**fields, **changes})  # type: ignore[arg-type]  # fields of several types

    def picture(self, broken: Mapping[str, Mapping[str, str]] | None = None) -> Picture:
        """Return the picture of what all answer, as n1 sees it."""
        return picture_of(self.nodes, self.asked(broken), "n1", {})


@pytest.fixture
def crowd() -> Callable[[int], Crowd]:
    """Return a function that makes a mesh of so many nodes."""
    return Crowd
