"""The supervisor, as seen by who operates the lab: how it is started and asked."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final

from controller.errors import RefusedError, TransientError
from controller.lab.layout import FABRIC
from controller.lab.services import enter, environment
from controller.lab.supervisor import control_socket

if TYPE_CHECKING:
    from controller.lab.layout import Layout

_ANSWER_SECONDS: Final = 15.0


class SupervisorUnavailable(TransientError):
    """The lab's supervisor does not answer."""


def start_supervisor(layout: Layout, lock: int) -> None:
    """Start the lab's supervisor in a session of its own, detached from this process and its files.

    It holds the lab's lock until it runs in its namespace: before that the lab's removal could not find it.
    """
    command = ("setsid", "--fork", *enter(layout.namespace(FABRIC)), sys.executable, "-m", "controller.lab.supervisor")
    with layout.log("supervisor").open("ab") as output:
        subprocess.run(
            (*command, layout.name, str(lock)),
            env=environment(layout, None),
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=(lock,),
            check=True,
        )


def ask(lab: str, do: str, service: str = "") -> dict[str, dict[str, Any]]:
    """Send one request and return the state of every service after it.

    Raises `SupervisorUnavailable` when nobody answers, `RefusedError` when the request is refused.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_ANSWER_SECONDS)
            connection.connect(str(control_socket(lab)))
            connection.sendall(json.dumps({"do": do, "service": service}).encode() + b"\n")
            with connection.makefile("rb") as answers:
                answer = json.loads(answers.readline())
    except (OSError, ValueError) as error:
        raise SupervisorUnavailable(
            f"the supervisor of lab {lab} does not answer ({error}); "
            f"`tortiectl lab up --name {lab}` builds the lab anew"
        ) from error
    if "error" in answer:
        raise RefusedError(answer["error"])
    services: dict[str, dict[str, Any]] = answer["services"]
    return services
