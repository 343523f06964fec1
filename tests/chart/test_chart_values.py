"""Wrong values are refused, and the error names the value that is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeAlias

import helm_python
import pytest

from controller.settings import ListenAddress

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
    "cluster-id": ({"bgp": {"clusterID": "one"}}, "/bgp/clusterID", "four decimals"),
    "cluster-id-of-no-address": ({"bgp": {"clusterID": "999.1.1.1"}}, "/bgp/clusterID", "between 0 and 255"),
    "cluster-id-of-none": ({"bgp": {"clusterID": "0.0.0.0"}}, "/bgp/clusterID", "'not'"),
    "log-level": ({"agent": {"logLevel": "verbose"}}, "/agent/logLevel", "'warning'"),
    "sqlite": ({"agent": {"settings": {"store": "sqlite"}}}, "/agent/settings/store", "false"),
    "a-setting-misspelt": ({"agent": {"settings": {"no_such_setting": 1}}}, "/agent/settings", "'no_such_setting' not"),
    "a-setting-out-of-range": (
        {"agent": {"settings": {"store_timeout_seconds": 61}}},
        "/agent/settings/store_timeout_seconds",
        "maximum",
    ),
    "a-method-misspelt": ({"agent": {"ipv4Address": "interfaces=eth0"}}, "/agent/ipv4Address", "anyOf"),
    "an-address-of-the-other-version": ({"agent": {"ipv6Address": "192.0.2.1"}}, "/agent/ipv6Address", "anyOf"),
    "a-label": ({"agent": {"labels": {"rack": "a b"}}}, "/agent/labels/rack", "pattern"),
    "no-addresses-at-all": ({"cni": {"ipv4": False}}, "/cni", "'anyOf'"),
    "two-pools-in-one": ({"cni": {"ipv4Pools": ["lab,spare"]}}, "/cni/ipv4Pools/0", "pattern"),
    "cni-version": ({"cni": {"version": "2.0.0"}}, "/cni/version", "'1.1.0'"),
    "a-relative-directory": ({"cni": {"binDir": "opt/cni"}}, "/cni/binDir", "^/"),
    "a-directory-upwards": ({"cni": {"confDir": "/etc/cni/../net.d"}}, "/cni/confDir", "'not'"),
    "port": ({"metrics": {"port": 65536}}, "/metrics/port", "maximum"),
    "status-page": ({"statusPage": {"listen": "localhost:9092"}}, "/statusPage/listen", "pattern"),
    "selinux": ({"seLinuxOptions": {"kind": "spc_t"}}, "/seLinuxOptions", "'kind' not allowed"),
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


@pytest.mark.parametrize(
    "text",
    [
        *("none", ":9092", "127.0.0.1:1", "192.0.2.255:65535", "[::1]:9092", "[2001:db8::1]:9", "[1:2:3:4:5:6:7:8]:9"),
        *("1.2.3:99999", "1.2.3:9092", "256.0.0.1:9", "01.2.3.4:9", "192.0.2.1:0", "192.0.2.1:65536", "192.0.2.1"),
        *("2001:db8::1:9092", "[:::]:9092", "[1:2:3]:9092", "[1::2::3]:9092", "[fffff::]:9092", "localhost:9092", ""),
    ],
)
def test_where_to_listen_is_judged_as_the_agent_judges_it(text: str, render: Callable[..., Documents]) -> None:
    """Whatever one of the two refuses, the other refuses too."""
    assert _takes(lambda: ListenAddress.parse(text), ValueError) == _takes(
        lambda: render({"statusPage": {"listen": text}}), helm_python.HelmError
    )


def test_several_mistakes_are_told_at_once(render: Callable[..., Documents]) -> None:
    """One look shows all that is wrong."""
    with pytest.raises(helm_python.HelmError) as refused:
        render({"bgp": {"asNumber": 0}, "metrics": {"port": 0}, "cni": {"network": "no blanks"}})
    for place in ("/bgp/asNumber", "/metrics/port", "/cni/network"):
        assert f"at '{place}'" in str(refused.value)


def _takes(judge: Callable[[], object], refusal: type[Exception]) -> bool:
    try:
        judge()
    except refusal:
        return False
    return True
