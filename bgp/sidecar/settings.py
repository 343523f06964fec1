"""What the launcher and the sidecar share: the paths, handed on through the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Final

SOCKET_VARIABLE: Final = "TORTIE_BGP_SOCKET"
STATE_VARIABLE: Final = "TORTIE_BGP_STATE"
DEFAULT_SOCKET: Final = Path("/run/tortie/bgp.sock")
DEFAULT_STATE: Final = Path("/run/tortie/bgp")
