"""Shell completion: what is offered, from the store too, and that a shell neither hangs nor sees an error."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from controller.cli.main import COMMANDS, run

PROGRAM = str(Path(sys.executable).parent / "tortiectl")
RESOURCES = """
apiVersion: tortie/v1
kind: Pool
metadata: {name: default}
spec: {cidr: 10.0.0.0/16}
---
apiVersion: tortie/v1
kind: Pool
metadata: {name: dmz}
spec: {cidr: 10.1.0.0/16}
---
apiVersion: tortie/v1
kind: BGPFilter
metadata: {name: in}
spec: {}
"""


@pytest.fixture(autouse=True)
def store_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Name a store with a few resources in the environment."""
    path = tmp_path / "store.db"
    monkeypatch.setenv("TORTIE_STORE", "sqlite")
    monkeypatch.setenv("TORTIE_SQLITE_PATH", str(path))
    (tmp_path / "all.yaml").write_text(RESOURCES)
    assert run(["create", "-f", str(tmp_path / "all.yaml")]) == 0
    return path


def completed(words: str) -> subprocess.CompletedProcess[str]:
    """Ask as bash does what may stand at the end of this line."""
    asked = {
        **os.environ,
        "_TORTIECTL_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }
    return subprocess.run([PROGRAM], env=asked, capture_output=True, text=True, check=False, timeout=40)


def offered(words: str) -> list[str]:
    """Return what bash is offered; stderr has to be empty."""
    done = completed(words)
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


def test_commands_and_kinds_are_offered() -> None:
    """From what is begun."""
    assert offered("tortiectl ") == list(COMMANDS)
    assert offered("tortiectl va") == ["validate"]
    assert offered("tortiectl get po") == ["pools", "pool"]
    assert "all" in offered("tortiectl get ")
    assert offered("tortiectl schema ipam") == ["ipamconfiguration"]
    assert offered("tortiectl completion ") == ["bash", "zsh", "fish"]
    assert "--dry-run" in offered("tortiectl apply --")


def test_names_come_from_the_store() -> None:
    """After the kind, or with it; a second name too."""
    assert offered("tortiectl get pool ") == ["default", "dmz"]
    assert offered("tortiectl get pools default dm") == ["dmz"]
    assert offered("tortiectl get ippool/de") == ["ippool/default"]
    assert offered("tortiectl get ipamconfiguration ") == ["default"]
    assert offered("tortiectl get pod ") == []


@pytest.mark.parametrize("verb", ["delete", "patch", "edit"])
def test_every_command_that_takes_names_offers_them(verb: str) -> None:
    """As `get` does."""
    assert offered(f"tortiectl {verb} filter ") == ["in"]


def test_the_store_that_flags_name_is_asked(tmp_path: Path) -> None:
    """Flags stand before the command; one that is not there is not made by asking it."""
    other = tmp_path / "other.db"
    assert offered(f"tortiectl --sqlite-path {other} get pool ") == []
    assert not other.exists()
    assert run(["--sqlite-path", str(other), "create", "-f", str(tmp_path / "all.yaml")]) == 0
    assert offered(f"tortiectl --sqlite-path {other} get pool de") == ["default"]


def test_whatever_is_wrong_nothing_is_said(tmp_path: Path, store_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No store, broken settings, a file that is none: the shell's line stays as it is."""
    assert offered("tortiectl --store consul --consul-address http://127.0.0.1:1 get pool ") == []
    store_path.write_text("no database")
    assert offered("tortiectl get pool ") == []
    (tmp_path / "tortie.toml").write_text("what is this")
    monkeypatch.setenv("TORTIE_CONFIG", str(tmp_path / "tortie.toml"))
    assert offered("tortiectl get pool ") == []


def test_a_store_that_does_not_answer_keeps_no_shell_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends by itself before the store's client gives up, which would fail this test, and without a word."""
    monkeypatch.setenv("TORTIE_STORE_TIMEOUT_SECONDS", "60")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        done = completed(f"tortiectl --store consul --consul-address http://127.0.0.1:{port} get pool ")
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_has_its_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It asks the program by the variable that the program looks for."""
    assert run(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert f"_TORTIECTL_COMPLETE={shell}_complete" in script
    assert run(["completion", "tcsh"]) == 2


def test_bash_completes_with_the_script(capsys: pytest.CaptureFixture[str]) -> None:
    """The real shell, with the script as it is printed."""
    assert run(["completion", "bash"]) == 0
    bash = shutil.which("bash")
    assert bash is not None
    script = capsys.readouterr().out + (
        f"COMP_WORDS=({PROGRAM} get pool d); COMP_CWORD=3; _tortiectl_completion {PROGRAM}\n"
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run([bash, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["default", "dmz"]
