"""The image: made as the Dockerfile says, small, and its programs run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.packaging.dockerfile import parse, run

if TYPE_CHECKING:
    from tests.packaging.conftest import Image

#: Making the image for the first time fetches packages.
pytestmark = pytest.mark.timeout(900)

#: The tree of today has 220 MB, of which Debian's own are 115.
_LARGEST_BYTES = 280_000_000


def test_the_dockerfiles_steps_are_those_that_were_run(image: Image, repository: Path) -> None:
    """Each instruction was followed, in order, and nothing else; what makes the programs is in one script."""
    instructions = parse((repository / "Dockerfile").read_text())
    assert list(image.followed) == instructions
    assert "/src/charts/host/install programs" in [each.text for each in instructions if each.name == "RUN"]


def test_only_what_is_copied_gets_into_the_build(repository: Path) -> None:
    """.dockerignore lets in the sources that the Dockerfile names, and all of them."""
    sources = {
        word
        for each in parse((repository / "Dockerfile").read_text())
        if each.name == "COPY" and not each.text.startswith("--from")
        for word in each.text.split()[:-1]
    }
    allowed = re.findall(r"^!(.+)$", (repository / ".dockerignore").read_text(), re.MULTILINE)
    assert set(allowed) == sources


def test_a_step_that_is_not_understood_is_refused() -> None:
    """An instruction with a heredoc or a mount would not be followed silently."""
    assert [each.name for each in parse("FROM x\n# no\nRUN a \\\n  && b\n")] == ["FROM", "RUN"]
    assert parse("RUN a \\\n  && b\n")[0].text == "a && b"


def test_the_image_is_small_and_has_no_way_to_more_rights(image: Image) -> None:
    """No compiler, no pip, no setuid program; the one capability is that of the speaker's Python."""
    tree = image.stage.tree
    files = [Path(directory, name) for directory, _, names in os.walk(tree) for name in names]
    regular = [file for file in files if file.is_file() and not file.is_symlink()]
    assert sum(file.stat().st_size for file in regular) < _LARGEST_BYTES
    assert [file for file in regular if file.stat().st_mode & 0o6000] == []
    assert [file for file in regular if file.name in {"gcc", "cc", "pip", "pip3"}] == []
    capable = [file for file in regular if "security.capability" in os.listxattr(file)]
    assert capable == [tree / "opt/tortie/bin/python3-port179"]


def test_its_programs_run(image: Image, tmp_path: Path) -> None:
    """Each command answers, and the plugin is a static program that knows its versions."""
    assert image.stage.command == ["tortie-agent"]
    for program in (["tortie-agent", "--help"], ["tortie-bgp", "--help"], ["tortiectl", "--help"], ["nft", "-v"]):
        assert run(image.stage, program)
    plugin = image.stage.tree / "opt/tortie/lib/tortie-cni"
    # Where there is nothing else at all.
    shutil.copy(plugin, tmp_path / "plugin")
    command = ["chroot", str(tmp_path), "/plugin"]
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "CNI_COMMAND": "VERSION"}
    answer = subprocess.run(command, env=environment, input=b"{}", capture_output=True, check=True)
    assert b'"1.1.0"' in answer.stdout
