"""The chart, through Helm's own engine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import helm_python
import pytest
import yaml

if TYPE_CHECKING:
    from collections.abc import Callable

Documents: TypeAlias = dict[str, dict[str, Any]]


@pytest.fixture(scope="session")
def chart_directory() -> Path:
    """Find the chart."""
    return Path(__file__).parents[2] / "charts" / "tortie"


@pytest.fixture(scope="session")
def render(chart_directory: Path) -> Callable[..., Documents]:
    """Return a function from values to the documents by their kind; NOTES is the text of the notes."""
    chart = helm_python.Chart.load(chart_directory)

    def rendered(values: dict[str, Any], name: str = "net", namespace: str = "kube-system") -> Documents:
        documents: Documents = {}
        for path, text in chart.render(values, name=name, namespace=namespace).items():
            if path.endswith("NOTES.txt"):
                documents["NOTES"] = {"text": text}
                continue
            for document in filter(None, yaml.safe_load_all(text)):
                kind = document["kind"] if path != "tortie/templates/dashboard.yaml" else "Dashboard"
                assert kind not in documents
                documents[kind] = document
        return documents

    return rendered
