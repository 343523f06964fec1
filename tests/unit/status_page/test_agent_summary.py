"""A node's summary: what it holds, how it is sent, and what is made of somebody else's."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp.test_utils import make_mocked_request

from controller.agent.api import BgpStatus, PeerStatus, RoutesStatus, Status, StoreStatus, WorkloadStatus
from controller.agent.summary import (
    NodeSummary,
    OpenSession,
    UnreadableSummary,
    decode_summary,
    encode_summary,
    summary_of,
    summary_page,
)

if TYPE_CHECKING:
    from collections.abc import Callable

PEERS = (
    PeerStatus("192.0.2.2", "n2", "node-to-node mesh", "established", 1.5, "hello"),
    PeerStatus("192.0.2.3", "n3", "node-to-node mesh", "idle", 2.5, "closing connection"),
    PeerStatus("2001:db8::4", "", "global", "unknown", 0.0, ""),
)
STATUS = Status(
    node="n1",
    version="1.2.3",
    ready=False,
    problems=tuple(f"problem {number}" for number in range(25)),
    addresses=("192.0.2.1",),
    store=StoreStatus("consul", connected=True),
    routes=RoutesStatus(in_sync=True, count=7),
    bgp=BgpStatus(connected=True, peers=PEERS),
    workloads=(WorkloadStatus("handle", "web", "", "tor1", ("10.0.0.1",)),),
    drain="drained",
)


def test_a_status_in_few_words() -> None:
    """Established sessions are addresses, the others are told in full; of many problems some are only counted."""
    assert summary_of(STATUS) == NodeSummary(
        node="n1",
        version="1.2.3",
        ready=False,
        drain="drained",
        problems=STATUS.problems[:20],
        problem_count=25,
        routes=7,
        workloads=1,
        established=frozenset({"192.0.2.2"}),
        others=(
            OpenSession("192.0.2.3", "n3", "idle", 2.5, "closing connection"),
            OpenSession("2001:db8::4", "", "unknown", 0.0, ""),
        ),
    )
    assert [each.observed for each in summary_of(STATUS).others] == [True, False]


def test_what_is_sent_is_what_is_read() -> None:
    """Byte for byte the same for the same summary."""
    summary = summary_of(STATUS)
    assert decode_summary(encode_summary(summary)) == summary
    assert encode_summary(decode_summary(encode_summary(summary))) == encode_summary(summary)


@pytest.mark.parametrize(
    "change",
    [
        lambda _: "no JSON {",
        lambda _: "[]",
        lambda fields: json.dumps({**fields, "established": 7}),
        lambda fields: json.dumps({**fields, "others": [{}]}),
        lambda fields: json.dumps({**fields, "others": None}),
        lambda fields: json.dumps({**fields, "routes": "many"}),
        lambda fields: json.dumps({**fields, "routes": float("inf")}),
        lambda fields: json.dumps({**fields, "others": [{**fields["others"][0], "since": float("nan")}]}),
        lambda fields: json.dumps({**fields, "others": [{**fields["others"][0], "since": 1e300}]}),
        lambda _: "[" * 100_000,
        lambda fields: json.dumps({name: value for name, value in fields.items() if name != "node"}),
    ],
)
def test_what_is_no_summary_is_refused(change: Callable[[dict[str, Any]], str]) -> None:
    """Whatever another machine sends, one error comes of it."""
    with pytest.raises(UnreadableSummary):
        decode_summary(change(json.loads(encode_summary(summary_of(STATUS)))).encode())


def test_long_texts_are_cut() -> None:
    """And problems beyond what a node sends are not taken."""
    fields = json.loads(encode_summary(summary_of(STATUS)))
    fields["problems"] = ["x" * 10_000] * 1000
    problems = decode_summary(json.dumps(fields).encode()).problems
    assert (len(problems), {len(text) for text in problems}) == (20, {500})


async def test_what_is_known_is_not_sent_again() -> None:
    """Until something is different."""
    statuses = [STATUS]
    page = summary_page(lambda: statuses[-1])
    first = await page(make_mocked_request("GET", "/v1/summary"))
    assert first.status == 200
    known = {"If-None-Match": first.headers["ETag"]}
    again = await page(make_mocked_request("GET", "/v1/summary", headers=known))
    assert (again.status, again.headers["ETag"]) == (304, first.headers["ETag"])
    statuses.append(Status(**{name: getattr(STATUS, name) for name in STATUS.__slots__} | {"ready": True}))
    changed = await page(make_mocked_request("GET", "/v1/summary", headers=known))
    assert changed.status == 200
    assert changed.headers["ETag"] != first.headers["ETag"]
