"""Three Consul servers in one network namespace, each on a loopback address of its own, to be killed and cut off."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import time
from enum import Enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ADDRESSES: Final = ("127.0.0.2", "127.0.0.3", "127.0.0.4")
_DEADLINE_SECONDS: Final = 60.0
_HTTP_PORT: Final = 8500


class Cut(Enum):
    """What of a server's traffic is dropped, as nftables rules; where it arrives, so that the sender is told nothing.

    What a server says to itself needs no network.
    """

    #: Everything: the others elect a leader without it, if it was theirs.
    OFF = "ip saddr {0} ip daddr {0} accept; ip saddr {0} drop; ip daddr {0} drop"
    #: Its answers to clients: what they ask for is done, and they do not hear of it.
    MUTE = "ip saddr {0} tcp sport {1} drop"
    #: The requests of clients: what they give up waiting for arrives once the cut is healed.
    DEAF = "ip daddr {0} tcp dport {1} drop"


class Cluster:
    """Three servers of one cluster; whoever talks to them runs in the namespace that this process was in."""

    def __init__(self, program: str, directory: Path) -> None:
        self._program = program
        self._directory = directory
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._cut: str | None = None

    @staticmethod
    def url(address: str) -> str:
        """Return where a server's HTTP API is."""
        return f"http://{address}:{_HTTP_PORT}"

    def start(self, address: str) -> None:
        """Start a server, with the data it had before, without waiting."""
        directory = self._directory / address
        directory.mkdir(exist_ok=True)
        configuration = {
            "server": True,
            "bootstrap_expect": len(ADDRESSES),
            "node_name": address.replace(".", "-"),
            "bind_addr": address,
            "client_addr": address,
            "data_dir": str(directory / "data"),
            "ports": {"http": _HTTP_PORT, "dns": -1, "serf_wan": -1},
            "retry_join": list(ADDRESSES),
            "retry_interval": "1s",
            "performance": {"raft_multiplier": 1},
            "autopilot": {"cleanup_dead_servers": False},
            "disable_update_check": True,
        }
        (directory / "consul.json").write_text(json.dumps(configuration))
        with (directory / "log").open("ab") as log:
            self._processes[address] = subprocess.Popen(
                [self._program, "agent", "-config-file", str(directory / "consul.json")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "GOMAXPROCS": "2"},
            )

    def kill(self, address: str) -> None:
        """End a server as a crash would."""
        process = self._processes.pop(address)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def cut(self, address: str, kind: Cut) -> None:
        """Drop what this kind of cut says between a server and everybody else, until `heal`."""
        rules = kind.value.format(address, _HTTP_PORT)
        chain = f"type filter hook input priority 0;\n{rules}"
        subprocess.run(["nft", f"table inet cut {{\nchain input {{\n{chain}\n}}\n}}"], check=True)
        self._cut = address

    def heal(self) -> None:
        """Let all packets through again."""
        subprocess.run(["nft", "delete", "table", "inet", "cut"], check=True)
        self._cut = None

    def reachable(self) -> list[str]:
        """Return the servers that run and are not cut off."""
        return [address for address in self._processes if address != self._cut]

    def leader(self) -> str | None:
        """Return the leader that every reachable server knows and that answers; None while there is no such."""
        reachable = self.reachable()
        known = {_asked(address, "/v1/status/leader") for address in reachable}
        leader = str(known.pop()).strip('"').partition(":")[0] if len(known) == 1 else None
        answering = all(_asked(address, "/v1/kv/any?keys&consistent") is not None for address in reachable)
        return leader if leader in reachable and answering else None

    def wait_for_leader(self, *, other_than: str | None = None) -> str:
        """Return the leader once all reachable servers follow it; not `other_than`."""
        return _waited(lambda: leader if (leader := self.leader()) != other_than else None, "a leader")

    def stop(self) -> None:
        """End every server that runs."""
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.wait()
        self._processes = {}

    def logs(self) -> str:
        """Return the end of every server's log."""
        return "\n".join(f"{path}:\n{path.read_text()[-1500:]}" for path in sorted(self._directory.glob("*/log")))


def _asked(address: str, path: str) -> str | None:
    """Return a server's answer, empty for what there is not; None if it has no answer."""
    connection = http.client.HTTPConnection(address, _HTTP_PORT, timeout=2)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read().decode()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    return body if response.status in (http.HTTPStatus.OK, http.HTTPStatus.NOT_FOUND) else None


def _waited(condition: Callable[[], str | None], what: str) -> str:
    deadline = time.monotonic() + _DEADLINE_SECONDS
    while (found := condition()) is None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {_DEADLINE_SECONDS} s there is still not {what}")
        time.sleep(0.05)
    return found
