"""What a deletion says when Consul's catalog cannot be told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from controller.cli.catalog import forget_in_catalog
from controller.settings import load

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep this machine's own settings out."""
    (tmp_path / "tortie.toml").touch()
    monkeypatch.setenv("TORTIE_CONFIG", str(tmp_path / "tortie.toml"))


def test_a_catalog_that_does_not_answer_is_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    """The node is deleted all the same; it is said what is left, and when that goes."""
    forget_in_catalog(load({"store": "consul", "consul_address": "http://127.0.0.1:1"}), "h7")
    said = capsys.readouterr().err
    assert said.startswith("tortiectl: warning: Consul's service tortie still lists the node")
    assert "for a day" in said


@pytest.mark.parametrize("settings", [{"store": "sqlite"}, {"store": "consul", "consul_service": "none"}], ids=str)
def test_where_there_is_no_catalog_none_is_told(settings: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """With another store, or where the operator wants no service."""
    forget_in_catalog(load({"consul_address": "http://127.0.0.1:1", **settings}), "h7")
    assert capsys.readouterr().err == ""
