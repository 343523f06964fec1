"""`tortiectl doctor` and `explain` against agents that answer, lie, are slow or are not there."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qs, urlsplit

import pytest

from controller.assignment.transaction import block_operations
from controller.cli import doctor_asking
from controller.cli.main import run
from controller.datamodel import keys
from controller.datamodel.endpoints import Endpoints, encode_endpoints
from controller.datamodel.records import Node, encode_node, encode_pool
from controller.diagnosis.document import decode_report, encode_report
from controller.diagnosis.report import Hop, LinkReport, NodeReport, Path, Route, Rule, SessionReport, StoreReport
from controller.ports import ABSENT, Put, RouteKind
from controller.store.sqlite import SqliteStore
from ipam.block import Block, Holder
from ipam.pool import Pool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path as FilePath

    from ipam.address import IPNetwork

_T = TypeVar("_T")

BLOCK = ip_network("10.0.1.0/26")
HELD = ip_network("10.0.1.0/32")
#: Loopback is a subnet: both nodes are there, on one port.
NODES = {name: Node(name, 64512, IPv4Address(f"127.0.0.{last}"), None) for name, last in (("h1", 2), ("h2", 3))}
BLACKHOLE = Route(BLOCK, RouteKind.BLACKHOLE)
HOST = Route(HELD, RouteKind.UNICAST, (Hop(None, "torw1"),))
LEARNED = Route(BLOCK, RouteKind.UNICAST, (Hop(NODES["h1"].ipv4, "eth0"),))


def session(name: str) -> SessionReport:
    """Return a session with a node."""
    return SessionReport(NODES[name].addresses[0], name, "established", 1.0, "")


OWNER = NodeReport(
    node="h1",
    version="1",
    taken_at=1.0,
    addresses=NODES["h1"].addresses,
    store=StoreReport("sqlite", connected=True),
    blocks=frozenset({BLOCK}),
    announced={BLOCK: Rule.OWNED},
    sessions=(session("h2"),),
    wanted={BLOCK: BLACKHOLE, HELD: HOST},
    kernel={BLOCK: BLACKHOLE, HELD: HOST},
    links={"torw1": LinkReport("torw1", up=True, wired=(HELD.network_address,))},
)
OTHER = NodeReport(
    node="h2",
    version="1",
    taken_at=1.0,
    addresses=NODES["h2"].addresses,
    store=StoreReport("sqlite", connected=True),
    sessions=(session("h1"),),
    learned={BLOCK: (Path(NODES["h1"].addresses[0], NODES["h1"].addresses[0]),)},
    wanted={BLOCK: LEARNED},
    kernel={BLOCK: LEARNED},
)


def scoped(report: NodeReport, asked: str | None) -> NodeReport:
    """Return what an agent reports that is asked about a prefix alone."""
    if asked is None:
        return report
    scope = ip_network(asked)

    def within(mapping: Mapping[IPNetwork, _T]) -> dict[IPNetwork, _T]:
        return {prefix: value for prefix, value in mapping.items() if prefix.overlaps(scope)}

    return replace(
        report,
        blocks=frozenset(prefix for prefix in report.blocks if prefix.overlaps(scope)),
        announced=within(report.announced),
        learned=within(report.learned),
        wanted=within(report.wanted),
        kernel=within(report.kernel),
        links={name: link for name, link in report.links.items() if any(each in scope for each in link.wired)},
    )


class Agent(BaseHTTPRequestHandler):
    """Answers with what it is told for the address it is asked at."""

    answers: dict[str, Callable[[Agent], None]]
    asked: list[tuple[str, str]]

    def do_GET(self) -> None:
        """Answer."""
        address = self.connection.getsockname()[0].removeprefix("::ffff:")
        self.asked.append((address, self.path))
        self.answers[address](self)

    def send(self, body: bytes, status: int = 200) -> None:
        """Send a body."""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Cluster:
    """A store of two nodes and the agents they have."""

    def __init__(self, directory: FilePath, port: int, agent: type[Agent]) -> None:
        self._path = directory / "store.db"
        self.port = port
        self.agent = agent
        self.report(OWNER)
        self.report(OTHER)

    def report(self, *reports: NodeReport, of: str | None = None) -> None:
        """Have a node answer with these reports, one after the other and the last one from then on."""
        node = of or reports[0].node
        left = list(reports)

        def answer(agent: Agent) -> None:
            report = left.pop(0) if len(left) > 1 else left[0]
            agent.send(encode_report(scoped(report, parse_qs(urlsplit(agent.path).query).get("prefix", [None])[0])))

        self.agent.answers[str(NODES[node].addresses[0])] = answer

    def answer(self, node: str, how: Callable[[Agent], None]) -> None:
        """Have a node answer in another way."""
        self.agent.answers[str(NODES[node].addresses[0])] = how

    def run(self, *words: str) -> int:
        """Run a command and return its exit code."""
        options = ["--port", str(self.port), "--settle-seconds", "0.01", "--timeout-seconds", "0.5"]
        return run(["--store", "sqlite", "--sqlite-path", str(self._path), *words, *options])

    def document(self, capsys: pytest.CaptureFixture[str], *words: str) -> Any:  # noqa: ANN401  JSON
        """Run a command with -o json and return what it printed."""
        capsys.readouterr()
        self.run(*words, "-o", "json")
        return json.loads(capsys.readouterr().out)


class Server(ThreadingHTTPServer):
    """Serves both IP versions, and as many at once as are asked at once."""

    address_family = socket.AF_INET6
    request_queue_size = 128


@contextmanager
def serving(agent: type[Agent]) -> Iterator[int]:
    """Serve on all of loopback, on the port returned."""
    with Server(("::", 0), agent) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


async def fill(path: FilePath) -> None:
    """Write a cluster of two nodes, of which one owns a block and holds an address."""
    holder = Holder("cni/w1", "h1", "w1", "shop", "torw1", time.time())
    block, _ = Block.claimed(BLOCK, node="h1", at=1.0).assign(holder)
    store = SqliteStore(path)
    try:
        await store.commit(
            [
                Put(keys.CLUSTER_ANCHOR, b"{}", None),
                Put(keys.pool("p"), encode_pool(Pool("p", ip_network("10.0.0.0/16"), 26)), None),
                *(Put(keys.node(name), encode_node(node), None) for name, node in NODES.items()),
                *(
                    Put(keys.endpoints(name), encode_endpoints(Endpoints(name, time.time(), links)), None)
                    for name, links in (("h1", {"torw1": (HELD.network_address,)}), ("h2", {}))
                ),
                *block_operations(None, block, version=ABSENT, writer=None),
            ]
        )
    finally:
        await store.close()


@pytest.fixture
def cluster(tmp_path: FilePath) -> Iterator[Cluster]:
    """Return a cluster that is well."""

    class Ours(Agent):
        """The agents of this test."""

        answers: dict[str, Callable[[Agent], None]] = {}  # noqa: RUF012  a class of this test alone
        asked: list[tuple[str, str]] = []  # noqa: RUF012  as above

    asyncio.run(fill(tmp_path / "store.db"))
    with serving(Ours) as port:
        yield Cluster(tmp_path, port, Ours)


def lacking(report: NodeReport) -> NodeReport:
    """Return the report of a node whose kernel lacks the route."""
    return replace(report, kernel={})


def test_all_is_well(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 0 and one line; each node is asked once."""
    assert cluster.run("doctor") == 0
    assert capsys.readouterr().out == "no problems found on 2 nodes\n"
    assert sorted(cluster.agent.asked) == [("127.0.0.2", "/v1/report"), ("127.0.0.3", "/v1/report")]


def test_a_fault_is_told_with_what_to_do(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 1, by node, for people and for programs."""
    cluster.report(lacking(OTHER))
    assert cluster.run("doctor") == 1
    text = capsys.readouterr().out
    assert text.startswith("h2:\n  route-missing: the kernel of h2 does not have `10.0.1.0/26 via 127.0.0.2 dev eth0`")
    assert "    what to do: the agent adds it by itself" in text
    assert text.endswith("\n1 problem found on 2 nodes\n")
    [finding] = cluster.document(capsys, "doctor")["findings"]
    assert (finding["kind"], finding["node"], finding["subject"]) == ("route-missing", "h2", "10.0.1.0/26")


def test_what_passes_is_no_fault(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    """A second reading does not show it any more, though it shows something else."""
    cluster.report(lacking(OTHER), replace(OTHER, forwarding={4: False}))
    assert cluster.run("doctor") == 0
    assert capsys.readouterr().out == "no problems found on 2 nodes\n"


def test_many_alike_are_not_all_listed(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    """The others are counted."""
    cluster.report(replace(OTHER, problems=tuple(f"problem {number}" for number in range(8))))
    assert cluster.run("doctor") == 1
    text = capsys.readouterr().out
    assert text.count("h2 says: problem") == 5
    assert "  node-problem: 3 more; -o json lists them" in text


def _slow(agent: Agent) -> None:
    agent.connection.settimeout(30)
    agent.rfile.read(1)  # until the asker gives up


def _cut(agent: Agent) -> None:
    agent.send_response(200)
    agent.send_header("Content-Length", "1000")
    agent.end_headers()
    agent.wfile.write(b"{")


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        (_slow, "nothing within 0.5 s"),
        (_cut, "payload is not completed"),
        (lambda agent: agent.send(b"this page is for nodes", 403), "HTTP status 403: this page is for nodes"),
        (lambda agent: agent.send(b"{}"), "its answer is no report"),
        (lambda agent: agent.send(encode_report(OWNER)), "that is node h1"),
        (lambda agent: agent.wfile.write(b"\xff\n\n"), "127.0.0.3 port"),
    ],
)
def test_an_agent_that_does_not_answer_is_a_finding(
    cluster: Cluster, capsys: pytest.CaptureFixture[str], how: Callable[[Agent], None], reason: str
) -> None:
    """By its name and the reason; the others are judged all the same."""
    cluster.answer("h2", how)
    cluster.report(replace(OWNER, forwarding={4: False}))
    found = cluster.document(capsys, "doctor")
    assert [(each["kind"], each["node"]) for each in found["findings"]] == [
        ("node-silent", "h2"),
        ("forwarding-off", "h1"),
    ]
    assert reason in found["silent"]["h2"]


def test_a_node_is_asked_at_its_next_address(cluster: Cluster) -> None:
    """Where the first one leads to nobody or to somebody else; only then."""
    six = IPv6Address("::1")
    nodes = {
        "h1": NODES["h1"],
        "h2": replace(NODES["h2"], ipv6=six),
        "h3": Node("h3", 64512, IPv4Address("127.0.0.3"), six),
    }
    cluster.answer("h2", lambda agent: agent.send(b"", 500))
    cluster.agent.answers[str(six)] = lambda agent: agent.send(encode_report(OTHER))
    reports, silence = asyncio.run(doctor_asking.ask_nodes(nodes, port=cluster.port, timeout_seconds=60.0))
    assert list(reports) == ["h1", "h2"]
    where = f"port {cluster.port}: "
    assert silence == {"h3": f"127.0.0.3 {where}HTTP status 500: ; ::1 {where}that is node h2"}
    assert sorted(address for address, _ in cluster.agent.asked) == [
        "127.0.0.2",
        "127.0.0.3",
        "127.0.0.3",
        "::1",
        "::1",
    ]


class HastyLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock can be put forward."""

    ahead_seconds = 0.0

    def time(self) -> float:
        """Return what all deadlines go by."""
        return super().time() + self.ahead_seconds


def test_reading_an_answer_takes_no_time_from_other_nodes(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many nodes with large reports none is silent though decoding one takes longer than a node has."""
    nodes = {f"n{last}": Node(f"n{last}", 64512, IPv4Address(f"127.0.1.{last}"), None) for last in range(1, 101)}
    large = "x" * 500_000
    for name, node in nodes.items():
        body = encode_report(replace(OWNER, node=name, problems=(large,)))
        cluster.agent.answers[str(node.ipv4)] = partial(Agent.send, body=body)
    loop = HastyLoop()

    def decode_slowly(text: bytes) -> NodeReport:
        loop.ahead_seconds += 3600.0
        return decode_report(text)

    monkeypatch.setattr(doctor_asking, "decode_report", decode_slowly)
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        reports, silence = runner.run(doctor_asking.ask_nodes(nodes, port=cluster.port, timeout_seconds=60.0))
    assert (list(reports), silence) == (list(nodes), {})


def test_nobody_there_is_a_finding_of_each(tmp_path: FilePath, capsys: pytest.CaptureFixture[str]) -> None:
    """Not an error of the command."""
    asyncio.run(fill(tmp_path / "store.db"))
    words = ["--store", "sqlite", "--sqlite-path", str(tmp_path / "store.db"), "doctor", "--port", "1"]
    assert run([*words, "--settle-seconds", "0"]) == 1
    text = capsys.readouterr().out
    assert text.count("node-silent") == 2
    assert "(127.0.0.2 port 1: Connection refused)" in text


def explained(cluster: Cluster, capsys: pytest.CaptureFixture[str], what: str) -> tuple[int, str]:
    """Return the exit code and the text of an explanation."""
    capsys.readouterr()
    code = cluster.run("explain", what)
    return code, capsys.readouterr().out


def test_an_address_is_explained_on_one_screen(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    """Every node is asked about that address alone."""
    code, text = explained(cluster, capsys, "10.0.1.0")
    assert code == 0
    assert text.endswith("No link is broken.\n")
    assert len(text.splitlines()) < 24
    assert {path for _, path in cluster.agent.asked} == {"/v1/report?prefix=10.0.1.0/32"}


def test_the_first_broken_link_is_named(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    """With what to do, and the others after it."""
    cluster.report(lacking(OTHER))
    cluster.report(replace(OWNER, links={}))
    code, text = explained(cluster, capsys, "10.0.1.0")
    assert code == 1
    first, others = text.partition("The first broken link:\n")[2].split("Others:\n")
    assert first.startswith("  link-missing: ")
    assert others.startswith("  route-missing: ")
    document = cluster.document(capsys, "explain", "10.0.1.0")
    assert [each["kind"] for each in document["findings"]] == ["link-missing", "route-missing"]
    assert [each["state"] for each in document["nodes"]] == ["link-missing", "route-missing"]


def test_a_part_of_a_block_is_explained_as_the_block(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    """Every node is asked about the whole of it, since all of its addresses are judged."""
    code, text = explained(cluster, capsys, "10.0.1.32/28")
    assert (code, text.splitlines()[0]) == (0, "10.0.1.0/26")
    assert {path for _, path in cluster.agent.asked} == {"/v1/report?prefix=10.0.1.0/26"}
    cluster.report(replace(OWNER, links={}))
    code, text = explained(cluster, capsys, "10.0.1.32/28")
    assert (code, "link-missing" in text) == (1, True)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("10.0.1.0/26", "owned by h1, 1 of 64 addresses in use"),
        ("10.0.1.32/28", "owned by h1, 1 of 64 addresses in use"),
        ("10.0.0.0/16", "1 routes"),
        ("h1", "session with 127.0.0.3"),
        ("10.0.1.7", "nobody"),
        ("10.0.9.1", "none is claimed around it"),
        ("fd00::1", "none, for it lies in no pool"),
    ],
)
def test_everything_there_is_can_be_explained(
    cluster: Cluster, capsys: pytest.CaptureFixture[str], what: str, said: str
) -> None:
    """A block, a part of one, a pool, a node, and what is nobody's."""
    code, text = explained(cluster, capsys, what)
    assert code == 0
    assert said in text


@pytest.mark.parametrize(("what", "said"), [("h9", "no node"), ("10.0.1.0/16", "no network"), ("a/b", "no network")])
def test_what_there_is_not_is_refused(
    cluster: Cluster, capsys: pytest.CaptureFixture[str], what: str, said: str
) -> None:
    """With the way out."""
    assert cluster.run("explain", what) == 1
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("words", [["doctor", "extra"], ["explain"], ["doctor", "--port", "0"]])
def test_wrong_usage(words: Sequence[str]) -> None:
    """Exit code 2, and no store is opened."""
    assert run(words) == 2
