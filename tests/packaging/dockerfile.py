"""The Dockerfile's steps, followed in bare trees of Debian: what a container engine would do, without one.

An instruction that is not understood is refused, so that no step of the Dockerfile is left out here.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: What of our environment concerns how packages are fetched on this machine.
_OF_THE_MACHINE: Final = re.compile(r"PIP_\w+|SSL_CERT_FILE|REQUESTS_CA_BUNDLE|(https?|no)_proxy", re.IGNORECASE)
#: How long a tree is kept that nobody asks for, in seconds: a week.
_KEPT_SECONDS: Final = 7 * 24 * 3600.0
#: Enters the tree named first, with what building needs of the machine, which goes with the mount namespace.
_INSIDE: Final = """
set -e
tree=$1; shift
mount --bind "$tree" "$tree"
mount -t proc proc "$tree/proc"
mount --bind /dev "$tree/dev"
mount -t tmpfs tmpfs "$tree/run"
[ ! -e /etc/ssl/certs/ca-certificates.crt ] || cp /etc/ssl/certs/ca-certificates.crt "$tree/run/authorities.crt"
while [ "$1" != -- ]; do
    if [ -d "$1" ]; then mkdir -p "$tree$1"; else mkdir -p "$tree${1%/*}"; [ -e "$tree$1" ] || : >"$tree$1"; fi
    mount --bind "$1" "$tree$1"
    shift
done
shift
exec chroot "$tree" "$@"
"""


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction with its continued lines joined: `COPY --from=build /a /b` has the words after COPY."""

    name: str
    text: str


@dataclass(slots=True)
class Stage:
    """A tree that is being built, and what its later commands get."""

    tree: Path
    environment: dict[str, str] = field(default_factory=lambda: {"PATH": _PATH})
    command: list[str] = field(default_factory=list)


def parse(text: str) -> list[Instruction]:
    """Return the instructions; comments and blank lines are gone, continued lines joined."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [Instruction(*line.split(maxsplit=1)) for line in joined.splitlines()]


class ImageBuilder:
    """Follows a Dockerfile; what its steps have made of nothing but Debian is kept in `cache` for the next time."""

    def __init__(self, context: Path, base: Path, cache: Path, trees: Path) -> None:
        self._context = context
        self._base = base
        self._cache = cache
        self._trees = trees
        self._stages: dict[str, Stage] = {}
        #: Every instruction that was followed, in order.
        self.followed: list[Instruction] = []

    def build(self, instructions: Sequence[Instruction]) -> Stage:
        """Return the last stage once all instructions were followed."""
        for stage_number, stage_instructions in enumerate(_stages(instructions)):
            stage = self._start(stage_number, stage_instructions[0])
            names = [instruction.name for instruction in stage_instructions]
            of_debian = stage_instructions[1 : names.index("COPY")]
            self._begin(stage, of_debian)
            for instruction in stage_instructions[1 + len(of_debian) :]:
                self._follow(stage, instruction)
            self.followed += stage_instructions
        self._forget_outdated()
        return stage

    def _start(self, number: int, instruction: Instruction) -> Stage:
        match instruction.text.split():
            case ["debian:bookworm-slim", *name]:
                stage = Stage(self._trees / str(number))
                self._stages[name[-1] if name else ""] = stage
                return stage
        raise ValueError(f"FROM {instruction.text}: only debian:bookworm-slim can be made here")

    def _begin(self, stage: Stage, instructions: Sequence[Instruction]) -> None:
        """Follow what comes before anything of ours is copied in, each step from the cache if it is there.

        Such a step follows from Debian and from the texts up to it alone.
        """
        kept = [self._kept(instructions[: count + 1]) for count in range(len(instructions))]
        done = max((count for count, place in enumerate(kept, 1) if place.is_dir()), default=0)
        _copy_tree(kept[done - 1] if done else self._base, stage.tree)
        if done:
            os.utime(kept[done - 1])
        for instruction in instructions[:done]:
            if instruction.name != "RUN":
                self._follow(stage, instruction)
        for instruction, place in zip(instructions[done:], kept[done:], strict=True):
            self._follow(stage, instruction)
            if instruction.name == "RUN":
                _copy_tree(stage.tree, place.with_suffix(".new"))
                os.utime(place.with_suffix(".new"))
                place.with_suffix(".new").rename(place)

    def _kept(self, instructions: Sequence[Instruction]) -> Path:
        """Return where the tree after these instructions is kept."""
        text = repr([self._base.stat().st_mtime_ns, [each for each in instructions if each.name != "LABEL"]])
        return self._cache / hashlib.sha256(text.encode()).hexdigest()[:16]

    def _forget_outdated(self) -> None:
        """Remove from the cache what nobody has asked for lately."""
        for place in self._cache.iterdir():
            if time.time() - place.stat().st_mtime > _KEPT_SECONDS:
                shutil.rmtree(place)

    def _follow(self, stage: Stage, instruction: Instruction) -> None:
        match instruction.name:
            case "RUN":
                run(stage, ["/bin/sh", "-c", instruction.text])
            case "COPY":
                self._copy(stage, shlex.split(instruction.text))
            case "ENV":
                name, _, value = instruction.text.partition("=")
                stage.environment[name] = value
            case "CMD":
                stage.command = json.loads(instruction.text)
            case "LABEL":
                pass  # it is about the image, not in it
            case name:
                raise ValueError(f"{name}: this instruction is not understood here")

    def _copy(self, stage: Stage, words: list[str]) -> None:
        source = self._context
        if words[0].startswith("--from="):
            source = self._stages[words.pop(0).removeprefix("--from=")].tree
        *names, target = words
        for name in names:
            path = source / name.lstrip("/")
            # A directory's contents go into the target; a file goes into it where it ends in a slash.
            place = stage.tree / target.lstrip("/") / (path.name if target.endswith("/") and path.is_file() else "")
            place.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                shutil.copytree(path, place, symlinks=True, dirs_exist_ok=True, ignore=_ignored)
            else:
                shutil.copy2(path, place)


def run(stage: Stage, command: Sequence[str]) -> str:
    """Run a command in the stage's tree with this machine's way to packages, and return what it prints."""
    environment = {name: value for name, value in os.environ.items() if _OF_THE_MACHINE.fullmatch(name)}
    if Path("/etc/ssl/certs/ca-certificates.crt").exists():
        environment |= dict.fromkeys(("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"), "/run/authorities.crt")
    environment |= {"HOME": "/root", "DEBIAN_FRONTEND": "noninteractive", **stage.environment}
    of_the_machine = [path for path in _paths_of_the_machine() if Path(path).exists()]
    done = subprocess.run(
        [
            *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"),
            *("sh", "-c", _INSIDE, "sh", str(stage.tree), *of_the_machine, "--", *command),
        ],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{shlex.join(command)} ended with {done.returncode}:\n{done.stdout[-4000:]}")
    return done.stdout


def _paths_of_the_machine() -> list[str]:
    """Return what leads to packages here: names, certificates, and directories that pip is told to look in."""
    told = subprocess.run(["pip", "config", "list"], check=False, capture_output=True, text=True).stdout
    local = re.findall(r"(?:file://|(?<=['\s]))(/[\w./-]+)", told)
    return ["/etc/resolv.conf", "/etc/hosts", "/etc/pip.conf", *(path for path in local if "/ssl/" not in path)]


def _stages(instructions: Sequence[Instruction]) -> list[list[Instruction]]:
    starts = [number for number, instruction in enumerate(instructions) if instruction.name == "FROM"]
    return [list(instructions[start:end]) for start, end in zip(starts, [*starts[1:], None], strict=True)]


def _ignored(_directory: str, names: list[str]) -> list[str]:
    return [name for name in names if name == "__pycache__"]


def _copy_tree(source: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "--archive", "--reflink=auto", str(source), str(target)], check=True)
