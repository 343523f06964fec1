"""A host that was installed with `charts/host/install host`, booted: systemd as the first process of its namespaces.

It has a network, processes, mounts and control groups of its own; of the kernel's settings it may change the network's
alone, which are of its namespace.
"""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

#: Mounts what systemd expects, as container engines do, and becomes it. $1: the tree, $2: unified or systemd.
_BOOT: Final = """
set -e
tree=$1
mount --bind "$tree" "$tree"
mount -t proc proc "$tree/proc"
mount --bind "$tree/proc/sys" "$tree/proc/sys"
mount --bind "$tree/proc/sys/net" "$tree/proc/sys/net"
mount -o remount,bind,ro "$tree/proc/sys"
mount -t sysfs sysfs "$tree/sys"
case $2 in
    unified) mount -t cgroup2 cgroup2 "$tree/sys/fs/cgroup" ;;
    systemd)
        mount -t tmpfs tmpfs "$tree/sys/fs/cgroup"
        mkdir "$tree/sys/fs/cgroup/systemd"
        mount -t cgroup -o none,name=systemd systemd "$tree/sys/fs/cgroup/systemd" ;;
esac
mount -t tmpfs -o mode=755 tmpfs "$tree/run"
mount -t devpts devpts "$tree/dev/pts"
exec chroot "$tree" env -i container=test PATH=/usr/local/bin:/usr/sbin:/usr/bin /lib/systemd/systemd \
    --system --unit=multi-user.target --log-target=journal
"""
_CONTROL_GROUPS: Final = Path("/sys/fs/cgroup")


class BootedHost:
    """A tree whose systemd runs in a network namespace, until `end`."""

    def __init__(self, tree: Path, namespace: str) -> None:
        self.tree = tree
        self._namespace = namespace
        # Consoles are the machine's, and no part of what is tested.
        for unit in ("getty.target", "console-getty.service"):
            masked = tree / "etc/systemd/system" / unit
            masked.unlink(missing_ok=True)
            masked.symlink_to("/dev/null")
        named = _CONTROL_GROUPS / "systemd"
        self._kind = "systemd" if named.is_dir() else "unified"
        self._group = (named if named.is_dir() else _CONTROL_GROUPS) / f"{namespace}-host"
        self._group.mkdir()
        command = [
            *("sh", "-c", 'echo $$ >"$1/cgroup.procs"; shift; exec "$@"', "sh", str(self._group)),
            *("nsenter", f"--net=/run/netns/{namespace}", "unshare", "--fork", "--kill-child", "--propagation=private"),
            *("--mount", "--pid", "--cgroup", "--ipc", "--uts", "sh", "-c", _BOOT, "sh", str(tree), self._kind),
        ]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def run(self, *command: str, text: str = "") -> str:
        """Run a command there, which must succeed, and return its output."""
        done = subprocess.run(
            self.command(*command),
            input=text,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout

    def command(self, *command: str) -> list[str]:
        """Return the command that runs a command there."""
        first = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        if not first:
            raise RuntimeError("systemd does not run there yet, or no more")
        inside = ["nsenter", f"--target={first[0]}", "--mount", "--pid", "--net", "--root", "--wd"]
        return [*inside, "env", "-i", "PATH=/usr/local/bin:/usr/sbin:/usr/bin", *command]

    def ping(self, address: str) -> subprocess.Popen[str]:
        """Start pinging from the host's network, until SIGINT."""
        command = ["nsenter", f"--net=/run/netns/{self._namespace}", "ping", "-q", "-i", "0.05", address]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def show(self, unit: str, name: str) -> str:
        """Return a property of a unit."""
        return self.run("systemctl", "show", f"--property={name}", "--value", unit).strip()

    def end(self, wait_until: Callable[[Callable[[], object], str], None]) -> None:
        """End everything there, and leave no control group behind."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

        def is_removed() -> bool:
            # From the leaves up, as soon as the kernel has let go of the processes in it.
            for directory, _, _ in os.walk(self._group, topdown=False):
                Path(directory).rmdir()
            return not self._group.exists()

        wait_until(is_removed, f"{self._group} is removed")
