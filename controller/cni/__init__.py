"""The CNI plugin: its protocol, its server in the agent, and the shim runtimes call."""
