"""What the command line does when something is wrong: one line on stderr, and the exit code says whose turn it is."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
from ipaddress import ip_network
from pathlib import Path

import pytest

from controller.assignment.assigner import Assigner
from controller.assignment.knowledge import Rules
from controller.cli.main import COMMANDS, run
from controller.datamodel import keys
from controller.datamodel.records import encode_pool
from controller.ports import ABSENT, Put
from controller.store.sqlite import SqliteStore
from ipam.pool import Pool
from ipam.request import AssignRequest


@pytest.fixture(autouse=True)
def empty_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the commands an empty store of their own."""
    monkeypatch.setenv("TORTIE_STORE", "sqlite")
    monkeypatch.setenv("TORTIE_SQLITE_PATH", str(tmp_path / "store.db"))


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (["fly"], 2, "No such command 'fly'"),
        (["apply"], 2, "Missing option '-f' / '--filename'"),
        (["get", "pools", "-o", "xml"], 2, "'xml' is not one of 'table', 'wide', 'json', 'yaml', 'name'"),
        (["get", "pools", "none"], 1, "pool none does not exist; there are: no pools"),
        (["get", "nodes", "h9"], 1, "node h9 does not exist; there are: no nodes"),
        (["node", "delete", "h9"], 1, "node h9 does not exist; the nodes are: none"),
        (["apply", "-f", "/nowhere.yaml"], 1, "/nowhere.yaml: cannot be read: No such file or directory"),
        (["--store", "consul", "--consul-address", "ftp://x", "get", "nodes"], 1, "consul_address"),
        (["--agent-socket", "/nowhere.sock", "node", "status"], 3, "no agent answers on /nowhere.sock"),
        (["--store", "consul", "--consul-address", "http://127.0.0.1:1", "get", "nodes"], 3, "127.0.0.1:1"),
        (["lab", "status", "--name", "Bad"], 1, "'Bad' cannot name a lab"),
    ],
)
def test_errors_are_one_line_and_a_code(
    capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, complaint: str
) -> None:
    """1 refused, 2 wrong usage, 3 the store or the agent is away; nothing on stdout."""
    assert run(arguments) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("tortiectl: error: ")
    assert complaint in printed.err
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize("group", ["ipam", "node", "lab"])
def test_a_group_without_a_command_shows_its_help(capsys: pytest.CaptureFixture[str], group: str) -> None:
    """Wrong usage, but what the user wants to know; no error is put around it."""
    assert run([group]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"Usage: tortiectl {group} ")
    assert "Commands:" in printed.err


@pytest.mark.parametrize("command", ["get", "delete"])
def test_a_command_that_needs_a_kind_shows_its_help(capsys: pytest.CaptureFixture[str], command: str) -> None:
    """Wrong usage too; the help says which kinds there are."""
    assert run([command]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"Usage: tortiectl {command} ")
    assert "KIND" in printed.err


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", b"HTTP/1.1 500 No\r\n\r\n"])
def test_an_agent_that_answers_nonsense_counts_as_away(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], answer: bytes
) -> None:
    """Whatever comes over the socket ends in a message, not in a traceback."""
    path = str(tmp_path / "agent.sock")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        assert run(["--agent-socket", path, "node", "status"]) == 3
        thread.join()
    assert path in capsys.readouterr().err


def test_a_missing_node_can_be_said_to_be_fine(capsys: pytest.CaptureFixture[str]) -> None:
    """Scripts may delete twice."""
    assert run(["node", "delete", "--missing-ok", "h9"]) == 0
    assert capsys.readouterr().out == "node h9 deleted, 0 addresses released\n"


def test_a_node_that_holds_addresses_is_deleted_only_by_force(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Its addresses could be given to others while its containers still use them."""

    async def assign() -> None:
        store = SqliteStore(tmp_path / "store.db")
        assigner = Assigner(store, "h1", lambda: 0.0)
        pool = Pool("p", ip_network("10.0.0.0/24"), 26)
        versions = await store.commit([Put(keys.pool("p"), encode_pool(pool), ABSENT)])
        assigner.set_rules(Rules({"p": (pool, versions[keys.pool("p")])}))
        await assigner.start()
        await assigner.assign(AssignRequest("cni/net/c/eth0", "web", "shop", "tor0", (4,)))
        await assigner.close()
        await store.close()

    asyncio.run(assign())
    assert run(["node", "delete", "h1"]) == 1
    assert "node h1 holds 1 addresses" in capsys.readouterr().err
    assert run(["node", "delete", "--force", "h1"]) == 0
    assert capsys.readouterr().out == "node h1 deleted, 1 addresses released\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody has to guess how a command is meant."""
    assert run([command, "--help"]) == 0
    printed = capsys.readouterr().out
    assert "Examples:" in printed
    assert f"  tortiectl {command}" in printed


def test_help_imports_nothing_slow() -> None:
    """`--help` loads neither settings nor stores nor any command."""
    code = (
        "import sys; from controller.cli.main import run; run(['--help']); "
        "print([name for name in ('pydantic', 'yaml', 'aiohttp', 'asyncio') if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == "[]\n"


def test_output_on_a_full_disk_is_told_of_in_one_line() -> None:
    """A backup that is cut off must not pass for one, nor end in a traceback, nor in Python's own words at its end."""
    code = "import sys; from controller.cli.main import main; sys.argv = ['tortiectl', 'schema']; main()"
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60
        )
    assert done.returncode == 1
    assert done.stderr == (
        "tortiectl: error: not everything could be written: No space left on device; make room, then run it again\n"
    )


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('spec: {password: "not for messages" "', "in line 1, column 38"),
        ('kind: BGPPeer\nspec:\n  password: "not for messages\n', "in line 4, column 1"),
        ("spec:\n  password: not for messages: x\n", "in line 2, column 29"),
        ("spec: {password: @not for messages}", "in line 1, column 18"),
    ],
)
@pytest.mark.parametrize("command", ["apply", "delete", "validate"])
def test_a_mistake_in_yaml_is_told_by_its_place_alone(
    command: str, text: str, place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line with a password in it goes into no log of a pipeline."""
    file = tmp_path / "peer.yaml"
    file.write_text(text)
    assert run([command, "-f", str(file)]) == 1
    error = capsys.readouterr().err
    assert place in error
    assert "neither YAML nor JSON" in error
    assert "not for messages" not in error
