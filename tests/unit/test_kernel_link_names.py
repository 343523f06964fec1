"""Names and MAC addresses of workload links."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from controller.kernel.link_names import container_mac, host_link_name


@given(st.text(), st.text())
def test_names_fit_the_kernel(container_id: str, interface: str) -> None:
    """Whatever a runtime calls a container, the name has 15 plain characters and says that it is ours."""
    name = host_link_name(container_id, interface)
    assert len(name) == 15
    assert name.startswith("tor")
    assert name.isalnum()


@given(st.text(), st.text())
def test_macs_are_unicast_and_local(container_id: str, interface: str) -> None:
    """The address collides with no vendor's and is no group address."""
    octets = [int(octet, 16) for octet in container_mac(container_id, interface).split(":")]
    assert len(octets) == 6
    assert octets[0] & 0b11 == 0b10


def test_names_are_stable_and_apart() -> None:
    """A restart finds its links again, and the parts cannot be mistaken for one another."""
    assert host_link_name("c1", "eth0") == host_link_name("c1", "eth0") == "torec43057c07aa"
    assert host_link_name("c1e", "th0") != host_link_name("c1", "eth0")
    assert container_mac("c1", "eth0") != container_mac("c1", "eth1")
