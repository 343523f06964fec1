"""What holds the project together: commands that exist, reasons that are written down, documents that stay true."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(ROOT.glob("*.md"))
PYPROJECT = (ROOT / "pyproject.toml").read_text()

#: Where any Linux host has something; an absolute path elsewhere belongs to somebody's own machine.
_SYSTEM_PATHS = re.compile(r"/(dev|etc|lib|livez|metrics|opt|proc|readyz|run|sys|tmp|usr|v1|var)\b")


def _requirement_lines() -> list[str]:
    """Return the lines of pyproject.toml that hold one requirement of the project or of a dependency group each."""
    metadata = tomllib.loads(PYPROJECT)
    groups = metadata["dependency-groups"].values()
    requirements = [*metadata["project"]["dependencies"], *(requirement for group in groups for requirement in group)]
    return [line for line in PYPROJECT.splitlines() if any(f'    "{each}"' in line for each in requirements)]


def _ignored_rule_lines() -> list[str]:
    """Return the lines of pyproject.toml that switch a lint rule off."""
    lint = tomllib.loads(PYPROJECT)["tool"]["ruff"]["lint"]
    rules = {*lint["ignore"], *(rule for per_file in lint["per-file-ignores"].values() for rule in per_file)}
    return [line for line in PYPROJECT.splitlines() if any(f'"{rule}"' in line for rule in rules)]


@pytest.mark.parametrize("line", _requirement_lines(), ids=str.strip)
def test_a_dependency_has_bounds_and_a_purpose(line: str) -> None:
    """An unknown next release breaks nobody's installation, and nobody wonders what a package is for."""
    assert re.search(r"# \S", line), "say what it is for"
    assert ">=" in line, "say the first version that works"
    assert "<" in line or '"types-' in line, "say the first version that may not work"


@pytest.mark.parametrize("line", _ignored_rule_lines(), ids=str.strip)
def test_an_ignored_rule_has_a_reason(line: str) -> None:
    """Every rule that is off says why, on its own line."""
    assert re.search(r'^\s+"[A-Z]+\d+",\s+# \S', line)


def test_the_lists_above_are_not_empty() -> None:
    """The two checks before this one look at something."""
    metadata = tomllib.loads(PYPROJECT)
    groups = metadata["dependency-groups"].values()
    assert len(_requirement_lines()) == len(metadata["project"]["dependencies"]) + sum(map(len, groups))
    assert _ignored_rule_lines()


def test_an_exception_in_the_code_has_a_reason() -> None:
    """Every `noqa` and every `type: ignore` names its rule and says why."""
    marker = re.compile(r"#\s*(?:noqa|type:\s*ignore)(?P<rest>.*)")
    reasoned = re.compile(r"(: ?|\[)[\w-]+(, ?[\w-]+)*\]?\s+\S")
    bare = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for package in ("bgp", "controller", "ipam", "tests")
        for path in sorted((ROOT / package).rglob("*.py"))
        if path != Path(__file__)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if (found := marker.search(line)) and not reasoned.match(found["rest"])
    ]
    assert bare == []


def test_tests_are_no_packages() -> None:
    """`tests/bgp/__init__.py` would shadow the package under test."""
    assert list((ROOT / "tests").rglob("__init__.py")) == []


def test_test_files_have_names_of_their_own() -> None:
    """A file name alone says which test failed."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_documented_make_targets_exist(document: Path) -> None:
    """Every `make TARGET` a document names, in a code span or block, is a target."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    code = re.findall(r"```sh\n(.*?)```|`([^`\n]+)`", document.read_text(), re.DOTALL)
    commands = re.findall(r"(?:^|[\s=])make ([a-z -]+)", "\n".join("".join(each).split("#")[0] for each in code))
    assert {target for command in commands for target in command.split()} <= targets


def test_makefile_help_lists_every_target() -> None:
    """A target that is not in the help is one nobody finds."""
    makefile = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony
    assert set(phony[1].split()) == set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_documents_name_no_path_of_one_machine(document: Path) -> None:
    """Whoever reads a document has the paths it names."""
    text = re.sub(r"<!-- /\w+ -->", "", document.read_text())  # the end of a part that a test compares
    paths = re.findall(r"(?<![\w./~>*-])/[a-z][\w.-]*(?:/[\w.-]+)*", text)
    assert [path for path in paths if not _SYSTEM_PATHS.match(path)] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_documents_link_to_files_that_exist(document: Path) -> None:
    """A relative link leads somewhere."""
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text())
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_top_level_folders_are_the_agreed_ones() -> None:
    """What is not a package, the chart or a test does not get a folder of its own."""
    ignored = {line.strip("/") for line in (ROOT / ".gitignore").read_text().splitlines()}
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")}
    assert folders - ignored <= {"bgp", "charts", "controller", "ipam", "tests"}
