"""Real dockerds on the hosts of a lab, each with files, mounts and a plugin directory of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from controller.lab.network import NAMESPACES
from controller.lab.processes import processes_in

if TYPE_CHECKING:
    from collections.abc import Callable

    from controller.lab.lab import Lab

_DEADLINE_SECONDS = 60.0
_APPLETS = ("sh", "timeout", "httpd", "wget", "ip", "sleep")


def _image() -> bytes:
    """Return a root file system of the static busybox and one page."""
    busybox = shutil.which("busybox")
    assert busybox is not None, "no busybox on PATH; ./bootstrap test installs it"
    content = BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.add(busybox, "bin/busybox")
        for applet in _APPLETS:
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(link)
        page = tarfile.TarInfo("www/index.html")
        page.size = len(b"here\n")
        archive.addfile(page, BytesIO(b"here\n"))
    return content.getvalue()


class DockerHost:
    """A host of a lab with an agent that serves Docker and with a dockerd, both in the test's hands."""

    def __init__(self, lab: Lab, name: str) -> None:
        self.lab = lab
        self.name = name
        self.directory = Path(tempfile.mkdtemp(prefix=f"tt-docker-{name}-"))
        self._run = self.directory / "run"
        self._run.mkdir()
        self._daemon: subprocess.Popen[bytes] | None = None
        self._mounts: subprocess.Popen[bytes] | None = None
        self.agent: subprocess.Popen[bytes] | None = None

    @property
    def plugin_socket(self) -> Path:
        """Where the agent serves dockerd: /run/docker/plugins as this dockerd sees it."""
        return self._run / "docker" / "plugins" / "tortie.sock"

    def start_agent(self, *, until: Callable[[], bool] | None = None) -> None:
        """Start the agent in place of the lab's and wait until it serves Docker, or until something else is so."""
        self.lab.stop(f"{self.name}/agent")
        command, settings = self.lab.command(self.name, ["tortie-agent"])
        settings |= {
            "TORTIE_DOCKER_PLUGIN_SOCKET": str(self.plugin_socket),
            "TORTIE_DOCKER_STATE_PATH": str(self.directory / "docker.json"),
        }
        with (self.directory / "agent.log").open("ab") as log:
            self.agent = subprocess.Popen(command, env=settings, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._wait(until or self.plugin_socket.exists, "the agent serves")

    def stop_agent(self, number: int = signal.SIGTERM) -> None:
        """End the agent with a signal."""
        if self.agent is not None:
            self.agent.send_signal(number)
            self.agent.wait(timeout=_DEADLINE_SECONDS)
            self.agent = None

    def start_dockerd(self, *options: str) -> None:
        """Start dockerd and wait until it answers; it finds forwarding off, as on a host that was just installed."""
        if not (self.directory / "data").exists():
            self.lab.run(self.name, ["sysctl", "-qw", "net.ipv4.ip_forward=0"])
        daemon = (
            f"dockerd --data-root {self.directory}/data --exec-root {self.directory}/exec --pidfile "
            f"{self.directory}/docker.pid --host {self._address} --storage-driver vfs --shutdown-timeout 5"
        )
        enter = ["nsenter", f"--mount=/proc/{self._mounts_holder()}/ns/mnt"]
        command, settings = self.lab.command(self.name, [*enter, *daemon.split(), *options])
        with (self.directory / "dockerd.log").open("ab") as log:
            self._daemon = subprocess.Popen(command, env=settings, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._wait(lambda: self._docker("version").returncode == 0, "dockerd answers")
        if "busybox" not in self.docker("images"):
            self._docker("import", "-", "busybox", text=_image())

    def _mounts_holder(self) -> int:
        """Return the process that keeps this host's mounts from one dockerd to the next: its containers' namespaces."""
        if self._mounts is None:
            private = f"mount --bind {self._run} /run && mkdir -p /run/docker && echo ready && exec sleep infinity"
            self._mounts = subprocess.Popen(
                ["unshare", "--mount", "--propagation", "private", "sh", "-c", private], stdout=subprocess.PIPE
            )
            assert self._mounts.stdout is not None
            with self._mounts.stdout as said:
                assert said.readline() == b"ready\n"
        return self._mounts.pid

    def kill_dockerd(self) -> None:
        """Kill dockerd, and with it containerd: the containers go on."""
        containerd = int((self.directory / "exec" / "containerd" / "containerd.pid").read_text())
        self._end_dockerd(signal.SIGKILL)
        # The next dockerd would wait for one that has died and was not reaped yet.
        self._wait(lambda: not Path(f"/proc/{containerd}").exists(), "containerd has ended")

    def stop_dockerd(self) -> None:
        """Have dockerd end by itself, with its containers."""
        self._end_dockerd(signal.SIGTERM)

    def docker(self, *arguments: str) -> str:
        """Return what a docker command printed; fail with its errors."""
        done = self._docker(*arguments)
        assert done.returncode == 0, f"docker {' '.join(arguments)}: {done.stderr.decode()}\n{self.logs()}"
        return done.stdout.decode().strip()

    def attempt(self, *arguments: str) -> str | None:
        """Return what a docker command printed, None if it failed."""
        done = self._docker(*arguments)
        return done.stdout.decode().strip() if done.returncode == 0 else None

    def refused(self, *arguments: str) -> str:
        """Return the errors of a docker command that fails."""
        done = self._docker(*arguments)
        assert done.returncode != 0, f"docker {' '.join(arguments)} did not fail"
        return done.stderr.decode()

    def logs(self) -> str:
        """Return the ends of the two logs."""
        return "\n".join((self.directory / log).read_text()[-3000:] for log in ("agent.log", "dockerd.log"))

    def remove(self) -> None:
        """End everything, however it is, and remove the files."""
        if self._daemon is not None and self._daemon.poll() is None:
            containers = self._docker("ps", "-aq").stdout.decode().split()
            if containers:
                self._docker("rm", "-f", *containers)
            self.stop_dockerd()
        self.stop_agent(signal.SIGKILL)
        status = (NAMESPACES / self.lab.layout().namespace(self.name)).stat()
        # A container's processes are in a namespace of its own; the shim they descend from is in the host's.
        for process in _with_descendants(processes_in([(status.st_dev, status.st_ino)])):
            try:
                if str(self.directory) in Path(f"/proc/{process}/cgroup").read_text() or _belongs(
                    process, self.directory
                ):
                    os.kill(process, signal.SIGKILL)
            except (ProcessLookupError, FileNotFoundError):
                continue
        if self._mounts is not None:
            self._mounts.kill()
            self._mounts.wait(timeout=_DEADLINE_SECONDS)
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def _address(self) -> str:
        return f"unix://{self.directory}/docker.sock"

    def _docker(self, *arguments: str, text: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        # Debian's own client, which speaks this dockerd's API, wherever another one is first on PATH.
        program = "/usr/bin/docker" if Path("/usr/bin/docker").exists() else "docker"
        return subprocess.run(
            [program, "--host", self._address, *arguments], input=text, capture_output=True, timeout=90, check=False
        )

    def _end_dockerd(self, number: int) -> None:
        if self._daemon is not None:
            self._daemon.send_signal(number)
            self._daemon.wait(timeout=_DEADLINE_SECONDS)
            self._daemon = None

    def _wait(self, condition: object, what: str) -> None:
        assert callable(condition)
        deadline = time.monotonic() + _DEADLINE_SECONDS
        while not condition():
            assert time.monotonic() < deadline, f"not within {_DEADLINE_SECONDS} s: {what}\n{self.logs()}"
            time.sleep(0.05)


def _belongs(process: int, directory: Path) -> bool:
    """Tell whether a process or the one that started it was started with this directory's files."""
    commands = Path(f"/proc/{process}/cmdline").read_bytes(), Path(f"/proc/{_parent(process)}/cmdline").read_bytes()
    return any(str(directory).encode() in command for command in commands)


def _parent(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def _with_descendants(processes: list[int]) -> list[int]:
    found = set(processes)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if _parent(int(entry.name)) in found:
                    found.add(int(entry.name))
            except (FileNotFoundError, ProcessLookupError):
                continue
    return sorted(found)
