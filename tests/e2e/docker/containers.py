"""What is done with containers of Docker on the hosts of a lab, and what is seen of them from elsewhere."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from controller.lab.lab import Lab
    from tests.e2e.docker.hosts import DockerHost

POOL, POOL6 = "10.244.0.0/16", "fd00:244::/64"
#: Without a proxy that this machine may have for its own.
FETCH = """
import sys, urllib.request
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
print(opener.open(sys.argv[1], timeout=2).read().decode(), end="")
"""
SERVE = ("httpd", "-f", "-p", "80", "-h", "/www")
CREATE = ("network", "create", "-d", "tortie", "--ipam-driver", "tortie")
#: Addresses, by IP version, that no container has: in the pools, and elsewhere.
POOLED, ELSEWHERE = ("10.244.99.99", "fd00:244::9999"), ("203.0.113.9", "2001:db8:9::9")
#: Sends a datagram to an address from each of others, whoever has those (IP_TRANSPARENT, IPV6_TRANSPARENT).
SEND = """
import socket, sys
target, *sources = sys.argv[1:]
family, option = (socket.AF_INET6, (41, 75)) if ":" in target else (socket.AF_INET, (0, 19))
for source in sources:
    with socket.socket(family, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(*option, 1)
        sender.bind((source, 0))
        sender.sendto(b"hello", (target, 5999))
"""
#: Prints the source of the first datagram that comes.
HEAR = """
import socket, sys
with socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM) as receiver:
    receiver.settimeout(30)
    receiver.bind((sys.argv[1], 5999))
    print("ready", flush=True)
    print(receiver.recvfrom(100)[1][0])
"""


def traces(lab: Lab, host: DockerHost) -> list[str]:
    """Return what a container would leave: links, routes of workloads, published ports, holders, state."""
    links = lab.run(host.name, ["ip", "-br", "link", "show", "type", "veth"]).stdout.split()
    routes = [
        line
        for version in ("-4", "-6")
        for line in lab.run(host.name, ["ip", version, "route", "show", "proto", "116"]).stdout.splitlines()
        if " dev tor" in line
    ]
    tables = lab.run(host.name, ["nft", "list", "tables"]).stdout.splitlines()
    holders = lab.run(host.name, ["tortiectl", "node", "status", "-o", "json"]).stdout.count("docker")
    state = (
        json.loads((host.directory / "docker.json").read_text()) if (host.directory / "docker.json").exists() else {}
    )
    return [
        *sorted(name for name in links if name.startswith(("tor", "tdk"))),
        *sorted(routes),
        *(table for table in tables if "tortie" in table),
        f"{holders} holders",
        f"{state.get('networks', [])} {state.get('endpoints', [])}",
    ]


def address_of(host: DockerHost, container: str, network: str = "routed", member: str = "IPAddress") -> str:
    """Return the address that dockerd knows of a container."""
    found = json.loads(host.docker("inspect", container))[0]["NetworkSettings"]["Networks"][network]
    return str(found[member])


def serve(host: DockerHost, name: str, *options: str) -> str:
    """Run a container that serves a page, and return its address."""
    host.docker("run", "-d", "--name", name, *options, "busybox", *SERVE)
    return address_of(host, name)


def fetched(lab: Lab, place: str, url: str) -> bool:
    """Tell whether the page is had from somewhere in the lab."""
    return fetched_text(lab, place, url) == "here"


def fetched_text(lab: Lab, place: str, url: str) -> str | None:
    """Return what is had from somewhere in the lab without its line end, None if nothing within two seconds."""
    done = lab.run(place, [sys.executable, "-I", "-S", "-c", FETCH, url])
    return done.stdout.strip() if done.returncode == 0 else None


def addresses_of_host(lab: Lab, name: str) -> tuple[str, str]:
    """Return the addresses of a host of the lab, IPv4 first."""
    address, address6 = lab.layout().addresses(lab.layout().host(name))
    return str(address), str(address6)


def url_of(address: str) -> str:
    """Return where the page of an address is."""
    return f"http://[{address}]/" if ":" in address else f"http://{address}/"


def heard(lab: Lab, host: DockerHost, container: str, sources: tuple[str, ...]) -> str:
    """Have a container send a datagram to h3 from each of these addresses, and return whose came first."""
    target = addresses_of_host(lab, "h3")[":" in sources[0]]
    command, settings = lab.command("h3", [sys.executable, "-I", "-S", "-c", HEAR, target])
    with subprocess.Popen(command, env=settings, stdout=subprocess.PIPE, text=True) as hearing:
        assert hearing.stdout is not None
        assert hearing.stdout.readline() == "ready\n"
        process = host.docker("inspect", "-f", "{{.State.Pid}}", container)
        enter = ["nsenter", "--target", process, "--net", sys.executable, "-I", "-S", "-c", SEND, target]
        subprocess.run([*enter, *sources], check=True)
        return hearing.stdout.readline().strip()


def fetched_inside(host: DockerHost, container: str, url: str) -> bool:
    """Tell whether the page is had from inside a container."""
    # Not `wget -T`, with which a static busybox of Debian 12 crashes.
    return host.docker("exec", container, "timeout", "5", "wget", "-q", "-O", "-", url) == "here"
