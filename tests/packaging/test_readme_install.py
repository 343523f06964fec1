"""The README's way onto bare hosts: its commands, as they are written, in two trees of nothing but Debian."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT: Final = Path(__file__).parents[2]
README: Final = ROOT / "README.md"
BARE: Final = ROOT / ".tools" / "bookworm"  # the set-up makes it
HOSTS: Final = ("h1", "h2")
#: What a host of Debian has before anything of ours comes: a service manager, and the operator's Consul.
_OF_A_HOST: Final = ("systemd", "iproute2", "iputils-ping")
#: What of our environment concerns how packages are fetched on this machine.
_OF_THE_MACHINE: Final = re.compile(r"PIP_\w+|(https?|no)_proxy", re.IGNORECASE)
#: Where a host has the authorities that this machine trusts.
_AUTHORITIES: Final = "/run/authorities.crt"
#: Becomes a host: its root is an overlay ($1) over the trees below it ($2), then it waits. The rest is shared with the
#: machine: ways to packages.
_BECOME_HOST: Final = r"""
set -e
name=$1 layers=$2 lower=$3; shift 3
mkdir -p "$layers"/upper "$layers"/work "$layers"/root
mount -t overlay overlay -o "lowerdir=$lower,upperdir=$layers/upper,workdir=$layers/work" "$layers/root"
cd "$layers/root"
mount -t proc proc proc
mount -t sysfs sysfs sys
mount --rbind /dev dev
mount -t tmpfs tmpfs run
[ ! -e /etc/ssl/certs/ca-certificates.crt ] || cp /etc/ssl/certs/ca-certificates.crt run/authorities.crt
for path; do
    if [ -d "$path" ]; then mkdir -p ".$path"; else mkdir -p ".${path%/*}"; [ -e ".$path" ] || : > ".$path"; fi
    mount --bind "$path" ".$path"
done
hostname "$name"
if [ -e usr/local/lib/tmpfiles.d ]; then chroot . systemd-tmpfiles --create; fi
ip link set lo up
exec chroot . sleep infinity
"""
#: `systemctl enable --now UNIT...` where systemd does not run: it starts what the units say, as whom they say.
_SYSTEMCTL: Final = r"""#!/bin/bash
set -e
[[ "$1 $2" == "enable --now" ]] || { echo "only enable --now is known here" >&2; exit 1; }
shift 2
for unit; do
    value() { sed -n "s/^$1=//p" "/usr/local/lib/systemd/system/$unit.service"; }
    user=$(value User)
    for directory in $(value RuntimeDirectory); do
        install -d -o "${user:-root}" -g "${user:-root}" -m "$(value RuntimeDirectoryMode)" "/run/$directory"
    done
    for directory in $(value StateDirectory); do install -d -m "$(value StateDirectoryMode)" "/var/lib/$directory"; done
    as=()
    if [[ -n $user ]]; then
        right=$(value AmbientCapabilities); right=+${right,,}; right=${right/cap_/}
        as=(setpriv "--reuid=$user" "--regid=$user" --clear-groups "--inh-caps=$right" "--ambient-caps=$right")
    fi
    "${as[@]}" setsid $(value ExecStart) > "/var/log/$unit.log" 2>&1 < /dev/null &
    if [[ $(value Type) == notify ]]; then until grep -q ': ready node=' "/var/log/$unit.log"; do sleep 0.1; done; fi
done
"""


class Host:
    """One host: a process that waits in namespaces of its own, which end with it."""

    def __init__(self, name: str, layers: Path, lower: list[Path], network: str | None = None) -> None:
        self.name = name
        self._keeper = subprocess.Popen(
            ([] if network is None else ["nsenter", f"--net=/run/netns/{network}"])
            + ["unshare", "--mount", "--uts", "--pid", "--fork"]
            + ["--kill-child", "--propagation", "private", "sh", "-c", _BECOME_HOST, "sh", name, str(layers)]
            + [":".join(map(str, lower)), *_paths_of_the_machine()],
        )
        children = Path(f"/proc/{self._keeper.pid}/task/{self._keeper.pid}/children")
        _wait_until(lambda: self._waits(children), f"{name} is up")
        inside = children.read_text().split()[0]
        self._enter = ("nsenter", "--target", inside, "--mount", "--uts", "--net", "--pid", "--root", "--wd")

    def run(self, commands: str, *, seconds: float = 120) -> str:
        """Run commands in a root shell in the clone, and return what they print."""
        environment = {name: value for name, value in os.environ.items() if _OF_THE_MACHINE.fullmatch(name)}
        environment |= dict.fromkeys(("PIP_CERT", "SSL_CERT_FILE"), _AUTHORITIES)
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        done = subprocess.run(
            [*self._enter, "bash", "-ec", f"cd /root/tortie\n{commands}"],
            env={**environment, "HOME": "/root", "DEBIAN_FRONTEND": "noninteractive", "PATH": path},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        assert done.returncode == 0, f"{self.name}: {commands}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    def works(self, command: str) -> bool:
        """Return whether a command ends well at present."""
        try:
            self.run(command)
        except AssertionError:
            return False
        return True

    def end(self) -> None:
        """End everything that runs on it."""
        self._keeper.kill()
        self._keeper.wait()

    def _waits(self, children: Path) -> bool:
        assert self._keeper.poll() is None, f"{self.name} did not come up"
        found = children.read_text().split()
        return bool(found) and Path(f"/proc/{found[0]}/comm").read_text() == "sleep\n"


@pytest.fixture(scope="module")
def scratch() -> Iterator[Path]:
    """Give a directory in memory, outside of any overlay."""
    directory = Path(f"/tmp/tt-{os.getpid()}-readme")  # noqa: S108  named after this process, and made by nobody else
    directory.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(directory)], check=True)
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=False)
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="module")
def networks() -> Iterator[dict[str, str]]:
    """Join a namespace for each host by a link, with the README's addresses and a way out; give their names."""
    names = {host: f"tt-{os.getpid()}-{host}" for host in HOSTS}
    first, second = names.values()
    try:
        for name in names.values():
            subprocess.run(["ip", "netns", "add", name], check=True)
        link = ["ip", "-n", first, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", second]
        subprocess.run(link, check=True)
        for number, name in enumerate(names.values(), 1):
            for words in (f"address add 192.0.2.{number}/24 dev eth0", "link set eth0 up"):
                subprocess.run(["ip", "-n", name, *words.split()], check=True)
            subprocess.run(["ip", "-n", name, "route", "add", "default", "via", "192.0.2.254"], check=True)
        yield names
    finally:
        for name in names.values():
            subprocess.run(["ip", "netns", "delete", name], check=False)


@pytest.fixture(scope="module")
def hosts(scratch: Path, networks: dict[str, str], consul_program: str) -> Iterator[dict[str, Host]]:
    """Bring up the hosts on which the first commands of the README, the same on each, are done.

    They are done once, in a tree of which each host then is a layer: what they fetch is fetched once.
    """
    common = scratch / "common"
    for content, target in ((Path(consul_program).read_bytes(), "consul"), (_SYSTEMCTL.encode(), "systemctl")):
        program = common / "upper" / "usr" / "local" / "bin" / target
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_bytes(content)
        program.chmod(0o755)
    ours = shutil.ignore_patterns("__pycache__", "tests")
    for name in ("bgp", "charts", "controller", "ipam"):
        shutil.copytree(ROOT / name, common / "upper" / "root" / "tortie" / name, ignore=ours)
    for name in ("LICENSE", "README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, common / "upper" / "root" / "tortie" / name)
    made: list[Host] = []
    try:
        made.append(Host("common", common, [BARE]))
        made[0].run(f"apt-get -qq update; apt-get -qq install --yes --no-install-recommends {' '.join(_OF_A_HOST)}")
        made[0].run(_blocks()[0][1])
        made[0].end()
        made += [Host(name, scratch / name, [common / "upper", BARE], networks[name]) for name in HOSTS]
        yield {host.name: host for host in made[1:]}
    finally:
        for host in made:
            host.end()


def test_two_hosts_are_a_cluster_by_copy_and_paste(hosts: dict[str, Host]) -> None:
    """Each command does what it says, and the last ones show a cluster that works."""
    *blocks, (_, last) = _blocks()[1:]
    for where, commands in blocks:
        for name in HOSTS if where == "every host" else (where,):
            hosts[name].run(commands)
            if "consul agent" in commands:  # a person is slower than Consul, and than BGP
                hosts[name].run("until consul members > /dev/null 2>&1; do sleep 0.1; done")
    _wait_until(lambda: all(host.works("tortiectl node status") for host in hosts.values()), "all are ready")
    shown = hosts["h1"].run(last)
    assert "3 packets transmitted, 3 received" in shown
    assert re.search(r"^10\.244\.97\.128/26 via 192\.0\.2\.2 ", shown, re.MULTILINE)
    assert re.search(r"^h1 .*\n(.*\n)*h2 ", shown, re.MULTILINE)
    for host in hosts.values():
        status = host.run("tortiectl node status -o json")
        assert '"problems": []' in status


def _blocks() -> list[tuple[str, str]]:
    """Return where, and which, commands the README has for bare hosts, in their order."""
    section = README.read_text().partition("\n## Install on bare hosts\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"```sh\n# on (every host|h1|h2)\b.*\n((?:.*\n)*?)```", section)
    assert len(blocks) == section.count("```sh"), "a block does not say where it is for"
    assert blocks[0][0] == "every host"
    return blocks


def _paths_of_the_machine() -> list[str]:
    """Return what leads to packages here: names, certificates, and directories that pip is told to look in."""
    told = subprocess.run(["pip", "config", "list"], check=False, capture_output=True, text=True).stdout
    local = [path for path in re.findall(r"(?:file://|(?<=['\s]))(/[\w./-]+)", told) if "/ssl/" not in path]
    return [path for path in ("/etc/resolv.conf", "/etc/hosts", "/etc/pip.conf", *local) if Path(path).exists()]


def _wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within 60 s: {what}")
        time.sleep(0.05)
