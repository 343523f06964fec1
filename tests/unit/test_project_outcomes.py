"""A test run in which anything was left out does not pass."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).parents[1] / "conftest.py"


def _run_pytest(directory: Path, test: str, *options: str) -> subprocess.CompletedProcess[str]:
    shutil.copy(CONFTEST, directory)
    (directory / "pytest.ini").write_text("[pytest]\n")
    (directory / "test_sample.py").write_text(test)
    # Of its own, for each run tidies up after others in what they share.
    temporary = f"--basetemp={directory}-runs"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", temporary, *options, "."]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False, timeout=60)


def test_a_run_in_which_every_test_passes_passes(tmp_path: Path) -> None:
    """The rule against leaving out stands in nobody's way."""
    finished = _run_pytest(tmp_path, "def test_it(): pass\n")
    assert finished.returncode == pytest.ExitCode.OK, finished.stdout
    assert "1 passed" in finished.stdout


@pytest.mark.parametrize("options", [(), ("-n", "2", "--dist", "loadfile")], ids=["one by one", "two at a time"])
@pytest.mark.parametrize(
    "left_out",
    [
        "import pytest\n@pytest.mark.skip(reason='no root')\ndef test_that(): pass\n",
        "import pytest\ndef test_that(): pytest.skip('no root')\n",
        "import pytest\npytest.skip('no root', allow_module_level=True)\n",
        "import pytest\n@pytest.mark.xfail\ndef test_that(): assert False\n",
        "import pytest\n@pytest.mark.xfail\ndef test_that(): pass\n",
    ],
    ids=["skip mark", "skip", "skipped module", "expected failure", "unexpected pass"],
)
def test_a_run_that_left_a_test_out_fails(tmp_path: Path, left_out: str, options: tuple[str, ...]) -> None:
    """Whatever was left out, the exit code is that of failed tests, and the output says why."""
    (tmp_path / "test_other.py").write_text("def test_it(): pass\n")
    finished = _run_pytest(tmp_path, left_out, *options)
    assert finished.returncode == pytest.ExitCode.TESTS_FAILED, finished.stdout
    assert "1 left out" in finished.stdout


def test_tests_that_share_what_they_make_have_one_worker(tmp_path: Path) -> None:
    """Those of a file, and of all files of a directory whose fixtures are made once for all of them."""
    for file in ("test_one.py", "packaging/test_two.py", "packaging/test_three.py", "e2e/docker/test_four.py"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        lines = ["import pytest", "@pytest.mark.parametrize('number', range(6))", "def test_it(number): pass"]
        (tmp_path / file).write_text("\n".join(lines))
    (tmp_path / "e2e/docker/test_five.py").write_text("def test_it(): pass\n")
    finished = _run_pytest(tmp_path, "", "-vv", "-n", "2", "--dist", "loadfile", "--import-mode=importlib")
    ran = re.findall(r"\[(gw\d)\].* PASSED (\S+)::", finished.stdout)
    assert len(ran) == 25, finished.stdout
    for place in ("test_one", "packaging/", "e2e/docker/"):
        assert len({worker for worker, file in ran if file.startswith(place)}) == 1, ran


def test_a_failed_test_is_reported_as_ever(tmp_path: Path) -> None:
    """The rule adds nothing to a run that has failed anyway."""
    finished = _run_pytest(tmp_path, "def test_it(): assert False\n")
    assert finished.returncode == pytest.ExitCode.TESTS_FAILED
    assert "left out" not in finished.stdout
