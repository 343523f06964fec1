"""What the chart makes of values: each case differs from the defaults in what it is about, and is valid everywhere."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import helm_python
import kubernetes_validate
import pytest
import yaml
from kubernetes_validate.utils import latest_version

from controller.settings import ListenAddress, Settings, load

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Documents: TypeAlias = dict[str, dict[str, Any]]

_LATEST: Final = int(latest_version().split(".")[1])
#: The oldest that the chart says it runs on, the latest that is known here, and the two before that.
VERSIONS: Final = ["1.25", *(f"1.{minor}" for minor in range(_LATEST - 2, _LATEST + 1))]
#: Whose schemas are not at hand: what is in them is compared with what the operator's API reference says
#: (monitoring.coreos.com/v1), in tests of their own.
_OF_THE_OPERATOR: Final = {"PodMonitor", "PrometheusRule"}
_DURATION: Final = re.compile(r"[0-9]+(ms|s|m|h)")
#: The agent's settings by the values of the chart that set them, where the same rule is written in both places.
_SETTING_BY_VALUE: Final = {
    ("consul", "address"): "consul_address",
    ("bgp", "asNumber"): "as_number",
    ("bgp", "holdTimeSeconds"): "hold_time_seconds",
    ("bgp", "restartTimeSeconds"): "restart_time_seconds",
    ("agent", "mtuBytes"): "mtu_bytes",
    ("agent", "logLevel"): "log_level",
}


@dataclass(frozen=True, slots=True)
class Case:
    """Values, and what must be true of the documents."""

    name: str
    values: dict[str, Any]
    check: Callable[[Documents], None]


def pod(documents: Documents) -> dict[str, Any]:
    """Return the pod that the DaemonSet makes."""
    spec: dict[str, Any] = documents["DaemonSet"]["spec"]["template"]["spec"]
    return spec


def container(documents: Documents, name: str) -> dict[str, Any]:
    """Return a container of the pod, an init container too."""
    spec = pod(documents)
    found: dict[str, Any]
    (found,) = [each for each in [*spec["initContainers"], *spec["containers"]] if each["name"] == name]
    return found


def settings(documents: Documents) -> dict[str, Any]:
    """Return the agent's settings as they are in the ConfigMap."""
    return tomllib.loads(documents["ConfigMap"]["data"]["tortie.toml"])


def volume(documents: Documents, name: str) -> dict[str, Any]:
    """Return a volume of the pod; empty where there is none."""
    return next((each for each in pod(documents)["volumes"] if each["name"] == name), {})


def check_defaults(documents: Documents) -> None:
    """See that the pod is as little privileged as it can be, and nothing is there that was not asked for."""
    assert set(documents) == {"DaemonSet", "ConfigMap", "ServiceAccount", "NOTES"}
    spec = pod(documents)
    assert spec["hostNetwork"]
    assert spec["dnsPolicy"] == "ClusterFirstWithHostNet"
    assert spec["priorityClassName"] == "system-node-critical"
    assert spec["tolerations"] == [{"operator": "Exists"}]
    assert not spec["automountServiceAccountToken"]
    assert not documents["ServiceAccount"]["automountServiceAccountToken"]
    for each in [*spec["initContainers"], *spec["containers"]]:
        assert each["image"] == "tortie:0.1.0"
        assert each["securityContext"]["capabilities"]["drop"] == ["ALL"]
        assert each["securityContext"]["readOnlyRootFilesystem"]
        assert "privileged" not in each["securityContext"]
    assert container(documents, "bgp")["securityContext"]["runAsNonRoot"]
    assert settings(documents)["store"] == "consul"
    assert documents["DaemonSet"]["spec"]["updateStrategy"]["rollingUpdate"] == {"maxUnavailable": 1}


def check_image(documents: Documents) -> None:
    """See that every container has the image."""
    images = {each["image"] for each in [*pod(documents)["initContainers"], *pod(documents)["containers"]]}
    assert images == {"registry.example/net/tortie:1.2.3"}
    assert pod(documents)["imagePullSecrets"] == [{"name": "registry"}]


def check_digest(documents: Documents) -> None:
    """See that the digest takes the place of the tag."""
    assert container(documents, "agent")["image"] == "tortie@sha256:" + 64 * "a"


def check_consul(documents: Documents) -> None:
    """See that token and certificates come from Secrets as files that the settings name, and from nowhere else."""
    mounts = {each["name"]: each for each in container(documents, "agent")["volumeMounts"]}
    written = settings(documents)
    assert written["consul_address"] == "https://consul.example:8501"
    assert written["consul_datacenter"] == "dc2"
    for name, secret, files in (
        ("consul-token", "acl", {"secret-id": "token"}),
        ("consul-tls", "tls", {"ca": "ca.crt", "tls.crt": "tls.crt", "tls.key": "tls.key"}),
    ):
        mounted = volume(documents, name)["secret"]
        assert mounted["secretName"] == secret
        assert {each["key"]: each["path"] for each in mounted["items"]} == files
        assert mounted["defaultMode"] == 0o400
        paths = {f"{mounts[name]['mountPath']}/{path}" for path in files.values()}
        assert paths <= {value for value in written.values() if isinstance(value, str)}
    assert "consul-token" not in {each["name"] for each in container(documents, "bgp")["volumeMounts"]}


def check_plain_token(documents: Documents) -> None:
    """See that a token that would go over the network in the clear is warned of, and whose rules it needs is told."""
    assert "`tortiectl consul-policy --agents`" in documents["NOTES"]["text"]
    assert "WARNING: the Consul token" in documents["NOTES"]["text"]
    assert "consul_ca_file" not in settings(documents)


def check_bgp(documents: Documents) -> None:
    """See that the largest AS number is written as it is."""
    written = settings(documents)
    assert (written["as_number"], written["cluster_id"]) == (4294967294, "192.0.2.1")
    assert (written["hold_time_seconds"], written["restart_time_seconds"]) == (30, 300)
    assert container(documents, "bgp")["resources"]["limits"]["memory"] == "2Gi"


def check_agent(documents: Documents) -> None:
    """See that every setting arrives with its type, labels with names that TOML would not take bare."""
    written = settings(documents)
    assert written["labels"] == {"rack": "a", "example.com/zone": "north"}
    assert written["mtu_bytes"] == 1450
    assert written["log_level"] == "debug"
    assert written["ipv4_address"] == "interface=eth1"
    assert (written["store_timeout_seconds"], written["log_format"]) == (2.5, "json")
    assert "--log-format=json" in container(documents, "bgp")["command"]


def check_cni(documents: Documents) -> None:
    """See that the init container writes where the runtime looks, what was asked for; paths are as written."""
    command = container(documents, "install-cni")["command"]
    assert {"--network=pods", "--cni-version=1.1.0", "--no-ipv4", "--ipv6", "--ipv6-pools=lab,spare"} <= set(command)
    assert volume(documents, "cni-bin")["hostPath"] == {"path": "/opt/a, b: c", "type": "DirectoryOrCreate"}
    assert volume(documents, "cni-conf")["hostPath"]["path"] == "/var/lib/cni/conf"


def check_no_cni(documents: Documents) -> None:
    """See that nothing of the runtime's directories is mounted."""
    assert [each["name"] for each in pod(documents)["initContainers"]] == ["prepare"]
    assert not volume(documents, "cni-bin")
    assert "cni.install=false" in documents["NOTES"]["text"]


def check_port(documents: Documents) -> None:
    """See that settings, probes and port agree."""
    agent = container(documents, "agent")
    assert settings(documents)["http_listen"] == ":19091"
    assert settings(documents)["status_page_listen"] == "none"
    assert agent["ports"] == [{"name": "metrics", "containerPort": 19091, "protocol": "TCP"}]
    assert agent["livenessProbe"]["httpGet"] == {"path": "/livez", "port": "metrics"}
    assert agent["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "metrics"}


def check_monitoring(documents: Documents) -> None:
    """See that each is there, with the labels it is found by, and selects this release's pods."""
    monitor, rule, dashboard = documents["PodMonitor"], documents["PrometheusRule"], documents["Dashboard"]
    pod_labels = documents["DaemonSet"]["spec"]["template"]["metadata"]["labels"]
    assert monitor["spec"] == {
        "selector": {"matchLabels": documents["DaemonSet"]["spec"]["selector"]["matchLabels"]},
        "podMetricsEndpoints": [
            {
                "port": "metrics",
                "path": "/metrics",
                "interval": "15s",
                "relabelings": [
                    {"sourceLabels": ["__meta_kubernetes_pod_node_name"], "targetLabel": "instance"},
                    {"targetLabel": "job", "replacement": "tortie"},
                ],
            }
        ],
    }
    assert monitor["spec"]["selector"]["matchLabels"].items() <= pod_labels.items()
    assert monitor["metadata"]["labels"]["release"] == rule["metadata"]["labels"]["release"] == "prometheus"
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"


def check_scheduling(documents: Documents) -> None:
    """See that the pod goes where it is told to."""
    spec = pod(documents)
    assert spec["nodeSelector"] == {"kubernetes.io/os": "linux", "rack": "a"}
    assert spec["tolerations"] == [{"key": "network", "operator": "Exists"}]
    assert "nodeAffinity" in spec["affinity"]
    assert spec["securityContext"]["seLinuxOptions"] == {"type": "spc_t"}
    assert documents["DaemonSet"]["spec"]["template"]["metadata"]["labels"]["team"] == "net"


def check_update(documents: Documents) -> None:
    """See that a tenth of the nodes at a time."""
    spec = documents["DaemonSet"]["spec"]
    assert spec["updateStrategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "10%"}}
    assert spec["minReadySeconds"] == 30
    assert pod(documents)["terminationGracePeriodSeconds"] == 60


def check_on_delete(documents: Documents) -> None:
    """See that nothing is replaced until somebody deletes it."""
    assert documents["DaemonSet"]["spec"]["updateStrategy"] == {"type": "OnDelete"}


def check_names(documents: Documents) -> None:
    """See that names and account are the operator's, and everything refers to them."""
    assert documents["DaemonSet"]["metadata"]["name"] == documents["ConfigMap"]["metadata"]["name"] == "calm"
    assert volume(documents, "settings")["configMap"]["name"] == "calm"
    assert "ServiceAccount" not in documents
    assert pod(documents)["serviceAccountName"] == "network"


def check_numbers(documents: Documents) -> None:
    """See that a name stays a text where YAML would read a number or a truth."""
    assert documents["DaemonSet"]["metadata"]["name"] == "1e3"
    assert documents["ServiceAccount"]["metadata"]["name"] == pod(documents)["serviceAccountName"] == "17"
    assert pod(documents)["priorityClassName"] == "no"
    secret = volume(documents, "consul-token")["secret"]
    assert (secret["secretName"], secret["items"]) == ("2024", [{"key": "1", "path": "token"}])


TLS: Final = {"existingSecret": "tls", "caKey": "ca", "clientCertificate": True}
CASES: Final = [
    Case("defaults", {}, check_defaults),
    Case(
        "an-image-of-ones-own",
        {"image": {"repository": "registry.example/net/tortie", "tag": "1.2.3", "pullSecrets": [{"name": "registry"}]}},
        check_image,
    ),
    Case("an-image-by-digest", {"image": {"tag": "1.2.3", "digest": "sha256:" + 64 * "a"}}, check_digest),
    Case(
        "consul-with-tls-and-token",
        {
            "consul": {
                "address": "https://consul.example:8501",
                "datacenter": "dc2",
                "token": {"existingSecret": "acl", "key": "secret-id"},
                "tls": TLS,
            }
        },
        check_consul,
    ),
    Case(
        "consul-with-a-token-in-the-clear",
        {"consul": {"address": "http://consul.example:8500", "token": {"existingSecret": "acl"}}},
        check_plain_token,
    ),
    Case(
        "bgp",
        {
            "bgp": {
                "asNumber": 4294967294,
                "clusterID": "192.0.2.1",
                "holdTimeSeconds": 30,
                "restartTimeSeconds": 300,
                "resources": {"limits": {"memory": "2Gi"}},
            }
        },
        check_bgp,
    ),
    Case(
        "agent",
        {
            "agent": {
                "logLevel": "debug",
                "ipv4Address": "interface=eth1",
                "mtuBytes": 1450,
                "labels": {"rack": "a", "example.com/zone": "north"},
                "settings": {"store_timeout_seconds": 2.5, "log_format": "json"},
            }
        },
        check_agent,
    ),
    Case(
        "cni-elsewhere",
        {
            "cni": {
                "network": "pods",
                "binDir": "/opt/a, b: c",
                "confDir": "/var/lib/cni/conf",
                "version": "1.1.0",
                "ipv4": False,
                "ipv6": True,
                "ipv6Pools": ["lab", "spare"],
            }
        },
        check_cni,
    ),
    Case("no-cni", {"cni": {"install": False}}, check_no_cni),
    Case("another-port", {"metrics": {"port": 19091}, "statusPage": {"listen": "none"}}, check_port),
    Case(
        "monitoring",
        {
            "podMonitor": {"enabled": True, "interval": "15s", "labels": {"release": "prometheus"}},
            "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
            "dashboard": {"enabled": True},
        },
        check_monitoring,
    ),
    Case(
        "some-nodes",
        {
            "nodeSelector": {"rack": "a"},
            "tolerations": [{"key": "network", "operator": "Exists"}],
            "affinity": {
                "nodeAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": {
                        "nodeSelectorTerms": [{"matchExpressions": [{"key": "gpu", "operator": "DoesNotExist"}]}]
                    }
                }
            },
            "seLinuxOptions": {"type": "spc_t"},
            "podLabels": {"team": "net"},
        },
        check_scheduling,
    ),
    Case(
        "many-nodes-at-a-time",
        {
            "update": {"maxUnavailable": "10%", "minReadySeconds": 30},
            "terminationGracePeriodSeconds": 60,
        },
        check_update,
    ),
    Case("on-delete", {"update": {"type": "OnDelete"}}, check_on_delete),
    Case(
        "names-of-ones-own",
        {"fullnameOverride": "calm", "serviceAccount": {"create": False, "name": "network"}},
        check_names,
    ),
    Case(
        "names-that-look-like-numbers",
        {
            "fullnameOverride": "1e3",
            "serviceAccount": {"name": "17"},
            "priorityClassName": "no",
            "consul": {"token": {"existingSecret": "2024", "key": "1"}},
        },
        check_numbers,
    ),
]
all_cases = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])


@all_cases
def test_values_make_the_difference_they_are_for(case: Case, render: Callable[..., Documents]) -> None:
    """A value set renders, and what it is about is as it asks."""
    case.check(render(case.values))


@all_cases
def test_a_case_tells_its_values_from_the_defaults(case: Case, render: Callable[..., Documents]) -> None:
    """No case would pass with the defaults, so its values do something."""
    if case.values:
        with pytest.raises((AssertionError, KeyError)):
            case.check(render({}))


@all_cases
@pytest.mark.parametrize("version", VERSIONS)
def test_every_manifest_is_valid(case: Case, version: str, render: Callable[..., Documents]) -> None:
    """Kubernetes' own schemas take each document, and know each of its fields."""
    for kind, document in render(case.values).items():
        if kind in _OF_THE_OPERATOR:
            assert document["apiVersion"] == "monitoring.coreos.com/v1"
            assert set(document) == {"apiVersion", "kind", "metadata", "spec"}
        elif kind != "NOTES":
            kubernetes_validate.validate(document, version, strict=True)


def test_the_rules_are_as_the_operator_takes_them(render: Callable[..., Documents]) -> None:
    """Groups of rules, each with the fields that the PrometheusRule's definition knows, and all of them texts."""
    spec = render({"prometheusRule": {"enabled": True}})["PrometheusRule"]["spec"]
    assert set(spec) == {"groups"}
    names = [group["name"] for group in spec["groups"]]
    assert len(set(names)) == len(names) > 0
    for group in spec["groups"]:
        assert set(group) == {"name", "rules"}
        for rule in group["rules"]:
            assert {"expr"} < set(rule) <= {"alert", "record", "expr", "for", "labels", "annotations"}
            assert ("alert" in rule) != ("record" in rule)
            assert _DURATION.fullmatch(rule.get("for", "1m")), rule
            texts = [rule["expr"], *rule.get("labels", {}).values(), *rule.get("annotations", {}).values()]
            assert all(isinstance(text, str) for text in texts), rule


@all_cases
def test_the_agent_takes_its_settings(
    case: Case, render: Callable[..., Documents], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ConfigMap's file loads, with nothing the agent does not know."""
    file = tmp_path / "tortie.toml"
    file.write_text(render(case.values)["ConfigMap"]["data"]["tortie.toml"])
    monkeypatch.setenv("TORTIE_CONFIG", str(file))
    loaded = load({})
    assert loaded.store == "consul"
    assert loaded.http_listen == ListenAddress("", case.values.get("metrics", {}).get("port", 9091))
    for name in (each["name"] for each in container(render(case.values), "agent")["env"]):
        assert name.removeprefix("TORTIE_").lower() in {*Settings.model_fields, "sysctl_dir"}


def test_the_defaults_are_those_of_the_agent(
    render: Callable[..., Documents], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever sets nothing has the same on Kubernetes as on a host, but for the store."""
    file = tmp_path / "tortie.toml"
    file.write_text(render({})["ConfigMap"]["data"]["tortie.toml"])
    monkeypatch.setenv("TORTIE_CONFIG", str(file))
    ours = load({}).model_dump(exclude={"store", "node_name"})
    monkeypatch.setenv("TORTIE_CONFIG", "")
    assert ours == Settings.model_construct().model_dump(exclude={"store", "node_name"})


def test_a_setting_is_written_in_one_place(chart_directory: Path, render: Callable[..., Documents]) -> None:
    """Of the agent's settings each is refused beside the chart's own values, or taken by the agent's own rule."""
    schema = json.loads((chart_directory / "values.schema.json").read_text())["properties"]
    settings_schema = schema["agent"]["properties"]["settings"]
    rules = settings_schema["properties"]
    assert set(rules) == set(Settings.model_fields)
    assert settings_schema["additionalProperties"] is False
    taken = {name: rule for name, rule in rules.items() if rule is not False}
    assert taken == {name: _rule_of(name) for name in taken}
    written = {name for case in CASES for name in settings(render(case.values))} - set(taken)
    assert written <= set(rules) - set(taken)
    (explained,) = re.findall(r"Other settings of tortie-agent by their names: (.*)\.", _values_text(chart_directory))
    assert explained.split(", ") == sorted(taken)


def test_a_value_of_a_setting_has_the_rule_of_the_setting(chart_directory: Path) -> None:
    """What the agent would refuse at its start is refused before anything is installed."""
    schema = json.loads((chart_directory / "values.schema.json").read_text())["properties"]
    for (group, name), setting in _SETTING_BY_VALUE.items():
        rule = {key: part for key, part in schema[group]["properties"][name].items() if key != "description"}
        assert {"type": "string", **rule} == {"type": "string", **_rule_of(setting)}, name


def test_other_settings_replace_the_pods(render: Callable[..., Documents]) -> None:
    """A pod reads its settings at its start, so it says which it was started with."""

    def started_with(values: dict[str, Any]) -> str:
        annotations = render(values)["DaemonSet"]["spec"]["template"]["metadata"]["annotations"]
        return str(annotations["tortie/settings"])

    assert started_with({}) == started_with({"dashboard": {"enabled": True}})
    assert started_with({}) != started_with({"agent": {"logLevel": "debug"}})


def test_lint_finds_nothing(chart_directory: Path) -> None:
    """Helm's lint, strict, has neither error nor warning for any case."""
    for case in CASES:
        report = helm_python.lint(chart_directory, case.values, strict=True, kube_version=f"v{VERSIONS[-1]}.0")
        assert report["errors"] == []
        assert [message for message in report["messages"] if message["severity"] > 1] == []


def test_alerts_and_dashboard_are_the_files(chart_directory: Path, render: Callable[..., Documents]) -> None:
    """What Prometheus and Grafana get is what is tested: the templates change nothing in it."""
    values = {"prometheusRule": {"enabled": True}, "dashboard": {"enabled": True}}
    documents = render(values)
    files = chart_directory / "files"
    assert documents["PrometheusRule"]["spec"] == yaml.safe_load((files / "alerts.yaml").read_text())
    dashboard = json.loads(documents["Dashboard"]["data"]["tortie.json"])
    assert dashboard == json.loads((files / "dashboard.json").read_text())


def test_alerts_and_dashboard_know_the_agents_as_they_are_scraped(
    chart_directory: Path, render: Callable[..., Documents]
) -> None:
    """The monitor gives the job's name that every expression asks for."""
    (endpoint,) = render({"podMonitor": {"enabled": True}})["PodMonitor"]["spec"]["podMetricsEndpoints"]
    given = {each["targetLabel"]: each.get("replacement") for each in endpoint["relabelings"]}
    files = [chart_directory / "files" / name for name in ("alerts.yaml", "dashboard.json")]
    asked = {name for file in files for name in re.findall(r'job=\\?"([^"\\]*)', file.read_text())}
    assert {given["job"]} == asked


def test_releases_of_one_cluster_do_not_meet(render: Callable[..., Documents]) -> None:
    """Two releases, for two groups of nodes, have names and pods of their own."""
    first, second = render({}, name="rack-a"), render({}, name="rack-b")
    for kind in ("DaemonSet", "ConfigMap", "ServiceAccount"):
        assert first[kind]["metadata"]["name"] != second[kind]["metadata"]["name"]
    assert first["DaemonSet"]["spec"]["selector"] != second["DaemonSet"]["spec"]["selector"]


def test_every_value_is_explained(chart_directory: Path) -> None:
    """values.yaml has a default for everything the schema takes, and the README names each group."""
    values = yaml.safe_load(_values_text(chart_directory))
    schema = json.loads((chart_directory / "values.schema.json").read_text())
    _same_names(values, {name: rule for name, rule in schema["properties"].items() if name != "global"}, "")
    readme = (chart_directory / "README.md").read_text()
    assert [name for name in values if not re.search(rf"`{name}\b", readme)] == []


def _values_text(chart_directory: Path) -> str:
    return (chart_directory / "values.yaml").read_text()


def _rule_of(setting: str) -> dict[str, Any]:
    """Return what the agent says of a setting, as a JSON Schema without words."""
    rule = Settings.model_json_schema()["properties"][setting]
    return {key: part for key, part in rule.items() if key not in {"default", "description", "title"}}


def _same_names(values: dict[str, Any], rules: dict[str, Any], place: str) -> None:
    assert set(values) == set(rules), place
    for name, rule in rules.items():
        # An empty default stands for what may be named and is not.
        if rule.get("properties") and values[name]:
            _same_names(values[name], rule["properties"], f"{place}.{name}")
