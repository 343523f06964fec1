"""The picture of the cluster, put together from what its nodes say."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from controller.agent.page_picture import MOST_SESSIONS, Asked, SessionCounts, natural, picture_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any


def test_a_healthy_mesh(crowd: Callable[[int], Any]) -> None:
    """Every session once, though both ends tell of it; names in the order in which people count."""
    picture = crowd(11).picture()
    assert picture.counts == SessionCounts(established=55)
    assert len(picture.sessions) == 55
    assert {line.state for line in picture.sessions} == {"established"}
    assert [node.name for node in picture.nodes] == [f"n{index}" for index in range(1, 12)]
    assert {(node.state, node.established, node.configured) for node in picture.nodes} == {("ready", 10, 10)}
    assert [node.name for node in picture.nodes if node.is_here] == ["n1"]
    assert (picture.problems, picture.untold_problems) == ((), 0)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, "established"),
        ({"n2": {"n3": "idle"}}, "broken"),
        ({"n3": {"n2": "opening"}}, "broken"),
        ({"n2": {"n3": "idle"}, "n3": {"n2": "idle"}}, "broken"),
        ({"n2": {"n3": "unknown"}}, "established"),
        ({"n2": {"n3": "unknown"}, "n3": {"n2": "refused"}}, "broken"),
        ({"n2": {"n3": "unknown"}, "n3": {"n2": "unknown"}}, "unknown"),
    ],
)
def test_a_session_is_broken_if_either_end_says_so(
    crowd: Callable[[int], Any], said: Mapping[str, Mapping[str, str]], expected: str
) -> None:
    """An end that does not know, its speaker being away, leaves it to the other."""
    picture = crowd(3).picture(said)
    [line] = [line for line in picture.sessions if (line.one, line.other) == ("n2", "n3")]
    assert line.state == expected
    assert {end.node for end in line.ends} == {"n2", "n3"}
    assert expected != "broken" or picture.sessions[0] is line
    counted = {"established": 2, "broken": 0, "unknown": 0}
    counted[expected] += 1
    assert picture.counts == SessionCounts(**counted)


def test_a_silent_node_leaves_its_sessions_to_the_other_ends(crowd: Callable[[int], Any]) -> None:
    """What it said before is not true for ever, but who it was is still known."""
    mesh = crowd(3)
    asked = mesh.asked({"n2": {"n3": "idle"}, "n3": {"n1": "idle"}})
    asked["n3"] = Asked(asked["n3"].summary, "nothing within 1 s")
    picture = picture_of(mesh.nodes, asked, "n1", {})
    assert {(line.one, line.other): line.state for line in picture.sessions} == {
        ("n1", "n2"): "established",
        ("n1", "n3"): "established",
        ("n2", "n3"): "broken",
    }
    assert picture.counts == SessionCounts(established=2, broken=1)
    silent = picture.nodes[2]
    assert (silent.state, silent.version, silent.configured) == ("no answer", "1.2.3", 0)
    assert [(problem.text, problem.nodes) for problem in picture.problems] == [
        ("does not answer: nothing within 1 s", ("n3",))
    ]


def test_states_of_nodes(crowd: Callable[[int], Any]) -> None:
    """Not ready weighs more than drained; a node that was not asked yet is neither well nor silent."""
    mesh = crowd(5)
    asked = {
        "n1": Asked(mesh.summary("n1", ready=False, drain="drained")),
        "n2": Asked(mesh.summary("n2", drain="drained")),
        "n3": Asked(mesh.summary("n3", drain="draining")),
        "n4": Asked(None, "gone"),
    }
    states = [node.state for node in picture_of(mesh.nodes, asked, "n1", {}).nodes]
    assert states == ["not ready", "drained", "draining", "no answer", "not asked yet"]


def test_peers_that_are_no_nodes_have_a_place_too(crowd: Callable[[int], Any]) -> None:
    """By their names where they have one, behind the nodes."""
    mesh = crowd(2)
    asked = mesh.asked()
    summary = mesh.summary("n1", {"198.51.100.9": "idle"})
    asked["n1"] = Asked(replace(summary, established=summary.established | {"198.51.100.1"}))
    picture = picture_of(mesh.nodes, asked, "n1", {"198.51.100.1": "tor-a"})
    assert [(node.name, node.is_peer) for node in picture.nodes[2:]] == [("198.51.100.9", True), ("tor-a", True)]
    assert {(line.one, line.other): line.state for line in picture.sessions} == {
        ("n1", "n2"): "established",
        ("n1", "tor-a"): "established",
        ("198.51.100.9", "n1"): "broken",
    }
    assert picture.counts == SessionCounts(established=2, broken=1)


def test_of_very_many_sessions_only_those_that_are_down_are_told(crowd: Callable[[int], Any]) -> None:
    """All are counted, and both ends are heard."""
    picture = crowd(100).picture({"n7": {"n9": "idle"}, "n8": {"n9": "unknown"}})
    assert [(line.one, line.other, line.state) for line in picture.sessions] == [
        ("n7", "n9", "broken"),
        ("n8", "n9", "established"),
    ]
    assert {end.node for end in picture.sessions[0].ends} == {"n7", "n9"}
    assert picture.counts == SessionCounts(established=4949, broken=1, unknown=0, untold=4948)


def test_of_very_many_broken_sessions_some_are_only_counted(crowd: Callable[[int], Any]) -> None:
    """What a browser is sent has a bound."""
    gone = {f"n{index}": "idle" for index in range(1, 21)}
    mesh = crowd(60)
    broken = {f"n{index}": gone for index in range(21, 61)}
    picture = mesh.picture(broken)
    assert len(picture.sessions) == MOST_SESSIONS
    assert {line.state for line in picture.sessions} == {"broken"}
    assert picture.counts == SessionCounts(established=970, broken=800, unknown=0, untold=1170)


def test_a_sentence_that_several_say_is_told_once(crowd: Callable[[int], Any]) -> None:
    """What most say comes first; what was too much to be told is counted."""
    mesh = crowd(12)
    asked = mesh.asked(problems=("the store is away",), problem_count=1)
    asked["n4"] = Asked(mesh.summary("n4", problems=("a", "the store is away"), problem_count=5))
    picture = picture_of(mesh.nodes, asked, "n1", {})
    assert [(problem.text, problem.node_count) for problem in picture.problems] == [("the store is away", 12), ("a", 1)]
    assert picture.problems[0].nodes == ("n1", "n2", "n3", "n4", "n5", "n6", "n7", "n8")
    assert picture.untold_problems == 3


def test_names_are_ordered_as_people_count() -> None:
    """Also where a number comes first, or none at all."""
    names = ["h10", "h2", "a", "2b", "10b", "h2-9", "h2-10", ""]
    assert sorted(names, key=natural) == ["", "2b", "10b", "a", "h2", "h2-9", "h2-10", "h10"]
