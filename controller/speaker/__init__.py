"""The agent's end of the sidecar's socket."""
