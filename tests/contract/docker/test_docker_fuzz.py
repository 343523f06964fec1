"""Whatever dockerd sends, it gets an answer of the protocol, and what was made in between can be ended."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.mutations import EXAMPLES, FUZZ, mutated_bytes, mutated_json

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.contract.docker.conftest import Node

_LIMIT = 60
_KIND = "application/vnd.docker.plugins.v1.1+json"
_TOO_MUCH = (1 << 20) + (1 << 16)
_METHODS = ("POST", "GET", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "post", "POSTS", "")
_PATHS = ("/", "//", "*", "/a/b/c", "/NetworkDriver.Join/x", "/../x", "/%00", "/%", "/?x=/", "http://x/y", "x", "")
#: So many addresses are held at most before all is ended, so that the later requests are as quick as the first.
_MOST_HELD = 200


async def ended(node: Node) -> None:
    """End every endpoint and network, as dockerd does, and release as operators do what no endpoint took."""
    state = node.state()
    for endpoint in state["endpoints"]:
        of = {"NetworkID": endpoint["network"], "EndpointID": endpoint["id"]}
        await node.call("/NetworkDriver.Leave", of)
        await node.ask("/NetworkDriver.DeleteEndpoint", **of)
    for network in state["networks"]:
        await node.ask("/NetworkDriver.DeleteNetwork", NetworkID=network["id"])
    for handle in {holder.handle for holder in node.assigner.holders().values()}:
        await node.assigner.release(handle)
    assert node.kernel.links == {}
    assert node.assigner.holders() == {}
    assert node.state()["networks"] == node.state()["endpoints"] == []


@pytest.fixture
async def cleared(node: Node) -> AsyncIterator[Node]:
    """Give a node on which nothing is left afterwards."""
    yield node
    await ended(node)


@pytest.mark.timeout(0 if EXAMPLES else 300)
@FUZZ
@given(data=st.data())
async def test_a_mutated_request_is_answered(
    cleared: Node, recorded: list[dict[str, Any]], of_other_pools: list[dict[str, Any]], data: st.DataObject
) -> None:
    """Parsing, networks, endpoints, addresses and ports, for requests that are nearly right."""
    call = data.draw(st.sampled_from([*recorded, *of_other_pools]))
    content = data.draw(mutated_json(call["request"])) if data.draw(st.integers(0, 3)) else call["request"]
    body = data.draw(mutated_bytes(b"" if content is None else json.dumps(content).encode()))
    async with asyncio.timeout(_LIMIT):
        status, answer = await cleared.send(call["path"], body)
    assert isinstance(answer, dict)
    assert status == 200 or (status == 500 and answer["Err"] and "defect" not in answer["Err"]), (body, answer)
    if len(cleared.assigner.holders()) > _MOST_HELD:
        await ended(cleared)


@pytest.mark.timeout(0 if EXAMPLES else 300)
@FUZZ
@given(data=st.data())
async def test_whatever_comes_is_answered_in_the_protocols_form(
    cleared: Node, recorded: list[dict[str, Any]], data: st.DataObject
) -> None:
    """Other methods and paths, and what is hardly HTTP any more."""
    call = data.draw(st.sampled_from(recorded))
    method = data.draw(st.sampled_from(_METHODS) | st.just("POST"))
    path = data.draw(st.sampled_from(_PATHS) | st.just(call["path"]))
    body = json.dumps(call["request"]).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: \r\nContent-Length: {len(body)}\r\n\r\n".encode()
    # Behind whatever is no whole request there is more than the longest one has.
    async with asyncio.timeout(_LIMIT):
        status, kind, content = await cleared.send_raw(data.draw(mutated_bytes(head)) + body + bytes(_TOO_MUCH))
    answer = json.loads(content)
    assert kind == _KIND, (status, content)
    assert isinstance(answer, dict)
    assert status == 200 or (answer["Err"] and "defect" not in answer["Err"]), (head, answer)


@pytest.mark.parametrize(
    ("request_line", "length", "status"),
    [
        ("GET /NetworkDriver.Leave", 2, 405),
        ("POST /NetworkDriver.Leave/x", 2, 404),
        ("POST /", 2, 404),
        ("POST /NetworkDriver.Leave", 2 << 20, 413),
        ("POST NetworkDriver.Leave HTTP", 2, 400),
    ],
)
async def test_what_a_plugin_is_not_asked_is_an_error_of_the_protocol(
    node: Node, request_line: str, length: int, status: int
) -> None:
    """The status says what is wrong, and the text what to do."""
    head = f"{request_line} HTTP/1.1\r\nHost: \r\nContent-Length: {length}\r\n\r\n".encode()
    found, kind, content = await node.send_raw(head + b" " * length)
    assert (found, kind) == (status, _KIND)
    assert json.loads(content).keys() == {"Err"}
