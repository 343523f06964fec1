"""What an operator sets: where from, checked, and without telling secrets."""

from __future__ import annotations

import platform
import traceback
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from controller import settings
from controller.agent.main import main
from controller.errors import RefusedError
from controller.settings import Settings, load

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "b1ffa5-d0-not-tell"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the settings file, which is empty; nothing else is set."""
    for name in Settings.model_fields:
        monkeypatch.delenv(f"TORTIE_{name.upper()}", raising=False)
    path = tmp_path / "tortie.toml"
    path.touch()
    monkeypatch.setenv("TORTIE_CONFIG", str(path))
    return path


def refusal(**flags: str) -> str:
    """Return the message with which these flags are refused; nothing behind it tells the secret either."""
    with pytest.raises(RefusedError) as caught:
        load(flags)
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    return str(caught.value)


@pytest.mark.usefixtures("file")
def test_every_setting_has_a_default() -> None:
    """A single machine runs without any."""
    defaults = load({})
    assert (defaults.store, defaults.node_name) == ("sqlite", platform.node())
    assert str(defaults.agent_socket) == "/run/tortie/agent.sock"
    assert str(defaults.cni_socket) == "/run/tortie/cni.sock"
    assert str(defaults.bgp_socket) == "/run/tortie/bgp.sock"


def test_flags_beat_the_environment_and_it_beats_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each setting by itself."""
    file.write_text('as_number = 1\nmtu_bytes = 1\nhold_time_seconds = 10\nnode_name = "file"\n')
    monkeypatch.setenv("TORTIE_AS_NUMBER", "2")
    monkeypatch.setenv("TORTIE_MTU_BYTES", "2")
    loaded = load({"as_number": "3"})
    assert (loaded.as_number, loaded.mtu_bytes, loaded.hold_time_seconds, loaded.node_name) == (3, 2, 10, "file")


def test_an_unknown_name_in_the_file_is_refused(file: Path) -> None:
    """A setting that was misspelt would silently be left at its default; all of them are named."""
    file.write_text("hold_time = 10\nas_numbr = 5\n")
    message = refusal()
    assert "hold_time: there is no such setting" in message
    assert "as_numbr: there is no such setting" in message
    assert "tortie-agent --help" in message


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("as_number", "0", "greater than or equal to 1"),
        ("as_number", "4294967295", "less than or equal to 4294967294"),
        ("as_number", "many", "valid integer"),
        ("hold_time_seconds", "2", "greater than or equal to 3"),
        ("restart_time_seconds", "4096", "less than or equal to 4095"),
        ("store_timeout_seconds", "0", "greater than 0"),
        ("store", "etcd", "'sqlite' or 'consul'"),
        ("log_level", "loud", "'debug', 'info', 'warning' or 'error'"),
        ("consul_address", "127.0.0.1:8500", "https?://"),
        ("cluster_id", "7", "write four numbers from 0 to 255"),
        ("cluster_id", "0.0.0.0", "names no cluster"),
        ("node_name", "a/b", "pattern"),
        ("node_name", "", "pattern"),
    ],
)
@pytest.mark.parametrize("source", ["flag", "environment", "file"])
def test_a_wrong_value_is_told_with_setting_and_rule(  # noqa: PLR0917  pytest passes them by name
    source: str, name: str, value: str, rule: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it came from."""
    if source == "environment":
        monkeypatch.setenv(f"TORTIE_{name.upper()}", value)
    elif source == "file":
        file.write_text(f'{name} = "{value}"\n')
    message = refusal(**({name: value} if source == "flag" else {}))
    assert f"{name}={value!r}: " in message
    assert rule in message


@pytest.mark.usefixtures("file")
def test_a_host_name_that_cannot_name_a_node_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The default is checked as well."""
    monkeypatch.setattr(platform, "uname", lambda: SimpleNamespace(node="under_score"))
    assert "node_name='under_score': " in refusal()


@pytest.mark.parametrize(
    ("text", "complaint"), [(b"as_number = \n", "line 1"), (b"\xff\xfe", "decode"), (b"as_number = 1\n" * 2, "line 2")]
)
def test_a_file_that_is_not_toml_is_refused(file: Path, text: bytes, complaint: str) -> None:
    """The message names the file and the place."""
    file.write_bytes(text)
    message = refusal()
    assert f"settings file {file} cannot be read" in message
    assert complaint in message


def test_a_file_that_is_asked_for_and_missing_is_refused(file: Path) -> None:
    """TORTIE_CONFIG names it; starting without it would be starting with other settings."""
    file.unlink()
    assert refusal() == f"TORTIE_CONFIG={file}: no such file; create it or unset TORTIE_CONFIG"


@pytest.mark.usefixtures("file")
@pytest.mark.parametrize("value", [None, ""])
def test_the_default_file_need_not_exist(value: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that is empty is one that is not set."""
    monkeypatch.delenv("TORTIE_CONFIG")
    if value is not None:
        monkeypatch.setenv("TORTIE_CONFIG", value)
    monkeypatch.setattr(settings, "DEFAULT_FILE", tmp_path / "none.toml")
    assert load({}).store == "sqlite"
    (tmp_path / "none.toml").write_text('store = "consul"\n')
    assert load({}).store == "consul"


def test_a_variable_of_another_program_is_ignored(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sidecar's begin with TORTIE_ too."""
    monkeypatch.setenv("TORTIE_BGP_SOCKET", "/run/elsewhere.sock")
    assert load({}).bgp_socket.name == "bgp.sock"
    assert file.exists()


@pytest.mark.usefixtures("file")
def test_the_token_is_read_from_its_file_every_time(tmp_path: Path) -> None:
    """Without the line's end; whoever rotates it need not restart anything. The file wins over the value."""
    token_file = tmp_path / "token"
    token_file.write_text(f"{SECRET}\n")
    loaded = load({"consul_token_file": str(token_file), "consul_token": "other"})
    assert loaded.token() == SECRET
    token_file.write_text("next\n")
    assert loaded.token() == "next"
    assert load({"consul_token": "other"}).token() == "other"
    assert load({}).token() is None


@pytest.mark.usefixtures("file")
def test_a_token_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """The message names the file and says what to do, and nothing of what is in it."""
    missing, binary = tmp_path / "missing", tmp_path / "binary"
    binary.write_bytes(SECRET.encode() + b"\xff")
    for path, reason in ((missing, "No such file"), (binary, "holds no text")):
        with pytest.raises(RefusedError, match=f"consul_token_file {path} .*{reason}") as caught:
            load({"consul_token_file": str(path)}).token()
        shown = "".join(traceback.format_exception(caught.value))
        assert SECRET not in shown


@pytest.mark.usefixtures("file")
def test_the_token_shows_nowhere() -> None:
    """Not when settings are printed, nor when they are dumped."""
    loaded = load({"consul_token": SECRET})
    for shown in (repr(loaded), str(loaded), str(loaded.model_dump()), loaded.model_dump_json()):
        assert SECRET not in shown


@pytest.mark.parametrize(
    "text",
    [
        f'consul_tokn = "{SECRET}"\n',
        f'consul_token = ["{SECRET}"]\n',
        f'consul_token = "{SECRET}"\nas_number = 0\n',
        f'consul_token = "{SECRET}"\nunknown = 1\n',
        f'consul_token = "{SECRET}\n',
    ],
)
def test_no_error_tells_the_token(file: Path, text: str) -> None:
    """Neither one about the token, misspelt or of a wrong type, nor one about something else."""
    file.write_text(text)
    assert SECRET not in refusal()


@pytest.mark.usefixtures("file")
def test_help_lists_every_setting() -> None:
    """Each flag with what it means and its default."""
    result = CliRunner().invoke(main, ["--help"], terminal_width=120)
    shown = " ".join(result.output.split())
    assert result.exit_code == 0
    for name, field in Settings.model_fields.items():
        assert f"--{name.replace('_', '-')} " in shown
        assert field.description is not None
        default = "" if field.default_factory else f" [default: {'none' if field.default is None else field.default}]"
        assert field.description + default in shown


def test_a_wrong_setting_ends_the_agent_with_one_line(file: Path) -> None:
    """Exit code 1, and nothing else is printed."""
    file.write_text("as_number = 0\n")
    result = CliRunner().invoke(main, [])
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        "tortie-agent: error: settings: as_number=0: Input should be greater than or equal to 1"
    ]


@pytest.mark.parametrize("source", ["flag", "environment", "table", "text in the file"])
def test_labels_are_taken_from_everywhere(source: str, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one text, or as a table of the file."""
    text = "rack=a, example.org/zone=eu-1,empty="
    if source == "environment":
        monkeypatch.setenv("TORTIE_LABELS", text)
    elif source == "table":
        file.write_text('[labels]\nrack = "a"\n"example.org/zone" = "eu-1"\nempty = ""\n')
    elif source == "text in the file":
        file.write_text(f'labels = "{text}"\n')
    loaded = load({"labels": text} if source == "flag" else {})
    assert loaded.labels == {"rack": "a", "example.org/zone": "eu-1", "empty": ""}


def test_labels_of_the_environment_replace_those_of_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them: a mixture would be nobody's intention. An empty text is no labels."""
    file.write_text('[labels]\nrack = "a"\nzone = "b"\n')
    monkeypatch.setenv("TORTIE_LABELS", "rack=c")
    assert load({}).labels == {"rack": "c"}
    monkeypatch.setenv("TORTIE_LABELS", "")
    assert load({}).labels == {}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("rack", "label 'rack' has no value; write rack=VALUE"),
        ("rack=a,rack=b", "label 'rack' is there twice"),
        ("=a", "label '': a name is"),
        ("-rack=a", "label '-rack': a name is"),
        ("rack a=b", "label 'rack a': a name is"),
        ("räck=b", "label 'räck': a name is"),
        ("zone=b,rack=it's", "label 'rack' has the value \"it's\"; a value is"),
        ("rack=a=b", "label 'rack' has the value 'a=b'; a value is"),
        (f"rack={'x' * 64}", "label 'rack' has the value"),
    ],
)
@pytest.mark.usefixtures("file")
def test_a_bad_label_is_refused_by_name(text: str, complaint: str) -> None:
    """No selector could name it, or match it."""
    assert complaint in refusal(labels=text)


@pytest.mark.parametrize(
    ("text", "complaint"), [("[labels]\nrack = 7\n", "labels.rack=7: "), ("labels = 7\n", "labels=7: ")]
)
def test_labels_of_the_file_are_texts(file: Path, text: str, complaint: str) -> None:
    """The message names the label."""
    file.write_text(text)
    assert complaint in refusal()
