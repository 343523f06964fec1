"""`tortiectl install-cni` leaves a whole plugin and a whole configuration, however often and wherever it is run."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from controller.cli.main import run

if TYPE_CHECKING:
    from pathlib import Path


class Places:
    """A plugin that was built, and the directories of a host."""

    def __init__(self, directory: Path) -> None:
        self.plugin = directory / "built"
        self.plugin.write_bytes(b"first")
        self.bin = directory / "opt" / "bin"
        self.conf = directory / "etc" / "net.d"
        self.installed = self.bin / "tortie-cni"
        self.configuration = self.conf / "10-tortie.conflist"

    def install(self, *arguments: str) -> int:
        """Run the command on these directories."""
        places = ("--bin-dir", str(self.bin), "--conf-dir", str(self.conf), "--plugin", str(self.plugin))
        return run(["--run-dir", "/run/tortie", "install-cni", *places, *arguments])

    def read(self) -> dict[str, Any]:
        """Return the configuration."""
        read: dict[str, Any] = json.loads(self.configuration.read_text())
        return read


@pytest.fixture
def places(tmp_path: Path) -> Places:
    """Give a host without any CNI directory."""
    return Places(tmp_path)


def add_plugin(directory: Path, name: str, mode: int = 0o755) -> None:
    """Put a plugin there."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / name).write_bytes(b"")
    (directory / name).chmod(mode)


def names_in(directory: Path) -> list[str]:
    """Return the names of what is there."""
    return sorted(path.name for path in directory.iterdir())


def test_a_bare_host_gets_plugin_and_network(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    """The directories are made, and what is missing for published ports is said."""
    assert places.install() == 0
    assert places.installed.read_bytes() == b"first"
    assert places.installed.stat().st_mode & 0o777 == 0o755
    assert places.configuration.stat().st_mode & 0o777 == 0o644
    assert places.read() == {
        "cniVersion": "1.0.0",
        "name": "tortie",
        "plugins": [
            {
                "type": "tortie-cni",
                "capabilities": {"ips": True, "mac": True},
                "ipam": {"type": "tortie", "ipv4": True, "ipv6": False},
            }
        ],
    }
    printed = capsys.readouterr().out
    assert "no portmap in" in printed
    assert "portMappings of containers are ignored" in printed


def test_what_is_there_is_chained(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    """Each with its capability, after ours; one that cannot be run is none."""
    add_plugin(places.bin, "portmap")
    add_plugin(places.bin, "bandwidth", 0o644)
    assert places.install() == 0
    assert places.read()["plugins"][1:] == [{"type": "portmap", "capabilities": {"portMappings": True}}]
    assert "no bandwidth in" in capsys.readouterr().out
    (places.bin / "bandwidth").chmod(0o755)
    assert places.install() == 0
    assert [plugin["type"] for plugin in places.read()["plugins"]] == ["tortie-cni", "portmap", "bandwidth"]


def test_every_choice_reaches_the_configuration(places: Places) -> None:
    """Another agent's socket too."""
    choices = ("--network", "pods", "--ipv6", "--no-ipv4", "--mtu", "1400", "--cni-version", "1.1.0")
    places.configuration = places.conf / "10-pods.conflist"
    paths = ("--bin-dir", str(places.bin), "--conf-dir", str(places.conf), "--plugin", str(places.plugin))
    assert run(["--run-dir", "/run/other", "install-cni", *paths, *choices]) == 0
    read = places.read()
    assert (read["cniVersion"], read["name"]) == ("1.1.0", "pods")
    (ours,) = read["plugins"]
    assert ours["ipam"] == {"type": "tortie", "ipv4": False, "ipv6": True}
    assert (ours["mtu"], ours["agent_socket"]) == (1400, "/run/other/cni.sock")


@pytest.mark.parametrize("given", [("--ipv4-pools", "lab,spare"), ("--ipv4-pools", "lab", "--ipv4-pools", " spare")])
def test_a_network_may_name_its_pools(places: Places, given: tuple[str, ...]) -> None:
    """In the order of preference; with both IP versions each has its own."""
    assert places.install(*given) == 0
    assert places.read()["plugins"][0]["ipam"]["ipv4_pools"] == ["lab", "spare"]
    assert "ipv6_pools" not in places.read()["plugins"][0]["ipam"]
    assert places.install(*given, "--ipv6", "--ipv6-pools", "lab6") == 0
    assert places.read()["plugins"][0]["ipam"]["ipv6_pools"] == ["lab6"]


def test_again_changes_only_what_is_different(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    """An unchanged file stays the same file; a new plugin replaces the old one, which may be running, at once."""
    assert places.install() == 0
    before = places.installed.stat(), places.configuration.stat()
    capsys.readouterr()
    assert places.install() == 0
    assert (places.installed.stat(), places.configuration.stat()) == before
    assert capsys.readouterr().out.count(": unchanged\n") == 2
    places.plugin.write_bytes(b"second")
    with places.installed.open("rb") as running:
        assert places.install() == 0
        assert running.read() == b"first"
    assert places.installed.read_bytes() == b"second"
    assert places.configuration.stat() == before[1]
    assert names_in(places.bin) == ["tortie-cni"]


def test_a_link_gives_way_to_a_file(places: Places) -> None:
    """What the link leads to may be in nobody's reach inside a container, and is not written to."""
    places.bin.mkdir(parents=True)
    places.installed.symlink_to(places.plugin)
    assert places.install() == 0
    assert not places.installed.is_symlink()


def test_uninstall_takes_away_what_was_installed(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    """The plugin stays while another network needs it, and nothing else is touched; twice is no error."""
    add_plugin(places.bin, "portmap")
    assert places.install() == 0
    assert places.install("--network", "pods") == 0
    assert places.install("--uninstall") == 0
    assert not places.configuration.exists()
    assert places.installed.exists()
    assert "kept for 10-pods.conflist" in capsys.readouterr().out
    assert places.install("--network", "pods", "--uninstall") == 0
    assert not places.installed.exists()
    assert places.install("--network", "pods", "--uninstall") == 0
    assert names_in(places.bin) == ["portmap"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--network", "a/b"), "name"),
        (("--network", "../x"), "name"),
        (("--mtu", "60"), "mtu"),
        (("--no-ipv4",), "ipam.ipv4"),
        (("--ipv6-pools", "lab6"), "ipam.ipv6_pools"),
        (("--ipv4-pools", "lab,"), "ipam.ipv4_pools"),
        (("--ipv6", "--ipv4-pools", "lab"), "name some for both"),
        (("--plugin", "/nowhere/tortie-cni"), "make setup"),
    ],
)
def test_what_the_agent_would_refuse_is_not_installed(
    places: Places, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    """The mistake is named, and nothing is there that a runtime could take for a network."""
    assert places.install(*arguments) == 1
    assert message in capsys.readouterr().err
    assert not places.conf.exists()


def test_a_directory_that_cannot_be_written_is_named(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    """A file in its place stands for every reason there is."""
    places.bin.parent.mkdir()
    places.bin.write_text("")
    assert places.install() == 1
    assert str(places.bin) in capsys.readouterr().err


def test_a_failed_write_leaves_the_old_file(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing half-written is ever found under the name, nor left beside it."""
    assert places.install() == 0
    places.plugin.write_bytes(b"second")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device", "disk")

    monkeypatch.setattr(os, "fsync", full)
    assert places.install() == 1
    assert places.installed.read_bytes() == b"first"
    assert names_in(places.bin) == ["tortie-cni"]


def test_another_network_that_comes_first_is_told(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    """Runtimes that take one network take the first by name."""
    places.conf.mkdir(parents=True)
    (places.conf / "05-other.conflist").write_text("{}")
    assert places.install() == 0
    assert "05-other.conflist comes before 10-tortie.conflist" in capsys.readouterr().out
