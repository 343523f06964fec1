"""The CNI plugin in Python: what `tortie-cni.c` does, byte for byte, for development where nothing is compiled.

It hands its environment, its standard input and an open descriptor of the container's network namespace to the agent,
and gives back the agent's answer. Only VERSION is answered here.
"""

from __future__ import annotations

import array
import errno
import os
import select
import socket
import struct
import sys
import time

from controller.cni import protocol
from controller.cni.configuration_scan import find_member

DEADLINE_SECONDS = 60  # for the whole call; container runtimes give up after minutes

_INVALID_ENVIRONMENT, _IO_FAILURE, _DECODE_FAILURE, _INVALID_CONFIG, _TRY_AGAIN_LATER = 4, 5, 6, 7, 11
_PLUGIN_NOT_AVAILABLE = 50
_MAX_PATH_BYTES = 107  # sun_path holds 108 with the zero byte (unix(7))
_SHOWN_PATH_BYTES = 200
_MAX_VERSION_BYTES = 16
_READ_BYTES = 1 << 16
_PRINTABLE = range(0x20, 0x7F)
_UNAVAILABLE_ADVICE = (
    "start tortie-agent on this node, or set agent_socket in the network configuration to the agent's socket"
)


class _Failure(Exception):
    """What the caller is told instead of a result."""

    def __init__(self, code: int, message: bytes, details: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details


class _Deadline:
    """The moment by which everything must be done."""

    def __init__(self) -> None:
        self._end = time.monotonic() + DEADLINE_SECONDS

    def milliseconds(self) -> int:
        """Return what is left of the time."""
        return max(0, int((self._end - time.monotonic()) * 1000))

    def arm(self, connection: socket.socket, option: int) -> None:
        """Let the next blocking call on the socket end with EAGAIN at the deadline; connect(2) honours it too."""
        left = self.milliseconds()
        if left == 0:  # a zero limit would mean none
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        connection.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", left // 1000, left % 1000 * 1000))


def main() -> int:
    """Serve one call of a container runtime and return the exit status."""
    deadline = _Deadline()
    version = protocol.DEFAULT_CNI_VERSION.encode()
    try:
        command = _command()
        standard_input = _read_input(deadline)
        version = _chosen_version(standard_input)
        if command == b"VERSION":
            status, output = 0, _versions(version)
        else:
            status, output = _ask_agent(_socket_path(standard_input), standard_input, deadline)
    except _Failure as failure:
        status, output = 1, _error(version, failure)
    return status if _write_all(output) else 1


def _command() -> bytes:
    command = os.environb.get(b"CNI_COMMAND")
    if not command:
        raise _Failure(
            _INVALID_ENVIRONMENT,
            b"CNI_COMMAND is not set",
            "this is a CNI plugin: a container runtime runs it, with CNI_COMMAND set",
        )
    return command


def _versions(version: bytes) -> bytes:
    spoken = ",".join(f'"{known}"' for known in protocol.CNI_VERSIONS)
    return b'{"cniVersion":"%s","supportedVersions":[%s]}\n' % (version, spoken.encode())


def _error(version: bytes, failure: _Failure) -> bytes:
    quoted = bytearray()
    for byte in failure.message:
        if byte in b'"\\':
            quoted += b"\\"
        quoted.append(byte if byte in _PRINTABLE else ord("?"))
    return b'{"cniVersion":"%s","code":%d,"msg":"%s","details":"%s"}\n' % (
        version,
        failure.code,
        bytes(quoted),
        failure.details.encode(),
    )


def _write_all(output: bytes) -> bool:
    while output:
        try:
            output = output[os.write(1, output) :]
        except OSError:
            return False
    return True


def _read_input(deadline: _Deadline) -> bytes:
    """Return the whole of standard input."""
    chunks = bytearray()
    poll = select.poll()
    poll.register(0, select.POLLIN)
    try:
        while True:
            if not poll.poll(deadline.milliseconds()):
                raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
            try:
                chunk = os.read(0, _READ_BYTES)
            except BlockingIOError:
                continue
            if not chunk:
                return bytes(chunks)
            chunks += chunk
            if len(chunks) > protocol.MAX_INPUT_BYTES:
                raise _Failure(
                    _DECODE_FAILURE,
                    b"the network configuration on standard input is larger than %d bytes" % protocol.MAX_INPUT_BYTES,
                    "shorten the network configuration",
                )
    except OSError as error:
        raise _Failure(
            _IO_FAILURE,
            b"standard input cannot be read: " + os.strerror(error.errno or 0).encode(),
            "the network configuration is expected there, up to the end of the file",
        ) from error


def _chosen_version(standard_input: bytes) -> bytes:
    """Return the caller's version for the answer, if it looks like one."""
    version = find_member(standard_input, b"cniVersion") or b""
    if 0 < len(version) <= _MAX_VERSION_BYTES and not version.strip(b".0123456789"):
        return version
    return protocol.DEFAULT_CNI_VERSION.encode()


def _socket_path(standard_input: bytes) -> bytes:
    path = find_member(standard_input, b"agent_socket")
    if path is None:
        return protocol.DEFAULT_SOCKET.encode()
    if not path.startswith(b"/") or b"\0" in path or len(path) > _MAX_PATH_BYTES:
        shown = path.partition(b"\0")[0][:_SHOWN_PATH_BYTES]
        raise _Failure(
            _INVALID_CONFIG,
            b"agent_socket %s is not an absolute path of at most %d bytes" % (shown, _MAX_PATH_BYTES),
            "set agent_socket to the agent's cni.sock, or leave it out",
        )
    return path


def _ask_agent(path: bytes, standard_input: bytes, deadline: _Deadline) -> tuple[int, bytes]:
    """Return the agent's exit status and output."""
    environment = b"".join(
        b"%s=%s\0" % (name, value) for name, value in os.environb.items() if name.startswith(b"CNI_")
    )
    if len(environment) > protocol.MAX_ENVIRONMENT_BYTES:
        raise _Failure(
            _INVALID_ENVIRONMENT,
            b"the CNI_ variables are larger than %d bytes" % protocol.MAX_ENVIRONMENT_BYTES,
            "shorten CNI_ARGS",
        )
    namespace, namespace_errno = _open_namespace()
    request = protocol.encode_request(namespace_errno, environment, standard_input)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as agent:
            deadline.arm(agent, socket.SO_SNDTIMEO)
            agent.connect(path)
            _send_request(agent, namespace, request, deadline)
            header = _receive_exactly(agent, protocol.REPLY_HEADER.size, deadline)
            status, output_bytes = protocol.decode_reply_header(header)
            return status, _receive_exactly(agent, output_bytes, deadline)
    except BlockingIOError as error:
        raise _unavailable(path, f"did not answer within {DEADLINE_SECONDS} seconds") from error
    except EOFError as error:
        raise _unavailable(path, "hung up without an answer") from error
    except OSError as error:
        raise _unavailable(path, f"cannot be reached: {os.strerror(error.errno or 0)}") from error
    except protocol.ProtocolError as error:
        raise _unavailable(path, "sent no answer of this plugin's protocol") from error
    finally:
        if namespace is not None:
            os.close(namespace)


def _unavailable(path: bytes, what: str) -> _Failure:
    code = _PLUGIN_NOT_AVAILABLE if os.environb.get(b"CNI_COMMAND") == b"STATUS" else _TRY_AGAIN_LATER
    return _Failure(code, b"the tortie agent at %s %s" % (path, what.encode()), _UNAVAILABLE_ADVICE)


def _open_namespace() -> tuple[int | None, int]:
    """Return the namespace's descriptor and 0, or None and the errno. O_NONBLOCK: a FIFO must not hold us."""
    try:
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        return os.open(os.environb.get(b"CNI_NETNS", b""), flags), 0
    except OSError as error:
        return None, error.errno or errno.EIO


def _send_request(agent: socket.socket, namespace: int | None, request: bytes, deadline: _Deadline) -> None:
    """Send the request, the descriptor with its first byte. An agent that hangs up has answered already."""
    rights = []
    if namespace is not None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [namespace]))]
    rest = memoryview(request)
    try:
        while rest:
            deadline.arm(agent, socket.SO_SNDTIMEO)
            rest = rest[agent.sendmsg([rest], rights, socket.MSG_NOSIGNAL) :]
            rights = []
    except (BrokenPipeError, ConnectionResetError):
        return


def _receive_exactly(agent: socket.socket, length: int, deadline: _Deadline) -> bytes:
    """Return exactly that many bytes; raises EOFError when the agent hung up before."""
    received = bytearray()
    while len(received) < length:
        deadline.arm(agent, socket.SO_RCVTIMEO)
        chunk = agent.recv(min(_READ_BYTES, length - len(received)))
        if not chunk:
            raise EOFError
        received += chunk
    return bytes(received)


if __name__ == "__main__":
    sys.exit(main())
