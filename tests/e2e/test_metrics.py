"""A real Prometheus scrapes three real hosts, and probes tell an agent that lives from one that is ready."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest
import yaml

from bgp.peering import PeerDefinition
from controller.datamodel import keys
from controller.datamodel.bgp_records import encode_peer
from controller.lab.lab import Lab

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FILES = Path(__file__).parent.parent.parent / "charts" / "tortie" / "files"
HOSTS = {"h1": "192.0.2.1", "h2": "192.0.2.2", "h3": "192.0.2.3"}
PROMETHEUS = "192.0.2.254:9090"
ROUTER = "192.0.2.251"
#: A border router that announces a default route, which no node believes unless a filter says so.
BIRD = f"""
log stderr all;
router id {ROUTER};
protocol device {{ }}
protocol static {{ ipv4; route 0.0.0.0/0 blackhole; }}
protocol bgp h1 {{
  local {ROUTER} as 64999;
  neighbor 192.0.2.1 as 64512;
  passive on;
  ipv4 {{ import all; export all; next hop self; }};
}}
"""
#: Prints the status and the text of a page.
_FETCH = """
import sys, urllib.error, urllib.request
try:
    with urllib.request.urlopen(sys.argv[1], timeout=10) as answer:
        print(answer.status); print(answer.read().decode())
except urllib.error.HTTPError as error:
    print(error.code); print(error.read().decode())
except OSError as error:
    print(0); print(error)
"""


def fetch(lab: Lab, place: str, url: str) -> tuple[int, str]:
    """Return the status, 0 without an answer, and the text of a page as it is read from a place of the lab."""
    status, _, text = lab.run(place, [sys.executable, "-c", _FETCH, url]).stdout.partition("\n")
    return int(status), text


class Prometheus:
    """A Prometheus in the fabric of a lab that scrapes its hosts every second and judges the shipped rules."""

    def __init__(self, lab: Lab, directory: Path) -> None:
        self._lab = lab
        targets = [f"{address}:9091" for address in HOSTS.values()]
        configuration = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(FILES / "alerts.yaml")],
            "scrape_configs": [{"job_name": "tortie", "static_configs": [{"targets": targets}]}],
        }
        path = directory / "prometheus.yml"
        path.write_text(yaml.safe_dump(configuration))
        command, environment = lab.command(
            "fabric",
            [
                "prometheus",
                f"--config.file={path}",
                f"--storage.tsdb.path={directory}/data",
                f"--web.listen-address={PROMETHEUS}",
            ],
        )
        self.log = directory / "prometheus.log"
        with self.log.open("wb") as sink:
            self._process = subprocess.Popen(command, env=environment, stdout=sink, stderr=sink)

    def api(self, path: str, **parameters: str) -> Any:  # noqa: ANN401  JSON
        """Return what the API answers, None while it does not."""
        status, text = fetch(self._lab, "fabric", f"http://{PROMETHEUS}/api/v1/{path}?{urlencode(parameters)}")
        return json.loads(text)["data"] if status == 200 else None

    def query(self, expression: str) -> dict[str, float]:
        """Return the values of an instant query, by host, or by nothing where the result has no such label."""
        found = self.api("query", query=expression)
        return (
            {}
            if found is None
            else {
                each["metric"].get("instance", "").removesuffix(":9091"): float(each["value"][1])
                for each in found["result"]
            }
        )

    def end(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.wait(timeout=30)


@pytest.fixture(scope="module")
def lab(write_records: Callable[..., None]) -> Iterator[Lab]:
    """Three hosts with two workloads each, of which the first also peers with a border router."""
    lab = Lab(f"pm{os.getpid()}")
    try:
        lab.up(nodes=3, workloads=2)
        lab.add_router("bird", BIRD)
        definition = PeerDefinition("border", ipaddress.ip_address(ROUTER), 64999, node="h1")
        write_records(lab, {keys.peer("border"): encode_peer(definition)})
        yield lab
    finally:
        lab.down()


@pytest.fixture(scope="module")
def prometheus(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Start a Prometheus and end it afterwards."""
    prometheus = Prometheus(lab, tmp_path_factory.mktemp("prometheus"))
    yield prometheus
    prometheus.end()


@pytest.fixture(scope="module")
def scraped(lab: Lab, wait_until: Callable[..., None]) -> str:
    """Return what the first host tells once it has refused the border router's route."""
    page = ""

    def is_complete() -> bool:
        nonlocal page
        status, page = fetch(lab, "fabric", "http://192.0.2.1:9091/metrics")
        return status == 200 and "tortie_bgp_prefixes_rejected{" in page

    wait_until(is_complete, "a rejected prefix among the metrics")
    return page


def test_prometheus_scrapes_every_host(prometheus: Prometheus, wait_until: Callable[..., None]) -> None:
    """All targets are up, and the key series say what the lab is: six workloads, seven sessions, a block a host."""
    everywhere = set(HOSTS.values())
    wait_until(lambda: set(prometheus.query("up == 1")) == everywhere, "every target up")
    targets = prometheus.api("targets")["activeTargets"]
    assert {(target["health"], target["lastError"]) for target in targets} == {("up", "")}
    wait_until(lambda: prometheus.query('sum(tortie_bgp_sessions{state="established"})') == {"": 7.0}, "seven sessions")
    expected = {
        "min(tortie_ready)": 1,
        "min(tortie_routes_in_sync)": 1,
        "sum(tortie_ipam_allocations)": 6,
        "sum(tortie_ipam_blocks)": 3,
        "max(tortie_ipam_pool_addresses)": 65536,
        'sum(tortie_routes{kind="workload"})': 6,
        'sum(tortie_routes{kind="learned"})': 6,
        "sum(tortie_kernel_routes)": 15,
        'sum(tortie_cni_requests_total{command="ADD",result="success"})': 6,
        "sum(tortie_workload_reachable_seconds_count)": 6,
        "sum(tortie_bgp_prefixes_announced)": 3,
        "sum(tortie_bgp_prefixes_accepted)": 6,
        "sum(tortie_bgp_prefixes_rejected)": 1,
        "sum(tortie_unannounced_addresses)": 0,
        "max(tortie_store_connected)": 1,
        "tortie:ipam_left_addresses": 65530,
    }
    assert {query: prometheus.query(query) for query in expected} == {
        query: {"": float(value)} for query, value in expected.items()
    }


def test_the_shipped_rules_run_and_are_silent(prometheus: Prometheus, wait_until: Callable[..., None]) -> None:
    """Prometheus has judged each without an error on what real agents tell, and a healthy lab is no alert."""

    def judged() -> bool:
        groups = (prometheus.api("rules") or {"groups": []})["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        return bool(rules) and {rule["health"] for rule in rules} == {"ok"}

    wait_until(judged, "every rule judged")
    assert not prometheus.query('ALERTS{alertstate="firing"}')


def test_promtool_finds_no_fault_in_a_real_scrape(scraped: str) -> None:
    """Names, units and help texts are as Prometheus' own checker wants them."""
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=scraped, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_labels_are_bounded(scraped: str) -> None:
    """By pools, peers and closed sets; no workload, no container, and no address but a peer's."""
    labels = set(re.findall(r"[{,](\w+)=", scraped))
    assert labels <= {
        "command", "kind", "le", "name", "node", "operation", "peer", "pool", "reason", "result", "state", "version",
    }  # fmt: skip
    assert "10.244." not in scraped


@pytest.mark.parametrize("file", ["alerts.yaml", "dashboard.json"])
def test_what_alerts_and_dashboard_ask_for_exists(scraped: str, file: str) -> None:
    """Every metric they name is one that a real agent tells, or a rule makes; a misspelt one would be silent."""
    told = set(re.findall(r"^(\w+)[{ ]", scraped, re.MULTILINE)) | {"up"}
    rules = yaml.safe_load((FILES / "alerts.yaml").read_text())
    made = {rule["record"] for group in rules["groups"] for rule in group["rules"] if "record" in rule}
    if file == "alerts.yaml":
        asked = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    else:
        panels = json.loads((FILES / file).read_text())["panels"]
        asked = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    named = set(re.findall(r"\b(?:tortie|process)[:_][\w:]+", " ".join(asked)))
    assert len(named) > 20
    assert named - told - made == set()


def test_every_metric_is_documented(scraped: str) -> None:
    """The reference has a row for each, with its type, labels and help text as the agent tells them, and no other."""
    types = dict(re.findall(r"^# TYPE (tortie_\w+) (\w+)$", scraped, re.MULTILINE))
    texts = dict(re.findall(r"^# HELP (tortie_\w+) (.*)$", scraped, re.MULTILINE))
    labels: dict[str, set[str]] = {name: set() for name in types}
    for series, found in re.findall(r"^(tortie_\w+)\{(.*)\} ", scraped, re.MULTILINE):
        name = series if series in types else re.sub(r"_(bucket|sum|count)$", "", series)
        labels[name] |= set(re.findall(r'(\w+)="', found)) - {"le"}
    rows = [
        f"| `{name}` | {types[name]} | {', '.join(f'`{label}`' for label in sorted(labels[name]))} | {texts[name]} |"
        for name in types
    ]
    written = (FILES.parent / "METRICS.md").read_text().splitlines()
    assert [line for line in written if line.startswith("| `")] == rows


def test_a_host_that_loses_its_speaker_is_seen_by_all(
    lab: Lab, prometheus: Prometheus, wait_until: Callable[..., None]
) -> None:
    """It tells so itself, and the others' sessions with it are down; all of it is over when the speaker is back."""
    lab.stop("h3/bgp")
    wait_until(lambda: prometheus.query("tortie_bgp_connected == 0") == {HOSTS["h3"]: 0.0}, "no speaker on h3")
    down = {HOSTS["h1"]: 0.0, HOSTS["h2"]: 0.0}
    wait_until(lambda: prometheus.query('tortie_bgp_session_up{name="h3"} == 0') == down, "sessions down", seconds=60)
    assert set(prometheus.query('tortie_bgp_session_losses_total{name="h3"} > 0')) == set(down)
    lab.start("h3/bgp")
    wait_until(lambda: not prometheus.query("tortie_bgp_connected == 0"), "a speaker on h3")
    wait_until(lambda: not prometheus.query("tortie_bgp_session_up == 0"), "sessions up", seconds=60)


def test_an_agent_without_its_store_lives_and_is_not_ready(
    new_lab: Callable[[], Lab], wait_until: Callable[..., None]
) -> None:
    """A probe must not restart what keeps the network as it is; no workload is to be sent there."""
    lab = new_lab()
    lab.up(nodes=1, workloads=1, store="consul")

    def page(name: str) -> tuple[int, str]:
        return fetch(lab, "fabric", f"http://192.0.2.1:9091/{name}")

    assert page("livez") == (200, "alive\n\n")
    wait_until(lambda: page("readyz") == (200, "ready\n\n"), "ready")
    lab.stop("consul")
    wait_until(lambda: page("readyz")[0] == 503, "not ready")
    assert "the consul store is not reachable" in page("readyz")[1]
    assert page("livez") == (200, "alive\n\n")
    metrics = page("metrics")[1]
    assert {"tortie_ready 0.0", "tortie_store_connected 0.0"} <= set(metrics.splitlines())
    errors = re.findall(
        r'^tortie_store_errors_total{operation="watch",reason="unavailable"} (\S+)', metrics, re.MULTILINE
    )
    assert float(errors[0]) > 0
    lab.start("consul")
    wait_until(lambda: page("readyz")[0] == 200, "ready", seconds=60)
