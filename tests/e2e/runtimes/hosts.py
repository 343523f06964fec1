"""Hosts of a lab as a container runtime finds them: processes, mounts and files of their own beside the network."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tests.e2e.runtimes.image import IMAGE, image_archive

if TYPE_CHECKING:
    from collections.abc import Callable

    from controller.lab.lab import Lab

_DEADLINE_SECONDS = 30.0
_COMMAND_SECONDS = 90.0
#: Where runtimes keep, or look for, what is this host's alone.
_PRIVATE = ("run", "dev/shm", "var/lib", "opt", "etc/cni")
#: The network behind the bridge beside ours: the same on every host, because no other host sees it.
BRIDGED = "10.99.0.0/24"
#: Debian's plugins.
_PLUGINS = Path("/usr/lib/cni")
#: Past any proxy that this machine may have for its own.
_FETCH = """
import sys, urllib.request
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
print(opener.open(sys.argv[1], timeout=2).read().decode(), end="")
"""
_FILES = {
    # Limits that root can set even where it may not raise its own.
    "containers.conf": """
        [containers]
        default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
        [network]
        network_backend = "cni"
        network_config_dir = "/etc/cni/net.d"
        cni_plugin_dirs = ["/opt/cni/bin"]
        default_network = "tortie"
        [engine]
        runtime = "runc"
        cgroup_manager = "cgroupfs"
        events_logger = "none"
        lock_type = "file"
        """,
    "storage.conf": """
        [storage]
        driver = "vfs"
        runroot = "/run/containers/storage"
        graphroot = "/var/lib/containers/storage"
        """,
    "containerd.toml": """
        version = 2
        disabled_plugins = ["io.containerd.grpc.v1.cri"]
        """,
}


class RuntimeHost:
    """A host of a lab in which every process of a runtime sees this host's files, and ends when the host is removed.

    Its processes have a process namespace: with its first one the kernel kills all of them. They have a mount
    namespace, which ends with the last of them. What a runtime finds is the lab's network, with Debian's plugin that
    publishes ports chained to it, and a network behind a bridge beside it.
    """

    def __init__(self, lab: Lab, name: str) -> None:
        self.lab = lab
        self.name = name
        self.directory = Path(tempfile.mkdtemp(prefix=f"tt-runtime-{name}-"))
        self.cgroup = f"/tt-{os.getpid()}-{lab.name}-{name}"
        self.address, self.address6 = (str(each) for each in lab.layout().addresses(lab.layout().host(name)))
        self._starter: subprocess.Popen[bytes] | None = None
        self._first = 0
        self._launched: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Make the host's files and its first process."""
        for part in _PRIVATE:
            (self.directory / part).mkdir(parents=True)
        for name, text in _FILES.items():
            (self.directory / name).write_text("\n".join(line.strip() for line in text.splitlines()))
        self._configure_network()
        # The lab's state has to be seen in this host's own /run: the agent listens there.
        state = self.lab.layout().state
        lines = [f"mkdir {self.directory}{state} && mount --rbind {state} {self.directory}{state}"]
        lines += [f"mount --rbind {self.directory}/{part} /{part}" for part in _PRIVATE]
        # The shell stays, and collects the processes that others leave behind.
        script = " && ".join([*lines, "echo ready", "{ sleep infinity & wait; }"])
        apart = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc"]
        command, settings = self.lab.command(self.name, [*apart, "sh", "-c", script])
        with (self.directory / "first.log").open("wb") as log:
            self._starter = subprocess.Popen(
                command, env=settings, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log
            )
        assert self._starter.stdout is not None
        with self._starter.stdout as said:
            assert said.readline() == b"ready\n", (self.directory / "first.log").read_text()
        self._first = int(Path(f"/proc/{self._starter.pid}/task/{self._starter.pid}/children").read_text())

    def load_into_podman(self) -> None:
        """Give podman the image."""
        self.run("podman", "load", text=image_archive())

    def attempt(self, *arguments: str, text: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run something as a process of this host to its end."""
        # Into files: what it starts in the background would hold a pipe open.
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
            done = subprocess.run(
                self._command(*arguments),
                input=text,
                stdout=output,
                stderr=errors,
                timeout=_COMMAND_SECONDS,
                check=False,
            )
            for file in (output, errors):
                file.seek(0)
            return subprocess.CompletedProcess(arguments, done.returncode, output.read(), errors.read())

    def run(self, *arguments: str, text: bytes = b"") -> str:
        """Return what a command printed; fail with its errors."""
        done = self.attempt(*arguments, text=text)
        assert done.returncode == 0, f"{' '.join(arguments)}: {done.stderr.decode()}\n{self.agent_log()}"
        return done.stdout.decode().strip()

    def launch(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a command that goes on, with its output in the file `launched.log` of this host."""
        with (self.directory / "launched.log").open("ab") as log:
            launched = subprocess.Popen(self._command(*arguments), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._launched.append(launched)
        return launched

    def podman(self, *arguments: str) -> str:
        """Return what a podman command printed; fail with its errors."""
        return self.run("podman", *arguments)

    def podman_run(self, name: str, *options: str, command: tuple[str, ...] = ("sleep", "infinity")) -> None:
        """Have podman run a container of this name in the background."""
        common = ("--detach", "--name", name, "--cgroup-parent", self.cgroup, "--stop-signal", "KILL")
        self.podman("run", *common, *options, IMAGE, *command)

    def podman_addresses(self, name: str, network: str = "tortie") -> tuple[str, str]:
        """Return the addresses, IPv4 first, that podman has learned from the plugin; empty where there is none."""
        found = json.loads(
            self.podman("inspect", "--format", f"{{{{json .NetworkSettings.Networks.{network}}}}}", name)
        )
        return found["IPAddress"], found["GlobalIPv6Address"]

    def serve(self, name: str, *options: str, port: int = 80) -> None:
        """Have podman run a container that answers with its own name, and writes who asks."""
        command = f"echo {name} > /www/index.html; exec httpd -f -v -p {port} -h /www"
        self.podman_run(name, *options, command=("sh", "-c", command))

    def got(self, name: str, url: str) -> str | None:
        """Return what a container of podman gets from an address, None if nothing within two seconds."""
        done = self.attempt("podman", "exec", name, "timeout", "2", "wget", "-q", "-O-", url)
        return done.stdout.decode() if done.returncode == 0 else None

    def agent_log(self) -> str:
        """Return the end of the agent's log."""
        return self.lab.log(f"{self.name}/agent").read_text()[-2000:]

    def links(self) -> list[str]:
        """Return the host's ends of its containers' links."""
        found = json.loads(self.lab.run(self.name, ["ip", "-j", "link", "show", "type", "veth"]).stdout)
        return sorted(link["ifname"] for link in found if link["ifname"] != "eth0")

    def traces(self) -> dict[str, list[str]]:
        """Return everything that a container could leave behind in the network of this host.

        Without the blocks of others, which come and go by themselves.
        """
        queries = {
            "routes": ["ip", "-4", "route", "show", "proto", "116", "scope", "link"],
            "routes of IPv6": ["ip", "-6", "route", "show", "proto", "116", "metric", "1024"],
            "neighbours": ["ip", "neigh", "show", "nud", "permanent"],
        }
        found = {
            what: sorted(line for line in self.lab.run(self.name, query).stdout.splitlines() if " dev tor" in line)
            for what, query in queries.items()
        }
        rules = self.lab.run(self.name, ["nft", "list", "ruleset"]).stdout.splitlines()
        return {"links": self.links(), **found, "published": [line for line in rules if " dport " in line]}

    def remove(self) -> None:
        """End every process of this host and remove its files, however they are."""
        if self._starter is not None:
            if self._first:
                os.kill(self._first, signal.SIGKILL)
            else:
                self._starter.kill()
        for process in (self._starter, *self._launched):
            if process is not None:
                process.wait(timeout=_DEADLINE_SECONDS)
        for top in Path("/sys/fs/cgroup").rglob(self.cgroup.lstrip("/")):
            for group in sorted((path for path in [top, *top.rglob("*")] if path.is_dir()), reverse=True):
                wait_until(partial(_removed, group), f"no process is left in {group}")
        shutil.rmtree(self.directory)

    def _command(self, *arguments: str) -> list[str]:
        """Return the command line that runs something as a process of this host, in an environment of its own."""
        settings = {
            "PATH": f"{os.environ.get('PATH', '')}:{os.defpath}:/usr/sbin:/sbin",
            "CONTAINERS_CONF": f"{self.directory}/containers.conf",
            "CONTAINERS_STORAGE_CONF": f"{self.directory}/storage.conf",
            "HOME": "/run",
        }
        enter = ["nsenter", "--target", str(self._first), "--net", "--mount", "--pid"]
        return [*enter, "env", "-i", *(f"{name}={value}" for name, value in settings.items()), *arguments]

    def _configure_network(self) -> None:
        networks, programs = self.directory / "etc/cni/net.d", self.directory / "opt/cni/bin"
        networks.mkdir()
        programs.mkdir(parents=True)
        lab_files = self.lab.layout().directory(self.lab.layout().host(self.name)) / "cni"
        ours = json.loads((lab_files / "net.d" / "10-tortie.conf").read_text())
        whole = {"cniVersion": "0.4.0", "name": ours["name"]}
        publish = {"type": "portmap", "capabilities": {"portMappings": True}}
        mine = {key: value for key, value in ours.items() if key not in whole}
        (networks / "10-tortie.conflist").write_text(json.dumps({**whole, "plugins": [mine, publish]}))
        bridge = {
            "type": "bridge",
            "bridge": "beside0",
            "isGateway": True,
            "ipMasq": True,
            "ipam": {"type": "host-local", "ranges": [[{"subnet": BRIDGED}]], "routes": [{"dst": "0.0.0.0/0"}]},
        }
        whole["name"] = "beside"
        (networks / "20-beside.conflist").write_text(json.dumps({**whole, "plugins": [bridge, publish]}))
        for plugin in (lab_files / "bin" / "tortie-cni", *_PLUGINS.iterdir()):
            (programs / plugin.name).symlink_to(plugin)


def wait_until(condition: Callable[[], object], what: str, *, seconds: float = _DEADLINE_SECONDS) -> None:
    """Return when a condition holds; raises `TimeoutError` when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds} s: {what}")
        time.sleep(0.05)


def fetch(lab: Lab, place: str, url: str) -> str | None:
    """Return what a host of the lab gets from an address, None if nothing within two seconds."""
    done = lab.run(place, [sys.executable, "-I", "-c", _FETCH, url])
    return done.stdout if done.returncode == 0 else None


def _removed(group: Path) -> bool:
    try:
        group.rmdir()
    except OSError:
        return False
    return True
