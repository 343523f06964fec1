"""`tortiectl edit`: what is saved is written, and what cannot be written is not lost."""

from __future__ import annotations

import stat
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from controller.cli.main import run

if TYPE_CHECKING:
    from collections.abc import Callable

    Editor = Callable[..., None]

POOL = "{apiVersion: tortie/v1, kind: Pool, metadata: {name: default}, spec: {cidr: 10.0.0.0/16}}\n"


@pytest.fixture(autouse=True)
def own_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Name a store with a pool in the environment, and keep what is edited in a directory of the test's own."""
    monkeypatch.setenv("TORTIE_STORE", "sqlite")
    monkeypatch.setenv("TORTIE_SQLITE_PATH", str(tmp_path / "store.db"))
    monkeypatch.delenv("VISUAL", raising=False)
    edited = tmp_path / "edited"
    edited.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(edited))
    (tmp_path / "pool.yaml").write_text(POOL)
    assert run(["create", "-f", str(tmp_path / "pool.yaml")]) == 0
    return edited


@pytest.fixture
def editor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Editor:
    """Give what sets an editor that makes the next of some changes at each start, and keeps what it saw."""

    def set_editor(*changes: tuple[str, str], code: int = 0) -> None:
        program = tmp_path / "editor.py"
        program.write_text(
            "import pathlib, sys\n"
            f"seen = pathlib.Path({str(tmp_path / 'seen')!r})\n"
            "seen.mkdir(exist_ok=True)\n"
            "number = len(list(seen.iterdir()))\n"
            "file = pathlib.Path(sys.argv[-1])\n"
            "text = file.read_text()\n"
            "(seen / str(number)).write_text(text)\n"
            f"changes = {changes!r}\n"
            "if number < len(changes):\n"
            "    old, new = changes[number]\n"
            "    file.write_text(text.replace(old, new) if old else new)\n"
            f"sys.exit({code})\n"
        )
        monkeypatch.setenv("EDITOR", f"{sys.executable} {program} --wait")

    return set_editor


def seen(tmp_path: Path, number: int) -> str:
    """Return what the editor found in the file when it was started for the n-th time."""
    return (tmp_path / "seen" / str(number)).read_text()


def test_what_is_saved_is_written(
    tmp_path: Path, editor: Editor, own_directories: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The editor gets the resource as YAML; its file is gone afterwards."""
    editor(("disabled: false", "disabled: true  # for now"))
    assert run(["edit", "pool", "default"]) == 0
    assert capsys.readouterr().out.endswith("pool default configured\n")
    assert yaml.safe_load(seen(tmp_path, 0))["spec"]["cidr"] == "10.0.0.0/16"
    assert list(own_directories.iterdir()) == []
    assert run(["edit", "pool/default"]) == 0
    assert "disabled: true" in seen(tmp_path, 1)


@pytest.mark.parametrize("change", [("nothing", "nothing"), ("", ""), ("", "# only a comment\n")])
def test_nothing_saved_is_nothing_written(
    change: tuple[str, str], editor: Editor, own_directories: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unchanged or empty: the edit is cancelled."""
    editor(change)
    assert run(["edit", "pool", "default"]) == 0
    assert "unchanged: the edit was cancelled" in capsys.readouterr().out
    assert list(own_directories.iterdir()) == []


def test_mistakes_are_shown_in_the_file_until_they_are_mended(
    tmp_path: Path, editor: Editor, capsys: pytest.CaptureFixture[str]
) -> None:
    """With what was written in it; only the last mistake is told, and the operator's own comments stay."""
    editor(
        ("blockSize: 26", "blockSize: 27\n  # mine"),
        ("blockSize: 27", "blockSize: 26\n  communities: ["),
        ("  communities: [\n", "  disabled: true\n"),
        ("disabled: false\n", "natOutgoing: true\n"),
        ("  natOutgoing: false\n", ""),
    )
    assert run(["edit", "pool", "default"]) == 0
    assert "#: NOT WRITTEN: pool default: spec.blockSize: 26 cannot be changed to 27" in seen(tmp_path, 1)
    assert "blockSize: 27\n  # mine" in seen(tmp_path, 1)
    assert "#: NOT WRITTEN: neither YAML nor JSON" in seen(tmp_path, 2)
    assert "cannot be changed" not in seen(tmp_path, 2)
    assert "'disabled' is there twice" in seen(tmp_path, 3)
    assert "'natOutgoing' is there twice" in seen(tmp_path, 4)
    assert seen(tmp_path, 4).count("NOT WRITTEN") == 1
    assert capsys.readouterr().out.endswith("pool default configured\n")


def test_a_mistake_that_is_left_is_kept_in_its_file(
    editor: Editor, own_directories: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Saved again without a change, it ends the edit; the file is the owner's alone, and its name is told."""
    editor(("cidr: 10.0.0.0/16", "cidr: 10.0.0.1/16"))
    assert run(["edit", "pool", "default"]) == 1
    (kept,) = own_directories.iterdir()
    error = capsys.readouterr().err
    assert f"what you wrote is kept in {kept}" in error
    assert "spec.cidr: 10.0.0.1/16 has host bits set" in error
    assert "cidr: 10.0.0.1/16" in kept.read_text()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600


def test_what_others_wrote_meanwhile_is_not_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_directories: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file is opened again and says so; left as it is, it is kept."""
    program = tmp_path / "editor.py"
    program.write_text(
        "import pathlib, sys\n"
        "from controller.cli.main import run\n"
        "file = pathlib.Path(sys.argv[1])\n"
        "text = file.read_text()\n"
        "if 'NOT WRITTEN' not in text:\n"
        "    file.write_text(text.replace('disabled: false', 'disabled: true'))\n"
        "    run(['patch', 'pool', 'default', '-p', '{spec: {natOutgoing: true}}'])\n"
    )
    monkeypatch.setenv("VISUAL", f"{sys.executable} {program}")
    monkeypatch.setenv("EDITOR", "/nowhere/editor")
    assert run(["edit", "pool", "default"]) == 1
    assert "pool default has been changed" in capsys.readouterr().err
    (kept,) = own_directories.iterdir()
    assert "disabled: true" in kept.read_text()
    run(["get", "pool", "default", "-o", "yaml"])
    spec = yaml.safe_load(capsys.readouterr().out)["spec"]
    assert (spec["disabled"], spec["natOutgoing"]) == (False, True)


def test_what_others_wrote_is_written_over_on_demand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Removing the version from the file opened again is the way that the message says."""
    program = tmp_path / "editor.py"
    program.write_text(
        "import pathlib, sys\n"
        "from controller.cli.main import run\n"
        "file = pathlib.Path(sys.argv[1])\n"
        "text = file.read_text()\n"
        "if 'NOT WRITTEN' in text:\n"
        "    lines = [line for line in text.splitlines(True) if not line.startswith('  resourceVersion')]\n"
        "    file.write_text(''.join(lines))\n"
        "else:\n"
        "    file.write_text(text.replace('disabled: false', 'disabled: true'))\n"
        "    run(['patch', 'pool', 'default', '-p', '{spec: {natOutgoing: true}}'])\n"
    )
    monkeypatch.setenv("EDITOR", f"{sys.executable} {program}")
    assert run(["edit", "pool", "default"]) == 0
    capsys.readouterr()
    run(["get", "pool", "default", "-o", "yaml"])
    spec = yaml.safe_load(capsys.readouterr().out)["spec"]
    assert (spec["disabled"], spec["natOutgoing"]) == (True, False)


def test_a_store_that_goes_away_loses_nothing(
    tmp_path: Path, editor: Editor, own_directories: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was written is kept, and can be applied from its file."""
    editor(("disabled: false", "disabled: true"))
    program = tmp_path / "editor.py"
    store = tmp_path / "store.db"
    program.write_text(
        program.read_text().replace("sys.exit(0)", f"pathlib.Path({str(store)!r}).rename({str(store) + '.away'!r})\n")
        + f"pathlib.Path({str(store)!r}).mkdir()\n"
    )
    assert run(["edit", "pool", "default"]) == 3
    (kept,) = own_directories.iterdir()
    assert f"what you wrote is kept in {kept}" in capsys.readouterr().err
    store.rmdir()
    Path(f"{store}.away").rename(store)
    assert run(["apply", "-f", str(kept)]) == 0
    assert capsys.readouterr().out == "pool default configured\n"


@pytest.mark.parametrize(
    ("action", "code"), [("file.unlink()", 0), ("file.write_bytes(text.encode() + b'# \\xff')", 1)]
)
def test_whatever_an_editor_leaves_is_no_crash(
    action: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_directories: Path
) -> None:
    """No file is an empty one; what is no text is shown as a mistake, and kept as it is."""
    program = tmp_path / "editor.py"
    program.write_text(
        "import pathlib, sys\n"
        "file = pathlib.Path(sys.argv[1])\n"
        "text = file.read_text(errors='replace')\n"
        f"if 'NOT WRITTEN' not in text:\n    {action}\n"
    )
    monkeypatch.setenv("EDITOR", f"{sys.executable} {program}")
    assert run(["edit", "pool", "default"]) == code
    assert [b"\xff" in kept.read_bytes() for kept in own_directories.iterdir()] == [True] * code


def test_an_editor_that_fails_ends_the_edit(
    editor: Editor, own_directories: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What it saved is kept, not written."""
    editor(("disabled: false", "disabled: true"), code=3)
    assert run(["edit", "pool", "default"]) == 1
    error = capsys.readouterr().err
    assert "ended with exit code 3" in error
    (kept,) = own_directories.iterdir()
    assert "disabled: true" in kept.read_text()


@pytest.mark.parametrize("command", ["/nowhere/editor", "'"])
def test_an_editor_that_is_not_there_is_told(
    command: str, monkeypatch: pytest.MonkeyPatch, own_directories: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the way out; nothing is left behind."""
    monkeypatch.setenv("EDITOR", command)
    assert run(["edit", "pool", "default"]) == 1
    assert "cannot be started" in capsys.readouterr().err
    assert list(own_directories.iterdir()) == []


@pytest.mark.parametrize(
    ("what", "code", "complaint"),
    [
        (["pool", "none"], 1, "pool none does not exist"),
        (["node", "h1"], 1, "nodes are written by agents alone"),
        (["pools"], 2, "name one resource"),
    ],
)
def test_what_cannot_be_edited_opens_no_editor(
    what: list[str], code: int, complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The refusal comes first."""
    assert run(["edit", *what]) == code
    assert complaint in capsys.readouterr().err
    assert list((tmp_path / "edited").iterdir()) == []


def test_a_resource_stays_the_one_it_is(tmp_path: Path, editor: Editor) -> None:
    """Another name would be another resource; several documents none at all."""
    editor(("name: default", "name: other"), ("name: other", "name: default\n---\na: 1\n---"), ("", ""))
    assert run(["edit", "pool", "default"]) == 0
    assert "it would be pool other; kind and name stay" in seen(tmp_path, 1)
    assert "NOT WRITTEN: " in seen(tmp_path, 2)
