"""The dashboard is one that Grafana can draw: whole, without overlaps, and every query is one that Prometheus takes."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

FILES = Path(__file__).parent.parent.parent / "charts" / "tortie" / "files"


@pytest.fixture
def dashboard() -> dict[str, Any]:
    """Return the dashboard."""
    loaded: dict[str, Any] = json.loads((FILES / "dashboard.json").read_text())
    return loaded


def test_every_query_is_valid(dashboard: dict[str, Any], tmp_path: Path) -> None:
    """Checked as Prometheus checks rules, with Grafana's interval filled in."""
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    rules = [
        {"record": f"query:{number}", "expr": query.replace("$__rate_interval", "5m")}
        for number, query in enumerate(queries)
    ]
    path = tmp_path / "queries.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = subprocess.run(
        ["promtool", "check", "rules", str(path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(queries)} rules found" in done.stdout


def test_panels_explain_themselves_and_do_not_overlap(dashboard: dict[str, Any]) -> None:
    """Each has a number, a title and a description of its own; all lie within 24 columns, side by side."""
    panels = dashboard["panels"]
    drawn = [panel for panel in panels if panel["type"] != "row"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({panel["title"] for panel in panels}) == len(panels)
    assert all(panel["description"].endswith(".") and panel["targets"] for panel in drawn)
    places = [panel["gridPos"] for panel in panels]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    for one, other in itertools.combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below, (one, other)


def test_panels_use_the_variables_that_there_are(dashboard: dict[str, Any]) -> None:
    """The data source is chosen once, the hosts by `instance`."""
    defined = {variable["name"] for variable in dashboard["templating"]["list"]}
    text = json.dumps(dashboard["panels"])
    used = set(re.findall(r"\$\{?(\w+)", text)) - {"__rate_interval"}
    assert used == defined == {"datasource", "instance"}
