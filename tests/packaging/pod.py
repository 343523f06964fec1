"""A pod of the chart on a host that a test makes: what kubelet and runtime would do with its containers, and no more.

Each container runs in the image's tree with its own user, groups, capabilities, mounts, environment and command, in a
mount namespace of its own and in the host's network, as the pod says. /proc/sys is read-only, as runtimes have it.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import shlex
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.packaging.dockerfile import Stage

#: Makes the container of a tree: mounts are given as SOURCE TARGET MODE, and end with --.
_CONTAINER: Final = """
set -e
tree=$1 writable=$2; shift 2
mount --bind "$tree" "$tree"
mount -t proc proc "$tree/proc"
mount --bind "$tree/proc/sys" "$tree/proc/sys"
mount -o remount,bind,ro "$tree/proc/sys"
mount --bind /dev "$tree/dev"
mount -t tmpfs tmpfs "$tree/run"
while [ "$1" != -- ]; do
    if [ -d "$1" ]; then mkdir -p "$tree$2"; else mkdir -p "$tree${2%/*}"; : >"$tree$2"; fi
    mount --bind "$1" "$tree$2"
    [ "$3" = rw ] || mount -o remount,bind,ro "$tree$2"
    shift 3
done
shift
[ "$writable" = yes ] || mount -o remount,bind,ro "$tree/run"
[ "$writable" = yes ] || mount -o remount,bind,ro "$tree"
exec chroot "$tree" "$@"
"""


#: What is in each Secret, by its key.
Secrets: TypeAlias = "Mapping[str, Mapping[str, str]]"


@dataclass(frozen=True, slots=True)
class Host:
    """The files of a host, below a directory, where the pod's host paths are."""

    root: Path
    name: str
    namespace: str
    address: str

    def path(self, path: str) -> Path:
        """Return where a path of the host is here; what belongs to the kernel is the machine's own."""
        return Path(path) if path.startswith("/proc/") else self.root / path.lstrip("/")


class Pod:
    """The pod of a rendered DaemonSet; its processes run until `stop`."""

    def __init__(self, image: Stage, host: Host, documents: Mapping[str, Any], secrets: Secrets) -> None:
        self._image = image
        self._host = host
        self._spec = documents["DaemonSet"]["spec"]["template"]["spec"]
        host.root.mkdir(parents=True, exist_ok=True)
        self._files = Path(tempfile.mkdtemp(prefix="pod-", dir=host.root))
        self._volumes = {volume["name"]: self._make(volume, documents, secrets) for volume in self._spec["volumes"]}
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def initialise(self) -> None:
        """Run the init containers to their end, one after the other."""
        for container in self._spec["initContainers"]:
            done = subprocess.run(self._command(container), check=False, capture_output=True, env={}, text=True)
            if done.returncode:
                raise RuntimeError(f"{container['name']} ended with {done.returncode}: {done.stdout}{done.stderr}")

    def start(self, name: str, without: Sequence[str] = ()) -> None:
        """Start a container, which gets all its capabilities but those named."""
        container = self._container(name)
        with self.log(name).open("ab") as log:
            self._running[name] = subprocess.Popen(
                self._command(container, without=without),
                env={},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def stop(self, name: str) -> None:
        """End a container as kubelet does; what does not end by itself is killed."""
        process = self._running.pop(name)
        for number, deadline_seconds in ((signal.SIGTERM, 20.0), (signal.SIGKILL, 10.0)):
            if process.poll() is None:
                for first in _children(process.pid):
                    os.kill(first, number)
                try:
                    process.wait(deadline_seconds)
                except subprocess.TimeoutExpired:
                    continue

    def stop_all(self) -> None:
        """End every container, the first started last."""
        for name in reversed(tuple(self._running)):
            self.stop(name)

    def is_running(self, name: str) -> bool:
        """Tell whether the container's process is there."""
        return name in self._running and self._running[name].poll() is None

    def probe(self, name: str, probe: str) -> int:
        """Ask what a probe of a container asks, and return the HTTP status."""
        return self.answer(name, probe)[0]

    def answer(self, name: str, probe: str) -> tuple[int, str]:
        """Ask what a probe of a container asks, and return the HTTP status and the text."""
        container = self._container(name)
        asked = container[probe]["httpGet"]
        (port,) = [each["containerPort"] for each in container["ports"] if each["name"] == asked["port"]]
        with contextlib.closing(http.client.HTTPConnection(self._host.address, port, timeout=10)) as connection:
            connection.request("GET", asked["path"])
            response = connection.getresponse()
            return response.status, response.read().decode()

    def process(self, name: str) -> int:
        """Return the container's first process: the only child of unshare(1), which waits for it."""
        (first,) = _children(self._running[name].pid)
        return first

    def children_of(self, name: str) -> list[int]:
        """Return the processes that the container's first process runs."""
        return _children(self.process(name))

    def log(self, name: str) -> Path:
        """Return the file of what a container says."""
        return self._files / f"{name}.log"

    def execute(self, name: str, *command: str, text: str = "", without: Sequence[str] = ()) -> str:
        """Run a command that must succeed as kubectl exec would, and return its output."""
        container = {**self._container(name), "command": list(command), "args": []}
        done = subprocess.run(
            self._command(container, without),
            check=False,
            capture_output=True,
            env={},
            input=text,
            text=True,
            timeout=60,
        )
        if done.returncode:
            raise RuntimeError(f"{shlex.join(command)} ended with {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout

    def _container(self, name: str) -> dict[str, Any]:
        found: dict[str, Any]
        (found,) = [each for each in self._spec["containers"] if each["name"] == name]
        return found

    def _command(self, container: Mapping[str, Any], without: Sequence[str] = ()) -> list[str]:
        """Return the command that makes the container and becomes its process."""
        context = container["securityContext"]
        mounts: list[str] = []
        for mount in container["volumeMounts"]:
            source = self._volumes[mount["name"]] / mount.get("subPath", "")
            mounts += [str(source), mount["mountPath"], "ro" if mount.get("readOnly") else "rw"]
        environment = {"HOME": "/", **self._image.environment}
        for variable in container.get("env", ()):
            field = variable.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
            environment[variable["name"]] = {"spec.nodeName": self._host.name}[field] if field else variable["value"]
        return [
            *("nsenter", f"--net=/run/netns/{self._host.namespace}"),
            *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"),
            *(
                "sh",
                "-c",
                _CONTAINER,
                "sh",
                str(self._image.tree),
                "no" if context["readOnlyRootFilesystem"] else "yes",
            ),
            *mounts,
            "--",
            *_privileges(context, self._spec["securityContext"]["supplementalGroups"], without),
            *("env", "-i", *(f"{name}={value}" for name, value in environment.items())),
            *container["command"],
            *container.get("args", ()),
        ]

    def _make(self, volume: Mapping[str, Any], documents: Mapping[str, Any], secrets: Secrets) -> Path:
        """Return the place of a volume's files, which are there."""
        place = self._files / str(volume["name"])
        match volume:
            case {"hostPath": {"path": str(path), "type": kind}}:
                place = self._host.path(path)
                if kind == "DirectoryOrCreate":
                    place.mkdir(parents=True, exist_ok=True)
                elif kind == "FileOrCreate":
                    place.parent.mkdir(parents=True, exist_ok=True)
                    place.touch()
            case {"configMap": {"name": name}}:
                assert documents["ConfigMap"]["metadata"]["name"] == name
                place.mkdir(parents=True)
                for key, text in documents["ConfigMap"]["data"].items():
                    (place / key).write_text(text)
            case {"secret": {"secretName": name, "items": items, "defaultMode": mode}}:
                place.mkdir(parents=True)
                for item in items:
                    (place / item["path"]).write_text(secrets[name][item["key"]])
                    (place / item["path"]).chmod(mode)
            case _:
                raise ValueError(f"{volume}: this volume is not understood here")
        return place


def _privileges(context: Mapping[str, Any], groups: Sequence[int], without: Sequence[str]) -> list[str]:
    """Return setpriv(1) with what a runtime gives the process: one that is not root has no capability, only a bound."""
    capabilities = context["capabilities"]
    assert capabilities["drop"] == ["ALL"]
    kept = [f"+{name.lower()}" for name in capabilities.get("add", ()) if name not in without]
    user, group = context["runAsUser"], context.get("runAsGroup", 0)
    return [
        "setpriv",
        f"--reuid={user}",
        f"--regid={group}",
        f"--groups={','.join(map(str, groups))}",
        "--inh-caps=-all",
        f"--bounding-set={','.join(['-all', *kept])}",
        *([] if context["allowPrivilegeEscalation"] else ["--no-new-privs"]),
    ]


def _children(process: int) -> list[int]:
    return [int(text) for text in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
