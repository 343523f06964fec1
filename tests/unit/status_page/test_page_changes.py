"""The log of the status page: what is said of the difference between two pictures."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network
from typing import TYPE_CHECKING

from controller.agent.page_changes import picture_changes, pool_changes
from controller.agent.page_picture import Asked, picture_of
from controller.agent.page_pools import pool_pictures
from ipam.pool import Pool
from ipam.summary import BlockSummary

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from controller.agent.page_changes import LogEntry


def told(entries: tuple[LogEntry, ...]) -> list[tuple[str, str]]:
    """Return tone and text of each entry, and check their time."""
    assert all(entry.at == 5.0 for entry in entries)
    return [(entry.tone, entry.text) for entry in entries]


def test_nothing_changed(crowd: Callable[[int], Any]) -> None:
    """Nothing is said."""
    assert picture_changes(crowd(4).picture(), crowd(4).picture(), 5.0) == ()


def test_sessions_break_and_come_back(crowd: Callable[[int], Any]) -> None:
    """With the reason of the end that says so; a reason that changes is no news."""
    well = crowd(3).picture()
    broken = crowd(3).picture({"n1": {"n2": "idle"}})
    opening = crowd(3).picture({"n1": {"n2": "opening"}})
    unknown = crowd(3).picture({"n1": {"n2": "unknown"}, "n2": {"n1": "unknown"}})
    assert told(picture_changes(well, broken, 5.0)) == [("worse", "session n1 – n2 is broken: n1 says idle, why")]  # noqa: RUF001  a dash
    assert told(picture_changes(broken, opening, 5.0)) == []
    assert told(picture_changes(opening, well, 5.0)) == [("better", "session n1 – n2 is established")]  # noqa: RUF001  a dash
    assert told(picture_changes(well, unknown, 5.0)) == [("worse", "session n1 – n2: neither end knows its state")]  # noqa: RUF001  a dash


def test_a_session_that_was_only_counted_was_up(crowd: Callable[[int], Any]) -> None:
    """In a large cluster those that are up are not told one by one."""
    well = crowd(100).picture()
    broken = crowd(100).picture({"n1": {"n2": "idle"}})
    assert told(picture_changes(well, broken, 5.0)) == [("worse", "session n1 – n2 is broken: n1 says idle, why")]  # noqa: RUF001  a dash
    assert told(picture_changes(broken, well, 5.0)) == [("better", "session n1 – n2 is established")]  # noqa: RUF001  a dash


def test_nodes_come_go_and_fall_silent(crowd: Callable[[int], Any]) -> None:
    """With their sessions; the first answer of a new node is no news of its own."""
    two, three = crowd(2), crowd(3)
    new = told(picture_changes(two.picture(), three.picture(), 5.0))
    assert new == [
        ("neutral", "node n3 is new"),
        ("better", "session n1 – n3 is established"),  # noqa: RUF001  a dash
        ("better", "session n2 – n3 is established"),  # noqa: RUF001  a dash
    ]
    gone = told(picture_changes(three.picture(), two.picture(), 5.0))
    assert gone[0] == ("neutral", "node n3 was deleted")
    assert ("neutral", "session n1 – n3 is no longer there") in gone  # noqa: RUF001  a dash
    asked = three.asked()
    asked["n3"] = Asked(asked["n3"].summary, "refused")
    silent = picture_of(three.nodes, asked, "n1", {})
    assert told(picture_changes(three.picture(), silent, 5.0)) == [
        ("worse", "node n3: no answer (refused), ready before")
    ]
    assert told(picture_changes(silent, three.picture(), 5.0)) == [("better", "node n3: ready, no answer before")]
    unasked = picture_of(three.nodes, {**asked, "n3": Asked()}, "n1", {})
    assert told(picture_changes(unasked, three.picture(), 5.0)) == []


def test_very_many_changes_are_counted(crowd: Callable[[int], Any]) -> None:
    """No moment fills the log alone."""
    gone = {f"n{index}": "idle" for index in range(1, 11)}
    entries = picture_changes(
        crowd(20).picture(), crowd(20).picture({f"n{index}": gone for index in range(11, 21)}), 5.0
    )
    assert len(entries) == 41
    assert entries[-1].text == "and 60 more changes at that moment"


def test_pools_tell_of_blocks_and_not_of_addresses() -> None:
    """Addresses come and go by the hundred."""
    pool = Pool("web", ip_network("10.0.0.0/24"), 26)
    block = BlockSummary(ip_network("10.0.0.0/26"), "n1", 0.0, 3)
    none, one = pool_pictures([pool], []), pool_pictures([pool], [block])
    busy = pool_pictures([pool], [replace(block, in_use=9)])
    assert told(pool_changes((), none, 5.0)) == [("neutral", "pool web (10.0.0.0/24) is new")]
    assert told(pool_changes(none, one, 5.0)) == [("neutral", "pool web: 1 blocks claimed, 0 before")]
    assert told(pool_changes(one, busy, 5.0)) == []
    assert told(pool_changes(one, (), 5.0)) == [("neutral", "pool web was deleted")]
