"""Wrong values are refused, and the error names the value that is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeAlias

import helm_python
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

Documents: TypeAlias = dict[str, dict[str, Any]]

#: Values, where the error points, and a word of what it says.
_WRONG: Final[dict[str, tuple[dict[str, Any], str, str]]] = {
    "a-value-misspelt": ({"consul": {"adress": "http://192.0.2.1:8500"}}, "/consul", "'adress' not allowed"),
    "a-group-misspelt": ({"monitor": {}}, "", "'monitor' not allowed"),
    "no-scheme": ({"consul": {"address": "192.0.2.1:8500"}}, "/consul/address", "^https?://"),
    "tls-without-https": (
        {"consul": {"address": "http://consul:8500", "tls": {"existingSecret": "tls"}}},
        "/consul/address",
        "^https://",
    ),
    "certificate-without-secret": (
        {"consul": {"tls": {"clientCertificate": True}}},
        "/consul/tls/existingSecret",
        "minLength",
    ),
    "a-token-in-the-values": ({"consul": {"token": "s3cret"}}, "/consul/token", "want object"),
    "as-number-too-large": ({"bgp": {"asNumber": 4294967295}}, "/bgp/asNumber", "maximum"),
    "as-number-as-text": ({"bgp": {"asNumber": "64512"}}, "/bgp/asNumber", "want integer"),
    "hold-time-too-short": ({"bgp": {"holdTimeSeconds": 2}}, "/bgp/holdTimeSeconds", "minimum"),
    "cluster-id": ({"bgp": {"clusterID": "one"}}, "/bgp/clusterID", "pattern"),
    "log-level": ({"agent": {"logLevel": "verbose"}}, "/agent/logLevel", "'warning'"),
    "sqlite": ({"agent": {"settings": {"store": "sqlite"}}}, "/agent/settings/store", "false"),
    "a-label": ({"agent": {"labels": {"rack": "a b"}}}, "/agent/labels/rack", "pattern"),
    "no-addresses-at-all": ({"cni": {"ipv4": False}}, "/cni", "'anyOf'"),
    "cni-version": ({"cni": {"version": "2.0.0"}}, "/cni/version", "'1.1.0'"),
    "a-relative-directory": ({"cni": {"binDir": "opt/cni"}}, "/cni/binDir", "^/"),
    "port": ({"metrics": {"port": 65536}}, "/metrics/port", "maximum"),
    "status-page": ({"statusPage": {"listen": "localhost:9092"}}, "/statusPage/listen", "pattern"),
    "interval": ({"podMonitor": {"interval": "often"}}, "/podMonitor/interval", "pattern"),
    "no-node-at-a-time": ({"update": {"maxUnavailable": 0}}, "/update/maxUnavailable", "minimum"),
    "tolerations": ({"tolerations": {"operator": "Exists"}}, "/tolerations", "want array"),
    "pull-policy": ({"image": {"pullPolicy": "Sometimes"}}, "/image/pullPolicy", "'IfNotPresent'"),
    "digest": ({"image": {"digest": "abc"}}, "/image/digest", "sha256"),
}


@pytest.mark.parametrize(("values", "place", "words"), _WRONG.values(), ids=_WRONG.keys())
def test_a_wrong_value_is_refused_by_name(
    values: dict[str, Any], place: str, words: str, render: Callable[..., Documents]
) -> None:
    """Nothing is rendered, and whoever wrote it is told where and why."""
    with pytest.raises(helm_python.HelmError) as refused:
        render(values)
    assert f"at '{place}'" in str(refused.value)
    assert words in str(refused.value)


def test_several_mistakes_are_told_at_once(render: Callable[..., Documents]) -> None:
    """One look shows all that is wrong."""
    with pytest.raises(helm_python.HelmError) as refused:
        render({"bgp": {"asNumber": 0}, "metrics": {"port": 0}, "cni": {"network": "no blanks"}})
    for place in ("/bgp/asNumber", "/metrics/port", "/cni/network"):
        assert f"at '{place}'" in str(refused.value)
