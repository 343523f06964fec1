"""The chart's pod in the image, on hosts of a test: with what the chart gives it, it does its work; with less, not."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import helm_python
import pytest
import yaml

from tests.packaging.pod import Host, Pod

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tests.conftest import ConsulServer
    from tests.packaging.conftest import Image

#: Making the image for the first time fetches packages.
pytestmark = pytest.mark.timeout(900)

_POOL: Final = """
apiVersion: tortie/v1
kind: Pool
metadata: {name: default-ipv4}
spec: {cidr: 10.244.0.0/16, blockSize: 26}
"""


_TOKEN: Final = "2f1c9a34-6b5d-4c8e-9f70-1d2e3a4b5c6d"
#: include/uapi/linux/capability.h
_NET_BIND_SERVICE: Final = 10


def rendered(repository: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the chart's documents by kind."""
    chart = helm_python.Chart.load(repository / "charts" / "tortie")
    texts = chart.render(dict(values), name="net", namespace="kube-system")
    documents = [
        document for path, text in texts.items() if "NOTES" not in path for document in yaml.safe_load_all(text)
    ]
    return {document["kind"]: document for document in documents if document}


class Workload:
    """A container's network namespace, and the plugin of its host that is called for it."""

    def __init__(self, host: Host, namespace: str) -> None:
        self._host = host
        self.namespace = namespace
        #: Its address, once it was wired.
        self.address = ""

    def call(self, verb: str) -> dict[str, Any]:
        """Call the installed plugin as a runtime does, with the installed configuration; return what it prints."""
        network = json.loads(self._host.path("/etc/cni/net.d/10-tortie.conflist").read_text())
        configuration = {
            "cniVersion": network["cniVersion"],
            "name": network["name"],
            **network["plugins"][0],
            "agent_socket": str(self._host.path("/run/tortie/cni.sock")),
        }
        done = subprocess.run(
            [self._host.path("/opt/cni/bin/tortie-cni")],
            env={
                "CNI_COMMAND": verb,
                "CNI_CONTAINERID": self.namespace,
                "CNI_NETNS": f"/run/netns/{self.namespace}",
                "CNI_IFNAME": "eth0",
                "CNI_PATH": "/opt/cni/bin",
            },
            input=json.dumps(configuration),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(done.stdout)
        answer: dict[str, Any] = json.loads(done.stdout or "{}")
        return answer

    def add(self) -> bool:
        """Wire it; raises `RuntimeError` with what the plugin says otherwise."""
        self.address = str(self.call("ADD")["ips"][0]["address"]).split("/")[0]
        return True

    def reaches(self, address: str) -> bool:
        """Tell whether a packet comes back from there."""
        command = ["nsenter", f"--net=/run/netns/{self.namespace}", "ping", "-c", "1", "-W", "2", address]
        return subprocess.run(command, check=False, capture_output=True).returncode == 0


@dataclass(frozen=True, slots=True)
class Scene:
    """Two hosts, Consul for both, and makers of the chart's pods and of workloads on them."""

    a: Host
    b: Host
    consul: ConsulServer
    inside: Callable[[str], contextlib.AbstractContextManager[None]]
    make_pod: Callable[..., Pod]
    make_workload: Callable[[Host, str], Workload]

    def values(self, **agent: object) -> dict[str, Any]:
        """Return the values of the release; hosts of a test have no default route to be found by."""
        address = f"http://192.0.2.1:{self.consul.port}"
        consul = {"address": address, "token": {"existingSecret": "acl", "key": "secret-id"}}
        return {"consul": consul, "agent": {"ipv4Address": "interface=up0", **agent}}


@pytest.fixture
def scene(  # noqa: PLR0917  pytest passes them by name
    image: Image,
    repository: Path,
    two_hosts: tuple[Host, Host],
    make_consul: Callable[[dict[str, Any]], ConsulServer],
    inside: Callable[[str], contextlib.AbstractContextManager[None]],
    namespaces: Callable[[str], str],
) -> Iterator[Scene]:
    """Give the hosts, with Consul on host a, not yet started; what runs of the pods is ended after the test."""
    acl = {"enabled": True, "default_policy": "deny", "tokens": {"master": _TOKEN}}
    server = make_consul({"client_addr": "0.0.0.0", "acl": acl})
    with contextlib.ExitStack() as pods:

        def make_pod(host: Host, values: Mapping[str, Any]) -> Pod:
            pod = Pod(image.stage, host, rendered(repository, values), {"acl": {"secret-id": _TOKEN}})
            pods.callback(pod.stop_all)
            pod.initialise()
            return pod

        def make_workload(host: Host, short: str) -> Workload:
            return Workload(host, namespaces(short))

        with inside(two_hosts[0].namespace):
            server.start()
        yield Scene(*two_hosts, server, inside, make_pod, make_workload)


def status_of(process: int) -> dict[str, str]:
    """Return what the kernel tells of a process."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


@pytest.fixture
def start_pings() -> Iterator[Callable[[Workload, str], Callable[[], str]]]:
    """Return a function that starts pinging from a workload, which returns one that ends it and tells what was lost."""
    with contextlib.ExitStack() as flows:

        def start(workload: Workload, address: str) -> Callable[[], str]:
            command = ["nsenter", f"--net=/run/netns/{workload.namespace}", "ping", "-q", "-i", "0.05", address]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

            def end() -> str:
                process.send_signal(signal.SIGINT)
                return process.communicate()[0]

            # Where the test did not come to the end.
            flows.enter_context(process)
            flows.callback(process.kill)
            return end

        yield start


def test_an_upgrade_loses_no_packet(
    scene: Scene, wait_until: Callable[..., None], start_pings: Callable[[Workload, str], Callable[[], str]]
) -> None:
    """With the chart's own privileges two nodes wire and route; replacing the pod of one costs no packet."""
    pods = [scene.make_pod(host, scene.values()) for host in (scene.a, scene.b)]
    for pod in pods:
        pod.start("bgp")
        pod.start("agent")
    wait_until(lambda: pods[0].execute("agent", "tortiectl", "apply", "-f", "-", text=_POOL), "a pool is taken")
    first, second = scene.make_workload(scene.a, "wa"), scene.make_workload(scene.b, "wb")
    wait_until(first.add, "the first is wired")
    wait_until(second.add, "the second is wired")
    wait_until(lambda: first.reaches(second.address), "a workload reaches the other host's")

    end = start_pings(first, second.address)
    pods[1].stop("agent")
    pods[1].stop("bgp")
    newer = scene.make_pod(scene.b, scene.values(logLevel="debug"))
    newer.start("bgp")
    newer.start("agent")
    wait_until(lambda: "ready" in newer.log("agent").read_text(), "the new agent is ready")
    third = scene.make_workload(scene.b, "wc")
    wait_until(third.add, "the new agent wires")
    wait_until(lambda: first.reaches(third.address), "what it wired is reached")
    assert " 0% packet loss" in end()
    for workload in (first, second, third):
        workload.call("DEL")
    assert not first.reaches(second.address)


def test_probes_tell_a_node_that_wires_from_one_that_cannot(scene: Scene, wait_until: Callable[..., None]) -> None:
    """An agent lives from the start, and is ready once pods can have addresses."""
    pod = scene.make_pod(scene.a, scene.values())
    pod.start("bgp")
    pod.start("agent")
    with scene.inside(scene.a.namespace):
        wait_until(lambda: pod.probe("agent", "livenessProbe") == 200, "the agent lives")
        assert pod.probe("agent", "readinessProbe") == 503
        wait_until(lambda: pod.execute("agent", "tortiectl", "apply", "-f", "-", text=_POOL), "a pool is taken")
        wait_until(lambda: pod.probe("agent", "readinessProbe") == 200, "the agent is ready")


def test_an_update_waits_for_a_node_that_no_other_hears(scene: Scene, wait_until: Callable[..., None]) -> None:
    """Not ready without its speaker, nor without any session; pods get their network there all the same."""
    pods = {host: scene.make_pod(host, scene.values()) for host in (scene.a, scene.b)}

    def says(host: Host, status: int, words: str) -> bool:
        with scene.inside(host.namespace):
            answer = pods[host].answer("agent", "readinessProbe")
        return answer[0] == status and words in answer[1]

    for pod in pods.values():
        pod.start("agent")
    wait_until(lambda: pods[scene.a].execute("agent", "tortiectl", "apply", "-f", "-", text=_POOL), "a pool is taken")
    wait_until(lambda: says(scene.a, 503, "the BGP sidecar is not connected"), "host a lacks its speaker")
    wait_until(scene.make_workload(scene.a, "wa").add, "it is wired without a speaker")
    pods[scene.a].start("bgp")
    wait_until(lambda: says(scene.a, 503, "none of 1 BGP sessions is established"), "host a lacks a session")
    wait_until(scene.make_workload(scene.a, "wb").add, "it is wired without a session")
    pods[scene.b].start("bgp")
    for host in (scene.a, scene.b):
        wait_until(partial(says, host, 200, "ready"), f"{host.name} is ready")


def test_the_speaker_is_not_root_and_sees_nothing_of_the_agents(scene: Scene, wait_until: Callable[..., None]) -> None:
    """It has its user, the one capability for port 179, and no way to the agent's sockets."""
    pod = scene.make_pod(scene.a, {})
    pod.start("bgp")
    wait_until(scene.a.path("/run/tortie/bgp/bgp.sock").is_socket, "the speaker serves the agent")
    for process in (pod.process("bgp"), *pod.children_of("bgp")):
        status = status_of(process)
        assert set(status["Uid"].split()) == set(status["Gid"].split()) == {"10179"}
        assert int(status["CapBnd"], 16) == int(status["CapEff"], 16) == 1 << _NET_BIND_SERVICE
    # It looks at the pod's own mount: nothing but its directory.
    assert pod.execute("bgp", "ls", "-A", "/run/tortie").split() == ["bgp"]
    assert scene.a.path("/run/tortie/bgp").stat().st_mode & 0o777 == 0o750
    with pytest.raises(RuntimeError, match="Read-only file system"):
        pod.execute("bgp", "touch", "/opt/tortie/new")


def test_the_speaker_needs_its_capability(scene: Scene, wait_until: Callable[..., None]) -> None:
    """Without NET_BIND_SERVICE its program cannot even be started."""
    pod = scene.make_pod(scene.a, {})
    pod.start("bgp", without=["NET_BIND_SERVICE"])
    wait_until(lambda: not pod.is_running("bgp"), "the speaker ended")
    assert "Operation not permitted" in pod.log("bgp").read_text()


@pytest.mark.parametrize("capability", ["NET_ADMIN", "SYS_ADMIN"])
def test_an_agent_without_a_capability_wires_nothing(
    capability: str, scene: Scene, wait_until: Callable[..., None]
) -> None:
    """Both are needed: the same host and workload that fail with one less work with all."""
    pod = scene.make_pod(scene.a, scene.values())
    pod.start("agent", without=[capability])
    workload = scene.make_workload(scene.a, "wa")
    if capability == "NET_ADMIN":
        wait_until(lambda: not pod.is_running("agent"), "the agent ended")
        assert "Operation not permitted" in pod.log("agent").read_text()
    else:
        wait_until(lambda: pod.execute("agent", "tortiectl", "apply", "-f", "-", text=_POOL), "a pool is taken")
        wait_until(lambda: refused(workload, "Operation not permitted"), "the kernel refuses the agent")
    pod.stop("agent")
    pod.start("agent")
    wait_until(lambda: pod.execute("agent", "tortiectl", "apply", "-f", "-", text=_POOL), "a pool is taken")
    wait_until(workload.add, "it is wired")


def test_the_older_iptables_needs_net_raw(scene: Scene) -> None:
    """Its complaint that one must be root is gone with the capability, whatever else the kernel may lack."""
    pod = scene.make_pod(scene.a, {})

    def said(without: list[str]) -> str:
        command = ("sh", "-c", "iptables-legacy -w 5 -S 2>&1 || true")
        return pod.execute("agent", *command, without=without)

    assert "must be root" in said(["NET_RAW"])
    assert "must be root" not in said([])


def refused(workload: Workload, words: str) -> bool:
    """Tell whether the plugin refuses with these words."""
    try:
        workload.add()
    except RuntimeError as error:
        return words in str(error)
    return False
