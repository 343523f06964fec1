"""Every alert fires for what it is about, and for nothing else; in a healthy cluster there is silence.

Prometheus' own rule engine (`promtool test rules`) is given two hosts: `good` is well, `bad` is well but for what a
case changes. What fires is compared as a whole, so an alert that fires where another one should is found too.
"""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

if TYPE_CHECKING:
    from collections.abc import Iterable

CHART = Path(__file__).parent.parent.parent / "charts" / "tortie"
RULES = CHART / "files" / "alerts.yaml"
#: Each series is a sample a minute, for a day.
ALWAYS = 1440

#: A host that is well: its series and their values (`START+STEPxCOUNT`).
WELL = {
    "up": "1x",
    "tortie_ready": "1x",
    "tortie_complaints": "0x",
    "tortie_missing_addresses": "0x",
    "tortie_malformed_records": "0x",
    "tortie_store_connected": "1x",
    "tortie_store_watch_lag_seconds": "20x",
    'tortie_store_request_seconds_bucket{operation="commit",le="0.01"}': "0+60x",
    'tortie_store_request_seconds_bucket{operation="commit",le="1"}': "0+60x",
    'tortie_store_request_seconds_bucket{operation="commit",le="10"}': "0+60x",
    'tortie_store_request_seconds_bucket{operation="commit",le="+Inf"}': "0+60x",
    "tortie_ipam_conflicts_total": "0+1x",
    "tortie_bgp_connected": "1x",
    'tortie_bgp_session_up{peer="192.0.2.8",name="h8"}': "1x",
    'tortie_bgp_session_up{peer="192.0.2.9",name="h9"}': "1x",
    'tortie_bgp_session_losses_total{peer="192.0.2.9",name="h9"}': "3x",
    "tortie_bgp_peers_without_session": "0x",
    'tortie_bgp_prefixes_rejected{peer="192.0.2.9",name="tor",reason="default_route"}': "1x",
    'tortie_bgp_prefixes_rejected{peer="192.0.2.9",name="tor",reason="filtered"}': "100x",
    "tortie_unannounced_addresses": "0x",
    'tortie_workload_reachable_seconds_bucket{le="0.1"}': "0+10x",
    'tortie_workload_reachable_seconds_bucket{le="10"}': "0+10x",
    'tortie_workload_reachable_seconds_bucket{le="300"}': "0+10x",
    'tortie_workload_reachable_seconds_bucket{le="+Inf"}': "0+10x",
    'tortie_failing_routes{reason="refused"}': "0x",
    'tortie_failing_routes{reason="conflict"}': "0x",
    "tortie_foreign_routes": "0x",
    "tortie_routes_in_sync": "1x",
    "tortie_routes_repaired_total": "7x",
    "tortie_unresolved_routes": "0x",
    'tortie_ipam_pool_addresses{pool="p"}': "1000x",
    'tortie_ipam_reserved_addresses{pool="p"}': "200x",
    'tortie_ipam_allocations{pool="p"}': "100x",
    "tortie_ipam_leak_candidates": "0x",
    "tortie_ipam_reclaimed_addresses_total": "50x",
    'tortie_cni_requests_total{command="ADD",result="success"}': "0+10x",
    'tortie_cni_requests_total{command="ADD",result="try_again_later"}': "0+0.5x",
    'tortie_cni_requests_total{command="STATUS",result="plugin_not_available"}': "0+60x",
    'tortie_cni_request_seconds_bucket{command="ADD",le="0.1"}': "0+10x",
    'tortie_cni_request_seconds_bucket{command="ADD",le="5"}': "0+10x",
    'tortie_cni_request_seconds_bucket{command="ADD",le="60"}': "0+10x",
    'tortie_cni_request_seconds_bucket{command="ADD",le="+Inf"}': "0+10x",
}


@dataclass(frozen=True)
class Case:
    """What is other on the bad host, after how many minutes is looked, and what the alert is about then."""

    alert: str
    changes: dict[str, str]
    minutes: int
    labels: dict[str, str] = field(default_factory=lambda: {"instance": "bad"})


H9 = {"instance": "bad", "peer": "192.0.2.9", "name": "h9"}
POOL = {"pool": "p"}
CASES = (
    Case("TortieAgentDown", {"up": "0x"}, 5),
    Case("TortieNotReady", {"tortie_ready": "0x"}, 10),
    Case("TortieComplaints", {"tortie_complaints": "2x"}, 20),
    Case("TortieMissingAddress", {"tortie_missing_addresses": "1x"}, 5),
    Case("TortieMalformedRecords", {"tortie_malformed_records": "1x"}, 10),
    # Not ready, complaints and routes out of sync follow from it, and are not told beside it.
    Case(
        "TortieStoreUnreachable",
        {
            "tortie_store_connected": "0x",
            "tortie_ready": "0x",
            "tortie_complaints": "1x",
            "tortie_routes_in_sync": "0x",
        },
        30,
    ),
    Case("TortieStoreUnreachable", {"tortie_store_watch_lag_seconds": "0+60x"}, 10),
    Case(
        "TortieStoreSlow",
        {
            'tortie_store_request_seconds_bucket{operation="commit",le="0.01"}': "0x",
            'tortie_store_request_seconds_bucket{operation="commit",le="1"}': "0+50x",
        },
        30,
    ),
    Case("TortieManyConflicts", {"tortie_ipam_conflicts_total": "0+10x"}, 40),
    # Sessions are unknown without the sidecar, and nothing can be announced: one fault, one alert.
    Case(
        "TortieSpeakerLost",
        {
            "tortie_bgp_connected": "0x",
            'tortie_bgp_session_up{peer="192.0.2.8",name="h8"}': "0x",
            'tortie_bgp_session_up{peer="192.0.2.9",name="h9"}': "0x",
            "tortie_unannounced_addresses": "3x",
        },
        10,
    ),
    Case("TortieSessionDown", {'tortie_bgp_session_up{peer="192.0.2.9",name="h9"}': "0x"}, 10, H9),
    Case("TortieSessionFlapping", {'tortie_bgp_session_losses_total{peer="192.0.2.9",name="h9"}': "0+1x"}, 30, H9),
    Case("TortiePeerWithoutSession", {"tortie_bgp_peers_without_session": "1x"}, 10),
    Case(
        "TortiePrefixesRejected",
        {'tortie_bgp_prefixes_rejected{peer="192.0.2.9",name="h9",reason="own_prefix"}': "1x"},
        20,
        {**H9, "reason": "own_prefix"},
    ),
    Case("TortieAnnouncementsWait", {"tortie_unannounced_addresses": "1x"}, 10),
    Case(
        "TortieSlowToReach",
        {
            'tortie_workload_reachable_seconds_bucket{le="0.1"}': "0x",
            'tortie_workload_reachable_seconds_bucket{le="10"}': "0+5x",
        },
        40,
    ),
    Case(
        "TortieRoutesRefused",
        {'tortie_failing_routes{reason="refused"}': "2x"},
        10,
        {"instance": "bad", "reason": "refused"},
    ),
    Case(
        "TortieRouteConflict",
        {'tortie_failing_routes{reason="conflict"}': "2x"},
        10,
        {"instance": "bad", "reason": "conflict"},
    ),
    Case("TortieForeignRoutes", {"tortie_foreign_routes": "1x"}, 20),
    Case("TortieRoutesOutOfSync", {"tortie_routes_in_sync": "0x"}, 20),
    Case("TortieRoutesRepaired", {"tortie_routes_repaired_total": "0+2x"}, 40),
    Case("TortieNextHopUnresolved", {"tortie_unresolved_routes": "1x"}, 20),
    Case("TortiePoolExhausted", {'tortie_ipam_allocations{pool="p"}': "700x"}, 5, POOL),
    Case("TortiePoolNearlyFull", {'tortie_ipam_allocations{pool="p"}': "621x"}, 20, POOL),
    Case("TortiePoolFullSoon", {'tortie_ipam_allocations{pool="p"}': "0+1x"}, 500, POOL),
    Case("TortieLeakedAddresses", {"tortie_ipam_leak_candidates": "1x"}, 90),
    Case("TortieAddressesReclaimed", {"tortie_ipam_reclaimed_addresses_total": "0+1x"}, 60),
    Case("TortieCniErrors", {'tortie_cni_requests_total{command="ADD",result="try_again_later"}': "0+2x"}, 30),
    Case(
        "TortieCniSlow",
        {
            'tortie_cni_request_seconds_bucket{command="ADD",le="0.1"}': "0x",
            'tortie_cni_request_seconds_bucket{command="ADD",le="5"}': "0+5x",
        },
        40,
    ),
)
#: What would be an alert were it not so short.
SHORT = (
    {"up": "1x10 0x1 1x"},
    {"tortie_store_connected": "1x10 0x1 1x", "tortie_ready": "1x10 0x1 1x"},
    {'tortie_bgp_session_up{peer="192.0.2.9",name="h9"}': "1x10 0x3 1x"},
    {"tortie_bgp_connected": "1x10 0x1 1x"},
    {"tortie_routes_in_sync": "1x10 0x8 1x"},
    {"tortie_routes_in_sync": "1x10 0x8 1 0x8 1x"},
    {"tortie_unannounced_addresses": "0x10 5x3 0x"},
    {"tortie_ipam_leak_candidates": "0x10 5x18 0x"},
    {"tortie_complaints": "0x10 1x10 0x"},
)
#: How a host that is added begins; what is not here is well from its first sample on.
BEGINS = {
    "tortie_ready": "0x1 1x",
    "tortie_complaints": "2x10 0x",
    "tortie_store_connected": "0x1 1x",
    "tortie_bgp_connected": "0x1 1x",
    'tortie_bgp_session_up{peer="192.0.2.8",name="h8"}': "0x1 1x",
    'tortie_bgp_session_up{peer="192.0.2.9",name="h9"}': "0x4 1x",
    "tortie_bgp_peers_without_session": "1x3 0x",
    "tortie_unannounced_addresses": "5x3 0x",
    'tortie_failing_routes{reason="refused"}': "3x3 0x",
    "tortie_routes_in_sync": "0x8 1x",
    "tortie_unresolved_routes": "1x8 0x",
}


def document() -> dict[str, Any]:
    """Return the rule file."""
    loaded: dict[str, Any] = yaml.safe_load(RULES.read_text())
    return loaded


def alerts() -> dict[str, dict[str, Any]]:
    """Return every alert by its name."""
    rules = [rule for group in document()["groups"] for rule in group["rules"]]
    return {rule["alert"]: rule for rule in rules if "alert" in rule}


def values_of(short: str) -> str:
    """Return values in full: the last stretch of them lasts for the rest of the day."""
    return f"{short}{ALWAYS}"


def series_of(host: str, changes: dict[str, str]) -> list[dict[str, str]]:
    """Return the series of one host."""
    found = []
    for series, short in {**WELL, **changes}.items():
        name, brace, labels = series.partition("{")
        own = f'{{job="tortie",instance="{host}"' + (f",{labels}" if brace else "}")
        found.append({"series": name + own, "values": values_of(short)})
    return found


def firing(
    series: list[dict[str, str]], minutes: Iterable[int], expected: list[dict[str, str]], directory: Path
) -> str:
    """Have the rules judge the series at these minutes; return what is wrong, nothing if just the expected fire."""
    labels = [
        "{" + ",".join(f"{name}={json.dumps(value)}" for name, value in {"__name__": "ALERTS", **each}.items()) + "}"
        for each in expected
    ]
    test = {
        "rule_files": [str(RULES)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": series,
                "promql_expr_test": [
                    {
                        "expr": 'ALERTS{alertstate="firing"}',
                        "eval_time": f"{minute}m",
                        "exp_samples": [{"labels": each, "value": 1} for each in labels],
                    }
                    for minute in minutes
                ],
            }
        ],
    }
    path = directory / "test.yaml"
    path.write_text(yaml.safe_dump(test))
    done = subprocess.run(
        ["promtool", "test", "rules", str(path)], capture_output=True, text=True, timeout=120, check=False
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.alert)
def test_an_alert_fires_for_what_it_is_about_and_no_other_does(case: Case, tmp_path: Path) -> None:
    """Exactly one, with the labels that say where; the host that is well is not among them."""
    series = series_of("good", {}) + series_of("bad", case.changes)
    job = {"job": "tortie"}
    expected = {
        "alertname": case.alert,
        "alertstate": "firing",
        "severity": alerts()[case.alert]["labels"]["severity"],
        **job,
        **case.labels,
    }
    assert firing(series, [case.minutes], [expected], tmp_path) == ""


def test_a_host_without_any_session_is_isolated(tmp_path: Path) -> None:
    """That is told beside each session, which says why, and is more than all of them together."""
    changes = {f'tortie_bgp_session_up{{peer="192.0.2.{number}",name="h{number}"}}': "0x" for number in (8, 9)}
    job = {"job": "tortie", "alertstate": "firing", "instance": "bad"}
    sessions = [
        {
            "alertname": "TortieSessionDown",
            "severity": "warning",
            "peer": f"192.0.2.{number}",
            "name": f"h{number}",
            **job,
        }
        for number in (8, 9)
    ]
    isolated = {"alertname": "TortieNodeIsolated", "severity": "critical", **job}
    series = series_of("good", {}) + series_of("bad", changes)
    assert firing(series, [10], [*sessions, isolated], tmp_path) == ""


@pytest.mark.parametrize("minutes", [60, ALWAYS])
def test_a_node_that_is_down_keeps_its_addresses(minutes: int, tmp_path: Path) -> None:
    """Nothing is freed by an outage, however long, so a pool that was nearly full still is."""
    changes = {"up": "1x10 0x", 'tortie_ipam_allocations{pool="p"}': "621x10 _x"}
    job = {"job": "tortie", "alertstate": "firing"}
    down = {"alertname": "TortieAgentDown", "severity": "critical", "instance": "bad", **job}
    full = {"alertname": "TortiePoolNearlyFull", "severity": "warning", "pool": "p", **job}
    assert firing(series_of("good", {}) + series_of("bad", changes), [minutes], [down, full], tmp_path) == ""


def test_what_a_node_tells_anew_counts_instead_of_what_it_told_before(tmp_path: Path) -> None:
    """Also where it begins without its store, and so without pools, or as another pod."""
    by_pod = 'tortie_ipam_allocations{{pool="p",pod="{}"}}'.format
    changes = {
        'tortie_ipam_allocations{pool="p"}': "_x",
        by_pod("old"): "500x10 _x5 500x8 _x",
        by_pod("new"): "_x20 450x",
    }
    assert firing(series_of("good", {}) + series_of("bad", changes), [15, 24, 40, 400], [], tmp_path) == ""


def test_a_node_that_was_removed_gives_its_addresses_back(tmp_path: Path) -> None:
    """`tortiectl node delete` frees them; what is no target any more counts no longer."""
    changes = {"up": "1x10 _x", 'tortie_ipam_allocations{pool="p"}': "621x10 _x"}
    assert firing(series_of("good", {}) + series_of("bad", changes), [60], [], tmp_path) == ""


def test_a_prometheus_that_sees_no_agent_says_so(tmp_path: Path) -> None:
    """Otherwise a wrong scrape configuration would look like perfect health."""
    expected = {"alertname": "TortieNoAgents", "alertstate": "firing", "severity": "critical"}
    assert firing([], [10], [expected], tmp_path) == ""


def test_all_is_quiet_while_all_is_well(tmp_path: Path) -> None:
    """At no moment of a day, the first minutes after a start included."""
    series = series_of("good", {}) + series_of("better", {})
    assert firing(series, [1, 5, 20, 90, 600, ALWAYS], [], tmp_path) == ""


@pytest.mark.parametrize("changes", SHORT, ids=lambda changes: next(iter(changes)))
def test_what_passes_by_itself_wakes_nobody(changes: dict[str, str], tmp_path: Path) -> None:
    """A restart, a session that comes back in its restart time, a container that ends while another begins."""
    series = series_of("good", {}) + series_of("bad", changes)
    assert firing(series, range(8, 35), [], tmp_path) == ""


def test_a_host_that_was_just_added_wakes_nobody(tmp_path: Path) -> None:
    """It has not been wrong for ten minutes before it is there for ten minutes."""
    added = {series: f"_x20 {BEGINS.get(series, short)}" for series, short in WELL.items()}
    assert firing(series_of("good", {}) + series_of("bad", added), range(20, 60), [], tmp_path) == ""


def test_a_pool_that_is_filled_for_the_first_time_is_not_full_soon(tmp_path: Path) -> None:
    """What a move of many containers takes at once says nothing of the pace of six hours."""
    pool = {series: f"_x20 {short}" for series, short in WELL.items() if 'pool="p"' in series}
    filled = {**pool, 'tortie_ipam_allocations{pool="p"}': "_x20 0+10x50 500x"}
    assert firing(series_of("good", pool) + series_of("bad", filled), range(20, 720, 10), [], tmp_path) == ""


def test_the_rules_are_valid() -> None:
    """Prometheus takes the file, templates included, and lints it without a word."""
    done = subprocess.run(
        ["promtool", "check", "rules", "--lint-fatal", str(RULES)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested_and_says_what_to_do() -> None:
    """It has a case above, a severity, a summary, a description, and an entry of its name in the runbook."""
    tested = {case.alert for case in CASES} | {"TortieNodeIsolated", "TortieNoAgents"}
    assert set(alerts()) == tested
    runbook = (CHART / "RUNBOOK.md").read_text()
    headings = re.findall(r"^### (\w+)$", runbook, re.MULTILINE)
    assert sorted(headings) == sorted(alerts())
    for name, rule in alerts().items():
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert set(rule["annotations"]) == {"summary", "description", "runbook"}
        assert rule["annotations"]["runbook"] == f"RUNBOOK.md#{name.lower()}"


def test_every_entry_of_the_runbook_answers_the_same_questions() -> None:
    """What it means, what is broken for users, how to check, how to mend: who is woken at night finds each at once."""
    runbook = (CHART / "RUNBOOK.md").read_text()
    for entry in re.split(r"^### ", runbook, flags=re.MULTILINE)[1:]:
        name = entry.splitlines()[0]
        bold = re.findall(r"^\*\*(.+?)\.\*\*", entry, re.MULTILINE)
        assert bold == ["Means", "Broken", "Check", "Mend"], name
