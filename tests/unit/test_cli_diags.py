"""`tortiectl node diags`: one archive, whatever of the host is broken, and never a secret in it."""

from __future__ import annotations

import asyncio
import base64
import io
import ipaddress
import json
import os
import shutil
import tarfile
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import TYPE_CHECKING

import pytest

from bgp.peering import PeerDefinition
from controller.cli.diags_secrets import Secrets, shown_settings
from controller.cli.main import run
from controller.datamodel import keys
from controller.datamodel.bgp_records import encode_peer
from controller.ports import Put
from controller.settings import load
from controller.store.opening import open_store

if TYPE_CHECKING:
    from collections.abc import Iterator

TOKEN = "5f2c8a1e-token-of-the-store"
PASSWORD = 'of "a" peer\\'
PAGES = {"/v1/status": b'{"node": "n1"}', "/v1/report": b'{"kernel": []}', "/metrics": b"tortie_up 1\n"}
WHOLE = {
    *("index.txt", "versions.txt", "settings.json", "agent-status.json", "agent-report.json", "agent-metrics.txt"),
    *("links.txt", "addresses.txt", "routes-ipv4.txt", "routes-ipv6.txt", "rules-ipv4.txt", "rules-ipv6.txt"),
    *("neighbours.txt", "packet-filter.txt", "log-agent.txt", "log-bgp.txt", "sysctls.txt", "cni-networks.txt"),
    *("sockets.txt", "store.txt"),
}


class Agent(BaseHTTPRequestHandler):
    """An agent that says what its pages are."""

    pages = PAGES

    def do_GET(self) -> None:
        """Answer with the page, or 404."""
        body = self.pages.get(self.path)
        self.send_response(404 if body is None else 200)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class's signature
        """Say nothing."""


class Server(ThreadingMixIn, UnixStreamServer):
    """Answers several at once."""

    request_queue_size = 16


class Host:
    """A host of which everything is in one directory: programs that print their arguments, store, and agent."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.programs = directory / "bin"
        self.programs.mkdir()
        for name in ("ip", "nft", "journalctl"):
            self.program(name, 'echo "$0 $*"')
        (self.programs / "ls").symlink_to(shutil.which("ls") or "")
        self.run_dir = directory / "run"
        self.run_dir.mkdir()
        self.archive = directory / "it.tar.gz"

    def program(self, name: str, script: str) -> None:
        """Make a program that does this."""
        (self.programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (self.programs / name).chmod(0o755)

    def diags(self) -> tuple[int, dict[str, bytes]]:
        """Collect; return the exit code and each file of the archive."""
        code = run(["node", "diags", "--output", str(self.archive)])
        return code, files_in(self.archive.read_bytes())


def files_in(archive: bytes) -> dict[str, bytes]:
    """Return the files of an archive, which has to be one directory of them."""
    found: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as members:
        directories = {member.name.partition("/")[0] for member in members}
        assert len(directories) == 1
        for member in members:
            content = members.extractfile(member)
            assert content is not None
            found[member.name.partition("/")[2]] = content.read()
    return found


async def fill(path: Path) -> None:
    """Write a store with one peer."""
    peer = PeerDefinition("tor", ipaddress.ip_address("192.0.2.254"), 64512, password=PASSWORD)
    store = open_store(f"sqlite:{path}")
    try:
        await store.commit([Put(keys.CLUSTER_ANCHOR, b"{}", None), Put(keys.peer("tor"), encode_peer(peer), None)])
    finally:
        await store.close()


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """Return a host on which all is well."""
    host = Host(tmp_path)
    asyncio.run(fill(tmp_path / "store.db"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(host.programs))
    for name, value in {
        "TORTIE_NODE_NAME": "n1",
        "TORTIE_STORE": "sqlite",
        "TORTIE_SQLITE_PATH": str(tmp_path / "store.db"),
        "TORTIE_RUN_DIR": str(host.run_dir),
        "TORTIE_CONSUL_TOKEN": TOKEN,
    }.items():
        monkeypatch.setenv(name, value)
    with Server(str(host.run_dir / "agent.sock"), Agent) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield host
        server.shutdown()
        thread.join()


def test_a_host_that_is_well_is_all_there(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    """What agent and programs say, as they say it; for nobody else to read."""
    code, files = host.diags()
    assert (code, set(files)) == (0, WHOLE)
    assert files["agent-status.json"] == PAGES["/v1/status"]
    assert files["agent-metrics.txt"] == PAGES["/metrics"]
    assert b"ip -4 -d route show table all\n" in files["routes-ipv4.txt"]
    assert b"--unit=tortie-bgp\n" in files["log-bgp.txt"]
    assert b"net/ipv4/ip_forward = " in files["sysctls.txt"]
    assert b"agent.sock" in files["sockets.txt"]
    assert files["store.txt"].startswith(b"sqlite answered within ")
    assert b"\npeers: 1\n" in files["store.txt"]
    assert b"tortie: " in files["versions.txt"]
    assert json.loads(files["settings.json"])["node_name"] == "n1"
    assert host.archive.stat().st_mode & 0o777 == 0o600
    assert capsys.readouterr().out == f"diagnostics of n1 written to {host.archive}\n"


def test_the_archive_has_a_name_of_its_own(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    """By node and time, in the directory in which one is."""
    assert run(["node", "diags"]) == 0
    [archive] = host.directory.glob("tortie-diags-n1-*T*Z.tar.gz")
    assert capsys.readouterr().out == f"diagnostics of n1 written to {archive.name}\n"
    with tarfile.open(archive) as members:
        assert members.getnames()[0] == f"{archive.name.removesuffix('.tar.gz')}/index.txt"


def test_what_is_missing_is_told_and_keeps_nothing_else_out(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    """A program that fails, and an agent that is not there: each by itself, with the reason, and exit code 1."""
    (host.run_dir / "agent.sock").unlink()
    host.program("nft", "echo half of it; echo 'Operation not permitted' >&2; exit 3")
    code, files = host.diags()
    assert code == 1
    gone = {"agent-status.json", "agent-report.json", "agent-metrics.txt", "packet-filter.txt"}
    assert set(files) == WHOLE - gone | {f"{name}.missing" for name in gone}
    reason = b"`nft list ruleset` ended with 3: Operation not permitted\n"
    assert files["packet-filter.txt.missing"].startswith(reason + b"half of it")
    assert b"packet-filter.txt: missing: " + reason in files["index.txt"]
    assert files["agent-status.json.missing"].endswith(b"agent.sock: No such file or directory\n")
    assert "packet-filter.txt: missing: " + reason.decode() in capsys.readouterr().err


def test_an_agent_of_an_earlier_build_has_fewer_pages(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it does not know is missing."""
    monkeypatch.setattr(Agent, "pages", {"/v1/status": b"{}"})
    code, files = host.diags()
    assert (code, files["agent-status.json"]) == (1, b"{}")
    assert b"answers /v1/report with HTTP status 404" in files["agent-report.json.missing"]


def test_a_program_that_hangs_is_given_up(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is ended, and the rest is there."""
    monkeypatch.setattr("controller.kernel.programs._DEADLINE_SECONDS", 0.2)
    pipe = host.directory / "never"
    os.mkfifo(pipe)
    host.program("journalctl", f'echo $$ >> "{host.directory}/started"; read line < "{pipe}"')
    code, files = host.diags()
    assert code == 1
    assert files["log-agent.txt.missing"] == b"journalctl did not end within 0.2 seconds\n"
    assert "links.txt" in files
    for process in (host.directory / "started").read_text().split():
        assert not Path(f"/proc/{process}").exists()


def test_programs_that_a_host_may_lack_are_nothing_missing(host: Host) -> None:
    """Without nft and journalctl the archive says so, and all is well; without ip it is not."""
    for name in ("nft", "journalctl"):
        (host.programs / name).unlink()
    code, files = host.diags()
    assert (code, set(files)) == (0, WHOLE)
    assert files["packet-filter.txt"] == b"nft is not installed, so tortie has no rules here\n"
    host.archive.unlink()
    (host.programs / "ip").unlink()
    code, files = host.diags()
    assert code == 1
    assert files["links.txt.missing"] == b"`ip -d -s link`: ip is not installed\n"


def test_settings_that_cannot_be_read_are_told(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """They may be what is broken; the agent is then asked where it usually listens, or where one says."""
    (host.directory / "tortie.toml").write_text("node_name = ")
    monkeypatch.setenv("TORTIE_CONFIG", str(host.directory / "tortie.toml"))
    code, files = host.diags()
    assert code == 1
    assert b"tortie.toml cannot be read" in files["settings.json.missing"]
    assert b"tortie.toml cannot be read" in files["store.txt.missing"]
    assert files["agent-status.json.missing"].startswith(b"no agent answers on /run/tortie/agent.sock: ")
    assert "routes-ipv4.txt" in files
    host.archive.unlink()
    socket = str(host.run_dir / "agent.sock")
    assert run(["--agent-socket", socket, "node", "diags", "--output", str(host.archive)]) == 1
    assert "agent-status.json" in files_in(host.archive.read_bytes())


def test_a_store_that_does_not_answer_is_told(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the reason; a file that is not there is not made by looking for it."""
    monkeypatch.setenv("TORTIE_SQLITE_PATH", str(host.directory / "other.db"))
    code, files = host.diags()
    assert (code, b"does not exist" in files["store.txt.missing"]) == (1, True)
    assert not (host.directory / "other.db").exists()
    host.archive.unlink()
    monkeypatch.setenv("TORTIE_STORE", "consul")
    monkeypatch.setenv("TORTIE_CONSUL_ADDRESS", "http://127.0.0.1:1")
    code, files = host.diags()
    assert (code, b"127.0.0.1:1" in files["store.txt.missing"]) == (1, True)


def test_what_is_there_is_not_written_over(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    """Nor is anything asked."""
    host.archive.write_text("dear to somebody")
    host.program("ip", f'touch "{host.directory}/asked"')
    assert run(["node", "diags", "--output", str(host.archive)]) == 1
    assert "it.tar.gz exists; name another file" in capsys.readouterr().err
    assert host.archive.read_text() == "dear to somebody"
    assert run(["node", "diags", "--output", str(host.directory / "no" / "it.tar.gz")]) == 1
    assert "cannot be written: No such file or directory" in capsys.readouterr().err
    assert not (host.directory / "asked").exists()


def test_half_an_archive_is_not_left_behind(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while it is collected."""

    async def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("controller.cli.diags_parts.collect", interrupted)
    assert run(["node", "diags", "--output", str(host.archive)]) == 130
    assert not host.archive.exists()


def test_standard_output_gets_the_archive_alone(host: Host, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """So it can be sent through `kubectl exec`; what is told goes elsewhere."""
    host.program("nft", "exit 1")
    assert run(["node", "diags", "--output", "-"]) == 1
    told = capfdbinary.readouterr()
    assert set(files_in(told.out)) == WHOLE - {"packet-filter.txt"} | {"packet-filter.txt.missing"}
    assert b"packet-filter.txt: missing: " in told.err


def test_no_secret_is_in_it(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the tokens nor a password in the store, though agent and programs quote them in every form."""
    (host.directory / "token").write_text("another-token-by-file\n")
    monkeypatch.setenv("TORTIE_CONSUL_TOKEN_FILE", str(host.directory / "token"))
    secrets = [TOKEN, "another-token-by-file", PASSWORD]
    forms = [form for each in secrets for form in (each, json.dumps(each)[1:-1], encoded(each))]
    quoted = "\n".join(["before", *forms, "after"])
    (host.directory / "quoted").write_text(quoted)
    cat = f'while IFS= read -r line || [ -n "$line" ]; do printf "%s\\n" "$line"; done < "{host.directory}/quoted"'
    host.program("journalctl", cat)
    host.program("nft", f"({cat}) >&2; exit 1")
    monkeypatch.setattr(Agent, "pages", dict.fromkeys(PAGES, quoted.encode()))
    code, files = host.diags()
    assert code == 1
    assert b"before\n***\n" in files["log-agent.txt"]
    assert files["log-agent.txt"].endswith(b"***\nafter\n")
    everything = b"\n".join(files.values())
    assert [form for form in forms if form.encode() in everything] == []


def encoded(text: str) -> str:
    """Return a text in base64, as ExaBGP is given passwords."""
    return base64.b64encode(text.encode()).decode()


def test_settings_show_no_secret_however_short(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A short one is looked for nowhere else, where it would be a part of other words; a longer one is."""
    assert host
    monkeypatch.setenv("TORTIE_CONSUL_TOKEN", "abc")
    monkeypatch.setenv("TORTIE_CONSUL_ADDRESS", "http://me:xyz@127.0.0.1:8500")
    settings = load({})
    shown = shown_settings(settings)
    assert (shown["consul_token"], shown["consul_address"]) == ("***", "http://***@127.0.0.1:8500")
    secrets = Secrets()
    secrets.know_settings(settings)
    assert secrets.without(b"the abc") == b"the abc"
    monkeypatch.setenv("TORTIE_CONSUL_ADDRESS", "http://me:x%20yz@127.0.0.1:8500")
    secrets.know_settings(load({}))
    assert secrets.without(b"me:x%20yz@ x yz") == b"me:***@ ***"


def test_a_record_that_cannot_be_read_hides_its_password(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is found in the text."""

    async def spoil() -> None:
        store = open_store(f"sqlite:{host.directory / 'store.db'}")
        await store.commit([Put(keys.peer("tor"), b'{"password": "half of it \\x", "peer', None)])
        await store.close()

    asyncio.run(spoil())
    monkeypatch.setattr(Agent, "pages", dict.fromkeys(PAGES, b"told: half of it \\x"))
    assert host.diags()[1]["agent-status.json"] == b"told: ***"
