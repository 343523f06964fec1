"""What is quicker in ExaBGP gives what it gave before; each try is a process, for ExaBGP's classes are changed."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
from exabgp.bgp.message.action import Action
from exabgp.bgp.message.notification import Notify
from exabgp.bgp.message.update.nlri.cidr import CIDR
from exabgp.bgp.message.update.nlri.inet import INET
from exabgp.bgp.message.update.nlri.nlri import NLRI
from exabgp.logger import log
from exabgp.protocol.family import AFI, SAFI

log.silence()
if sys.argv[1] == "quick":
    from bgp.sidecar import haste
    haste.apply()
for _ in range(2):  # the second time what was kept is used
    for afi, data in ((1, bytes([26, 10, 64, 0, 64])), (2, bytes([16, 0xFD, 0]))):
        nlri, rest = NLRI.unpack_nlri(afi, SAFI.unicast, data + b"rest", Action.ANNOUNCE, None)
        family = nlri.family()
        print(type(nlri).__name__, nlri.json(), nlri.index(), rest, family, family.afi_safi())
        nlri.cidr = CIDR(bytes([10, 65, 0, 0]), 16)
        print(nlri.index(), nlri == nlri, sorted([nlri, nlri]))
        print(family == INET(afi, SAFI.unicast, Action.ANNOUNCE).family(), nlri.as_dict())
    for value in (1, 2, 99):
        print(repr(AFI.create(value)), repr(SAFI.create(value)), int(AFI.create(value)), int(SAFI.create(value)))
    try:
        NLRI.unpack_nlri(99, SAFI.unicast, b"", Action.ANNOUNCE, None)
    except Notify as refusal:
        print(refusal)
"""


def test_families_and_prefixes_are_what_they_were() -> None:
    """Prefixes, families, unknown numbers and refusals read the same with the changes as without."""
    plain, quick = (
        subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True, timeout=60)
        for how in ("plain", "quick")
    )
    assert "10.64.0.64/26" in plain.stdout
    assert quick.stdout == plain.stdout
