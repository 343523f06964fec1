"""What a runtime sends becomes a checked value, or an error with the specification's code."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.cni.failures import CniFailure, ErrorCode
from controller.cni.network_configuration import NetworkConfig, decode_object, parse_config
from controller.cni.request import CniRequest, Command, parse_args, parse_environment, parse_request
from controller.kernel.link_names import container_mac, host_link_name

if TYPE_CHECKING:
    from collections.abc import Callable

POD = "a3b55788fa2c025cd2eb440ab6ab3d0f31a0e399085e31c62986592da09f3048"
ENVIRONMENT = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": POD,
    "CNI_IFNAME": "eth0",
    "CNI_NETNS": "/var/run/netns/cni-1",
    "CNI_PATH": "/opt/cni/bin",
    "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID={POD}",
}
CONFIG = {"cniVersion": "1.0.0", "name": "k8s-net", "type": "tortie-cni"}


def failure(call: Callable[[], object]) -> tuple[ErrorCode, str]:
    """Return the code and message with which the call fails."""
    with pytest.raises(CniFailure) as raised:
        call()
    assert raised.value.details
    return raised.value.code, raised.value.message


def test_a_pods_add_is_understood() -> None:
    """Variables come in any order, the configuration with keys of the runtime's own."""
    config = {**CONFIG, "capabilities": {"ips": True}, "kubernetes": {"kubeconfig": "/x"}, "prevResult": {"ips": []}}
    request = parse_request(ENVIRONMENT, config)
    assert request.command is Command.ADD
    assert request.handle == f"cni/k8s-net/{POD}/eth0"
    assert (request.workload, request.namespace, request.interface) == ("web-0", "shop", "eth0")
    assert request.namespace_path == "/var/run/netns/cni-1"
    assert request.previous is not None
    assert request.previous.fields == {"ips": []}
    assert (request.host_name, request.container_mac) == (host_link_name(POD, "eth0"), container_mac(POD, "eth0"))
    assert request.config == NetworkConfig("k8s-net", "1.0.0", True, False, (), (), 0)


def test_a_container_without_a_pod_is_named_by_its_identifier() -> None:
    """Some runtimes send CNI_ARGS empty."""
    request = parse_request({**ENVIRONMENT, "CNI_ARGS": "", "CNI_CONTAINERID": "default-t1"}, CONFIG)
    assert (request.workload, request.namespace, dict(request.args)) == ("default-t1", "", {})


WISHES = [
    ({"CNI_ARGS": "IP=10.88.7.500"}, {}, ErrorCode.INVALID_ENVIRONMENT, "10.88.7.500"),
    ({"CNI_ARGS": "MAC=02:00:00:00:00"}, {}, ErrorCode.INVALID_ENVIRONMENT, "02:00:00:00:00"),
    ({"CNI_ARGS": "MAC=03:00:00:00:00:05"}, {}, ErrorCode.INVALID_ENVIRONMENT, "unicast"),
    ({"CNI_ARGS": "MAC=00-00-00-00-00-00"}, {}, ErrorCode.INVALID_ENVIRONMENT, "unicast"),
    ({"CNI_ARGS": "MAC=EE:EE:EE:EE:EE:EE"}, {}, ErrorCode.INVALID_ENVIRONMENT, "the host's end"),
    ({}, {"runtimeConfig": {"ips": ["10.88.7.50", "host-7"]}}, ErrorCode.INVALID_CONFIG, "host-7"),
    ({"CNI_ARGS": "IP=fd00::5%eth0"}, {}, ErrorCode.INVALID_ENVIRONMENT, "fd00::5%eth0"),
    ({}, {"runtimeConfig": {"ips": {"a": 1}}}, ErrorCode.INVALID_CONFIG, "runtimeConfig.ips"),
    ({}, {"runtimeConfig": {"mac": "02:00:00:00:00:zz"}}, ErrorCode.INVALID_CONFIG, "02:00:00:00:00:zz"),
    ({}, {"runtimeConfig": {"mac": 7}}, ErrorCode.INVALID_CONFIG, "runtimeConfig.mac"),
    (
        {"CNI_ARGS": "MAC=02:00:00:00:00:05"},
        {"runtimeConfig": {"mac": "02:00:00:00:00:06"}},
        ErrorCode.INVALID_CONFIG,
        "02:00:00:00:00:05, 02:00:00:00:00:06",
    ),
]


@pytest.mark.parametrize(
    ("args", "ips", "addresses"),
    [
        ("IgnoreUnknown=1;K8S_POD_NAME=a;IP=10.88.7.50", [], ["10.88.7.50"]),
        ("IP=10.88.7.50/24,fd00::5/64", [], ["10.88.7.50", "fd00::5"]),
        ("", ["10.88.7.50", "10.88.7.50"], ["10.88.7.50"]),
        ("IP=10.88.7.50", ["10.88.7.50/32", "fd00::5"], ["10.88.7.50", "fd00::5"]),
        ("IP=", [], []),
    ],
)
def test_an_add_may_ask_for_addresses(args: str, ips: list[str], addresses: list[str]) -> None:
    """Both ways of asking are understood, each address once."""
    request = parse_request({**ENVIRONMENT, "CNI_ARGS": args}, {**CONFIG, "runtimeConfig": {"ips": ips}})
    assert [str(address) for address in request.addresses] == addresses


@pytest.mark.parametrize(("variables", "keys", "code", "wish"), WISHES)
def test_a_wish_that_cannot_be_granted_is_refused(
    variables: dict[str, str], keys: dict[str, object], code: ErrorCode, wish: str
) -> None:
    """A container never gets another address than it was started for without anybody being told."""
    found, message = failure(lambda: parse_request({**ENVIRONMENT, **variables}, {**CONFIG, **keys}))
    assert found is code
    assert wish in message


@pytest.mark.parametrize(("variables", "keys", "code", "wish"), WISHES)
def test_a_del_is_not_kept_from_its_work_by_a_wish(
    variables: dict[str, str], keys: dict[str, object], code: ErrorCode, wish: str
) -> None:
    """What a refused ADD asked for comes again with the DEL that follows it."""
    request = parse_request({**ENVIRONMENT, **variables, "CNI_COMMAND": "DEL"}, {**CONFIG, **keys})
    assert request.command is Command.DEL, (code, wish)
    assert not request.addresses


@pytest.mark.parametrize("command", ["ADD", "CHECK"])
@pytest.mark.parametrize(
    ("args", "keys"),
    [
        ("MAC=0A:00:00:00:00:05", {}),
        ("MAC=0a-00-00-00-00-05", {"runtimeConfig": {"mac": ""}}),
        ("MAC=", {"runtimeConfig": {"mac": "0a:00:00:00:00:05"}}),
        ("MAC=0a:00:00:00:00:05", {"runtimeConfig": {"mac": "0A:00:00:00:00:05"}}),
    ],
)
def test_a_mac_address_may_be_chosen(command: str, args: str, keys: dict[str, object]) -> None:
    """Both ways of asking are understood, and a CHECK expects what the ADD made."""
    request = parse_request({**ENVIRONMENT, "CNI_COMMAND": command, "CNI_ARGS": args}, {**CONFIG, **keys})
    assert request.container_mac == "0a:00:00:00:00:05"


@pytest.mark.parametrize("command", ["STATUS", "GC"])
def test_status_and_gc_concern_no_container(command: str) -> None:
    """Runtimes ask with every variable but the command empty."""
    variables = {"CNI_COMMAND": command, "CNI_CONTAINERID": "", "CNI_IFNAME": "", "CNI_ARGS": ""}
    request = parse_request(variables, {**CONFIG, "cniVersion": "1.1.0"})
    assert (request.command.value, request.container_id, request.interface) == (command, "", "")
    assert request.valid is None


@pytest.mark.parametrize(
    ("command", "before", "since"),
    [("CHECK", "0.3.1", "0.4.0"), ("GC", "1.0.0", "1.1.0"), ("STATUS", "1.0.0", "1.1.0")],
)
def test_a_command_that_its_version_does_not_have_is_code_1(command: str, before: str, since: str) -> None:
    """The details name the first version that has it."""
    environment = {**ENVIRONMENT, "CNI_COMMAND": command}
    assert parse_request(environment, {**CONFIG, "cniVersion": since}).command.value == command
    with pytest.raises(CniFailure, match=f"{command} does not exist in CNI {before}") as raised:
        parse_request(environment, {**CONFIG, "cniVersion": before})
    assert raised.value.code is ErrorCode.INCOMPATIBLE_VERSION
    assert since in raised.value.details


def collect(**keys: object) -> CniRequest:
    """Return a GC with these keys in its configuration."""
    return parse_request({"CNI_COMMAND": "GC"}, {**CONFIG, "cniVersion": "1.1.0", **keys})


@pytest.mark.parametrize(
    ("listed", "valid"),
    [
        (
            [{"containerID": "a", "ifname": "eth0"}, {"containerID": "b", "ifname": "e", "more": 1}],
            {("a", "eth0"), ("b", "e")},
        ),
        ([], set()),
        (None, set()),
    ],
)
def test_gc_lists_what_is_still_in_use(listed: object, valid: set[tuple[str, str]]) -> None:
    """A runtime without any container writes null."""
    assert set(collect(**{"cni.dev/valid-attachments": listed}).valid or ()) == valid
    assert collect(**{"cni.dev/valid-attachments": listed}).valid is not None


@pytest.mark.parametrize(
    "listed", ["", 0, False, {}, "a", [None], [{}], [{"containerID": "a"}], [{"containerID": "a", "ifname": ""}]]
)
def test_a_list_that_makes_no_sense_collects_nothing(listed: object) -> None:
    """One entry that cannot be read may stand for a container that runs."""
    code, message = failure(lambda: collect(**{"cni.dev/valid-attachments": listed}))
    assert (code, "cni.dev/valid-attachments" in message) == (ErrorCode.INVALID_CONFIG, True)


@pytest.mark.parametrize(
    "previous",
    [7, [], {"interfaces": {}}, {"ips": [1]}, {"routes": "x"}, {"interfaces": [{"name": "eth0", "sandbox": "/x"}]}],
)
def test_an_add_after_a_plugin_that_made_the_interface_is_refused(previous: object) -> None:
    """Two plugins cannot make the same interface, and what cannot be read cannot be passed on."""
    assert (
        failure(lambda: parse_request(ENVIRONMENT, {**CONFIG, "prevResult": previous}))[0] is ErrorCode.INVALID_CONFIG
    )
    request = parse_request({**ENVIRONMENT, "CNI_COMMAND": "DEL"}, {**CONFIG, "prevResult": previous})
    assert request.previous is None


@pytest.mark.parametrize(
    "change",
    [
        {"CNI_COMMAND": "add"},
        {"CNI_COMMAND": "UPDATE"},
        {"CNI_CONTAINERID": ""},
        {"CNI_CONTAINERID": "-x"},
        {"CNI_CONTAINERID": "a/b"},
        {"CNI_CONTAINERID": "a\n"},
        {"CNI_IFNAME": ""},
        {"CNI_IFNAME": "sixteen-bytes-xx"},
        {"CNI_IFNAME": "nines-ééééé"},
        {"CNI_IFNAME": "."},
        {"CNI_IFNAME": ".."},
        {"CNI_IFNAME": "eth/0"},
        {"CNI_IFNAME": "eth0:1"},
        {"CNI_IFNAME": "eth 0"},
        {"CNI_IFNAME": "eth0\t"},
        {"CNI_ARGS": "K=V;nonsense"},
    ],
)
def test_a_wrong_variable_is_code_4_and_named(change: dict[str, str]) -> None:
    """The message names the variable and its value."""
    code, message = failure(lambda: parse_request({**ENVIRONMENT, **change}, CONFIG))
    (variable, value), *_ = change.items()
    assert code is ErrorCode.INVALID_ENVIRONMENT
    assert variable in message
    assert repr(value) in message


@pytest.mark.parametrize("args", [b"K=V;nonsense", b"nonsense", b"K8S_POD_NAME=\xff", b"\xff"])
def test_malformed_arguments_keep_nothing_from_being_removed(args: bytes) -> None:
    """A runtime repeats a DEL until it succeeds; an ADD with the same arguments is refused."""
    fixed = parse_environment(b"CNI_ARGS=%s\0" % args)
    for command, version in (("DEL", "1.0.0"), ("GC", "1.1.0")):
        request = parse_request({**ENVIRONMENT, **fixed, "CNI_COMMAND": command}, {**CONFIG, "cniVersion": version})
        assert set(request.args) <= {"K", "K8S_POD_NAME"}
    code, message = failure(lambda: parse_request({**ENVIRONMENT, **fixed}, CONFIG))
    assert (code, "CNI_ARGS" in message) == (ErrorCode.INVALID_ENVIRONMENT, True)


@pytest.mark.parametrize("variable", ["CNI_COMMAND", "CNI_CONTAINERID", "CNI_IFNAME"])
def test_a_missing_variable_is_code_4(variable: str) -> None:
    """Missing is as wrong as empty."""
    environment = {name: value for name, value in ENVIRONMENT.items() if name != variable}
    assert failure(lambda: parse_request(environment, CONFIG))[0] is ErrorCode.INVALID_ENVIRONMENT


@pytest.mark.parametrize("name", ["e", "fifteen-bytes-x", "sevens-éééé", "eth0.100", "..."])
def test_names_the_kernel_takes_are_taken(name: str) -> None:
    """The rules are the kernel's and no others."""
    assert parse_request({**ENVIRONMENT, "CNI_IFNAME": name}, CONFIG).interface == name


@pytest.mark.parametrize(
    "text",
    [
        *(b"", b"{", b"[]", b"null", b"\xff{}", b"{}x", b"[" * 100_000),
        *(b'{"a": NaN}', b'{"a": [-Infinity]}', b'{"a": 1e999}', b'{"a": -1e400}'),
        b'{"a":' * 65 + b"1" + b"}" * 65,
        b'{"a":' + b"[" * 900 + b"]" * 900 + b"}",
    ],
)
def test_input_that_is_no_json_object_is_code_6(text: bytes) -> None:
    """Whatever it is, it is refused in words."""
    assert failure(lambda: decode_object(text))[0] is ErrorCode.DECODE_FAILURE


def test_json_may_be_large_and_a_little_deep() -> None:
    """A garbage collection lists every container, and a number may have a fraction."""
    text = json.dumps({"many": [{"a": 1.5}] * 1000, "deep": json.loads("[" * 60 + "]" * 60)})
    assert decode_object(text.encode())["many"] == [{"a": 1.5}] * 1000


@pytest.mark.parametrize(
    "call",
    [
        lambda long: parse_config({**CONFIG, "name": long + "/"}),
        lambda long: parse_config({**CONFIG, "cniVersion": [long]}),
        lambda long: parse_request({**ENVIRONMENT, "CNI_ARGS": long}, CONFIG),
        lambda long: parse_request({**ENVIRONMENT, "CNI_ARGS": f"IP={long}"}, CONFIG),
        lambda long: parse_request(ENVIRONMENT, {**CONFIG, "prevResult": long}),
        lambda long: parse_request(ENVIRONMENT, {**CONFIG, "runtimeConfig": {"mac": long}}),
        lambda long: collect(**{"cni.dev/valid-attachments": long}),
    ],
)
def test_a_long_value_is_shown_in_part(call: Callable[[str], object]) -> None:
    """What is told of a request is not longer than the request."""
    message = failure(lambda: call("\1a" * 500_000))[1]
    assert len(message) < 1000
    assert "characters more" in message


@pytest.mark.parametrize("version", [None, "", "0.2.0", "0.3.0", "2.0.0", 1.0, ["1.0.0"]])
def test_a_version_we_do_not_speak_is_code_1(version: object) -> None:
    """The message shows what was sent, the details what is spoken."""
    code, message = failure(lambda: parse_config({**CONFIG, "cniVersion": version}))
    assert code is ErrorCode.INCOMPATIBLE_VERSION
    assert json.dumps(version) in message


def test_families_pools_and_mtu_are_read() -> None:
    """Every key of ours at once."""
    ipam = {"type": "tortie", "ipv4": True, "ipv6": True, "ipv4_pools": ["a", "b"], "ipv6_pools": ["c"]}
    config = parse_config({**CONFIG, "cniVersion": "0.3.1", "ipam": ipam, "mtu": 1400})
    assert config == NetworkConfig("k8s-net", "0.3.1", True, True, ("a", "b"), ("c",), 1400)
    assert config.ip_versions == (4, 6)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"name": None}, "name"),
        ({"name": "a b"}, "name"),
        ({"mtu": "1500"}, "mtu"),
        ({"mtu": False}, "mtu"),
        ({"mtu": 67}, "mtu"),
        ({"mtu": 65536}, "mtu"),
        ({"mtu": 1279, "ipam": {"ipv6": True}}, "mtu"),
        ({"agent_socket": 1}, "agent_socket"),
        ({"ipam": "tortie"}, "ipam"),
        ({"ipam": {"type": "host-local"}}, "ipam.type"),
        ({"ipam": {"ipv4": "yes"}}, "ipam.ipv4"),
        ({"ipam": {"ipv6": 1}}, "ipam.ipv6"),
        ({"ipam": {"ipv4": False}}, "ipam.ipv4"),
        ({"ipam": {"ipv4_pools": "a"}}, "ipam.ipv4_pools"),
        ({"ipam": {"ipv4_pools": ["a", 1]}}, "ipam.ipv4_pools"),
        ({"ipam": {"ipv4_pools": [""]}}, "ipam.ipv4_pools"),
        ({"ipam": {"ipv6_pools": ["a"]}}, "ipam.ipv6_pools"),
        ({"ipam": {"ipv6": True, "ipv6_pools": ["a"]}}, "ipam"),
    ],
)
def test_a_wrong_key_is_code_7_and_named(change: dict[str, object], key: str) -> None:
    """The message names the key first."""
    code, message = failure(lambda: parse_config({**CONFIG, **change}))
    assert code is ErrorCode.INVALID_CONFIG
    assert message.startswith(f"{key} ")


def test_a_del_needs_no_more_of_the_configuration_than_its_name() -> None:
    """A slip made in the file since the ADD must not keep containers from being removed."""
    broken = {**CONFIG, "mtu": "big", "ipam": {"type": "other", "ipv4": "maybe"}, "agent_socket": 7}
    assert parse_request({**ENVIRONMENT, "CNI_COMMAND": "DEL"}, broken).handle == f"cni/k8s-net/{POD}/eth0"
    assert failure(lambda: parse_request(ENVIRONMENT, broken))[0] is ErrorCode.INVALID_CONFIG


def test_the_first_of_two_equal_variables_counts() -> None:
    """As for getenv(3)."""
    assert parse_environment(b"CNI_A=1\0CNI_A=2\0CNI_B=x=y\0") == {"CNI_A": "1", "CNI_B": "x=y"}


def test_a_variable_that_is_no_text_is_code_4() -> None:
    """It is shown as bytes."""
    code, message = failure(lambda: parse_environment(b"CNI_IFNAME=\xff\0"))
    assert (code, "\\xff" in message) == (ErrorCode.INVALID_ENVIRONMENT, True)


@given(st.dictionaries(st.from_regex(r"[A-Z_]+", fullmatch=True), st.from_regex(r"[^;]*", fullmatch=True)))
def test_args_survive_writing_and_parsing(pairs: dict[str, str]) -> None:
    """Any value without a semicolon, in any order."""
    assert parse_args(";".join(f"{key}={value}" for key, value in pairs.items())) == pairs


@given(st.binary(max_size=200))
def test_no_input_is_beyond_a_failure(text: bytes) -> None:
    """The parser returns or raises a failure, and nothing else."""
    with suppress(CniFailure):
        parse_request(parse_environment(text), decode_object(text))
