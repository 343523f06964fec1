"""The libnetwork drivers: one plugin socket on which dockerd asks for networks and addresses."""
