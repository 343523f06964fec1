"""How the plugin's short-lived program and the agent talk over a unix stream socket: one request, one reply.

Every number is unsigned and in network byte order. The request is

    4 bytes   magic, `TCNI`
    2 bytes   protocol version, 1
    2 bytes   0 with the network namespace's descriptor attached (SCM_RIGHTS, with the first byte), else the errno that
              opening CNI_NETNS gave (ENOENT also when it is unset or empty) and no descriptor
    4 bytes   length of the environment, at most MAX_ENVIRONMENT_BYTES
    4 bytes   length of the standard input, at most MAX_INPUT_BYTES
    the environment: every variable that starts with `CNI_`, as `NAME=VALUE`, each followed by a zero byte
    the standard input, as it came

and the reply, after which the agent closes the connection,

    4 bytes   magic, `TCNI`
    4 bytes   exit status of the program, at most 255
    4 bytes   length of the output, at most MAX_OUTPUT_BYTES
    the bytes for standard output

The reply carries no version and never changes, so that an agent can tell a program of another release what is wrong.
`tortie-cni.c` holds the same numbers. This module imports next to nothing: the program's start is paid for each call.
"""

from __future__ import annotations

import struct

DEFAULT_SOCKET = "/run/tortie/cni.sock"
MAGIC = b"TCNI"
VERSION = 1
REQUEST_HEADER = struct.Struct("!4sHHII")
REPLY_HEADER = struct.Struct("!4sII")
MAX_INPUT_BYTES = 1 << 20
MAX_ENVIRONMENT_BYTES = 1 << 18
MAX_OUTPUT_BYTES = 1 << 20
MAX_EXIT_STATUS = 255

#: The versions of the CNI specification that are spoken, oldest first.
CNI_VERSIONS = ("0.3.1", "0.4.0", "1.0.0", "1.1.0")
#: The version an answer carries when the caller named none.
DEFAULT_CNI_VERSION = CNI_VERSIONS[-1]


#: The CNI error in place of an answer that is too large, for version and sizes.
_TOO_LARGE = (
    b'{"cniVersion":"%s","code":999,"msg":"defect in the tortie agent: its answer has %d bytes, which is more than %d",'
    b'"details":"the agent\'s log may say more"}\n'
)


class ProtocolError(Exception):
    """The other side does not speak this protocol; the message says what it sent."""


def encode_request(namespace_errno: int, environment: bytes, standard_input: bytes) -> bytes:
    """Return a whole request; both parts must be within their bounds."""
    header = REQUEST_HEADER.pack(MAGIC, VERSION, namespace_errno, len(environment), len(standard_input))
    return header + environment + standard_input


def decode_request_header(header: bytes) -> tuple[int, int, int]:
    """Return errno for the namespace, length of the environment and of the input; raises `ProtocolError`."""
    magic, version, namespace_errno, environment_bytes, input_bytes = REQUEST_HEADER.unpack(header)
    if magic != MAGIC:
        raise ProtocolError(f"the request starts with {magic!r} instead of {MAGIC!r}: this is no CNI plugin of tortie")
    if version != VERSION:
        raise ProtocolError(
            f"the plugin speaks protocol version {version}, this agent version {VERSION}: "
            "install the plugin of the agent's release"
        )
    if environment_bytes > MAX_ENVIRONMENT_BYTES or input_bytes > MAX_INPUT_BYTES:
        raise ProtocolError(
            f"the request announces {environment_bytes} bytes of environment and {input_bytes} of input: "
            f"at most {MAX_ENVIRONMENT_BYTES} and {MAX_INPUT_BYTES} are taken"
        )
    return namespace_errno, environment_bytes, input_bytes


def encode_reply(exit_status: int, output: bytes) -> bytes:
    """Return a whole reply; one that says so, if the output is larger than the program takes."""
    if len(output) > MAX_OUTPUT_BYTES:
        exit_status, output = 1, _TOO_LARGE % (DEFAULT_CNI_VERSION.encode(), len(output), MAX_OUTPUT_BYTES)
    return REPLY_HEADER.pack(MAGIC, exit_status, len(output)) + output


def decode_reply_header(header: bytes) -> tuple[int, int]:
    """Return the exit status and the length of the output; raises `ProtocolError`."""
    magic, exit_status, output_bytes = REPLY_HEADER.unpack(header)
    if magic != MAGIC or exit_status > MAX_EXIT_STATUS or output_bytes > MAX_OUTPUT_BYTES:
        raise ProtocolError("it sent no answer of this protocol")
    return exit_status, output_bytes
