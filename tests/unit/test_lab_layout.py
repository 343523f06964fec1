"""What a lab's name and hosts imply, and that no lab takes another's for its own."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from controller.errors import KernelRefused, RefusedError
from controller.lab import layout as layout_module
from controller.lab import network
from controller.lab.layout import is_namespace_of, plan, planned_host
from controller.lab.network import remove_namespaces
from controller.lab.processes import processes_in
from controller.lab.services import environment, prepare_consul, services_of
from controller.lab.state import manifest_path, read_manifest


def test_a_lab_knows_its_own_namespaces_and_no_others() -> None:
    """A lab's name may be the beginning of another's, or contain what looks like a host."""
    assert is_namespace_of("a", "tortie-a-h1")
    assert is_namespace_of("a", "tortie-a-h12w3")
    assert is_namespace_of("a", "tortie-a-fabric")
    assert is_namespace_of("a", "tortie-a-r1")
    for other in (
        "tortie-a-h1-h1",
        "tortie-a-h1-fabric",
        "tortie-ab-h1",
        "tortie-a-x",
        "a-h1",
        "tortie-a-h1w",
        "tortie-a-",
    ):
        assert not is_namespace_of("a", other)
    assert is_namespace_of("a-h1", "tortie-a-h1-h1")


@pytest.mark.parametrize("name", ["", "A", "a b", "../x", "-a", "a-", "a.b", "x" * 33])
def test_a_name_that_would_escape_is_refused(name: str) -> None:
    """The name becomes part of paths and namespaces."""
    with pytest.raises(RefusedError, match="cannot name a lab"):
        plan(name, nodes=1, workloads=1, store="sqlite", dual_stack=False)


@pytest.mark.parametrize(("nodes", "workloads"), [(0, 1), (251, 1), (1, -1)])
def test_a_size_that_does_not_fit_is_refused(nodes: int, workloads: int) -> None:
    """The fabric's network has room for so many hosts."""
    with pytest.raises(RefusedError):
        plan("a", nodes=nodes, workloads=workloads, store="sqlite", dual_stack=False)


def test_hosts_have_addresses_of_every_version() -> None:
    """A host's addresses end in its number."""
    layout = plan("a", nodes=2, workloads=1, store="sqlite", dual_stack=True)
    assert [str(address) for address in layout.addresses(layout.hosts[1])] == ["192.0.2.2", "2001:db8::2"]
    assert [str(each) for each in replace(layout, dual_stack=False).addresses(layout.hosts[0])] == ["192.0.2.1"]


def test_a_removed_hosts_name_is_not_given_again() -> None:
    """The next host is a new one: nothing that remembers the old one takes it for that."""
    layout = plan("a", nodes=3, workloads=0, store="sqlite", dual_stack=False)
    left = layout.without_host(layout.hosts[2])
    assert planned_host(left.last_index + 1, 0).name == "h4"
    assert left.with_host(planned_host(4, 0)).last_index == 4


def test_each_host_runs_an_agent_and_a_speaker_of_its_own() -> None:
    """Every service is started in its host's namespace, with that host's name and sockets."""
    layout = plan("a", nodes=2, workloads=0, store="sqlite", dual_stack=False)
    services = services_of(layout)
    assert list(services) == ["h1/bgp", "h1/agent", "h2/bgp", "h2/agent"]
    agent = services["h2/agent"]
    assert agent.command[:2] == ("nsenter", "--net=/run/netns/tortie-a-h2")
    assert agent.environment["TORTIE_NODE_NAME"] == "h2"
    assert agent.environment["TORTIE_RUN_DIR"] == "/run/tortie-a/h2/run"


def test_the_callers_own_settings_stay_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lab never writes into the store that its operator's shell names."""
    monkeypatch.setenv("TORTIE_SQLITE_PATH", "/precious.db")
    monkeypatch.setenv("TORTIE_CONSUL_TOKEN", "secret")
    layout = plan("a", nodes=1, workloads=0, store="sqlite", dual_stack=False)
    settings = environment(layout, layout.hosts[0])
    assert settings["TORTIE_SQLITE_PATH"] == "/run/tortie-a/store.db"
    assert "TORTIE_CONSUL_TOKEN" not in settings


@pytest.fixture
def state_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put the state of every lab into a directory of the test's own."""
    monkeypatch.setattr(layout_module, "STATE_ROOT", tmp_path)
    return tmp_path


def test_the_consul_that_was_named_is_the_one_that_runs(state_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The supervisor has none of its operator's settings, and starts the same server all the same."""
    monkeypatch.setenv("TORTIE_CONSUL", "/bin/true")
    layout = plan("a", nodes=1, workloads=0, store="consul", dual_stack=False)
    layout.state.mkdir()
    prepare_consul(layout)
    monkeypatch.delenv("TORTIE_CONSUL")
    program = services_of(layout)["consul"].command[3]
    assert Path(program).parent == state_in / "tortie-a"
    assert Path(program).readlink() == Path("/bin/true")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"hosts": 1}', '{"hosts": [], "colour": 1}'])
def test_a_manifest_that_is_none_is_refused_with_the_way_out(state_in: Path, text: str) -> None:
    """Whatever broke the file, the operator reads what to do and no traceback."""
    (state_in / "tortie-a").mkdir()
    manifest_path("a").write_text(text)
    with pytest.raises(RefusedError, match="`tortiectl lab down --name a` removes"):
        read_manifest("a")


def test_a_namespace_that_stays_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A removal that did not remove is no success, and says which namespace is left."""
    monkeypatch.setattr(network, "NAMESPACES", tmp_path)
    stuck = f"tortie-t{os.getpid()}-h1"
    (tmp_path / stuck).touch()
    with Path(os.devnull).open() as lock, pytest.raises(KernelRefused, match=stuck):
        remove_namespaces([stuck, "tortie-gone-h1"], lock=lock.fileno())


def test_processes_are_found_by_their_namespace() -> None:
    """A process is found in its namespace and in no other; this process never finds itself."""
    here = Path("/proc/self/ns/net").stat()
    own = (here.st_dev, here.st_ino)
    with subprocess.Popen(["sleep", "1000"]) as process:
        try:
            assert process.pid in processes_in([own])
            assert os.getpid() not in processes_in([own])
            assert processes_in([(own[0], 0)]) == []
        finally:
            process.kill()
