"""The Store port on Consul, on SQLite and in memory."""
