"""What the plugin's program does, in C and in Python: one suite, the same bytes."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controller.cni import protocol, shim
from controller.cni.configuration_scan import find_member

if TYPE_CHECKING:
    from collections.abc import Callable
    from socket import socket
    from typing import TypeAlias

    from tests.contract.cni.conftest import FakeAgent, Program, Received

    Receive: TypeAlias = Callable[[socket], Received]

ADVICE = "start tortie-agent on this node, or set agent_socket in the network configuration to the agent's socket"
VERSIONS = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]


def configuration(path: Path | str, **more: object) -> bytes:
    """Return a network configuration that names this socket."""
    fields = {"cniVersion": "1.0.0", "name": "net", "capabilities": {"a": ["}", '"']}, **more}
    return json.dumps({**fields, "agent_socket": str(path), "kubernetes": None}).encode()


def expected_error(code: int, message: str, details: str, version: str = "1.0.0") -> bytes:
    """Return the exact bytes of an error."""
    fields = {"cniVersion": version, "code": code, "msg": message, "details": details}
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


@pytest.mark.parametrize(
    ("status", "output"), [(0, b""), (0, b'{"a":1}\n'), (1, b"\x00\xff" * 1000), (255, b"x" * (1 << 20))]
)
def test_request_and_answer_pass_unchanged(
    program: Program, agent: FakeAgent, receive: Receive, status: int, output: bytes
) -> None:
    """The agent gets input, CNI variables and the namespace; the runtime gets its bytes and exit status."""
    text = configuration(agent.path, padding="p" * 300_000)
    environment = {"CNI_COMMAND": "ADD", "CNI_ARGS": "K=V;X=Y=Z", "CNI_NETNS": "/proc/self/ns/net", "CNIX": "no"}
    running = program.start(text, environment)
    with agent.accept() as connection:
        received = receive(connection)
        connection.sendall(protocol.encode_reply(status, output))
    assert running.outcome().__dict__ == {"status": status, "output": output, "errors": b""}
    assert received.environment == [b"CNI_ARGS=K=V;X=Y=Z", b"CNI_COMMAND=ADD", b"CNI_NETNS=/proc/self/ns/net"]
    assert received.standard_input == text
    assert received.namespace_errno == 0
    assert received.inode == Path("/proc/self/ns/net").stat().st_ino


@pytest.mark.parametrize(
    ("environment", "number"),
    [
        ({}, errno.ENOENT),
        ({"CNI_NETNS": ""}, errno.ENOENT),
        ({"CNI_NETNS": "/run/netns/gone-for-ever"}, errno.ENOENT),
        ({"CNI_NETNS": "/dev/null/x"}, errno.ENOTDIR),
        ({"CNI_NETNS": "/" + "n" * 300}, errno.ENAMETOOLONG),
    ],
)
def test_a_namespace_that_is_gone_is_reported_to_the_agent(
    program: Program, agent: FakeAgent, receive: Receive, environment: dict[str, str], number: int
) -> None:
    """The agent learns why there is no descriptor and decides: DEL must succeed, ADD must not."""
    running = program.start(configuration(agent.path), {"CNI_COMMAND": "DEL", **environment})
    with agent.accept() as connection:
        received = receive(connection)
        connection.sendall(protocol.encode_reply(0, b""))
    assert running.outcome().status == 0
    assert (received.namespace_errno, received.inode) == (number, None)


def test_a_namespace_path_that_is_a_fifo_holds_nobody(
    program: Program, agent: FakeAgent, receive: Receive, tmp_path: Path
) -> None:
    """Opening never waits for a writer."""
    os.mkfifo(tmp_path / "fifo")
    running = program.start(configuration(agent.path), {"CNI_COMMAND": "ADD", "CNI_NETNS": str(tmp_path / "fifo")})
    with agent.accept() as connection:
        assert receive(connection).inode is not None
        connection.sendall(protocol.encode_reply(0, b""))
    assert running.outcome().status == 0


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (b'{"cniVersion":"0.4.0"}', "0.4.0"),
        (b' {"x" : {"cniVersion":"9"}, "cniVersion" : "1\\u002e0.0" } ', "1.0.0"),
        (b'{"cniVersion":"0.3.1","cniVersion":"1.0.0"}', "1.0.0"),
        (b'{"cniVersion":"0.3.1","cniVersion":1}', "1.1.0"),
        (b'{"cniVersion":"1.0\\"}"}', "1.1.0"),
        (b'{"cniVersion":"0.4.0"', "1.1.0"),
        (b'{"cniVersion":"0.4.0","x":"\\\0"}', "1.1.0"),
        (b'{"cniVersion":"0.4.0","x":[1,{"cniVersion":"2"}]]}', "1.1.0"),
        (b'{"x":[1,{"cniVersion":"2"}],"cniVersion":"0.4.0"}', "0.4.0"),
        (b'{"cniVersion":""}', "1.1.0"),
        (b'["cniVersion"]', "1.1.0"),
        (b"{}", "1.1.0"),
        (b"", "1.1.0"),
    ],
)
def test_version_is_answered_without_an_agent(program: Program, text: bytes, version: str) -> None:
    """The answer repeats the caller's version and lists those spoken."""
    outcome = program.run(text, CNI_COMMAND="VERSION")
    answer = json.dumps({"cniVersion": version, "supportedVersions": VERSIONS}, separators=(",", ":")).encode() + b"\n"
    assert (outcome.status, outcome.output, outcome.errors) == (0, answer, b"")


@pytest.mark.parametrize("text", [b'{"cniVersion":"1.0.0"}', b'{"cniVersion":"1.0.0","agent_socket":7}'])
def test_an_agent_that_is_not_there_is_try_again_later(program: Program, text: bytes) -> None:
    """The message names the socket, the reason and the way out."""
    outcome = program.run(text, CNI_COMMAND="ADD")
    message = f"the tortie agent at {program.default_socket} cannot be reached: No such file or directory"
    assert (outcome.status, outcome.output, outcome.errors) == (1, expected_error(11, message, ADVICE), b"")


def test_status_without_an_agent_is_not_available(program: Program) -> None:
    """A runtime asks whether the node can attach containers, and without an agent it cannot."""
    outcome = program.run(b'{"cniVersion":"1.1.0"}', CNI_COMMAND="STATUS")
    message = f"the tortie agent at {program.default_socket} cannot be reached: No such file or directory"
    assert (outcome.status, outcome.output) == (1, expected_error(50, message, ADVICE, "1.1.0"))


def test_a_socket_nobody_listens_on_is_try_again_later(program: Program, agent: FakeAgent) -> None:
    """An agent that died leaves its socket behind."""
    agent.close()
    outcome = program.run(configuration(agent.path), CNI_COMMAND="ADD")
    message = f"the tortie agent at {agent.path} cannot be reached: Connection refused"
    assert outcome.output == expected_error(11, message, ADVICE)


@pytest.mark.parametrize(
    "path", ["", "relative", "\U0001f600 pair", "/with\0zero", "/" + "x" * 107, '/"quoted\\\n\u00e9' + "y" * 5000]
)
def test_a_socket_path_that_cannot_be_one_is_refused(program: Program, path: str) -> None:
    """The caller is told the rule and the value, shortened and printable."""
    outcome = program.run(configuration(path), CNI_COMMAND="ADD")
    shown = path.partition("\0")[0].encode()[:200].decode("latin-1")
    shown = "".join(character if " " <= character <= "~" else "?" for character in shown)
    message = f"agent_socket {shown} is not an absolute path of at most 107 bytes"
    details = "set agent_socket to the agent's cni.sock, or leave it out"
    assert outcome.output == expected_error(7, message, details)


def test_the_longest_socket_path_works(program: Program) -> None:
    """107 bytes reach the kernel."""
    path = "/" + "x" * 106
    outcome = program.run(configuration(path), CNI_COMMAND="ADD")
    assert (
        json.loads(outcome.output)["msg"] == f"the tortie agent at {path} cannot be reached: No such file or directory"
    )


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (b"", "hung up without an answer"),
        (b"TCNI\0\0", "hung up without an answer"),
        (protocol.encode_reply(0, b"abc")[:-1], "hung up without an answer"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "sent no answer of this plugin's protocol"),
        (protocol.REPLY_HEADER.pack(b"TCNI", 256, 0), "sent no answer of this plugin's protocol"),
        (protocol.REPLY_HEADER.pack(b"TCNI", 0, (1 << 20) + 1), "sent no answer of this plugin's protocol"),
        (protocol.REPLY_HEADER.pack(b"TCNI", 0, 0xFFFFFFFF), "sent no answer of this plugin's protocol"),
    ],
)
def test_an_agent_that_breaks_off_or_babbles_is_try_again_later(
    program: Program, agent: FakeAgent, receive: Receive, answer: bytes, complaint: str
) -> None:
    """Half an answer is never printed."""
    running = program.start(configuration(agent.path), {"CNI_COMMAND": "ADD"})
    with agent.accept() as connection:
        receive(connection)
        connection.sendall(answer)
    outcome = running.outcome()
    assert outcome.output == expected_error(11, f"the tortie agent at {agent.path} {complaint}", ADVICE)
    assert (outcome.status, outcome.errors) == (1, b"")


def test_an_answer_before_the_end_of_the_request_counts(program: Program, agent: FakeAgent) -> None:
    """An agent that refuses at the header hangs up with most of the request unread."""
    running = program.start(configuration(agent.path, padding="p" * 1_000_000), {"CNI_COMMAND": "ADD"})
    with agent.accept() as connection:
        connection.recv(1)
        connection.sendall(protocol.encode_reply(3, b"refused"))
    assert (running.outcome().status, running.process.returncode) == (3, 3)


def test_an_answer_may_come_byte_by_byte(program: Program, agent: FakeAgent, receive: Receive) -> None:
    """Reads may be as short as they like."""
    running = program.start(configuration(agent.path), {"CNI_COMMAND": "ADD"})
    with agent.accept() as connection:
        receive(connection)
        for byte in protocol.encode_reply(0, b"slowly"):
            connection.sendall(bytes([byte]))
    assert running.outcome().output == b"slowly"


def test_a_silent_agent_is_given_up_at_the_deadline(impatient_program: Program, agent: FakeAgent) -> None:
    """No call hangs for ever."""
    running = impatient_program.start(configuration(agent.path), {"CNI_COMMAND": "ADD"})
    with agent.accept():
        outcome = running.outcome()
    message = f"the tortie agent at {agent.path} did not answer within 1 seconds"
    assert (outcome.status, outcome.output) == (1, expected_error(11, message, ADVICE))


def test_an_agent_that_does_not_read_is_given_up_at_the_deadline(impatient_program: Program, agent: FakeAgent) -> None:
    """A full socket buffer does not hold the program."""
    text = configuration(agent.path, padding="p" * 1_000_000)
    outcome = impatient_program.run(text, CNI_COMMAND="ADD")
    assert json.loads(outcome.output)["msg"].endswith("did not answer within 1 seconds")


def test_input_that_never_ends_is_given_up_at_the_deadline(impatient_program: Program) -> None:
    """A runtime that leaves the pipe open learns what was expected."""
    reading, writing = os.pipe()
    try:
        outcome = impatient_program.start(reading, {"CNI_COMMAND": "ADD"}).outcome()
    finally:
        os.close(reading)
        os.close(writing)
    details = "the network configuration is expected there, up to the end of the file"
    assert outcome.output == expected_error(5, "standard input cannot be read: Connection timed out", details, "1.1.0")


def test_input_that_cannot_be_read_is_an_input_error(program: Program) -> None:
    """What the kernel says is passed on."""
    descriptor = os.open("/dev/null", os.O_WRONLY)
    try:
        outcome = program.start(descriptor, {"CNI_COMMAND": "ADD"}).outcome()
    finally:
        os.close(descriptor)
    assert json.loads(outcome.output)["code"] == 5
    assert json.loads(outcome.output)["msg"] == "standard input cannot be read: Bad file descriptor"


def test_too_much_input_is_refused(program: Program, agent: FakeAgent, receive: Receive) -> None:
    """One MiB passes, one byte more does not."""
    whole = configuration(agent.path).ljust(1 << 20)
    running = program.start(whole, {"CNI_COMMAND": "ADD"})
    with agent.accept() as connection:
        assert receive(connection).standard_input == whole
        connection.sendall(protocol.encode_reply(0, b""))
    assert running.outcome().status == 0
    outcome = program.run(whole + b" ", CNI_COMMAND="ADD")
    message = "the network configuration on standard input is larger than 1048576 bytes"
    assert outcome.output == expected_error(6, message, "shorten the network configuration", "1.1.0")


def test_too_large_an_environment_is_refused(program: Program, agent: FakeAgent) -> None:
    """It is said before the agent is asked."""
    big = {f"CNI_X{index}": "x" * 100_000 for index in range(3)}
    outcome = program.run(configuration(agent.path), CNI_COMMAND="ADD", **big)
    assert outcome.output == expected_error(4, "the CNI_ variables are larger than 262144 bytes", "shorten CNI_ARGS")


@pytest.mark.parametrize("environment", [{}, {"CNI_COMMAND": ""}])
def test_a_person_who_runs_it_by_hand_is_told_what_it_is(program: Program, environment: dict[str, str]) -> None:
    """Without CNI_COMMAND it reads nothing and says so."""
    outcome = program.run(b"", **environment)
    details = "this is a CNI plugin: a container runtime runs it, with CNI_COMMAND set"
    assert (outcome.status, outcome.output) == (1, expected_error(4, "CNI_COMMAND is not set", details, "1.1.0"))


def test_a_closed_standard_output_is_a_failure(program: Program) -> None:
    """The program ends with status 1 and not by a signal."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ended = subprocess.run(
            program.command,
            cwd=Path.cwd(),
            env={"PATH": os.environ["PATH"], "CNI_COMMAND": "VERSION"},
            stdin=subprocess.DEVNULL,
            stdout=writing,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    finally:
        os.close(writing)
    assert (ended.returncode, ended.stderr) == (1, b"")


texts = st.text(max_size=20) | st.sampled_from(
    ["agent_socket", "cniVersion", "1.0.0", "/nowhere/x", "\ud83d", "\\u0041"]
)
documents = st.dictionaries(
    st.sampled_from(["agent_socket", "cniVersion", "other"]) | texts,
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
        max_leaves=8,
    ),
    max_size=5,
)


@st.composite
def written(draw: st.DrawFn) -> bytes:
    """Return a JSON object in one of the ways to write it."""
    text = json.dumps(draw(documents), ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, 0, 2])))
    return text.encode("utf-8", "surrogatepass")


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Return a JSON object with a few bytes changed, missing or too many."""
    text = bytearray(draw(written()))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(text)))
        text[at : at + draw(st.integers(0, 3))] = draw(
            st.sampled_from([b'"', b"\\", b"\\u", b"{", b"}", b",", b":", b"]", b"\0"]) | st.binary(max_size=3)
        )
    return bytes(text)


@given(text=written(), name=st.sampled_from(["agent_socket", "cniVersion", "other"]))
@settings(max_examples=300, deadline=None)
def test_the_scanner_agrees_with_a_json_parser(text: bytes, name: str) -> None:
    """On every valid object it finds the top-level string the parser finds."""
    value = json.loads(text.decode("utf-8", "surrogatepass")).get(name)
    expected = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else None
    assert find_member(text, name.encode()) == expected


@given(text=damaged() | st.binary(max_size=60))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_both_programs_say_the_same_about_anything(make_program: Callable[[str, int], Program], text: bytes) -> None:
    """Whatever stands on standard input, the C program breaks no rule of C and agrees with its twin."""
    program = make_program("c", 60)
    outcome = program.run(text, CNI_COMMAND="ADD")
    known, protocol.DEFAULT_SOCKET = protocol.DEFAULT_SOCKET, program.default_socket
    try:
        with pytest.raises(shim._Failure) as raised:
            shim._ask_agent(shim._socket_path(text), text, shim._Deadline())
    finally:
        protocol.DEFAULT_SOCKET = known
    assert outcome.output == shim._error(shim._chosen_version(text), raised.value)
    assert (outcome.status, outcome.errors) == (1, b"")
